"""What mp4 and mov need to be told to hold a sound stream as it is."""

from __future__ import annotations

from av.audio.stream import AudioStream
from av.container import OutputContainer


def add_copied_sound(out: OutputContainer, template: AudioStream) -> AudioStream:
    """Add a stream for the packets of `template`, unchanged, to `out`.

    Some containers (Matroska, WAV) do not say which speaker a channel belongs to, which mp4 asks
    for with PCM: then the usual layout of that many channels. Raises ValueError or av.FFmpegError
    when the container can't hold the codec, here or when its header is written.
    """
    stream = out.add_stream_from_template(template, opaque=True)
    layout = template.codec_context.layout
    if layout.name.endswith(" channels"):
        stream.codec_context.layout = f"{layout.nb_channels}c"
    return stream
