# Twenty websockets; each sends numbers and gets them back in order, and the server's own numbers in order.
import asyncio, os, time, websockets

until = time.monotonic() + float(os.environ["T"])


async def client(number):
    came, ticks, gap, last = 0, 0, 0.0, time.monotonic()
    async with websockets.connect("ws://server:8765", ping_interval=5, ping_timeout=20) as socket:

        async def send():
            sent = 0
            while time.monotonic() < until:
                sent += 1
                await socket.send(f"{number} {sent} " + "x" * (sent % 2000))
                await asyncio.sleep(0.02)
            await socket.send("end")

        sending = asyncio.create_task(send())
        async for message in socket:
            now = time.monotonic()
            gap, last = max(gap, now - last), now
            if message == "end":
                break
            if message.startswith("tick "):
                ticks += 1
                wanted = f"tick {ticks}"
            else:
                came += 1
                wanted = f"{number} {came} " + "x" * (came % 2000)
            if message != wanted:
                raise SystemExit(f"socket {number}: {message[:40]!r} came, {wanted[:40]!r} expected")
        else:
            raise SystemExit(f"socket {number}: the connection ended")
        await sending
    return gap, came + ticks


async def main():
    found = await asyncio.gather(*(client(number) for number in range(20)))
    print("gap_ms", round(max(gap for gap, _ in found) * 1000))
    print("note", sum(count for _, count in found), "messages")


asyncio.run(main())
