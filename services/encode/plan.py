"""Pure decisions of encoding: the encoder's options, its bit rate, which chunks get a picture."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from math import ceil

from shared.jobs import Codec, Model, OutputPlan, Ratio, SourceInfo
from shared.media.timestamps import frame_ticks

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


class RateMode(StrEnum):
    """What an encoder keeps constant."""

    QUALITY = "quality"
    CBR = "cbr"
    VBR = "vbr"


class RateControl(Model):
    """How an encoder spends bits. With QUALITY the numbers are 0 and the output's crf counts.

    `kbps` is the average that is aimed at; a buffer of `buffer_kbit` is filled at `peak_kbps`, and
    frames are taken from it. Both are each chunk's own: chunks are encoded apart, so every chunk
    begins with the buffer filled to BUFFER_START, whatever the one before left in it. So a player
    needs up to twice the buffer, and no HRD is written, which would promise that it does not.
    """

    mode: RateMode = RateMode.QUALITY
    kbps: int = 0
    peak_kbps: int = 0
    buffer_kbit: int = 0


QUALITY = RateControl()
BUSY_SHARE = 70
"""Percent of the bit rate asked for that an encoder has on average when many share it."""
BUFFER_SHARE, BUFFER_START = 0.4, 0.7
"""The buffer, as a share of a whole chunk's bits, and how full it is at first. What a chunk may
take beyond its rate is their product. Less, and the first frame, a keyframe, gets too little; more,
and noisy chunks of 32 or 64 frames are 10 to 20 % too large (now within 6 %). Chunks of 8 frames,
of which the keyframe is half, stay below their rate all the same."""


def rate_control(
    bitrate_kbps: int | None, chunk_s: float, sessions: int, busy_from: int
) -> RateControl:
    """Constant quality unless a bit rate is asked for, in chunks of `chunk_s` seconds. That is
    constant, too, but where `sessions` are open on the encoder's hardware and `busy_from` or more
    count as busy (0: never): then it is the most, and the average is lower.

    For the job's first chunk, and kept for the others: a chunk made again must be the same, and
    those of one encoder share a header, which tells its rate.
    """
    if bitrate_kbps is None:
        return QUALITY
    busy = 0 < busy_from <= sessions
    return RateControl(
        mode=RateMode.VBR if busy else RateMode.CBR,
        kbps=bitrate_kbps * BUSY_SHARE // 100 if busy else bitrate_kbps,
        peak_kbps=bitrate_kbps,
        buffer_kbit=ceil(bitrate_kbps * chunk_s * BUFFER_SHARE),
    )


THUMBNAILS = 160
"""Of a video as long as its header says; half as many again each time it is twice that."""
SHORTEST_SPACING_S = 1.0
SEGMENT_S = 10.0
"""About the length of a segment, or more."""


FADE_S = Fraction(1, 4)
"""How long a picture fades into the next one: long enough to be no cut, too short to be two."""


def fade(
    pts: Sequence[int], before: int, after: int, tick: Fraction, whole: int
) -> tuple[int, ...]:
    """How much frames at `pts`, which stand for ones that could not be made, show of the next
    picture: 0 to `whole`, linear in time over the last FADE_S, or over the gap if it is shorter.

    `before`, `after`: pts of the last frame before them and the first after them.
    """
    length = min(FADE_S / tick, Fraction(after - before))
    shares = (1 - (after - at) / length for at in pts)
    return tuple(max(0, round(whole * share)) for share in shares)


def wants_thumbnail(
    source: SourceInfo, output: OutputPlan, segment: int, batch: int, pts: Sequence[int]
) -> bool:
    """Whether the chunk of a batch with frames at `pts` gets a thumbnail.

    The first does, and each that shows a multiple of a spacing that spreads THUMBNAILS over the
    length the header promises. How long the video is in the end nobody knows yet; where it goes on
    beyond the promise (its segments tell) the spacing doubles with its length, so that a header
    that lies can't fill the store. Depends on the batch alone: a repeat decides alike.
    """
    if segment == batch == 0:
        return True
    promised_s = source.duration_s or 0.0
    spacing_s = max(SHORTEST_SPACING_S, promised_s / THUMBNAILS)
    expected = max(1, ceil(spacing_s * THUMBNAILS / SEGMENT_S))
    spacing_s *= 2 ** (segment // expected).bit_length()
    spacing = max(1, int(spacing_s / source.tick_s))
    end = pts[-1] + frame_ticks(output.frame_rate, output.time_base)
    return (end - 1) // spacing > (pts[0] - 1) // spacing


def encoder_threads(rate: RateControl, threads: int) -> int:
    """How many frame threads an encoder may have of `threads`.

    With a buffer to look after, what x264 and x265 spend on a row depends on how far their other
    threads have come: 26 of 30 encodes of the same frames by 4 threads differed, 2 of 20 by the
    rows of x265. One thread gives the same bytes every time. (SVT-AV1's were the same with 1, 2, 4
    and 6.)
    """
    return threads if rate.mode is RateMode.QUALITY else 1


def encoder_options(
    output: OutputPlan, rate: RateControl = QUALITY, *, threads: int = 1, vector_code: bool = True
) -> dict[str, str]:
    """Private options of libx264, libx265 or libsvtav1 for a chunk. x264 and x265 are told their
    `threads` another way.

    Constant rate factor by default: quality follows the picture, and no rate-control state needs to
    pass from chunk to chunk. Closed GOPs, so that chunks join by concatenation. Keyframes at scene
    cuts stay allowed: they cost nothing elsewhere and each is a seek point.

    With a bit rate x265 has to have a single thread, as x264 (see `encoder_threads`).
    """
    if output.codec is Codec.AV1:
        return _svt_options(output, rate, threads, vector_code=vector_code)
    options = {"preset": output.preset}
    limits = ""
    if rate.mode is RateMode.QUALITY:
        options["crf"] = str(output.crf)
    else:
        limits = (
            f":bitrate={rate.kbps}:vbv-maxrate={rate.peak_kbps}:vbv-bufsize={rate.buffer_kbit}"
            f":vbv-init={BUFFER_START}"
        )
    if output.codec is Codec.H264:
        # cpu-independent: the same frames give the same bytes on every machine of a cluster. And in
        # every process: x264's AVX-512 code for macroblock trees reads memory it never wrote where
        # a row is no multiple of 256 px, so that a chunk depended on those encoded before it.
        params = f"keyint={KEYFRAME_EVERY}:open-gop=0:cpu-independent=1{limits}"
        params += "" if vector_code else ":no-asm=1"
        return options | {"x264-params": params}
    # repeat-headers=0 and info=0: parameter sets live in the container's header, settings nowhere
    params = f"keyint={KEYFRAME_EVERY}:open-gop=0:repeat-headers=0:info=0:log-level=error{limits}"
    if limits:
        params += ":pools=none:no-wpp=1:frame-threads=1"
    params += "" if vector_code else ":asm=0"
    return options | {"x265-params": params}


# --- SVT-AV1 --------------------------------------------------------------------------------------

AV1_LARGEST_FPS = 240
"""What SVT-AV1 lets itself be told; it goes by that for its bit rate and level only."""
_AV1_PRESETS = {
    "ultrafast": 9,
    "superfast": 9,
    "veryfast": 8,
    "faster": 7,
    "fast": 6,
    "medium": 5,
    "slow": 4,
    "slower": 4,
    "veryslow": 3,
    "placebo": 2,
}
"""SVT-AV1's presets that cost about as much as x264's of these names: 0.8 to 1.2 times the CPU time
for 32 frames in 1080p, but for `ultrafast` (2.1), `slower` and `placebo` (0.5). Chosen by us, as
measured (docs/measurements, av1). Those beyond 9 are not meant for people's eyes, it says."""
_AV1_QUALITY = ((0, 1), (6, 4), (12, 7), (18, 18), (23, 34), (28, 50), (33, 60), (51, 63))
"""crf of x264 and that of SVT-AV1 which looks alike, by PSNR and SSIM of three clips (measured as
above). Chosen by us."""
_MOST_LEVELS = 6
"""Of SVT-AV1's parallelism."""


def av1_quality(crf: int) -> int:
    """SVT-AV1's crf (1 to 63) for one of x264's scale (0 to 51), between the points of the table.

    0, lossless to x264, is the best there is. From 33 on what is worse in x264 hardly is in AV1,
    whose scale ends there.
    """
    for (low, begin), (high, end) in pairwise(_AV1_QUALITY):
        if crf <= high:
            return begin + round((crf - low) * (end - begin) / (high - low))
    return _AV1_QUALITY[-1][1]


def av1_frame_rate(rate: Ratio) -> Ratio:
    """What SVT-AV1 is told of a video of `rate` frames per second."""
    return rate if rate[0] <= AV1_LARGEST_FPS * rate[1] else (AV1_LARGEST_FPS, 1)


def _svt_options(
    output: OutputPlan, rate: RateControl, threads: int, *, vector_code: bool
) -> dict[str, str]:
    """Options of libsvtav1. Key frames that nothing after them looks beyond (irefresh-type=2).

    A bit rate is kept by its mode for live video, of frames in order: of 32 noisy frames the other
    made twice what was asked for. With the buffer half way between its beginning and full as what
    is aimed at, these are within 4 % of it.
    """
    options = {"preset": str(_AV1_PRESETS.get(output.preset, _AV1_PRESETS["veryfast"]))}
    params = f"lp={min(threads, _MOST_LEVELS)}:keyint={KEYFRAME_EVERY}:irefresh-type=2"
    params += "" if vector_code else ":asm=c"
    if rate.mode is RateMode.QUALITY:
        return options | {"crf": str(av1_quality(output.crf)), "svtav1-params": params}
    num, den = av1_frame_rate(output.frame_rate)
    told = num * output.frame_rate[1] / (den * output.frame_rate[0])
    buffer_ms = min(max(1000 * rate.buffer_kbit // rate.kbps, 100), 10_000)
    params += (
        f":rc=2:pred-struct=1:tbr={max(1, round(rate.kbps * told))}:buf-sz={buffer_ms}"
        f":buf-initial-sz={round(buffer_ms * BUFFER_START)}"
        f":buf-optimal-sz={round(buffer_ms * (1 + BUFFER_START) / 2)}"
    )
    return options | {"svtav1-params": params}


# --- NVENC ----------------------------------------------------------------------------------------

_SLOWER = {
    "ultrafast": -3,
    "superfast": -2,
    "veryfast": 0,
    "faster": 0,
    "fast": 1,
    "medium": 1,
    "slow": 2,
    "slower": 3,
    "veryslow": 3,
    "placebo": 3,
}
"""Steps between p1 and p7 from the preset of the settings, which is what a job that asks for
`veryfast`, the default, gets. Chosen by us: nobody has measured one scale by the other."""
FASTEST, SLOWEST = 1, 7


class NvencPlan(Model):
    """How NVENC encodes a chunk. Rates in bit/s, buffers in bits; 0 with constant quality.

    `quality` is NVENC's target of constant quality (`cq`, 1 to 51), 0 with a bit rate. Frames come
    out in the order they went in: no B-frames, so the n-th packet is the n-th frame, and none is
    held back from a chunk's end.
    """

    preset: int
    quality: int
    bps: int
    peak_bps: int
    buffer_bits: int
    start_bits: int
    constant: bool


def nvenc_plan(output: OutputPlan, rate: RateControl, preset: str) -> NvencPlan:
    """What the job's quality or rate means to NVENC, at the preset `p1` to `p7` of the settings.

    `cq` is the job's crf, chosen by us: both are quantizers of the same scale, so that what is
    larger looks worse, and differ in what they spend where. 0, lossless to x264, is the best
    quality, as NVENC takes it for "automatic".
    """
    step = int(preset.removeprefix("p")) + _SLOWER.get(output.preset, 0)
    constant_quality = rate.mode is RateMode.QUALITY
    buffer_bits = 1000 * rate.buffer_kbit
    return NvencPlan(
        preset=min(max(step, FASTEST), SLOWEST),
        quality=max(output.crf, 1) if constant_quality else 0,
        bps=1000 * rate.kbps,
        peak_bps=1000 * rate.peak_kbps,
        buffer_bits=buffer_bits,
        start_bits=int(buffer_bits * BUFFER_START),
        constant=rate.mode is RateMode.CBR,
    )


def ffmpeg_nvenc_options(plan: NvencPlan) -> dict[str, str]:
    """Options of FFmpeg's h264_nvenc and hevc_nvenc."""
    options = {
        "preset": f"p{plan.preset}",
        "tune": "hq",
        "gpu": "0",
        "bf": "0",
        "g": str(KEYFRAME_EVERY),
        "forced-idr": "1",
        "rc": "cbr" if plan.constant else "vbr",
    }
    if plan.quality:
        return options | {"cq": str(plan.quality), "b": "0"}
    return options | {
        "b": str(plan.bps),
        "maxrate": str(plan.peak_bps),
        "bufsize": str(plan.buffer_bits),
        "rc_init_occupancy": str(plan.start_bits),
    }


def nvcodec_options(plan: NvencPlan, output: OutputPlan) -> dict[str, str]:
    """Options of PyNvVideoCodec's CreateEncoder, which takes two decimals of a frame rate."""
    options = {
        "codec": output.codec.value,
        "preset": f"P{plan.preset}",
        "tuning_info": "high_quality",
        "bf": "0",
        "gop": str(KEYFRAME_EVERY),
        "idrperiod": str(KEYFRAME_EVERY),
        "fps": f"{max(0.01, output.frame_rate[0] / output.frame_rate[1]):.2f}",
        "rc": "cbr" if plan.constant else "vbr",
    }
    if plan.quality:
        return options | {"cq": str(plan.quality)}
    return options | {
        "bitrate": str(plan.bps),
        "maxbitrate": str(plan.peak_bps),
        "vbvbufsize": str(plan.buffer_bits),
        "vbvinit": str(plan.start_bits),
    }


def color_filter(output: OutputPlan) -> str:
    """Options of FFmpeg's h264_metadata and hevc_metadata that write the output's colours, and
    square pixels, into sequence parameter sets."""
    color = output.color
    return (
        f"colour_primaries={color.primaries}:transfer_characteristics={color.transfer}"
        f":matrix_coefficients={color.matrix}:video_full_range_flag={int(color.full_range)}"
        ":sample_aspect_ratio=1/1"
    )
