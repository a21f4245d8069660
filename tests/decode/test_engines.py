"""The contract of decoders of segments, over those of a GPU: the frames of the software decoder."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from services.decode.engines.base import DecodeReport, SegmentDecoder
from services.decode.engines.nvdec import NvdecDecoder
from services.decode.engines.pyav import PyAvDecoder
from services.decode.engines.pyav_cuda import PyAvCudaDecoder
from services.decode.packets import PacketFile, PacketWriter
from services.decode.split import split
from shared.errors import DeviceLostError, EngineBusyError, EngineError, PermanentError
from shared.jobs import Segment, SourceInfo
from shared.media.layout import FrameLayout, PixelFormat, Plane
from shared.media.probe import probe
from shared.sessions import SessionKind
from tests.videos import (
    CLOSED_GOP_X264,
    INTRA_REFRESH_X264,
    MPEG2,
    OPEN_GOP_X264,
    OPEN_GOP_X265,
    VP9,
    VideoSpec,
    make_video,
)

if TYPE_CHECKING:
    from shared.cuda.device import Device

Frames = list[tuple[int, str]]
"""pts and a hash of the NV12 samples."""

SIZE = (192, 160)
"""Larger than the smallest picture of every codec."""
HEVC = replace(OPEN_GOP_X265, size=SIZE, frames=24)
CLIPS = {
    "closed GOPs": replace(CLOSED_GOP_X264, frames=24),
    "open GOPs": replace(OPEN_GOP_X264, frames=30),
    "HEVC": HEVC,
    "no IDR but the first": replace(INTRA_REFRESH_X264, frames=24),
    "raw": replace(CLOSED_GOP_X264, frames=24, container="h264"),
    "full range": replace(CLOSED_GOP_X264, frames=12, pixel_format="yuvj420p"),
    "on its side": replace(CLOSED_GOP_X264, frames=12, rotation=90),
    "upside down": replace(CLOSED_GOP_X264, frames=12, rotation=180),
    "rows of no even address": replace(CLOSED_GOP_X264, frames=12, size=(130, 66), rotation=270),
    "VP9": replace(VP9, size=SIZE, frames=12),
    "VP9 of odd sides": replace(VP9, size=(193, 161), frames=3),
}
ALL = 9.0
"""Seconds: one segment."""


def referring(codec: str, references: int, more: str = "") -> VideoSpec:
    """A stream without container, whose pictures refer to at most so many; all of one size."""
    named, quiet = ("x264", "") if codec == "h264" else ("x265", ":log-level=none:pools=1")
    options = f"ref={references}:scenecut=0{quiet}{more}"
    return VideoSpec(
        codec=f"lib{named}",
        container=codec,
        time_base=Fraction(1, 25),
        size=SIZE,
        frames=20,
        gop=20,
        bframes=0,
        options={f"{named}-params": options},
    )


class Bench:
    """Decodes with one engine, and compares."""

    def __init__(self, device: Device, make: Callable[[Device], SegmentDecoder]) -> None:
        self.device = device
        self.decoder = make(device)

    def frames(self, path: Path, segment: Segment, source: SourceInfo) -> Frames:
        """What the engine gives, by its own memory."""
        return read(self.decoder, path, segment, source, self.device)


def read(
    decoder: SegmentDecoder,
    path: Path,
    segment: Segment,
    source: SourceInfo,
    device: Device | None = None,
) -> Frames:
    layout = FrameLayout(width=source.width, height=source.height, format=PixelFormat.NV12)
    host: Plane = np.zeros(layout.frame_bytes, np.uint8)
    slot = host
    if decoder.memory == "device":
        assert device is not None
        slot = device.empty((layout.frame_bytes,))
    shown = []
    for frame in decoder.decode(path, segment, source):
        frame.write_to(layout.planes(slot))
        if device is not None and decoder.memory == "device":
            device.download(slot, host)
        shown.append((frame.pts, hashlib.md5(host.data).hexdigest()))
    return shown


def pieces(path: Path, folder: Path, target_s: float = 0.0) -> list[tuple[Segment, Path]]:
    """The source's segments, and their files."""
    found = []
    for segment, file in split(path, probe(path), folder, target_s):
        found.append((segment, file.rename(folder / f"{path.stem}-{segment.index}.bin")))
    return found


@pytest.fixture(params=["nvdec", pytest.param("pyav-cuda", marks=pytest.mark.gpu)])
def bench(request: pytest.FixtureRequest, vendor: str, device: Device) -> Bench:
    if request.param == "nvdec":
        return Bench(device, NvdecDecoder)
    if vendor == "double":
        pytest.skip("FFmpeg's CUDA has no double")
    return Bench(device, PyAvCudaDecoder)


@pytest.fixture
def nvdec(
    doubles: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Bench]:
    """Makes a bench over the doubles, told what to do; for tests of what goes wrong."""

    def make(**told: str) -> Bench:
        from shared.cuda.device import Device

        for name, value in told.items():
            monkeypatch.setenv(f"DOUBLE_{name}", value)
        return Bench(Device(), NvdecDecoder)

    return make


@pytest.fixture
def opened(
    doubles: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> list[object]:
    """One entry for each decoder of the library that was opened."""
    import PyNvVideoCodec

    made: list[object] = []
    create = PyNvVideoCodec.CreateDecoder

    def counted(**options: Any) -> object:
        made.append(options)
        return create(**options)

    monkeypatch.setattr(PyNvVideoCodec, "CreateDecoder", counted)
    return made


@pytest.mark.parametrize("kind", CLIPS)
def test_every_frame_is_the_software_decoders_at_the_same_time(
    bench: Bench, kind: str, tmp_path: Path
) -> None:
    spec = CLIPS[kind]
    suffix = ".264" if spec.container else ".webm" if spec.codec == VP9.codec else ".mp4"
    path = make_video(tmp_path / f"clip{suffix}", spec)
    source, software, count = probe(path), PyAvDecoder(threads=1), 0
    for segment, file in pieces(path, tmp_path):
        expected = read(software, file, segment, source)
        assert bench.frames(file, segment, source) == expected
        assert bench.decoder.report == software.report
        count += len(expected)
    assert count == spec.frames


@pytest.mark.footage
def test_clips_of_all_sorts_are_decoded_as_in_software_or_refused_before_the_first_frame(
    bench: Bench, footage: Path, tmp_path: Path
) -> None:
    able = ("vali-test.mp4", "torchcodec-bt709_full_range.mp4", "vali-test_rot_90_deg.mp4")
    small = "torchcodec-h265_video.mp4"
    unable = (
        *("torchcodec-h264_10bits.mp4", "vali-test_mpeg4.mpg", "vali-test_res_change.h264"),
        small,
    )
    for name in (*able, *unable):
        path, software = footage / "odd" / name, PyAvDecoder(threads=1)
        source = probe(path)
        segment, file = pieces(path, tmp_path)[0]
        if name in able:
            expected = read(software, file, segment, source)
            assert bench.frames(file, segment, source) == expected, name
        elif bench.decoder.name == "nvdec":
            segment, file = pieces(path, tmp_path, 1e6)[0]
            with pytest.raises(EngineError) as caught:
                next(bench.decoder.decode(file, segment, source))
            assert not caught.value.able, name


def test_ten_bits_become_the_nearest_of_eight(bench: Bench, tmp_path: Path) -> None:
    spec = VideoSpec(
        codec="libx265",
        pixel_format="yuv420p10le",
        size=SIZE,
        frames=3,
        bframes=0,
        options={"x265-params": "log-level=none:pools=1"},
    )
    path = make_video(tmp_path / "clip.mp4", spec)
    source = probe(path)
    ((segment, file),) = pieces(path, tmp_path, ALL)
    layout = FrameLayout(width=SIZE[0], height=SIZE[1], format=PixelFormat.NV12)
    device, host = bench.device, np.zeros(layout.frame_bytes, np.uint8)
    slot = device.empty((layout.frame_bytes,))
    wanted = np.zeros(layout.frame_bytes, np.uint8)
    decoders = bench.decoder.decode(file, segment, source), PyAvDecoder(1)
    for frame, expected in zip(decoders[0], decoders[1].decode(file, segment, source), strict=True):
        on_device = bench.decoder.memory == "device"
        frame.write_to(layout.planes(slot if on_device else host))
        if on_device:
            device.download(slot, host)
        expected.write_to(layout.planes(wanted))
        assert frame.pts == expected.pts
        assert np.abs(host.astype(int) - wanted).max() <= 1


def test_a_segment_decoded_again_gives_the_same(bench: Bench, tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", CLIPS["open GOPs"])
    source = probe(path)
    for segment, file in pieces(path, tmp_path)[:2]:
        assert bench.frames(file, segment, source) == bench.frames(file, segment, source)


def test_a_decoder_left_in_mid_segment_begins_the_next_anew(bench: Bench, tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", CLIPS["open GOPs"])
    source = probe(path)
    (segment, file), *_ = pieces(path, tmp_path)
    frames = bench.decoder.decode(file, segment, source)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert bench.frames(file, segment, source) == read(PyAvDecoder(1), file, segment, source)


def test_a_decoder_that_is_left_without_a_word_does_not_disturb_later_segments(
    bench: Bench, tmp_path: Path
) -> None:
    path = make_video(tmp_path / "clip.mp4", CLIPS["open GOPs"])
    source = probe(path)
    (first, file), (second, other), *_ = pieces(path, tmp_path)
    left = bench.decoder.decode(file, first, source)
    next(left)
    assert bench.frames(other, second, source) == read(PyAvDecoder(1), other, second, source)
    shown = 0
    for _ in bench.decoder.decode(other, second, source):
        shown += 1
        left.close()  # type: ignore[attr-defined]
    assert shown == second.frames


def test_the_session_is_nvdecs_of_this_gpu_and_frames_stay_there(bench: Bench) -> None:
    session = bench.decoder.session
    assert session is not None
    assert (session.kind, session.gpu) == (SessionKind.NVDEC, bench.device.uuid)
    assert bench.decoder.memory == ("device" if bench.decoder.name == "nvdec" else "host")
    assert session == bench.decoder.session
    session.close()
    session.close()


# --- what is kept open ----------------------------------------------------------------------------


def test_one_decoder_is_kept_for_all_that_it_fits_and_no_second_is_open(
    nvdec: Callable[..., Bench], opened: list[object], tmp_path: Path
) -> None:
    bench = nvdec(NVDEC_SESSIONS="1")
    sizes = {(192, 160): 1, (160, 128): 1, (192, 128): 1, (192, 122): 2, (256, 128): 3, (96, 64): 3}
    for size, so_many in sizes.items():
        path = make_video(tmp_path / "clip.mp4", replace(CLOSED_GOP_X264, size=size, frames=24))
        source = probe(path)
        for segment, file in pieces(path, tmp_path):
            expected = read(PyAvDecoder(1), file, segment, source)
            assert bench.frames(file, segment, source) == expected, size
        assert len(opened) == so_many
    path = make_video(tmp_path / "hevc.mp4", HEVC)
    segment, file = pieces(path, tmp_path)[0]
    assert bench.frames(file, segment, probe(path))
    assert len(opened) == 4


def test_streams_of_one_size_that_are_coded_in_two_are_not_scaled(
    bench: Bench, tmp_path: Path
) -> None:
    """HEVC rounds up to the smallest of its coding units, which an encoder chooses."""
    for unit in (8, 16, 8, 32):
        options = f"log-level=none:pools=1:ctu=32:min-cu-size={unit}"
        spec = replace(HEVC, size=(200, 168), frames=3, options={"x265-params": options})
        path = make_video(tmp_path / f"{unit}.mp4", spec)
        source = probe(path)
        ((segment, file),) = pieces(path, tmp_path, ALL)
        expected = read(PyAvDecoder(1), file, segment, source)
        assert bench.frames(file, segment, source) == expected, unit


def test_pictures_of_another_height_that_are_coded_in_the_same_one_are_whole(
    bench: Bench, tmp_path: Path
) -> None:
    for size in ((256, 192), (192, 154), (192, 160), (192, 148)):
        path = make_video(tmp_path / "clip.mp4", replace(CLOSED_GOP_X264, size=size, frames=3))
        source = probe(path)
        ((segment, file),) = pieces(path, tmp_path, ALL)
        expected = read(PyAvDecoder(1), file, segment, source)
        assert bench.frames(file, segment, source) == expected, size


@pytest.mark.parametrize(("codec", "most"), [("h264", 16), ("hevc", 8)])
def test_a_stream_that_refers_to_more_pictures_than_the_one_before_is_whole(
    bench: Bench, codec: str, most: int, tmp_path: Path
) -> None:
    for references in (1, most, 1):
        path = make_video(tmp_path / f"clip.{codec}", referring(codec, references))
        source = probe(path)
        ((segment, file),) = pieces(path, tmp_path, ALL)
        expected = read(PyAvDecoder(1), file, segment, source)
        assert bench.frames(file, segment, source) == expected, references


def test_segments_of_one_job_that_refer_to_more_pictures_than_others_are_whole(
    bench: Bench, tmp_path: Path
) -> None:
    path = tmp_path / "both.ts"
    timed = replace(referring("h264", 1), container=None, time_base=Fraction(1, 90000))
    later = replace(timed, options=referring("h264", 16).options, start_pts=20 * 3600)
    parts = [make_video(tmp_path / "1.ts", timed), make_video(tmp_path / "16.ts", later)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    source, found = probe(path), pieces(path, tmp_path)
    assert len(found) == 2
    for segment, file in found:
        expected = read(PyAvDecoder(1), file, segment, source)
        assert bench.frames(file, segment, source) == expected


def test_a_segment_with_parameter_sets_to_choose_from_is_refused_before_the_first_frame(
    nvdec: Callable[..., Bench], opened: list[object], tmp_path: Path
) -> None:
    """Its pictures may turn to the other set, and its references, at any keyframe."""
    first = make_video(tmp_path / "a.h264", referring("h264", 1)).read_bytes()
    second = make_video(tmp_path / "b.h264", referring("h264", 16, ":sps-id=1")).read_bytes()
    slice_at = second.index(b"\0\0\1\x65")
    path = tmp_path / "both.h264"
    path.write_bytes(second[:slice_at] + first + second)
    ((segment, file),) = pieces(path, tmp_path, ALL)
    bench = nvdec()
    with pytest.raises(EngineError, match="several parameter sets") as caught:
        next(bench.decoder.decode(file, segment, probe(path)))
    assert not caught.value.able
    assert opened == []


def test_an_idle_session_that_was_closed_is_opened_again(
    nvdec: Callable[..., Bench], opened: list[object], tmp_path: Path
) -> None:
    bench = nvdec()
    path = make_video(tmp_path / "clip.mp4", CLIPS["closed GOPs"])
    (first, file), (second, other) = pieces(path, tmp_path)
    bench.frames(file, first, probe(path))
    session = bench.decoder.session
    assert session is not None
    session.close()
    assert len(bench.frames(other, second, probe(path))) == second.frames
    assert len(opened) == 2


# --- what goes wrong ------------------------------------------------------------------------------


def one(folder: Path, spec: VideoSpec = CLIPS["closed GOPs"]) -> tuple[Path, Segment, SourceInfo]:
    """A video as one segment."""
    path = make_video(folder / "clip.mp4", spec)
    ((segment, file),) = pieces(path, folder, ALL)
    return file, segment, probe(path)


def test_without_a_free_session_the_driver_is_busy(
    nvdec: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = nvdec(NVDEC_SESSIONS="0")
    with pytest.raises(EngineBusyError):
        next(bench.decoder.decode(*one(tmp_path)))


@pytest.mark.parametrize(
    "spec",
    [
        MPEG2,
        replace(CLOSED_GOP_X264, pixel_format="yuv444p"),
        replace(CLOSED_GOP_X264, options={"x264-params": "interlaced=1"}),
    ],
)
def test_what_nvdec_does_not_do_the_same_is_refused_before_the_first_frame(
    nvdec: Callable[..., Bench], opened: list[object], spec: VideoSpec, tmp_path: Path
) -> None:
    with pytest.raises(EngineError) as caught:
        next(nvdec().decoder.decode(*one(tmp_path, replace(spec, frames=12))))
    assert not caught.value.able
    assert opened == []


@pytest.mark.parametrize(
    ("told", "spec"), [({"NVDEC_CODECS": "HEVC"}, CLIPS["closed GOPs"]), ({}, OPEN_GOP_X265)]
)
def test_what_this_gpu_says_it_can_not_is_refused_before_the_first_frame(
    nvdec: Callable[..., Bench], told: dict[str, str], spec: VideoSpec, tmp_path: Path
) -> None:
    """No H.264 at all; HEVC of fewer pixels than the smallest."""
    with pytest.raises(EngineError, match="does not decode") as caught:
        next(nvdec(**told).decoder.decode(*one(tmp_path, replace(spec, frames=12))))
    assert not caught.value.able


def test_a_size_that_changes_in_mid_segment_is_refused_before_the_first_frame(
    nvdec: Callable[..., Bench], opened: list[object], tmp_path: Path
) -> None:
    small = replace(CLOSED_GOP_X264, frames=12, container="h264")
    parts = [make_video(tmp_path / "a.264", small)]
    parts += [make_video(tmp_path / "b.264", replace(small, size=(192, 96)))]
    path = tmp_path / "both.264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    ((segment, file),) = pieces(path, tmp_path, ALL)
    bench = nvdec()
    with pytest.raises(EngineError, match="change in mid-stream") as caught:
        next(bench.decoder.decode(file, segment, probe(path)))
    assert not caught.value.able
    assert opened == []
    assert len(read(PyAvDecoder(1), file, segment, probe(path))) == 24


def test_a_decoder_that_breaks_says_that_it_was_able_and_works_on(
    nvdec: Callable[..., Bench], tmp_path: Path
) -> None:
    bench, (file, segment, source) = nvdec(FAULTS="nvdec=7", NVDEC_SESSIONS="1"), one(tmp_path)
    frames = bench.decoder.decode(file, segment, source)
    for _ in range(6):
        next(frames)
    with pytest.raises(EngineError) as caught:
        next(frames)
    assert caught.value.able
    assert not isinstance(caught.value, DeviceLostError)
    assert len(bench.frames(file, segment, source)) == 24


def test_a_lost_device_is_told_from_a_broken_decoder(
    nvdec: Callable[..., Bench], tmp_path: Path
) -> None:
    with pytest.raises(DeviceLostError):
        list(nvdec(FAULTS="nvdec-lost=3").decoder.decode(*one(tmp_path)))


def ends(code: int) -> None:
    """In place of os._exit."""
    raise SystemExit(code)


def test_the_double_of_the_library_ends_the_process_where_cuda_is_lost(
    nvdec: Callable[..., Bench],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As the real one does."""
    with pytest.raises(DeviceLostError):
        list(nvdec(FAULTS="nvdec-lost=3").decoder.decode(*one(tmp_path)))
    import PyNvVideoCodec

    monkeypatch.setattr(os, "_exit", ends)
    with pytest.raises(SystemExit):
        PyNvVideoCodec.CreateDecoder(maxwidth=192, maxheight=160, usedevicememory=True)
    assert "[FATAL]" in capfd.readouterr().err


def test_a_device_that_was_lost_before_a_decoder_is_opened_is_told_and_ends_no_process(
    nvdec: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, (file, segment, source) = nvdec(FAULTS="nvdec-lost=3"), one(tmp_path)
    monkeypatch.setattr(os, "_exit", ends)
    for _ in range(2):
        with pytest.raises(DeviceLostError):
            list(bench.decoder.decode(file, segment, source))


def test_frames_that_are_gone_are_counted_as_lost(
    nvdec: Callable[..., Bench], tmp_path: Path
) -> None:
    file, segment, source = one(tmp_path)
    bench = nvdec()
    more = segment.model_copy(update={"frames": 30})
    bench.frames(file, more, source)
    assert (bench.decoder.report.shown, bench.decoder.report.lost) == (24, 6)


def test_a_segment_of_nothing_but_damage_is_too_damaged(
    nvdec: Callable[..., Bench], tmp_path: Path
) -> None:
    file, segment, source = one(tmp_path)
    bench, damaged = nvdec(), rewritten(file, tmp_path / "damaged", range(24))
    with pytest.raises(PermanentError, match="No frame of segment 0"):
        list(bench.decoder.decode(damaged, segment, source))
    assert bench.decoder.report.failed_packets == 24


@pytest.mark.parametrize("gpus", ["0", "no-driver"])
def test_without_a_driver_there_is_no_nvdec(
    nvdec: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, gpus: str
) -> None:
    device = nvdec().device
    with monkeypatch.context() as changed:
        for name in [name for name in sys.modules if name.startswith("PyNvVideoCodec")]:
            changed.delitem(sys.modules, name)
        changed.setenv("DOUBLE_GPUS", gpus)
        with pytest.raises(EngineError, match="can't be used") as caught:
            NvdecDecoder(device)
    assert not caught.value.able


def test_without_the_library_there_is_no_nvdec(
    nvdec: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = nvdec().device
    missing: Any = None
    with monkeypatch.context() as changed:
        changed.setitem(sys.modules, "PyNvVideoCodec", missing)
        with pytest.raises(EngineError, match="can't be used") as caught:
            NvdecDecoder(device)
    assert not caught.value.able


def test_ffmpegs_cuda_without_a_gpu_is_refused_before_the_first_frame(
    nvdec: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = PyAvCudaDecoder(nvdec().device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # also where there is one
    with pytest.raises(EngineError) as caught:
        next(decoder.decode(*one(tmp_path)))
    assert not caught.value.able
    assert decoder.report == DecodeReport(expected=24)


@pytest.mark.parametrize("vendor", [pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)
def test_ffmpegs_cuda_opens_and_decodes_within_the_memory_that_compose_allows_a_source(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is the process's (RLIMIT_DATA), so what CUDA takes for a context counts, too."""
    monkeypatch.setenv("DUALFACE_SOURCE_MAX_MEMORY_MIB", "1024")
    spec = replace(CLOSED_GOP_X264, size=(1920, 1080), frames=12)
    file, segment, source = one(tmp_path, spec)
    decoder = PyAvCudaDecoder(device)
    assert read(decoder, file, segment, source) == read(PyAvDecoder(1), file, segment, source)


class WithoutGpu(PyAvCudaDecoder):
    """Its order of steps, over FFmpeg's software."""

    _open = PyAvDecoder._open


def test_ffmpegs_cuda_gives_every_frame_and_counts_damage_behind_the_first(
    nvdec: Callable[..., Bench], tmp_path: Path
) -> None:
    decoder = WithoutGpu(nvdec().device)
    file, segment, source = one(tmp_path, CLIPS["open GOPs"])
    assert read(decoder, file, segment, source) == read(PyAvDecoder(1), file, segment, source)
    spoilt = rewritten(file, tmp_path / "spoilt", range(5, 7))
    assert len(read(decoder, spoilt, segment, source)) == segment.frames - 2
    assert (decoder.report.failed_packets, decoder.report.lost) == (2, 2)
    with pytest.raises(EngineError) as caught:
        read(decoder, rewritten(file, tmp_path / "first", range(1)), segment, source)
    assert not caught.value.able


def rewritten(file: Path, changed: Path, numbers: range) -> Path:
    """A segment file of which some packets hold nothing that can be decoded."""
    with PacketFile(file) as packets:
        writer = PacketWriter(changed, packets.header)
        for number, entry in enumerate(packets.entries):
            packet = packets.packet(number)
            if number in numbers:
                packet.update(b"\xff" * packet.size)
            packet.pts, packet.dts = entry.pts, entry.dts
            writer.write(packet, entry.flags)
        writer.close()
    return changed
