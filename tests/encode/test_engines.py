"""The contract of encoders of chunks, over those of a GPU and the software's; and how they mix."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.logging
import numpy as np
import pytest

from services.encode.chunks import read_chunk
from services.encode.engines.base import ChunkEncoder, ChunkInfo, Frame
from services.encode.engines.nvenc import NvencEncoder
from services.encode.engines.pyav import PyAvEncoder
from services.encode.engines.pyav_nvenc import PyAvNvencEncoder
from services.encode.mux import mux
from services.encode.plan import QUALITY, RateControl, rate_control
from shared.errors import (
    DeviceLostError,
    EngineBusyError,
    EngineError,
    ErrorCode,
    PermanentError,
    WorkOverError,
)
from shared.gpu.matrix import NO_NVENC
from shared.jobs import Codec, ColorTags, OutputPlan, Ratio, Rect
from shared.media.layout import FrameLayout, PixelFormat, Plane
from shared.sessions import SessionKind
from tests.encode.pictures import output as small_output
from tests.encode.pictures import shown, source
from tests.videos import frame_number, pattern

if TYPE_CHECKING:
    from shared.cuda.device import Device

SIZE = (192, 96)
"""Larger than the smallest picture that NVENC takes."""
TICKS = 512


def plan(codec: Codec = Codec.H264, time_base: Ratio = (1, 12800), crf: int = 30) -> OutputPlan:
    half = Rect(x=0, y=0, w=SIZE[0] // 2, h=SIZE[1])
    return small_output(time_base, codec).model_copy(
        update={"width": SIZE[0], "height": SIZE[1], "tiles": (half, half), "crf": crf}
    )


@dataclass
class Bench:
    """One encoder, and where its frames have to lie."""

    encoder: ChunkEncoder
    device: Device | None

    @property
    def layout(self) -> FrameLayout:
        format_ = PixelFormat.I420 if self.device is None else PixelFormat.NV12
        return FrameLayout(width=SIZE[0], height=SIZE[1], format=format_)

    def slot(self, count: int, first: int) -> Plane:
        """Memory with frames that show their number."""
        layout = self.layout
        pictures = np.empty(count * layout.frame_bytes, np.uint8)
        for index in range(count):
            planes = layout.planes(pictures, index)
            planes[0][:] = pattern(first + index, SIZE)
            for chroma in planes[1:]:
                chroma[:] = 110
        if self.encoder.memory == "host":
            return pictures
        assert self.device is not None
        slot: Plane = self.device.empty((pictures.size,))
        self.device.upload(pictures, slot)
        return slot

    def encode(
        self,
        pts: Sequence[int],
        output: OutputPlan,
        path: Path,
        *,
        first: int = 0,
        rate: RateControl = QUALITY,
    ) -> ChunkInfo:
        slot, layout = self.slot(len(pts), first), self.layout
        frames = ((at, layout.planes(slot, index)) for index, at in enumerate(pts))
        return self.encoder.encode(frames, layout, output, path, rate)


GPU = pytest.mark.gpu
ENGINES = {"pyav": (), "nvenc": (), "pyav-nvenc": (GPU,)}
HARDWARE = (Codec.H264, Codec.HEVC)
"""What NVENC is used for."""


@pytest.fixture(params=[pytest.param(each, marks=marks) for each, marks in ENGINES.items()])
def bench(request: pytest.FixtureRequest, vendor: str, device: Device, tmp_path: Path) -> Bench:
    """Where a GPU has no NVENC, which many data-centre GPUs have not, there is nothing to test."""
    if request.param == "pyav":
        return Bench(PyAvEncoder(), None)
    if request.param == "pyav-nvenc" and vendor == "double":
        pytest.skip("FFmpeg's CUDA has no double")
    make = NvencEncoder if request.param == "nvenc" else PyAvNvencEncoder
    if vendor == "double":
        return Bench(make(device), device)
    try:
        made = Bench(make(device), device)
        made.encode([0], plan(), tmp_path / "trial.nut")
    except EngineError as error:
        if os.environ.get("REQUIRE_GPU") == "1" and not NO_NVENC.search(device.name):
            raise
        pytest.skip(error.message)
    (tmp_path / "trial.nut").unlink()
    return made


each_codec = pytest.mark.parametrize(
    ("bench", "codec"),
    [
        pytest.param(engine, codec, marks=marks)
        for engine, marks in ENGINES.items()
        for codec in (Codec if engine == "pyav" else HARDWARE)
    ],
    indirect=["bench"],
)
"""Every engine with every codec that it is used for."""


@pytest.fixture
def nvenc(
    doubles: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Bench]:
    """Makes a bench over the doubles, told what to do; for tests of what goes wrong."""

    def make(**told: str) -> Bench:
        from shared.cuda.device import Device

        for name, value in told.items():
            monkeypatch.setenv(f"DOUBLE_{name}", value)
        device = Device()
        return Bench(NvencEncoder(device), device)

    return make


@each_codec
@pytest.mark.parametrize(
    ("time_base", "pts"),
    [
        ((1, 90000), [45990 + 3003 * i for i in range(6)]),
        ((1, 1000), [-67, -33, 0, 33, 400, 401]),
        ((19667, 519168), [7]),
    ],
)
def test_a_chunk_keeps_every_time_and_begins_with_an_idr(
    bench: Bench, codec: Codec, time_base: Ratio, pts: list[int], tmp_path: Path
) -> None:
    info = bench.encode(pts, plan(codec, time_base), tmp_path / "c.nut")
    chunk = read_chunk(tmp_path / "c.nut", 0)
    assert sorted(chunk.pts) == pts
    assert (info.frames, info.first_pts, info.last_pts) == (len(pts), pts[0], pts[-1])
    assert [packet.is_keyframe for packet in chunk.packets][:2] == [True, False][: len(pts)]
    assert info.header_sha256 == chunk.note.header_sha256
    # A parameter set of Annex B; a sequence header OBU, which comes with the key frame, too.
    assert chunk.header.startswith(b"\x0a" if codec is Codec.AV1 else b"\0\0\0\1")
    assert codec is not Codec.AV1 or chunk.header in bytes(chunk.packets[0])


@each_codec
def test_a_chunk_decodes_by_itself_to_the_frames_given(
    bench: Bench, codec: Codec, tmp_path: Path
) -> None:
    bench.encode(range(0, 5 * TICKS, TICKS), plan(codec), tmp_path / "c.nut", first=300)
    with av.open(tmp_path / "c.nut") as opened:
        found = [_number(frame) for frame in opened.decode(video=0)]
    assert found == [300, 301, 302, 303, 304]


@each_codec
@pytest.mark.parametrize("rate", [QUALITY, rate_control(400, 0.2, 0, 3)])
def test_the_same_frames_give_the_same_bytes_whatever_was_encoded_before(
    bench: Bench, vendor: str, codec: Codec, rate: RateControl, tmp_path: Path
) -> None:
    for name, first, count in (("a", 7, 5), ("b", 900, 9), ("c", 7, 5)):
        times = range(0, count * TICKS, TICKS)
        bench.encode(times, plan(codec), tmp_path / f"{name}.nut", first=first, rate=rate)
    if vendor == "gpu" and isinstance(bench.encoder, NvencEncoder) and rate == QUALITY:
        # Its session is kept, and remembers; what is seen is the same.
        for a, c in zip(*(_pictures(tmp_path / f"{name}.nut") for name in "ac"), strict=True):
            assert np.abs(a.astype(int) - c).mean() < 2
        return
    assert (tmp_path / "a.nut").read_bytes() == (tmp_path / "c.nut").read_bytes()


@each_codec
def test_colours_and_square_pixels_are_said_in_the_header(
    bench: Bench, codec: Codec, tmp_path: Path
) -> None:
    color = ColorTags(primaries=9, transfer=14, matrix=9, full_range=True)
    colored = plan(codec).model_copy(update={"color": color})
    bench.encode([0, TICKS], colored, tmp_path / "c.nut")
    with av.open(tmp_path / "c.nut") as opened:
        context = opened.streams.video[0].codec_context
        said = context.color_primaries, context.color_trc, context.colorspace
        assert said == (9, 14, 9)
        assert context.color_range == 2
        # AV1 can't say that they are not square.
        assert context.sample_aspect_ratio == (None if codec is Codec.AV1 else 1)


@each_codec
def test_chunks_join_to_one_result(bench: Bench, codec: Codec, tmp_path: Path) -> None:
    paths = _chunks([bench] * 3, codec, tmp_path)
    result = tmp_path / "r.mp4"
    made = mux(paths, None, source(plan(codec)), plan(codec), "mp4", result)
    assert made.frames == 24
    assert shown(result) == [Fraction(TICKS * i, 12800) for i in range(24)]


@pytest.mark.parametrize("codec", HARDWARE)
@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("software_first", [False, True])
def test_chunks_of_different_encoders_join_to_one_result(
    nvenc: Callable[..., Bench],
    codec: Codec,
    container: str,
    software_first: bool,
    tmp_path: Path,
) -> None:
    """As where sessions were busy for a while, or a batch was replaced. NVENC's has no B-frames,
    so the track has to leave room for those of the other from its beginning."""
    kinds = [nvenc(), Bench(PyAvEncoder(), None)]
    order = list(reversed(kinds)) if software_first else kinds
    paths = _chunks([*order, *order], codec, tmp_path)
    assert len({read_chunk(path, 0).note.header_sha256 for path in paths}) == 2
    assert len({read_chunk(path, 0).reorder_depth for path in paths}) == 2
    result = tmp_path / f"r.{container}"
    report = mux(
        paths,
        None,
        source(plan(codec)),
        plan(codec),
        "mp4" if container == "mp4" else "mov",
        result,
        expected_pts=range(0, 32 * TICKS, TICKS),
    )
    assert report.frames == 32
    with av.open(result) as opened:
        numbers = [_number(frame) for frame in opened.decode(video=0)]
    assert numbers == list(range(32))
    content = result.read_bytes()
    at = content.index(b"stsd") + 8
    assert int.from_bytes(content[at : at + 4]) == 2  # descriptions, not one per change


def _number(frame: av.VideoFrame) -> int:
    return frame_number(np.asarray(frame.to_ndarray()[: SIZE[1]], np.uint8))


def _pictures(path: Path) -> list[np.ndarray]:
    with av.open(path) as opened:
        return [frame.to_ndarray() for frame in opened.decode(video=0)]


def _chunks(benches: Sequence[Bench], codec: Codec, folder: Path, per_chunk: int = 8) -> list[Path]:
    """One chunk by each, of consecutive frames that show their numbers."""
    paths = []
    for number, each in enumerate(benches):
        path, first = folder / f"{number}.nut", number * per_chunk
        times = range(first * TICKS, (first + per_chunk) * TICKS, TICKS)
        each.encode(times, plan(codec), path, first=first)
        paths.append(path)
    return paths


def test_a_bit_rate_is_kept_within_a_fifth(nvenc: Callable[..., Bench], tmp_path: Path) -> None:
    """Of noise, which no picture predicts."""
    bench, rng = nvenc(), np.random.default_rng(3)
    layout, count, kbps = bench.layout, 32, 2000
    pictures = rng.integers(16, 235, count * layout.frame_bytes, dtype=np.uint8)
    assert bench.device is not None
    slot: Plane = bench.device.empty((pictures.size,))
    bench.device.upload(pictures, slot)
    rate = rate_control(kbps, count / 25, 0, 3)
    frames = ((TICKS * i, layout.planes(slot, i)) for i in range(count))
    bench.encoder.encode(frames, layout, plan(), tmp_path / "c.nut", rate)
    size = sum(packet.size for packet in read_chunk(tmp_path / "c.nut", 0).packets)
    assert size * 8 / 1000 / (count / 25) == pytest.approx(kbps, rel=0.2)


def test_the_session_is_nvencs_of_this_gpu(bench: Bench) -> None:
    session = bench.encoder.session
    if bench.encoder.name_for(Codec.H264).startswith("pyav-libx264"):
        assert session is None
        return
    assert session is not None
    assert bench.device is not None
    assert (session.kind, session.gpu) == (SessionKind.NVENC, bench.device.uuid)
    session.close()


# --- what goes wrong ------------------------------------------------------------------------------


def test_times_that_do_not_increase_and_no_frames_at_all_are_refused(
    bench: Bench, tmp_path: Path
) -> None:
    for pts, code in (([0, 5, 5], ErrorCode.INTERNAL), ([], ErrorCode.SOURCE_EMPTY)):
        with pytest.raises(PermanentError) as caught:
            bench.encode(pts, plan(), tmp_path / "c.nut")
        assert caught.value.code is code
    with pytest.raises(PermanentError) as caught:
        bench.encode([0], plan().model_copy(update={"width": 160}), tmp_path / "c.nut")
    assert caught.value.code is ErrorCode.INTERNAL
    assert list(tmp_path.iterdir()) == []


def test_without_a_free_session_the_driver_is_busy_before_the_first_frame(
    nvenc: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = nvenc(NVENC_SESSIONS="0")
    with pytest.raises(EngineBusyError):
        bench.encoder.encode(_unasked(), bench.layout, plan(), tmp_path / "c.nut")
    assert list(tmp_path.iterdir()) == []


def test_one_session_is_enough_and_is_given_back_when_asked_for(
    nvenc: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = nvenc(NVENC_SESSIONS="1")
    for codec in HARDWARE:
        for crf in (30, 30, 24):
            bench.encode([0, TICKS], plan(codec, crf=crf), tmp_path / "c.nut")
    assert bench.encoder.session is not None
    bench.encoder.session.close()
    assert bench.device is not None
    another = Bench(NvencEncoder(bench.device), bench.device)
    assert another.encode([0, TICKS], plan(), tmp_path / "d.nut").frames == 2


def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """Sizes of the encoders that are opened from now on."""
    import PyNvVideoCodec

    create, seen = PyNvVideoCodec.CreateEncoder, list[tuple[object, ...]]()

    def create_and_count(*given: object, **options: object) -> object:
        seen.append(given[:2])
        return create(*given, **options)

    monkeypatch.setattr(PyNvVideoCodec, "CreateEncoder", create_and_count)
    return seen


TRIAL = (256, 144)


def test_a_session_serves_all_chunks_of_a_kind_of_constant_quality(
    nvenc: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = nvenc()
    seen = opened(monkeypatch)
    for number in range(4):
        bench.encode(range(6), plan(), tmp_path / "c.nut", first=number)
        with av.open(tmp_path / "c.nut") as chunk:
            shown = [_number(frame) for frame in chunk.decode(video=0)]
        assert shown == list(range(number, number + 6))
    assert seen == [TRIAL, SIZE]
    bench.encode(range(6), plan(crf=20), tmp_path / "c.nut")
    assert seen[2:] == [SIZE]


def test_a_bit_rate_gets_a_fresh_session_for_each_chunk(
    nvenc: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = nvenc(NVENC_SESSIONS="1")
    seen = opened(monkeypatch)
    for _ in range(3):
        bench.encode(range(6), plan(), tmp_path / "c.nut", rate=rate_control(400, 0.2, 0, 3))
    assert seen == [TRIAL, SIZE, SIZE, SIZE]


@pytest.mark.parametrize("how", ["0", "error"])
def test_where_a_session_does_not_go_on_after_a_flush_each_chunk_gets_its_own(
    nvenc: Callable[..., Bench], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = nvenc(NVENC_GOES_ON=how, NVENC_SESSIONS="1")
    seen = opened(monkeypatch)
    for number in range(3):
        info = bench.encode(range(6), plan(), tmp_path / f"{number}.nut")
        assert info.frames == 6
    assert seen == [TRIAL, SIZE, SIZE, SIZE]
    assert len({(tmp_path / f"{number}.nut").read_bytes() for number in range(3)}) == 1


def test_a_chunk_that_is_left_in_the_middle_leaves_nothing_for_the_next(
    nvenc: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = nvenc(NVENC_SESSIONS="1")
    bench.encode(range(6), plan(), tmp_path / "a.nut")
    layout, slot = bench.layout, bench.slot(4, 50)

    def left() -> Iterator[Frame]:
        for index in range(4):
            yield index, layout.planes(slot, index)
        raise WorkOverError("j")

    with pytest.raises(WorkOverError):
        bench.encoder.encode(left(), layout, plan(), tmp_path / "b.nut")
    bench.encode(range(6), plan(), tmp_path / "c.nut")
    assert (tmp_path / "a.nut").read_bytes() == (tmp_path / "c.nut").read_bytes()


@pytest.mark.parametrize("told", [{"NO_NVENC": "1"}, {}])
def test_a_gpu_that_can_not_is_told_from_one_that_fails_before_the_first_frame(
    nvenc: Callable[..., Bench], told: dict[str, str], tmp_path: Path
) -> None:
    """No encoder at all, as H100s; pictures smaller than the smallest."""
    bench, wanted = nvenc(**told), plan()
    layout = bench.layout
    if not told:
        wanted = small_output()
        layout = FrameLayout(width=wanted.width, height=wanted.height, format=PixelFormat.NV12)
    with pytest.raises(EngineError) as caught:
        bench.encoder.encode(_unasked(), layout, wanted, tmp_path / "c.nut")
    assert not caught.value.able
    assert list(tmp_path.iterdir()) == []


def test_nvenc_leaves_av1_to_others_before_the_first_frame(
    nvenc: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = nvenc()
    assert bench.device is not None
    for encoder in (bench.encoder, PyAvNvencEncoder(bench.device)):
        with pytest.raises(EngineError, match="av1") as caught:
            encoder.encode(_unasked(), bench.layout, plan(Codec.AV1), tmp_path / "c.nut")
        assert not caught.value.able
        assert encoder.name_for(Codec.AV1)
    assert list(tmp_path.iterdir()) == []


def asked(monkeypatch: pytest.MonkeyPatch, *refusals: Exception) -> list[str]:
    """Codecs whose limits are asked for from now on; the first questions meet with `refusals`."""
    import PyNvVideoCodec

    caps, left, seen = PyNvVideoCodec.GetEncoderCaps, list(refusals), list[str]()

    def ask(gpu: int, codec: str) -> object:
        seen.append(codec)
        if left:
            raise left.pop(0)
        return caps(gpu, codec)

    monkeypatch.setattr(PyNvVideoCodec, "GetEncoderCaps", ask)
    return seen


def test_a_gpu_without_an_encoder_is_asked_once_per_codec(
    nvenc: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question makes a CUDA context."""
    bench = nvenc(NO_NVENC="1")
    seen = asked(monkeypatch)
    for codec in HARDWARE:
        assert bench.encoder.refusal(plan(codec)) is None, "nothing is known yet"
        for _ in range(5):
            with pytest.raises(EngineError) as caught:
                bench.encoder.encode(_unasked(), bench.layout, plan(codec), tmp_path / "c.nut")
            assert not caught.value.able
        known = bench.encoder.refusal(plan(codec))
        assert known is not None
        assert (known.able, known.message) == (False, caught.value.message)
    assert seen == [codec.value for codec in HARDWARE]


def test_what_may_be_otherwise_later_is_no_refusal_for_good(
    nvenc: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PyNvVideoCodec import PyNvVCException

    broke = PyNvVCException("the driver stumbled\nError code : 20")
    bench, seen = nvenc(), asked(monkeypatch, broke)
    with pytest.raises(EngineError) as caught:
        bench.encode([0], plan(), tmp_path / "c.nut")
    assert caught.value.able
    assert bench.encoder.refusal(plan()) is None
    assert bench.encode([0], plan(), tmp_path / "c.nut").frames == 1
    assert len(seen) == 2


def test_a_size_beyond_the_limits_is_refused_without_asking_again_and_others_are_not(
    nvenc: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, seen = nvenc(), asked(monkeypatch)
    bench.encode([0], plan(), tmp_path / "c.nut")
    small = small_output()
    known = bench.encoder.refusal(small)
    assert known is not None
    assert f"{small.width}x{small.height}" in known.message
    assert bench.encoder.refusal(plan()) is None
    assert len(seen) == 1


def test_an_encoder_that_has_encoded_here_should_have_been_able_whatever_the_driver_says(
    nvenc: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import PyNvVideoCodec

    bench = nvenc()
    bench.encode([0], plan(), tmp_path / "c.nut")

    def gone(*_: object, **__: object) -> None:
        raise PyNvVideoCodec.PyNvVCException("nvEncOpenEncodeSessionEx failed\nError code : 1")

    monkeypatch.setattr(PyNvVideoCodec, "CreateEncoder", gone)
    with pytest.raises(EngineError) as caught:
        bench.encode([0], plan(crf=20), tmp_path / "c.nut")
    assert caught.value.able


@pytest.mark.parametrize(("fault", "lost"), [("nvenc=14", False), ("nvenc-lost=14", True)])
def test_an_encoder_that_breaks_says_that_it_was_able_and_leaves_no_session(
    nvenc: Callable[..., Bench], fault: str, lost: bool, tmp_path: Path
) -> None:
    bench = nvenc(FAULTS=fault, NVENC_SESSIONS="1")  # ten frames are the trial's
    with pytest.raises(EngineError) as caught:
        bench.encode(range(5), plan(), tmp_path / "c.nut")
    assert caught.value.able
    assert isinstance(caught.value, DeviceLostError) == lost
    assert list(tmp_path.iterdir()) == []
    if not lost:
        assert bench.encode(range(5), plan(), tmp_path / "c.nut").frames == 5


def test_a_trial_that_fails_decides_for_the_process(
    nvenc: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = nvenc()
    device, opened = bench.device, list[object]()
    assert device is not None
    import PyNvVideoCodec

    encoder = NvencEncoder(device)

    class Refusing(PyNvVideoCodec.PyNvEncoder):  # type: ignore[misc]
        def Encode(self, frame: object, flags: int = 0) -> list[object]:  # noqa: N802, ARG002
            opened.append(None)
            raise PyNvVideoCodec.PyNvVCExceptionUnsupported("no such thing\nError code : 12")

    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("PyNvVideoCodec._encoder.PyNvEncoder", Refusing)
        for _ in range(2):
            with pytest.raises(EngineError) as caught:
                encoder.encode(_unasked(), bench.layout, plan(), tmp_path / "c.nut")
            assert not caught.value.able
    assert len(opened) == 1
    assert bench.encode([0], plan(), tmp_path / "c.nut").frames == 1


def test_ffmpegs_nvenc_without_a_gpu_is_refused_before_the_first_frame(
    nvenc: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = nvenc()
    assert bench.device is not None
    encoder = PyAvNvencEncoder(bench.device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # also where there is one
    for codec in Codec:
        with pytest.raises(EngineError) as caught:
            encoder.encode(_unasked(), bench.layout, plan(codec), tmp_path / "c.nut")
        assert not caught.value.able
        known = encoder.refusal(plan(codec))
        assert known is not None, "it is not tried again"
        assert known.message == caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_an_ffmpeg_built_without_the_encoder_is_an_engine_that_is_not_there(
    nvenc: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = nvenc()
    assert bench.device is not None
    monkeypatch.setattr(
        "services.encode.engines.pyav_nvenc._ENCODERS", {Codec.H264: "h264_of_no_build"}
    )
    with pytest.raises(EngineError, match=r"has no h264_of_no_build\.") as caught:
        PyAvNvencEncoder(bench.device).encode(_unasked(), bench.layout, plan(), tmp_path / "c.nut")
    assert not caught.value.able
    assert list(tmp_path.iterdir()) == []


@dataclass
class Opened:
    """An encoder of FFmpeg's that says something while it is opened, and is not."""

    said: str
    name: str = "h264_nvenc"
    times: int = 0

    def open(self) -> None:
        """Fail."""
        self.times += 1
        av.logging.log(av.logging.ERROR, self.name, self.said)
        raise OSError("Generic error in an external library")


@pytest.mark.parametrize(
    ("said", "for_good"),
    [
        ("OpenEncodeSessionEx failed: unsupported device (2): (no details)", True),
        ("OpenEncodeSessionEx failed: no encode device (1): (no details)", True),
        ("Cannot load libnvidia-encode.so.1", True),
        ("cuCtxCreate failed -> CUDA_ERROR_OUT_OF_MEMORY: out of memory", False),
        ("InitializeEncoder failed: invalid param (8): Invalid Level.", False),
    ],
)
def test_ffmpegs_nvenc_is_out_for_good_only_where_something_is_missing(
    nvenc: Callable[..., Bench], said: str, for_good: bool
) -> None:
    device, context = nvenc().device, Opened(said)
    assert device is not None
    encoder = PyAvNvencEncoder(device)
    with pytest.raises(EngineError, match=said.partition(" ")[0]):
        encoder._open(context)  # type: ignore[arg-type]
    assert context.times == 1
    assert (encoder.refusal(plan()) is not None) == for_good
    assert encoder.refusal(plan(Codec.HEVC)) is None, "each codec by itself"


class WithoutGpu(PyAvNvencEncoder):
    """Its order of steps, over FFmpeg's software."""

    _recipe = PyAvEncoder._recipe


def test_ffmpegs_nvenc_encodes_from_the_host_and_says_why_it_can_not(
    nvenc: Callable[..., Bench], tmp_path: Path
) -> None:
    device = nvenc().device
    assert device is not None
    made, software = Bench(WithoutGpu(device), None), Bench(PyAvEncoder(), None)
    for name, each in (("a", made), ("b", software)):
        each.encode(range(5), plan(), tmp_path / f"{name}.nut")
    assert (tmp_path / "a.nut").read_bytes() == (tmp_path / "b.nut").read_bytes()
    level = av.logging.get_level()
    wrong = plan().model_copy(update={"preset": "of nobody"})
    with pytest.raises(EngineError, match="preset") as caught:
        made.encoder.encode(_unasked(), made.layout, wrong, tmp_path / "c.nut")
    assert not caught.value.able
    assert av.logging.get_level() == level


def _unasked() -> Sequence[tuple[int, tuple[Plane, ...]]]:
    """Frames that nobody may ask for."""

    class Frames(list[tuple[int, tuple[Plane, ...]]]):
        def __iter__(self) -> None:  # type: ignore[override]
            raise AssertionError("a frame was asked for")

    return Frames()
