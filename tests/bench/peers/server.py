"""aiosendspin's server as a process, which plays a tone to the clients that dial in.

    python server.py PORT CLIENTS

It listens on loopback. When CLIENTS are there it groups them, plays until its
stdin ends, and says so: {"event":"playing"}.
"""

import asyncio
import json
import math
import struct
import sys

from aiosendspin.server import AudioFormat, SendspinServer

RATE, PART = 48_000, 4_800  # frames per second, frames per commit
BUFFER_US = 2_000_000
TONE = b"".join(struct.pack("<hh", *[int(8_000 * math.sin(2 * math.pi * 440 * i / RATE))] * 2) for i in range(RATE))


async def main(port, clients):
    server = SendspinServer(asyncio.get_running_loop(), "bench", "Bench")
    await server.start_server(port, "127.0.0.1", [], discover_clients=False)
    print(json.dumps({"event": "listening"}), flush=True)
    while len(server.connected_clients) < clients:
        await asyncio.sleep(0.05)
    first, *others = server.connected_clients
    for c in others:
        await first.group.add_client(c)
    stream = first.group.start_stream()
    print(json.dumps({"event": "playing"}), flush=True)
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    at = 0
    while not stop.done():
        stream.prepare_audio(TONE[at * 4:(at + PART) * 4], AudioFormat(RATE, 16, 2))
        at = (at + PART) % RATE
        await stream.commit_audio()
        await stream.sleep_to_limit_buffer(BUFFER_US)
    await server.close()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
