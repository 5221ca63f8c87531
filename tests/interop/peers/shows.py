"""What can be seen, for the clients beside this file: a display of two channels, colours and a visualizer."""

import base64

from aiosendspin.models import artwork, visualizer
from aiosendspin.models.types import ArtworkSource, PictureFormat, Roles

TYPES = ["loudness", "f_peak", "spectrum", "beat", "peak"]


def wishes(roles):
    """Adds the roles, and returns what a client needs to be made with for them."""
    roles += [Roles.ARTWORK, Roles.COLOR, Roles.VISUALIZER]
    spectrum = visualizer.ClientHelloVisualizerSpectrum(n_disp_bins=16, scale="log", f_min=60, f_max=12000)
    forms = [(PictureFormat.JPEG, 240, 240), (PictureFormat.PNG, 64, 32)]
    if hasattr(visualizer, "VisualizerStatePayload"):  # encrypted: said in client/state
        return {
            "artwork_channels": [artwork.ArtworkChannel(source=ArtworkSource.ALBUM, format=f, width=w, height=h) for f, w, h in forms],
            "visualizer_support": visualizer.ClientHelloVisualizerSupport(buffer_capacity=8000),
            "visualizer_state": visualizer.VisualizerStatePayload(types=TYPES, rate_max=20, spectrum=spectrum),
        }
    return {
        "artwork_support": artwork.ClientHelloArtworkSupport(channels=[
            artwork.ArtworkChannel(source=ArtworkSource.ALBUM, format=f, media_width=w, media_height=h) for f, w, h in forms]),
        "visualizer_support": visualizer.ClientHelloVisualizerSupport(buffer_capacity=8000, rate_max=20, types=TYPES, spectrum=spectrum),
    }


def look(client, say):
    """Says pictures and colours as they come, and the visualizer's frames when they end."""
    frames = []

    def on_color(state):
        if state is not None:
            say("color", primary=getattr(state.color, "primary", None))

    def on_end(roles=None):
        if frames and (roles is None or "visualizer" in roles):
            say("seen", frames=[{k: v for k in f.__slots__ if (v := getattr(f, k)) is not None} for f in frames])
            frames.clear()

    client.add_artwork_listener(lambda channel, data: say("art", channel=channel, data=base64.b64encode(data).decode()))
    client.add_color_listener(on_color)
    client.add_visualizer_listener(frames.extend)
    client.add_stream_end_listener(on_end)
