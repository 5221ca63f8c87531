"""The published Python client as a process: aiosendspin, or aioresonate before it.

    python player.py dial URL ID NAME
    python player.py listen PORT ID NAME [HOST]   # advertises itself over mDNS

stdin:  {"do":"volume","value":30} {"do":"mute","value":true} {"do":"goodbye","value":"restart"} {"do":"stop"}
With SPEAKER_RECORD=FILE it writes what it hears to FILE, as it comes; SPEAKER_CODEC is the
format that it wants (pcm or flac; default pcm). With SPEAKER_SHOWS=1 it also has a display of
two channels, colours and a visualizer, and says what they get.

stdout: {"event":"open"|"close"|"command"|"group"|"controller"|"synced"|"art"|"color"|"seen", ...}
"""

import asyncio
import json
import os
import sys

try:
    import aiosendspin as lib
    from aiosendspin.client import SendspinClient as Client
    from aiosendspin.models.core import *  # noqa: F403
    from aiosendspin.models.player import ClientHelloPlayerSupport, SupportedAudioFormat
    from aiosendspin.models.types import AudioCodec, PlayerCommand, PlayerStateType, Roles
    OLD = False
except ImportError:
    import aioresonate as lib  # noqa: F401
    from aioresonate.client import ResonateClient as Client
    from aioresonate.models.player import ClientHelloPlayerSupport
    from aioresonate.models.types import PlayerStateType, Roles
    OLD = True


CODEC = os.environ.get("SPEAKER_CODEC", "pcm")
RECORD = os.environ.get("SPEAKER_RECORD")
SHOWS = os.environ.get("SPEAKER_SHOWS")


def say(event, **more):
    print(json.dumps({"event": event, **more}, default=str), flush=True)


def support():
    if OLD:
        return ClientHelloPlayerSupport(
            support_codecs=[CODEC], support_channels=[2], support_sample_rates=[48000],
            support_bit_depth=[16], buffer_capacity=1_000_000,
        )
    return ClientHelloPlayerSupport(
        supported_formats=[SupportedAudioFormat(codec=AudioCodec(CODEC), channels=2, sample_rate=48000, bit_depth=16)],
        buffer_capacity=1_000_000,
        supported_commands=[PlayerCommand.VOLUME, PlayerCommand.MUTE],
    )


class Speaker:
    """One speaker: its knobs outlive its connections."""

    def __init__(self, ident, name):
        self.ident, self.name = ident, name
        self.volume, self.muted = 50, False
        self.client = None

    def make(self):
        more = {}
        if OLD:
            from aioresonate.models.metadata import ClientHelloMetadataSupport
            more["metadata_support"] = ClientHelloMetadataSupport(support_picture_formats=[])
        roles = [Roles.PLAYER, Roles.CONTROLLER, Roles.METADATA]
        if SHOWS:
            import shows
            more = shows.wishes(roles)
        client = Client(client_id=self.ident, client_name=self.name, roles=roles, player_support=support(), **more)
        add = lambda name, fn: getattr(client, name)(fn) if hasattr(client, name) else None  # noqa: E731
        add("add_server_command_listener", self.on_command)
        add("add_group_update_listener", lambda p: say("group", id=getattr(p, "group_id", None), name=getattr(p, "group_name", None)))
        add("add_controller_state_listener", lambda p: say("controller", state=str(p)))
        if RECORD:
            self.record(add)
        if SHOWS:
            shows.look(client, say)
        self.client = client
        return client

    def record(self, add):
        """Writes every chunk to RECORD, FLAC behind its header."""
        self.file, self.stamps = open(RECORD, "wb"), []

        def on_chunk(stamp, data, fmt=None):
            if not self.stamps:
                header = getattr(fmt, "codec_header", None)
                self.file.write(header or b"")
                say("first_chunk", stamp=stamp)
            self.stamps.append(stamp)
            self.file.write(data)

        def on_end(*_):
            self.file.flush()
            say("stream_end", chunks=len(self.stamps), steps=sorted({b - a for a, b in zip(self.stamps, self.stamps[1:])}))

        for name in ("add_audio_chunk_listener", "set_audio_chunk_listener"):
            add(name, on_chunk)
        for name in ("add_stream_end_listener", "set_stream_end_listener"):
            add(name, on_end)

    def on_command(self, payload):
        cmd = getattr(payload, "player", None)
        if cmd is None:
            return
        if cmd.volume is not None:
            self.volume = cmd.volume
        if cmd.mute is not None:
            self.muted = cmd.mute
        say("command", volume=self.volume, muted=self.muted)
        asyncio.get_running_loop().create_task(self.report())

    async def report(self):
        if self.client is not None and self.client.connected:
            state = PlayerStateType.IDLE if OLD else PlayerStateType.SYNCHRONIZED
            await self.client.send_player_state(state=state, volume=self.volume, muted=self.muted)

    async def goodbye(self, reason):
        if not hasattr(self.client, "send_goodbye"):  # 2.0.1 and older close without a word
            await self.client.disconnect()
            return
        try:
            from aiosendspin.models.types import GoodbyeReason
        except ImportError:
            from aiosendspin.models.core import GoodbyeReason
        await self.client.send_goodbye(GoodbyeReason(reason))
        await self.client.disconnect()

    async def dial(self, url):
        client = self.make()
        closed = asyncio.Event()
        for name in ("add_disconnect_listener", "set_disconnect_listener"):
            if hasattr(client, name):
                getattr(client, name)(lambda: (say("close"), closed.set()))
                break
        await client.connect(url)
        say("open")
        await self.report()
        return closed

    async def listen(self, port, host):
        from aiosendspin.client.listener import ClientListener

        async def on_connection(ws):
            client = self.make()
            closed = asyncio.Event()
            client.add_disconnect_listener(lambda: (say("close"), closed.set()))
            await client.attach_websocket(ws)
            say("open")
            await self.report()
            await closed.wait()

        listener = ClientListener(client_id=self.ident, on_connection=on_connection, port=port, host=host,
                                  client_name=self.name)
        await listener.start()
        say("listening")
        return listener


async def main():
    mode, where, ident, name = sys.argv[1:5]
    host = sys.argv[5] if len(sys.argv) > 5 else "0.0.0.0"
    speaker = Speaker(ident, name)
    listener = None
    if mode == "dial":
        await speaker.dial(where)
    else:
        listener = await speaker.listen(int(where), host)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        cmd = json.loads(line)
        match cmd["do"]:
            case "volume":
                speaker.volume = cmd["value"]
                await speaker.report()
            case "mute":
                speaker.muted = cmd["value"]
                await speaker.report()
            case "goodbye":
                await speaker.goodbye(cmd["value"])
            case "connect":
                await speaker.dial(where)
            case "stop":
                await speaker.goodbye("shutdown")  # the listener's stop would wait for its connection
                break
    if listener is not None:
        await listener.stop()


asyncio.run(main())
