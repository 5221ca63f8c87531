"""Drives the original for the side-by-side runs: aioresonate or aiosendspin, whichever is installed.

Only their public API is used, with two looks inside: the size of the server's table of connection tasks, and the
names of the tasks of the event loop. Nothing is patched. One JSON object per line, requests on stdin, answers on
stdout; the verbs are those of the other drivers.

    python driver.py [--speed N]

With --speed the event loop's clock runs N times as fast, so that a quarter of an hour passes in seconds; the
library's own timers go along, since they are the loop's.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import selectors
import sys
import threading
import time
from collections import Counter

from aiohttp import ClientSession, web

try:
    import aiosendspin  # noqa: F401

    OLD = False
except ImportError:
    OLD = True

if OLD:
    from aioresonate.client import ResonateClient as Client
    from aioresonate.models.player import ClientHelloPlayerSupport
    from aioresonate.models.types import Roles
    from aioresonate.server import ResonateServer
    from aioresonate.server.server import ClientAddedEvent, ClientRemovedEvent

    NAME, PATH, DIALECT = "aioresonate", "/resonate", "R1"
    UP, DOWN = ClientAddedEvent, ClientRemovedEvent
else:
    from aiosendspin.client import SendspinClient as Client
    from aiosendspin.models.player import ClientHelloPlayerSupport, SupportedAudioFormat
    from aiosendspin.models.types import AudioCodec, Roles
    from aiosendspin.noise.keys import Identity
    from aiosendspin.noise.trust_store import InMemoryClientPairingStore, InMemoryServerPairingStore
    from aiosendspin.server import SendspinServer
    from aiosendspin.server.server import ClientConnectedEvent, ClientDisconnectedEvent

    NAME, PATH, DIALECT = "aiosendspin", "/sendspin", "S4"
    UP, DOWN = ClientConnectedEvent, ClientDisconnectedEvent

KEEPER = "_handle_client_connection"  # the coroutine that keeps a connection, in both


class FastSelector(selectors.DefaultSelector):
    """Waits a fraction of what it is asked to."""

    speed = 1.0

    def select(self, timeout=None):
        return super().select(timeout / self.speed if timeout and timeout > 0 else timeout)


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs faster."""

    def __init__(self, speed):
        selector = FastSelector()
        selector.speed = self.speed = speed
        super().__init__(selector)

    def time(self):
        return super().time() * self.speed


def rss():
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def keepers():
    """How many tasks keep a connection."""
    return sum(KEEPER in t.get_coro().__qualname__ for t in asyncio.all_tasks() if not t.done())


class Driver:
    def __init__(self):
        self.events = []
        self.callbacks = 0
        self.ok, self.errs, self.took = 0, [], 0.0
        self.session = None
        self.client = None

    async def start(self):
        loop = asyncio.get_running_loop()
        if OLD:
            self.server = ResonateServer(loop, "driver", "Driver")
            self.server.add_event_listener(self.on_event)
        else:
            # allow_unencrypted is the library's own switch for players of before its encryption.
            self.server = SendspinServer(loop, Identity.generate(), "Driver", pairing_store=InMemoryServerPairingStore(),
                                         allow_unencrypted=True)
            self.server.add_event_listener(lambda _server, event: self.note(event))
        # Not start_server, which would speak mDNS on the machine's network.
        app = web.Application()
        app.router.add_get(PATH, self.server.on_client_connect)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        host, port = self.runner.addresses[0][:2]
        self.url = f"ws://{host}:{port}{PATH}"

    def note(self, event):
        what = "up" if isinstance(event, UP) else "down" if isinstance(event, DOWN) else None
        if what:
            self.events.append({"at": time.time_ns(), "id": event.client_id, "what": what})

    async def on_event(self, event):
        self.note(event)

    # --- server ---

    async def hello(self):
        return {"name": NAME, "version": importlib.metadata.version(NAME),
                "runtime": f"Python {platform.python_version()}, aiohttp {importlib.metadata.version('aiohttp')}",
                "url": self.url, "dialect": DIALECT}

    def dial(self, url):
        if OLD:
            self.server.connect_to_client(url)
        else:
            # As its documentation says for a configured address, so that it waits for a player that is away.
            self.server.connect_to_client(url, retry_initial_connection=True)

    async def connect(self, url, n=1):
        async def one():
            self.dial(url)

        await asyncio.gather(*(one() for _ in range(n)))

    async def disconnect(self, url):
        self.server.disconnect_from_client(url)

    async def flap(self, urls, pairs, gap_ms=0):
        began = time.process_time()
        for _ in range(pairs):
            for url in urls:
                self.server.disconnect_from_client(url)
                self.dial(url)
            if gap_ms:
                await asyncio.sleep(gap_ms / 1000)
        return {"cpu_s": time.process_time() - began}

    async def threads(self, urls, threads):
        failed = []

        def one(url, barrier):
            barrier.wait()
            try:
                self.dial(url)
            except Exception as err:  # noqa: BLE001
                failed.append(f"{type(err).__name__}: {err}")

        def all_of(url):
            barrier = threading.Barrier(threads)
            ts = [threading.Thread(target=one, args=(url, barrier)) for _ in range(threads)]
            for t in ts:
                t.start()
            for t in ts:
                t.join()

        for url in urls:
            await asyncio.to_thread(all_of, url)
        return {"errors": len(failed), "error": failed[0] if failed else ""}

    async def fill(self, id, frames, size):
        before, top, sent, began = rss(), 0, 0, time.monotonic()
        client = self.server.get_client(id)
        downs = sum(e["what"] == "down" for e in self.events)
        header = bytes([2 if OLD else 4])
        while sent < frames and sum(e["what"] == "down" for e in self.events) == downs:
            for _ in range(16):
                at = int(asyncio.get_running_loop().time() * 1e6) + 60_000_000
                frame = header + at.to_bytes(8, "big") + os.urandom(size - 9)
                if OLD:
                    client.send_message(frame)
                else:
                    client.send_binary(frame, role_family="player", timestamp_us=at, message_type=4)
                sent += 1
            top = max(top, rss())
            await asyncio.sleep(0)
        return {"grown_mib": max(0, top - before) / 2**20, "frames": sent, "took_s": time.monotonic() - began}

    async def report(self):
        up, objects = Counter(), Counter()
        for c in self.server.clients:
            objects[c.client_id] += 1
            if OLD or c.is_connected:
                up[c.client_id] += 1
        return {"events": self.events, "up": up, "objects": objects,
                "tasks": keepers(), "tracked": len(self.server._connection_tasks),  # noqa: SLF001
                "rss_mib": rss() / 2**20, "goroutines": len(asyncio.all_tasks())}

    async def close(self):
        began = time.monotonic()
        await self.server.close()
        took = time.monotonic() - began
        return {"took_s": took, "tasks": keepers()}

    # --- client ---

    async def make(self):
        # An HTTP session that is shared, as an integration hands it in.
        self.session = ClientSession()
        if OLD:
            client = Client("player", "Player", [Roles.PLAYER], session=self.session, player_support=ClientHelloPlayerSupport(
                support_codecs=["pcm"], support_channels=[2], support_sample_rates=[48000], support_bit_depth=[16],
                buffer_capacity=1_000_000))
            client.set_disconnect_listener(self.on_disconnect)
            return client
        identity = Identity.generate()
        client = Client(identity, "Player", [Roles.PLAYER], pairing_store=InMemoryClientPairingStore(), session=self.session,
                        player_support=ClientHelloPlayerSupport(buffer_capacity=1_000_000, supported_formats=[
                            SupportedAudioFormat(codec=AudioCodec.PCM, channels=2, sample_rate=48000, bit_depth=16)]))
        # Encrypted, but not paired: both sides say that this is fine.
        await client.set_unpaired_access(enabled=True)
        await self.server.trust_unpaired(identity.peer_id)
        client.add_disconnect_listener(self.on_disconnect)
        return client

    def on_disconnect(self, *_):
        self.callbacks += 1

    async def client_connect(self, url, n=1, wait=False):
        if self.client is None:
            self.client = await self.make()
        began = time.monotonic()

        async def one():
            try:
                await self.client.connect(url)
                self.ok += 1
            except Exception as err:  # noqa: BLE001
                self.errs.append(f"{type(err).__name__}: {err}")
            self.took = time.monotonic() - began

        await self.run([one() for _ in range(n)], wait)

    async def client_disconnect(self, n=1, wait=False):
        async def one():
            try:
                await self.client.disconnect()
            except Exception as err:  # noqa: BLE001
                self.errs.append(f"{type(err).__name__}: {err}")

        await self.run([one() for _ in range(n)], wait)

    async def run(self, coros, wait):
        tasks = [asyncio.create_task(c) for c in coros]
        if wait:
            await asyncio.gather(*tasks)
        else:
            background.update(tasks)

    async def client_report(self):
        return {"connected": bool(self.client and self.client.connected), "ok": self.ok, "errs": self.errs,
                "callbacks": self.callbacks, "took_s": self.took}


background = set()  # so that nothing is collected


async def answer(driver, request):
    reply = {"id": request["id"]}
    try:
        verb = getattr(driver, request["do"], None)
        if verb is None:
            raise ValueError(f"unknown verb {request['do']!r}")
        reply["result"] = await verb(**{k: v for k, v in (request.get("args") or {}).items() if v is not None})
    except Exception as err:  # noqa: BLE001
        reply["error"] = f"{type(err).__name__}: {err}"
    print(json.dumps(reply), flush=True)


async def main():
    driver = Driver()
    await driver.start()
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def begin(line):
        background.add(asyncio.ensure_future(answer(driver, json.loads(line))))

    def read():
        for line in sys.stdin:
            loop.call_soon_threadsafe(begin, line)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()
    sys.stdout.flush()
    os._exit(0)  # what hangs is not waited for


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--speed", type=float, default=1.0)
    speed = parser.parse_args().speed
    with asyncio.Runner(loop_factory=lambda: FastLoop(speed)) as runner:
        runner.run(main())
