"""The Python server as a process: aiosendspin 10, and 9, which pairs by token only here.
It turns away whoever departs from its specification.

    python encrypted_server.py PORT NAME FOLDER

stdin:  {"do":"dial","value":URL} {"do":"pair","client":ID,"method":"pairing_psk"|"dynamic_pairing_code"|"static_pairing_code","format":"digits"|"qr_code","token":TOKEN}
        {"do":"code","value":"123456"} {"do":"trust","client":ID} {"do":"untrust","client":ID} {"do":"unpair","client":ID}
        {"do":"lose","client":ID} {"do":"end_pairing","client":ID} {"do":"volume","client":ID,"value":40} {"do":"state","client":ID}
        {"do":"play","client":ID,"value":SECONDS}
stdout: {"event":"id"|"connected"|"disconnected"|"mismatch"|"pending"|"want_code"|"paired"|"failed"|"state"|"played"|"error"|"log", ...}
"""

import asyncio
import dataclasses
import json
import logging
import pathlib
import struct
import sys

from aiosendspin.models.types import PairMethod
from aiosendspin.noise import Identity, pairing_token
from aiosendspin.noise.pairing import PairingAttempt
from aiosendspin.noise.trust_store import FileServerPairingStore
from aiosendspin.server import AudioFormat, SendspinServer, server as events
from aiosendspin.server.server import ClientConnectedEvent, ClientDisconnectedEvent

# In aiosendspin 9 tokens have another name, and codes and mismatches are not there.
decode_psk_token = getattr(pairing_token, "decode_psk_token", None) or pairing_token.decode_token
FIELDS = {f.name for f in dataclasses.fields(PairingAttempt)}
Mismatch = getattr(events, "ClientCredentialMismatchEvent", None)


def say(event, **more):
    print(json.dumps({"event": event, **more}, default=str), flush=True)


class Server:
    def __init__(self, server):
        self.server, self.codes, self.tasks = server, asyncio.Queue(), set()
        server.add_event_listener(self.on_event)

    def on_event(self, _server, event):
        match event:
            case ClientConnectedEvent():
                client = self.server.get_client(event.client_id)
                security = client.connection_security
                say("connected", id=event.client_id, name=client.name, category=security and security.psk_category.value)
            case ClientDisconnectedEvent():
                say("disconnected", id=event.client_id, reason=getattr(event.goodbye_reason, "value", None))
            case _ if Mismatch is not None and isinstance(event, Mismatch):
                say("mismatch", id=event.client_id)

    async def code(self):
        say("want_code")
        return await self.codes.get()

    async def pair(self, cmd):
        method = PairMethod(cmd["method"])
        if method is PairMethod.PAIRING_PSK:
            token = decode_psk_token(cmd["token"])
            more = {"client_id": token.client_id} if "client_id" in FIELDS else {}
            attempt = PairingAttempt(method, pairing_psk=token.pairing_psk, **more)
        else:
            from aiosendspin.models.types import PairingCodeFormat
            attempt = PairingAttempt(
                method, pairing_code_provider=self.code, on_pair_pending=lambda m: say("pending", message=m),
                pairing_format=PairingCodeFormat(cmd.get("format", "digits")) if method is PairMethod.DYNAMIC_PAIRING_CODE else None)
        try:
            await self.server.initiate_pairing(cmd["client"], attempt)
            client = self.server.get_client(cmd["client"])
            security = client and client.connection_security
            say("paired", id=cmd["client"], category=security and security.psk_category.value)
        except Exception as e:  # noqa: BLE001
            say("failed", text=f"{type(e).__name__}: {e}")

    async def play(self, cmd):
        """Noise that the other side knows, as fast as it is taken."""
        group = self.server.get_client(cmd["client"]).group
        stream = group.start_stream()
        fmt = AudioFormat(sample_rate=48000, bit_depth=16, channels=2)
        x = 1
        for _ in range(int(cmd["value"] * 10)):
            samples = []
            for _ in range(4800 * 2):
                x = (x * 1103515245 + 12345) & 0x7FFFFFFF
                samples.append((x >> 15) - 32768)
            stream.prepare_audio(struct.pack("<9600h", *samples), fmt)
            await stream.commit_audio()
            await stream.sleep_to_limit_buffer(2_000_000)
        await asyncio.sleep(2)
        await group.stop()
        say("played")

    async def obey(self, cmd):
        server, client = self.server, cmd.get("client")
        match cmd["do"]:
            case "dial":
                server.connect_to_client(cmd["value"], retry_initial_connection=True)
            case "pair":
                await self.pair(cmd)
            case "code":
                self.codes.put_nowait(cmd["value"])
            case "trust":
                await server.trust_unpaired(client)
            case "untrust":
                await server.untrust_unpaired(client)
            case "unpair":
                await server.unpair(client)
            case "lose":
                await server.pairing_store.remove_record(client)
            case "end_pairing":
                await server.end_pairing(client)
            case "volume":
                role = server.get_client(client).roles_by_family("player")[0]
                role.set_player_volume(cmd["value"])
            case "state":
                roles = server.get_client(client).roles_by_family("player")
                say("state", volume=roles[0].get_player_volume() if roles else None)
            case "play":
                await self.play(cmd)

    async def try_to(self, cmd):
        try:
            await self.obey(cmd)
        except Exception as e:  # noqa: BLE001
            say("error", text=f"{type(e).__name__}: {e}")


class Problems(logging.Handler):
    """What it finds wrong with a client."""

    def emit(self, record):
        say("log", text=record.getMessage())


async def main():
    logging.getLogger("aiosendspin").addHandler(Problems(level=logging.ERROR))
    port, name, folder = sys.argv[1:4]
    path = pathlib.Path(folder, "identity")
    if not path.exists():
        path.write_bytes(Identity.generate().private_bytes)
    store = await FileServerPairingStore.open(pathlib.Path(folder, "pairings.json"))
    loop = asyncio.get_running_loop()
    server = SendspinServer(loop, Identity.from_private_bytes(path.read_bytes()), name, pairing_store=store,
                            allow_noncompliant_clients=False)
    driver = Server(server)
    await server.start_server(port=int(port), host="127.0.0.1", advertise_addresses=[], discover_clients=False)
    say("id", id=server.id)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = loop.create_task(driver.try_to(json.loads(line)))
        driver.tasks.add(task)
        task.add_done_callback(driver.tasks.discard)
    await server.close()


asyncio.run(main())
