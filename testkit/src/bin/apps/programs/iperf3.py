line = ["iperf3", "-c", "server", "-J", "-b", "300M", "-i", "0.1", "-t", os.environ["T"]] + arguments.split()
said = json.loads(subprocess.run(line, stdout=subprocess.PIPE).stdout)
if said.get("error"):
    raise SystemExit(said["error"])
end = said["end"]
sent, received = end["sum_sent"]["bytes"], end["sum_received"]["bytes"]
# The sender stops the clock while some of its bytes are on their way: what the buffers of both ends hold at most.
if not sent - (16 << 20) <= received <= sent:
    raise SystemExit(f"{sent} bytes sent, {received} received")
gap = longest = 0
for interval in said["intervals"]:
    seconds = interval["sum"]["seconds"]
    gap = gap + seconds if interval["sum"]["bytes"] == 0 else max(0, seconds - 0.1)
    longest = max(longest, gap)
print("gap_ms", round(longest * 1000))
print("note", received >> 20, "MiB", "down" if "-R" in arguments else "up")
