# Sends back what it gets, and numbers of its own in between.
import asyncio, websockets


async def serve(socket):
    async def push():
        number = 0
        while True:
            number += 1
            await socket.send(f"tick {number}")
            await asyncio.sleep(0.02)

    pushing = asyncio.create_task(push())
    try:
        async for message in socket:
            await socket.send(message)
    finally:
        pushing.cancel()


async def main():
    # Pings of both sides would end a connection that is silent for longer than this.
    async with websockets.serve(serve, "", 8765, ping_interval=5, ping_timeout=20):
        await asyncio.Future()


asyncio.run(main())
