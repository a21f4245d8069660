"""Sources that say what can't be: they lose what is wrong, or fail with a reason."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from struct import pack

import av
import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.mutations import examine
from services.encode.check import check_result
from services.encode.mux import MuxReport, mux
from services.encode.sound import _silences
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Ratio, SourceInfo
from shared.media.probe import probe
from shared.settings import SourceLimits
from tests.encode.pictures import encode, encode_all, output, source
from tests.hostile.files import Mp4
from tests.processes import run_forked
from tests.videos import CLOSED_GOP_X264, OPEN_GOP_X264, VideoSpec, make_video, numbered_frame

CLIP = replace(CLOSED_GOP_X264, bframes=0, frames=24)
Retime = Callable[[int, int], int]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def joined(path: Path, work: Path, facts: SourceInfo | None = None) -> MuxReport:
    """The sound of `path` beside eight frames."""
    base: Ratio = (1, 25)
    plan = output(base)
    facts = (facts or probe(path)).model_copy(update={"time_base": base})
    return mux(encode_all(range(8), plan, work), path, facts, plan, "mp4", work / "r.mp4")


def sound_seconds(work: Path) -> float:
    """How long the sound of the result is, by its packets."""
    with av.open(work / "r.mp4") as made:
        stream = made.streams.audio[0]
        packets = [packet for packet in made.demux(stream) if packet.size]
        ticks = packets[-1].pts + packets[-1].duration - packets[0].pts
        return float(ticks * stream.time_base)


def retimed(path: Path, target: Path, retime: Retime, kind: str = "audio") -> Path:
    """A copy in which packet i of `kind` has the time `retime(i, pts)`."""
    with av.open(str(path)) as given, av.open(str(target), "w") as made:
        streams = {s.index: made.add_stream_from_template(s, opaque=True) for s in given.streams}
        count = 0
        for packet in given.demux():
            if packet.size and packet.pts is not None:
                if packet.stream.type == kind:
                    packet.pts = packet.dts = retime(count, packet.pts)
                    count += 1
                packet.stream = streams[packet.stream_index]
                made.mux(packet)
    return target


# ---------------------------------------------------------------- times


@pytest.mark.parametrize("suffix", [".mkv", ".nut", ".mp4", ".mov"])
@pytest.mark.parametrize(
    "offset",
    [1 << 40, 1 << 53, 1 << 59, 1 << 61, (1 << 62) + 1, (1 << 63) - (1 << 24), -(1 << 55)],
)
def test_times_near_the_end_of_the_clock_end_well(
    offset: int, suffix: str, tmp_path: Path, work: Path
) -> None:
    good = make_video(tmp_path / f"good{suffix}", CLIP)
    far = retimed(good, tmp_path / f"far{suffix}", lambda _, pts: pts + offset, "video")
    assert examine(far, work) in ("ok", "losses")
    assert list(work.iterdir()) == []


def _media_time(data: bytes, ticks: int) -> bytes:
    """The file with its first edit at `ticks` of the media (ISO/IEC 14496-12, 8.6.6)."""
    place = data.index(b"elst") + 16
    return data[:place] + pack(">i", ticks) + data[place + 4 :]


@pytest.mark.parametrize("ticks", [-2, -(1 << 31), (1 << 31) - 1, 1 << 20])
def test_edit_lists_that_lie_end_well(ticks: int, tmp_path: Path, work: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", replace(OPEN_GOP_X264, frames=24, audio="aac"))
    path.write_bytes(_media_time(path.read_bytes(), ticks))
    code = examine(path, work).partition(":")[0]
    assert code in ("ok", "losses", ErrorCode.TOO_DAMAGED, ErrorCode.TOO_LARGE)


@pytest.mark.parametrize("timescale", [0, 1, (1 << 31) - 1, (1 << 32) - 1])
def test_any_time_scale_ends_well(timescale: int, tmp_path: Path, work: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(timescale=timescale).build())
    assert examine(path, work) == "ok"


@pytest.mark.parametrize("steps", [[0] * 6, [1, (1 << 32) - 1, 1, 1, 1, 1], [5, 1, 0, 0, 7, 1]])
def test_times_that_stand_still_or_run_back_are_repaired(
    steps: list[int], tmp_path: Path, work: Path
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(steps=steps).build())
    assert examine(path, work) in ("ok", "losses")


def test_generated_times_differ_however_coarse_the_clock(tmp_path: Path) -> None:
    """A raw stream, and a clock whose tick is longer than a frame."""
    path = make_video(tmp_path / "clip.h264", replace(CLIP, container="h264"))
    info = probe(path)
    assert info.generated_times
    rate, tick = Fraction(*info.frame_rate), Fraction(*info.time_base)
    assert rate * tick <= 1


def test_a_gap_that_a_result_cannot_hold_is_said_when_joining(work: Path) -> None:
    plan = output((1, 10**9))
    chunks = []
    for index, first in enumerate((0, 1 << 31)):
        chunks.append(work / f"{index}.nut")
        encode([first, first + 1], plan, chunks[-1])
    with pytest.raises(PermanentError, match="is shown for 2 s") as caught:
        mux(chunks, None, source(plan), plan, "mp4", work / "r.mp4")
    assert caught.value.code is ErrorCode.TOO_LARGE
    assert not (work / "r.mp4").exists()


def test_a_last_frame_that_lasts_hours_is_shown_for_one(tmp_path: Path, work: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(steps=[1, 1, 1, 1, 1, 20 * 3600 * 25]).build())
    base: Ratio = (1, 25)
    plan = output(base)
    report = mux(encode_all(range(6), plan, work), path, probe(path), plan, "mp4", work / "r.mp4")
    assert report.duration_s == pytest.approx(3600, abs=1)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("matrix", [bytes(36), b"\xff" * 36, b"\x80\0\0\0" * 9, b"\x7f" * 36])
def test_a_matrix_that_turns_by_no_angle_is_no_rotation_or_a_right_one(
    matrix: bytes, tmp_path: Path, work: Path
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(matrix=matrix).build())
    info = probe(path)
    assert info.rotation in (0, 90, 180, 270)
    if matrix == bytes(36):
        assert info.rotation == 0
    assert examine(path, work) == "ok"


def test_a_header_that_lies_about_the_size_is_corrected_by_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(size=(1000, 32)).build())
    info = probe(path)
    assert (info.width, info.height) == (64, 32)


# ---------------------------------------------------------------- sound


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_sound_cut_in_the_middle_of_a_sample_is_kept_up_to_there(
    cut: int, tmp_path: Path, work: Path
) -> None:
    spec = VideoSpec(codec="mpeg4", time_base=Fraction(1, 25), frames=24, audio="pcm_s16le")
    path = make_video(tmp_path / "clip.avi", spec)
    data = path.read_bytes()
    last = data.rindex(b"01wb")
    path.write_bytes(data[: last + 8 + 1000 + cut])
    assert examine(path, work) in ("ok", "losses")
    report = joined(path, work)
    assert (report.sounds_copied, report.warnings) == (1, ())


def test_sound_that_cannot_be_decoded_at_all_does_not_fail_the_video(
    tmp_path: Path, work: Path
) -> None:
    """Planned to be encoded anew, and there is nothing that decodes."""
    path = make_video(tmp_path / "clip.mkv", replace(CLIP, audio="flac"))
    facts = probe(path)
    data = bytearray(path.read_bytes())
    for place in _places(bytes(data), b"\xff\xf8"):
        data[place : place + 40] = bytes(40)
    path.write_bytes(data)
    sounds = tuple(sound.model_copy(update={"copied": False}) for sound in facts.sounds)
    report = joined(path, work, facts.model_copy(update={"sounds": sounds}))
    assert report.frames == 8
    assert report.sounds_copied == report.sounds_encoded == 0
    assert "left out" in " ".join(report.warnings)


def _places(data: bytes, mark: bytes) -> list[int]:
    places, place = [], data.find(mark)
    while place >= 0:
        places.append(place)
        place = data.find(mark, place + 1)
    return places


def test_sound_that_does_not_check_is_encoded_anew_or_left_out(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "clip.mkv", replace(CLIP, audio="aac"))

    def fails_with_sound(*args: object, **options: object) -> object:
        sounds = args[3]
        assert isinstance(sounds, list)
        if sounds:
            raise PermanentError(ErrorCode.CHECK_FAILED, "The sound differs.")
        return check_result(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("services.encode.mux.check_result", fails_with_sound)
    report = joined(path, work)
    assert report.frames == 8
    assert report.warnings == ("The sound is too damaged to be kept; it was left out.",)
    assert sorted(each.name for each in work.iterdir()) == ["000000.nut", "r.mp4"]


@pytest.mark.parametrize("jump_s", [80_000, 200_000])
def test_copied_sound_that_jumps_ends_there_with_a_warning(
    jump_s: int, tmp_path: Path, work: Path
) -> None:
    good = make_video(tmp_path / "good.mkv", replace(CLIP, audio="aac"))
    path = retimed(
        good, tmp_path / "bad.mkv", lambda i, pts: pts + (jump_s * 1000 if i > 20 else 0)
    )
    facts = probe(path, limits=SourceLimits(duration_s=1e9))
    report = joined(path, work, facts)
    assert report.sounds_copied == 1
    assert "ends at 0.4 s" in " ".join(report.warnings)
    assert sound_seconds(work) < 1


def test_sound_that_begins_an_age_from_the_picture_is_left_out(tmp_path: Path, work: Path) -> None:
    good = make_video(tmp_path / "good.mkv", replace(CLIP, audio="aac"))
    path = retimed(good, tmp_path / "bad.mkv", lambda _, pts: pts + 100_000_000)
    report = joined(path, work, probe(path, limits=SourceLimits(duration_s=1e9)))
    assert report.sounds_copied == 0
    assert "from the picture and was left out" in report.warnings[0]


def _gap(gap_s: int, tmp_path: Path) -> tuple[Path, SourceInfo]:
    """Sound to be encoded anew, whose first packet is `gap_s` seconds before the others."""
    good = make_video(tmp_path / "good.mkv", replace(CLIP, audio="flac", audio_rate=8000))
    path = retimed(good, tmp_path / "bad.mkv", lambda i, pts: pts + (gap_s * 1000 if i else 0))
    facts = probe(path)
    sounds = tuple(sound.model_copy(update={"copied": False}) for sound in facts.sounds)
    return path, facts.model_copy(update={"sounds": sounds})


def test_a_gap_in_sound_that_is_encoded_anew_is_silence(tmp_path: Path, work: Path) -> None:
    path, facts = _gap(50, tmp_path)
    report = joined(path, work, facts)
    assert (report.sounds_encoded, report.warnings) == (1, ())
    assert sound_seconds(work) == pytest.approx(51, abs=0.5)


def test_a_gap_in_sound_that_leads_away_from_the_picture_ends_it(
    tmp_path: Path, work: Path
) -> None:
    """A second of sound does not become a day of silence."""
    path, facts = _gap(80_000, tmp_path)
    report = joined(path, work, facts)
    assert report.sounds_encoded == 1
    assert "jumps in time; it ends early" in report.warnings[0]
    assert sound_seconds(work) < 1


def test_silence_comes_in_pieces_of_a_second() -> None:
    """The resampler alone would hold all of it in memory at once."""
    like = av.AudioFrame("s16", "stereo", 1024)
    like.sample_rate, like.time_base = 8000, Fraction(1, 1000)
    pieces = list(_silences(like, Fraction(2), Fraction(1802)))
    assert {piece.samples for piece in pieces} == {8000}
    assert [piece.pts for piece in pieces] == [1000 * second for second in range(2, 1801)]
    assert not any(bytes(pieces[0].planes[0]))
    assert list(_silences(like, None, Fraction(9))) == []


def _with_samples(path: Path, samples: npt.NDArray[np.float32]) -> Path:
    """A picture and this sound: mono, 8000 Hz, float."""
    with av.open(str(path), "w") as made:
        video = made.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 64, 32, "yuvj420p"
        audio = made.add_stream("pcm_f32le", rate=8000, layout="mono")
        for number in range(4):
            made.mux(video.encode(numbered_frame(number, (64, 32), "yuvj420p")))
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", "mono")
        frame.sample_rate = 8000
        made.mux([*audio.encode(frame), *video.encode(None), *audio.encode(None)])
    return path


@pytest.mark.parametrize("peak", [3.5e10, float("nan"), float("inf")])
def test_samples_that_are_no_sound_do_not_stop_the_encoder(
    peak: float, tmp_path: Path, work: Path
) -> None:
    """FFmpeg's AAC encoder never comes back from the first of them: hence a process of its own."""
    noise = np.random.default_rng(1).uniform(-1, 1, 1280) * np.exp(-np.arange(1280) / 60)
    path = _with_samples(tmp_path / "clip.mkv", (noise * peak).astype(np.float32))
    facts = probe(path)
    sounds = tuple(sound.model_copy(update={"copied": False}) for sound in facts.sounds)
    assert sounds
    child = multiprocessing.get_context("fork").Process(
        target=run_forked, args=(joined, path, work, facts.model_copy(update={"sounds": sounds}))
    )
    child.start()
    child.join(60)
    child.kill()
    child.join()
    assert child.exitcode == 0
    with av.open(work / "r.mp4") as made:
        assert len(made.streams.audio) == 1


@pytest.mark.parametrize("rate", [1, 999, (1 << 31) - 1, (1 << 32) - 1])
@pytest.mark.parametrize("channels", [0, 1, 255, 65535])
def test_absurd_sound_ends_well(rate: int, channels: int, tmp_path: Path, work: Path) -> None:
    spec = VideoSpec(codec="mpeg4", time_base=Fraction(1, 25), frames=12, audio="pcm_s16le")
    path = make_video(tmp_path / "clip.avi", spec)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"strf") + 8  # WAVEFORMATEX
    data[place + 2 : place + 8] = pack("<HI", channels, rate)
    path.write_bytes(data)
    code = examine(path, work).partition(":")[0]
    # A negative number, as FFmpeg reads the last of them, it refuses itself.
    assert code in ("losses", ErrorCode.NOT_A_VIDEO)
    if code == "losses":
        assert probe(path).sounds == ()


def test_streams_that_appear_late_do_not_stop_the_others(tmp_path: Path, work: Path) -> None:
    """FLV and MPEG-TS announce no streams; PyAV stumbles over those that come after opening."""
    first = make_video(tmp_path / "a.flv", replace(CLIP, time_base=Fraction(1, 1000)))
    spec = replace(CLIP, time_base=Fraction(1, 1000), audio="aac", frames=200)
    second = make_video(tmp_path / "b.flv", spec)
    path = tmp_path / "clip.flv"
    path.write_bytes(first.read_bytes() + second.read_bytes()[13:])
    code = examine(path, work)
    assert code.partition(":")[0] in ("ok", "losses", ErrorCode.TOO_DAMAGED)
