"""Each limit of a source holds: by what its header says, and while working, since headers lie."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from struct import pack

import av
import pytest

from benchmarks.mutations import peak_of
from services.decode.engines.base import DecodeReport
from services.decode.engines.pyav import PyAvDecoder
from services.decode.split import split
from services.encode.mux import MuxReport, mux
from shared.errors import ErrorCode, PermanentError
from shared.jobs import Ratio, SourceInfo
from shared.media.probe import probe
from shared.settings import SourceLimits
from tests.conftest import PROJECT
from tests.encode.pictures import encode_all, output
from tests.hostile.files import SIZE, Mp4, full, picture, table
from tests.videos import CLOSED_GOP_X264, VideoSpec, make_video

CLIP = replace(CLOSED_GOP_X264, bframes=0)
USUAL = SourceLimits()


def refused(path: Path, limits: SourceLimits) -> PermanentError:
    """By what can be seen before work."""
    return named(_error_of(path, limits))


def _error_of(path: Path, limits: SourceLimits) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        probe(path, limits=limits)
    return caught.value


def stopped(path: Path, folder: Path, limits: SourceLimits) -> PermanentError:
    """Later, while splitting; nothing stays behind."""
    source = probe(path, limits=limits)
    folder.mkdir()
    with pytest.raises(PermanentError) as caught:
        _split(path, source, folder, limits)
    assert list(folder.iterdir()) == []
    return named(caught.value)


def _split(path: Path, source: SourceInfo, folder: Path, limits: SourceLimits) -> None:
    for _, file in split(path, source, folder, 0.5, limits):
        file.unlink()


def named(error: PermanentError) -> PermanentError:
    """The sentence names the limit, by its setting, and goes on with what to do."""
    problem, _, remedy = error.message.partition(": ")
    assert "DUALFACE_SOURCE_MAX_" in problem
    assert len(remedy) > 10
    assert remedy.endswith(".")
    return error


def decoded(
    path: Path, folder: Path, limits: SourceLimits, target_s: float = 9.0
) -> tuple[list[int], list[DecodeReport]]:
    """Times shown, and what each segment's decoder reports."""
    source = probe(path, limits=limits)
    times, reports = [], []
    for segment, file in split(path, source, folder, target_s, limits):
        decoder = PyAvDecoder(1, limits)
        times += [frame.pts for frame in decoder.decode(file, segment, source)]
        reports.append(decoder.report)
    return times, reports


def with_sound(path: Path, folder: Path, limits: SourceLimits) -> MuxReport:
    """The sound of `path` beside a short picture."""
    base: Ratio = (1, 25)
    plan = output(base)
    source = probe(path, limits=limits).model_copy(update={"time_base": base})
    chunks = encode_all(range(8), plan, folder)
    return mux(chunks, path, source, plan, "mp4", folder / "r.mp4", range(8), limits)


def limit(**values: float) -> SourceLimits:
    return USUAL.model_copy(update=values)


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", CLIP)
    monkeypatch.setenv("DUALFACE_SOURCE_MAX_PIXELS", "1000")
    with pytest.raises(PermanentError, match="1000 pixels"):
        probe(path)
    monkeypatch.setenv("DUALFACE_SOURCE_MAX_PIXELS", "many")
    with pytest.raises(PermanentError, match="DUALFACE_SOURCE_MAX_PIXELS") as caught:
        probe(path)
    assert caught.value.code is ErrorCode.BAD_OPTION


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (limit(size_bytes=100), "bytes"),
        (limit(pixels=100), "128x64"),
        (limit(side_px=100), "128x64"),
        (limit(duration_s=0.1), "lasts 2 s"),
        (limit(frames=47), "48 frames"),
        (limit(streams=1), "2 streams"),
        (limit(packet_bytes=100), "packet"),
    ],
)
def test_what_a_header_says_is_refused_before_work(
    limits: SourceLimits, says: str, tmp_path: Path
) -> None:
    path = make_video(tmp_path / "clip.mp4", replace(CLIP, audio="aac"))
    error = refused(path, limits)
    assert error.code is ErrorCode.TOO_LARGE
    assert says in error.message


def test_a_hundred_tracks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(tracks=100).build())
    assert "64 streams" in refused(path, USUAL).message


def test_frames_are_counted_where_no_header_does(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mkv", CLIP)
    error = stopped(path, tmp_path / "work", limit(frames=20))
    assert "21 frames" in error.message


def test_times_of_packets_count_where_the_header_has_no_duration(tmp_path: Path) -> None:
    spec = replace(CLIP, container_options={"live": "1"})
    path = make_video(tmp_path / "clip.mkv", spec)
    assert probe(path).duration_s is None
    assert "lasts 1 s" in stopped(path, tmp_path / "work", limit(duration_s=0.5)).message


def test_a_frame_an_age_after_the_one_before_is_refused(tmp_path: Path) -> None:
    """In ticks: a sample table has 32 bits for the length of a frame."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(steps=[1, 1, 1 << 31, 1, 1, 1], timescale=10**9).build())
    with pytest.raises(PermanentError, match="2 s after the one before") as caught:
        list(split(path, probe(path), tmp_path, 1.0))
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_an_index_that_names_the_same_data_again_and_again_is_stopped(tmp_path: Path) -> None:
    """A file of half a megabyte that would become eighty."""
    data = picture() + bytes(40_000)
    count, place = 2000, pack(">I", 28)
    tables = {
        b"stsz": full(b"stsz", pack(">II", len(data), count)),
        b"stco": table(b"stco", *[place] * count),
        b"stts": table(b"stts", pack(">II", count, 1)),
    }
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(samples=[data], tables=tables).build())
    error = stopped(path, tmp_path / "work", USUAL)
    assert "over 16 times its size" in error.message


def test_a_large_packet_is_stopped_where_no_index_tells(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.ts", CLIP)
    assert "packet" in stopped(path, tmp_path / "work", limit(packet_bytes=100)).message


def test_a_packet_larger_than_memory_is_refused_by_the_index(tmp_path: Path) -> None:
    first = picture()
    sizes = [pack(">I", size) for size in (len(first), *[400 << 20] * 5)]
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(tables={b"stsz": full(b"stsz", pack(">II", 0, 6), *sizes)}).build())
    os.truncate(path, 3 << 30)  # takes no room on the disk
    assert "419430400 bytes" in refused(path, USUAL).message


def test_segments_beyond_the_limit_are_not_cut_and_lose_nothing(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mkv", CLIP)
    times, reports = decoded(path, tmp_path, limit(segments=2), 0.0)
    assert len(reports) == 2
    assert len(times) == 48


@pytest.mark.parametrize(
    ("other", "limits"), [((640, 480), limit(pixels=10_000)), ((4000, 16), limit(side_px=1000))]
)
def test_pictures_that_grow_beyond_a_limit_are_lost_and_counted(
    other: tuple[int, int], limits: SourceLimits, tmp_path: Path
) -> None:
    samples = [picture(0), picture(1, other), picture(2), picture(3, other), picture(4)]
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(samples=samples).build())
    times, reports = decoded(path, tmp_path, limits)
    assert times == [0, 2, 4]
    assert sum(report.lost for report in reports) == 2


def test_pictures_that_change_their_size_are_all_shown(tmp_path: Path) -> None:
    sizes = (SIZE, (640, 480), (16, 16), (4000, 16), (8, 1200), SIZE)
    samples = [picture(number, size) for number, size in enumerate(sizes)]
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(samples=samples).build())
    assert decoded(path, tmp_path, USUAL)[0] == list(range(6))


def test_more_frames_than_packets_can_hold_end_the_segment(tmp_path: Path) -> None:
    """VP9 superframes of one picture that is shown seven more times: packets are cheap."""
    path = make_video(tmp_path / "one.webm", VideoSpec(codec="libvpx-vp9", frames=40, bframes=0))
    many = tmp_path / "many.webm"
    with av.open(str(path)) as given, av.open(str(many), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                copy = av.Packet(_superframe(bytes(packet)))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe = packet.is_keyframe
                copy.stream = stream
                made.mux(copy)
    with pytest.raises(PermanentError, match="frames in 40 packets") as caught:
        decoded(many, tmp_path, limit())
    assert caught.value.code is ErrorCode.TOO_DAMAGED


def _superframe(picture: bytes) -> bytes:
    """VP9 specification, annex B: eight frames, seven of them `show_existing_frame`."""
    again = b"\x88" * 7
    sizes = pack("<8H", len(picture), *[1] * 7)
    return picture + again + b"\xcf" + sizes + b"\xcf"


@pytest.mark.parametrize("limits", [limit(sample_rate=8000), limit(channels=1), limit(sounds=0)])
def test_sound_beyond_a_limit_is_left_out_and_said(limits: SourceLimits, tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", replace(CLIP, audio="aac"))
    assert probe(path, limits=limits).sounds == ()
    report = with_sound(path, tmp_path, limits)
    assert report.sounds_copied == report.sounds_encoded == 0
    assert "1 of the sound streams" in report.warnings[0]


def test_no_more_sounds_are_kept_than_allowed(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", replace(CLIP, audio="aac", sounds=3))
    report = with_sound(path, tmp_path, limit(sounds=1))
    assert report.sounds_copied == 1
    assert "2 of the sound streams" in report.warnings[0]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (limit(sound_packets=20), "more than 20 packets"),
        (limit(duration_s=0.5), "beyond the 0 s allowed"),
    ],
)
def test_sound_ends_where_it_goes_beyond_a_limit(
    limits: SourceLimits, reason: str, tmp_path: Path
) -> None:
    path = make_video(tmp_path / "clip.mp4", replace(CLIP, audio="aac"))
    folder = tmp_path / "work"
    folder.mkdir()
    plan = output((1, 25))
    facts = probe(path).model_copy(update={"time_base": (1, 25)})
    chunks = encode_all(range(8), plan, folder)
    report = mux(chunks, path, facts, plan, "mp4", folder / "r.mp4", range(8), limits)
    assert report.sounds_copied == 1
    assert any(reason in warning for warning in report.warnings)
    with av.open(folder / "r.mp4") as made:
        assert 15 < sum(1 for packet in made.demux(audio=0) if packet.size) < 40


def test_memory_that_a_header_asks_for_is_not_given(tmp_path: Path) -> None:
    """An index of 40 million samples in 2 KB. FFmpeg leaves it out: a file without frames."""
    tables = {
        b"stsz": full(b"stsz", pack(">II", 1, 40_000_000)),
        b"stsc": table(b"stsc", pack(">III", 1, 40_000_000, 1)),
        b"stts": table(b"stts", pack(">II", 40_000_000, 1)),
    }
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(tables=tables).build())
    limits = limit(memory_mib=64, frames=10**9)
    error, peak = peak_of(lambda: _error_of(path, limits))
    assert error.code is ErrorCode.TOO_DAMAGED
    assert peak < 128 << 20


def test_a_table_that_claims_more_than_memory_is_refused(tmp_path: Path) -> None:
    tables = {b"stts": table(b"stts", pack(">II", 1, 1), count=(1 << 31) - 1)}
    path = tmp_path / "clip.mp4"
    path.write_bytes(Mp4(tables=tables).build())
    error, peak = peak_of(lambda: refused(path, limit(memory_mib=64)))
    assert "64 MiB of memory" in error.message
    assert peak < 128 << 20


def test_memory_that_a_parser_gathers_is_bounded(tmp_path: Path) -> None:
    """A raw stream whose last picture goes on for 300 MiB of nothing."""
    path = make_video(tmp_path / "clip.h264", replace(CLIP, container="h264"))
    os.truncate(path, 300 << 20)
    # In a process of its own: in one that has freed much, what is taken up again is not counted.
    done = subprocess.run(
        [sys.executable, "-c", GATHERED, path, tmp_path],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    frames, peak = map(int, done.stdout.split())
    assert frames >= 47
    assert peak < 160 << 20


GATHERED = """
import sys
from pathlib import Path
from benchmarks.mutations import peak_of
from tests.hostile.test_limits import decoded, limit
path, folder = map(Path, sys.argv[1:])
(times, _), peak = peak_of(lambda: decoded(path, folder, limit(memory_mib=64)))
print(len(times), peak)
"""


def test_reading_that_finds_nothing_in_time_is_given_up(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mp4", CLIP)
    error = refused(path, limit(read_s=1e-9))
    assert error.code is ErrorCode.SOURCE_UNREADABLE
