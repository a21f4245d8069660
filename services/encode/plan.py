"""Pure decisions of encoding: the encoder's options and threads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from shared.jobs import Codec, OutputPlan, SourceInfo

KEYFRAME_EVERY = 250
"""Frames; matters only for batches longer than that, since each chunk starts with an IDR."""


MISSING_SHARE = 0.02
"""Of the frames or the time that the header promises: headers round, and sounds end later."""
GAP_S, END_S = 0.25, 0.5
"""What is noticed as a jump or as an end that came too soon, and no rounding explains."""


def missing_notes(source: SourceInfo, pts: Sequence[int], dropped: int) -> tuple[str, ...]:
    """Sentences about what a damaged or cut-off source has lost without a trace.

    Where whole packets are gone nobody can count frames; what the header promised and the times of
    the frames that came (`pts`, in order) tell. `dropped` by the frame-rate limit are not missing.
    """
    if source.generated_times or len(pts) < 2:
        return ()
    notes = []
    promised, found = source.frames_estimate or 0, len(pts) + dropped
    gap_s = float(max(later - earlier for earlier, later in pairwise(pts)) * source.tick_s)
    if not dropped and promised - found > max(2, promised * MISSING_SHARE) and gap_s > GAP_S:
        notes.append(
            f"The source promises about {promised} frames and has {found}, with a gap of "
            f"{gap_s:.1f} s: parts of it may be damaged."
        )
    length_s = float((pts[-1] - pts[0]) * source.tick_s)
    promised_s = source.duration_s or 0.0
    if promised_s - length_s > max(END_S, promised_s * MISSING_SHARE) + gap_s:
        notes.append(
            f"The source promises {promised_s:.1f} s and its picture ends after {length_s:.1f} s: "
            "its end may be missing."
        )
    return tuple(notes)


def encoder_options(output: OutputPlan, *, vector_code: bool = True) -> dict[str, str]:
    """Private options of libx264 or libx265 for a chunk.

    Constant rate factor: quality follows the picture, and no rate-control state needs to pass
    from chunk to chunk (a bit rate would). Closed GOPs, so that chunks join by concatenation.
    Keyframes at scene cuts stay allowed: they cost nothing elsewhere and each is a seek point.
    """
    options = {"preset": output.preset, "crf": str(output.crf)}
    if output.codec is Codec.H264:
        # cpu-independent: the same frames give the same bytes on every machine of a cluster. And in
        # every process: x264's AVX-512 code for macroblock trees reads memory it never wrote where
        # a row is no multiple of 256 px, so that a chunk depended on those encoded before it.
        params = f"keyint={KEYFRAME_EVERY}:open-gop=0:cpu-independent=1"
        params += "" if vector_code else ":no-asm=1"
        return options | {"x264-params": params}
    # repeat-headers=0 and info=0: parameter sets live in the container's header, settings nowhere
    params = f"keyint={KEYFRAME_EVERY}:open-gop=0:repeat-headers=0:info=0:log-level=error"
    params += "" if vector_code else ":asm=0"
    return options | {"x265-params": params}
