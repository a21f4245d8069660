"""Pure decisions of encoding: the encoder's options and threads."""

from __future__ import annotations

from shared.jobs import Codec, OutputPlan

KEYFRAME_EVERY = 250
"""Frames; matters only for batches longer than that, since each chunk starts with an IDR."""


def encoder_options(output: OutputPlan) -> dict[str, str]:
    """Private options of libx264 or libx265 for a chunk.

    Constant rate factor: quality follows the picture, and no rate-control state needs to pass
    from chunk to chunk (a bit rate would). Closed GOPs, so that chunks join by concatenation.
    Keyframes at scene cuts stay allowed: they cost nothing elsewhere and each is a seek point.
    """
    options = {"preset": output.preset, "crf": str(output.crf)}
    if output.codec is Codec.H264:
        return options | {"x264-params": f"keyint={KEYFRAME_EVERY}:open-gop=0"}
    # repeat-headers=0 and info=0: parameter sets live in the container's header, settings nowhere
    params = f"keyint={KEYFRAME_EVERY}:open-gop=0:repeat-headers=0:info=0:log-level=error"
    return options | {"x265-params": params}
