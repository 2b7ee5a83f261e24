# Serves PAGE, and websockets to its script: checks and sends back what it gets, and numbers of its own in between.
import asyncio, http, websockets


# The page has the same rule.
def content(kind, name, number):
    return f"{kind} {name} {number} " + f"{number}," * (number % 500 if number % 10 else 2000)


async def page(path, headers):
    if "Upgrade" not in headers:
        return http.HTTPStatus.OK, [("Content-Type", "text/html; charset=utf-8")], PAGE.encode()


async def serve(socket, path):
    name, arrived, wrong, ticks, ended = path.strip("/"), 0, 0, 0, False

    async def push():
        nonlocal ticks
        while not ended:
            ticks += 1
            await socket.send(content("tick", name, ticks))
            await asyncio.sleep(0.02)

    pushing = asyncio.create_task(push())
    try:
        async for message in socket:
            if message == "end":
                ended = True
                await pushing
                await socket.send(f"end {arrived} {wrong} {ticks}")
                continue
            arrived += 1
            text = message if isinstance(message, str) else message.decode()
            wrong += text != content("back", name, arrived)
            await socket.send(message)
    finally:
        pushing.cancel()


async def main():
    # Pings would end a connection that is silent for longer than this.
    async with websockets.serve(serve, "", 8765, process_request=page, ping_interval=5, ping_timeout=20):
        await asyncio.Future()


asyncio.run(main())
