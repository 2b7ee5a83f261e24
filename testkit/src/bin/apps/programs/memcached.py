# Counts on 20 connections at once, and reads back what it wrote. No answer may differ from what it must be.
import os, socket, threading, time

until = time.monotonic() + float(os.environ["T"])
faults, gaps, counts = [], [], []


def client(number):
    files = socket.create_connection(("server", 11211)).makefile("rwb")

    def ask(words, *answers):
        files.write(words)
        files.flush()
        for answer in answers:
            said = files.readline()
            if said != answer:
                raise ValueError(f"{answer[:60]!r} expected, {said[:60]!r} came")

    key, count, last, gap = b"count%d" % number, 0, time.monotonic(), 0
    ask(b"set %s 0 0 1\r\n0\r\n" % key, b"STORED\r\n")
    while time.monotonic() < until:
        count += 1
        ask(b"incr %s 1\r\n" % key, b"%d\r\n" % count)
        value = (b"%d " % (count * 31 + number)) * 10000
        value = value[:20000]
        ask(b"set v%d 0 0 20000\r\n%s\r\n" % (number, value), b"STORED\r\n")
        head = b"VALUE v%d 0 20000\r\n" % number
        ask(b"get v%d\r\n" % number, head, value + b"\r\n", b"END\r\n")
        now = time.monotonic()
        gap, last = max(gap, now - last), now
        time.sleep(0.02)
    gaps.append(gap)
    counts.append(count)


def guarded(number):
    try:
        client(number)
    except Exception as fault:
        faults.append(f"connection {number}: {fault!r}")


threads = [threading.Thread(target=guarded, args=(number,)) for number in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
if faults:
    raise SystemExit("\n".join(faults))
print("gap_ms", round(max(gaps) * 1000))
print("note", sum(counts), "rounds")
