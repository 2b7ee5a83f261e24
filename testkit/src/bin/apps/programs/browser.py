# Lets a browser open the server's page, and judges what the page's script tells of its messages.
import json, os, subprocess

FLAGS = """--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --no-proxy-server
--disable-background-networking --disable-component-update --disable-sync --user-data-dir=/srv/browser""".split()

for_browser, orders = os.pipe()
events, from_browser = os.pipe()
# It takes orders at descriptor 3 and answers at 4: messages of the DevTools protocol, each with a zero byte behind it.
start = f'exec chromium --remote-debugging-pipe "$@" 3<&{for_browser} 4>&{from_browser} 2>/srv/said'
browser = subprocess.Popen(["/bin/bash", "-c", start, "browser", *FLAGS], pass_fds=(for_browser, from_browser))
os.close(for_browser)
os.close(from_browser)
events = os.fdopen(events, "rb")


def messages():
    left = b""
    while part := events.read1():
        *whole, left = (left + part).split(b"\0")
        yield from map(json.loads, whole)
    raise SystemExit(f"the browser ended: {open('/srv/said').read()[-2000:]}")


heard = messages()
number = 0


def order(method, session=None, **params):
    global number
    number += 1
    line = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
    os.write(orders, json.dumps(line).encode() + b"\0")
    answer = next(message for message in heard if message.get("id") == number)
    if "error" in answer or "errorText" in answer["result"]:
        raise SystemExit(f"{method}: {answer}")
    return answer["result"]


page = order("Target.createTarget", url="about:blank")["targetId"]
session = order("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
order("Runtime.enable", session)
order("Runtime.addBinding", session, name="tell")
order("Page.navigate", session, url=f"http://server:8765/?seconds={os.environ['T']}")
for message in heard:
    if message["method"] in ("Runtime.exceptionThrown", "Inspector.targetCrashed"):
        raise SystemExit(f"the page failed: {message}")
    if message["method"] == "Runtime.bindingCalled":
        found = json.loads(message["params"]["payload"])
        break
order("Browser.close")
browser.wait()
faults = ("lost", "repeated", "reordered", "wrong", "closed")
if any(found[fault] for fault in faults) or not found["sent"] == found["arrived"] > 0:
    raise SystemExit(f"the page found: {found}")
print("gap_ms", round(found["gap_ms"]))
print("note", found["came"], "messages:", ", ".join(f"{found[fault]} {fault}" for fault in faults))
