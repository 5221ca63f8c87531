"""The current Python client as a process: aiosendspin 10, which speaks encrypted only; and 9,
which does so as before 1.0.0-rc1 and here offers "psk" only.

    python encrypted.py dial URL NAME FOLDER
    python encrypted.py listen PORT NAME FOLDER [HOST]

FOLDER keeps its identity and its pairing records over restarts. Of the environment:
SPEAKER_SUITE chacha (default) or aesgcm; SPEAKER_OFFER a list of "digits", "qr",
"static" (code 12345678) and "psk"; SPEAKER_UNPAIRED=1 gives access without pairing;
SPEAKER_CODEC, SPEAKER_RECORD and SPEAKER_SHOWS as in player.py.

stdin:  {"do":"volume","value":30} {"do":"window"} {"do":"lose"} {"do":"unpaired","value":true} {"do":"drop"}
        {"do":"connect"} {"do":"records"} {"do":"goodbye","value":"restart"} {"do":"cancel"} {"do":"stop"}
stdout: {"event":"id"|"listening"|"open"|"close"|"code"|"qr"|"gesture"|"abort"|"command"|"group"|"stream_start"
        |"first_chunk"|"stream_end"|"records"|"error"|"art"|"color"|"seen", ...}
"""

import asyncio
import dataclasses
import json
import os
import pathlib
import sys

from aiosendspin.client import ClientListener, PairingSupport, SendspinClient
from aiosendspin.models.player import ClientHelloPlayerSupport, SupportedAudioFormat
from aiosendspin.models.types import AudioCodec, GoodbyeReason, PlayerCommand, Roles
from aiosendspin.noise import Identity, NoiseCipherSuite, pairing_token, psk_id_for
from aiosendspin.noise.pairing_token import PSKPairingToken
from aiosendspin.noise.trust_store import FileClientPairingStore, PairingPsk

OLD = not hasattr(pairing_token, "encode_psk_token")  # aiosendspin 9
encode_psk_token = pairing_token.encode_token if OLD else pairing_token.encode_psk_token
COMMANDS = [PlayerCommand.VOLUME, PlayerCommand.MUTE]

OFFER = os.environ.get("SPEAKER_OFFER", "").split(",")
RECORD = os.environ.get("SPEAKER_RECORD")
SHOWS = os.environ.get("SPEAKER_SHOWS")
SUITE = {"chacha": NoiseCipherSuite.CHACHAPOLY, "aesgcm": NoiseCipherSuite.AESGCM}[os.environ.get("SPEAKER_SUITE", "chacha")]


def say(event, **more):
    print(json.dumps({"event": event, **more}, default=str), flush=True)


def identity(folder):
    """The same key at every start."""
    path = pathlib.Path(folder, "identity")
    if not path.exists():
        path.write_bytes(Identity.generate().private_bytes)
    return Identity.from_private_bytes(path.read_bytes())


class Speaker:
    def __init__(self, ident, store, name):
        self.ident, self.store, self.name = ident, store, name
        self.volume, self.muted = 50, False
        self.file, self.stamps = None, []

    async def prepare(self):
        """What this speaker offers for pairing."""
        config = {"unpaired_access_enabled": os.environ.get("SPEAKER_UNPAIRED") == "1"}
        if "static" in OFFER:
            await self.store.set_static_pairing_code("12345678")
            config["static_pairing_code_enabled"] = True
        await self.store.store_pairing_config(dataclasses.replace(await self.store.get_pairing_config(), **config))
        token = None
        if "psk" in OFFER:
            psk = bytes(range(32))
            await self.store.set_pairing_psk(PairingPsk(psk_id_for(psk), psk))
            token = encode_psk_token(PSKPairingToken(self.ident.peer_id, psk))
        say("id", id=self.ident.peer_id, token=token)

        async def code(pairing_code, *, grouped):
            say("code", code=pairing_code, grouped=grouped)

        async def qr(token):
            say("qr", token=token)

        async def gesture(on):
            say("gesture", on=on)

        roles, more = [Roles.PLAYER, Roles.CONTROLLER, Roles.METADATA], {}
        if SHOWS:
            import shows
            more = shows.wishes(roles)
        self.client = SendspinClient(
            identity=self.ident, client_name=self.name, roles=roles,
            pairing_store=self.store, cipher_suite=SUITE, initial_volume=self.volume,
            state_supported_commands=[] if OLD else COMMANDS,
            pairing_support=PairingSupport(
                gesture_prompt=gesture, pairing_code_display=code if "digits" in OFFER else None,
                qr_code_display=qr if "qr" in OFFER else None, offer_static_pairing_code="static" in OFFER,
                pair_pending_message="Press the button on the speaker.",
            ) if {"digits", "qr", "static"} & set(OFFER) else None,
            player_support=ClientHelloPlayerSupport(
                supported_formats=[SupportedAudioFormat(
                    codec=AudioCodec(os.environ.get("SPEAKER_CODEC", "pcm")), channels=2, sample_rate=48000, bit_depth=16)],
                buffer_capacity=1_000_000, **({"supported_commands": COMMANDS} if OLD else {}),
            ),
            **more,
        )
        c = self.client
        if SHOWS:
            shows.look(c, say)
        c.add_disconnect_listener(lambda: say("close"))
        c.add_pairing_abort_listener(lambda reason: say("abort", reason=reason.value))
        c.add_server_command_listener(self.on_command)
        c.add_group_update_listener(lambda p: say("group", id=p.group_id, name=p.group_name))
        c.add_stream_start_listener(self.on_start)
        c.add_audio_chunk_listener(self.on_chunk)
        c.add_stream_end_listener(self.on_end)
        asyncio.get_running_loop().create_task(self.watch())

    async def watch(self):
        """Tells when a server was admitted, and by which credential; there is no event for it."""
        seen = None
        while True:
            now = self.client.server_info
            psk = self.client.noise_psk
            state = (id(now), psk and psk.category.value, [a.value for a in self.client.activities]) if now else None
            if state != seen:
                seen = state
                if state:
                    say("open", server=now.server_id, category=state[1], activities=state[2])
            await asyncio.sleep(0.02)

    def on_command(self, payload):
        cmd = payload.player
        if cmd is None:
            return
        self.volume = self.volume if cmd.volume is None else cmd.volume
        self.muted = self.muted if cmd.mute is None else cmd.mute
        say("command", volume=self.volume, muted=self.muted)
        asyncio.get_running_loop().create_task(self.report())

    async def report(self):
        await self.client.send_player_state(available=True, volume=self.volume, muted=self.muted)

    def on_start(self, _message):
        say("stream_start")
        self.stamps = []
        if RECORD:
            self.file = open(RECORD, "wb")

    def on_chunk(self, stamp, data, fmt, send_ahead=None):
        if not self.stamps:
            say("first_chunk", stamp=stamp, send_ahead=send_ahead)
            if self.file:
                self.file.write(fmt.codec_header or b"")
        self.stamps.append(stamp)
        if self.file:
            self.file.write(data)

    def on_end(self, _roles):
        if self.file:
            self.file.close()
            self.file = None
        say("stream_end", chunks=len(self.stamps))

    async def dial(self, url):
        try:
            await self.client.connect(url)
        except Exception as e:  # noqa: BLE001
            say("error", text=f"{type(e).__name__}: {e}")

    async def obey(self, cmd, url):
        match cmd["do"]:
            case "volume":
                self.volume = cmd["value"]
                await self.report()
            case "window":
                self.client.open_pairing_window()
            case "cancel":
                await self.client.cancel_pairing()
            case "unpaired":
                await self.client.set_unpaired_access(enabled=cmd["value"])
            case "lose":  # as a factory reset does, but for the identity
                for r in await self.store.list_records():
                    await self.store.remove_record(r.psk_id)
                await self.client.disconnect(GoodbyeReason.RESTART)
            case "goodbye":
                await self.client.disconnect(GoodbyeReason(cmd["value"]))
            case "connect":
                await self.dial(url)
            case "records":
                say("records", servers=[r.server_id for r in await self.store.list_records()])


async def main():
    mode, where, name, folder = sys.argv[1:5]
    host = sys.argv[5] if len(sys.argv) > 5 else "127.0.0.1"
    store = await FileClientPairingStore.open(pathlib.Path(folder, "pairings.json"))
    speaker = Speaker(identity(folder), store, name)
    await speaker.prepare()
    listener = None
    if mode == "dial":
        await speaker.dial(where)
    else:
        listener = ClientListener(client_id=speaker.ident.peer_id, on_connection=speaker.client.attach_websocket, port=int(where),
                                  host=host, client_name=name, advertise_mdns=host != "127.0.0.1")
        await listener.start()
        say("listening")
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        cmd = json.loads(line)
        try:
            if cmd["do"] == "stop":
                await speaker.client.disconnect(GoodbyeReason.RESTART)
                break
            await speaker.obey(cmd, where)
        except Exception as e:  # noqa: BLE001
            say("error", text=f"{type(e).__name__}: {e}")
    if listener is not None:
        await listener.stop()


asyncio.run(main())
