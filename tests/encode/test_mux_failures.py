"""Whatever goes wrong while joining: it is said, and nothing is left behind."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import pytest

from services.encode.check import check_result
from services.encode.mux import mux
from services.encode.sound import SoundDigest
from shared.errors import DualfaceError, ErrorCode, PermanentError, TemporaryError
from shared.jobs import Codec, OutputPlan
from tests.encode.pictures import (
    encode,
    encode_all,
    make_sound,
    output,
    packets,
    sound_info,
    source,
)

PTS = list(range(24))


@pytest.fixture
def plan() -> OutputPlan:
    return output((1, 25))


@pytest.fixture
def chunks(tmp_path: Path, plan: OutputPlan) -> list[Path]:
    folder = tmp_path / "chunks"
    folder.mkdir()
    return encode_all(PTS, plan, folder)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty folder for the result."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def _fails(chunks: list[Path], plan: OutputPlan, place: Path) -> DualfaceError:
    with pytest.raises(DualfaceError) as caught:
        mux(chunks, None, source(plan), plan, "mp4", place / "r.mp4")
    assert not place.exists() or list(place.iterdir()) == []
    return caught.value


def test_a_missing_chunk_is_named(chunks: list[Path], plan: OutputPlan, place: Path) -> None:
    chunks[1].unlink()
    error = _fails(chunks, plan, place)
    assert isinstance(error, TemporaryError)
    assert error.message.startswith("Chunk 1 (000008.nut) is missing")


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_cut_chunk_is_named(
    chunks: list[Path], plan: OutputPlan, place: Path, which: int
) -> None:
    content = chunks[which].read_bytes()
    chunks[which].write_bytes(content[: len(content) // 2])
    error = _fails(chunks, plan, place)
    assert error.code is ErrorCode.STAGE_FAILED
    assert f"Chunk {which} " in error.message


def test_chunks_in_the_wrong_order_are_refused(
    chunks: list[Path], plan: OutputPlan, place: Path
) -> None:
    error = _fails([chunks[0], chunks[2], chunks[1]], plan, place)
    assert "Chunk 2 begins before" in error.message


def test_a_chunk_of_other_settings_is_refused(
    chunks: list[Path], plan: OutputPlan, place: Path
) -> None:
    encode(PTS[8:16], output((1, 25), Codec.HEVC), chunks[1])
    assert "Chunk 1 was encoded with other settings" in _fails(chunks, plan, place).message


def test_a_lost_chunk_fails_the_check_where_frames_were_counted(
    chunks: list[Path], plan: OutputPlan, place: Path
) -> None:
    with pytest.raises(PermanentError, match="16 frames instead of 24") as caught:
        mux([chunks[0], chunks[2]], None, source(plan), plan, "mp4", place / "r.mp4", PTS)
    assert caught.value.code is ErrorCode.CHECK_FAILED
    assert list(place.iterdir()) == []


def test_no_chunks_at_all_is_an_empty_source(plan: OutputPlan, place: Path) -> None:
    assert _fails([], plan, place).code is ErrorCode.SOURCE_EMPTY


def test_a_missing_folder_is_said(chunks: list[Path], plan: OutputPlan, place: Path) -> None:
    place.rmdir()
    error = _fails(chunks, plan, place)
    assert error.code is ErrorCode.OUTPUT_UNWRITABLE
    assert str(place) in error.message


def test_a_folder_in_the_place_of_the_result_is_said(
    chunks: list[Path], plan: OutputPlan, place: Path
) -> None:
    (place / "r.mp4").mkdir()
    with pytest.raises(PermanentError) as caught:
        mux(chunks, None, source(plan), plan, "mp4", place / "r.mp4")
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE
    assert [path.name for path in place.iterdir()] == ["r.mp4"]


@contextmanager
def _files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Python ignores SIGXFSZ, so that a write beyond fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size_bytes", [0, 100, 1000])
def test_a_full_disk_is_said_and_leaves_the_former_result(
    chunks: list[Path], plan: OutputPlan, place: Path, size_bytes: int
) -> None:
    former = place / "r.mp4"
    former.write_bytes(b"former")
    with (
        _files_of_at_most(size_bytes),
        pytest.raises(TemporaryError) as caught,
    ):
        mux(chunks, None, source(plan), plan, "mp4", former)
    assert caught.value.code is ErrorCode.NO_SPACE
    assert [path.name for path in place.iterdir()] == ["r.mp4"]
    assert former.read_bytes() == b"former"


def test_a_full_disk_while_writing_a_chunk_is_said(place: Path, plan: OutputPlan) -> None:
    with _files_of_at_most(500), pytest.raises(TemporaryError) as caught:
        encode(PTS, plan, place / "c.nut")
    assert caught.value.code is ErrorCode.NO_SPACE
    assert list(place.iterdir()) == []


def test_a_cut_source_keeps_its_sound_up_to_there(
    chunks: list[Path], plan: OutputPlan, place: Path, tmp_path: Path
) -> None:
    sound = make_sound(tmp_path / "s.mkv", "aac", seconds=3)
    content = sound.read_bytes()
    sound.write_bytes(content[: len(content) // 2])
    facts = source(plan, sound_info(sound))
    report = mux(chunks, sound, facts, plan, "mp4", place / "r.mp4", PTS)
    assert report.sounds_copied == 1
    assert 10 < len(packets(place / "r.mp4", "audio")) < 140


class TestCheck:
    """check_result finds what differs."""

    @pytest.fixture
    def result(self, chunks: list[Path], plan: OutputPlan, place: Path) -> Path:
        mux(chunks, None, source(plan), plan, "mp4", place / "r.mp4")
        return place / "r.mp4"

    def test_what_was_written_passes(self, result: Path, plan: OutputPlan) -> None:
        report = check_result(result, PTS, plan)
        assert (report.frames, report.keyframes) == (24, 3)
        assert report.duration_s == pytest.approx(24 / 25)

    def test_a_time_off_by_one_tick_is_named(self, result: Path, plan: OutputPlan) -> None:
        with pytest.raises(PermanentError, match="shows frame 23 at"):
            check_result(result, [*PTS[:23], 24], plan)

    def test_a_missing_frame_is_counted(self, result: Path, plan: OutputPlan) -> None:
        with pytest.raises(PermanentError, match="24 frames instead of 25"):
            check_result(result, [*PTS, 24], plan)

    def test_a_missing_sound_stream_is_named(self, result: Path, plan: OutputPlan) -> None:
        facts = SoundDigest(1, "aac", 48000).facts()
        with pytest.raises(PermanentError, match="0 sound streams instead of 1 and 1"):
            check_result(result, PTS, plan, [facts])

    def test_another_size_is_found(self, result: Path, plan: OutputPlan) -> None:
        with pytest.raises(PermanentError, match="does not decode"):
            check_result(result, PTS, plan.model_copy(update={"width": 640}))

    def test_a_shift_is_taken_into_account(self, result: Path, plan: OutputPlan) -> None:
        check_result(result, [at - 25 for at in PTS], plan, shift=Fraction(1))

    def test_a_file_that_is_none_is_said(self, tmp_path: Path, plan: OutputPlan) -> None:
        (tmp_path / "x.mp4").write_bytes(b"nothing")
        with pytest.raises(PermanentError, match="can't be read back"):
            check_result(tmp_path / "x.mp4", PTS, plan)

    @pytest.mark.parametrize("change", ["first", "size_bytes", "times_sha256"])
    def test_other_sound_is_found(
        self, chunks: list[Path], plan: OutputPlan, place: Path, tmp_path: Path, change: str
    ) -> None:
        sound = make_sound(tmp_path / "s.mp4", "aac")
        result = place / "s.mp4"
        mux(chunks, sound, source(plan, sound_info(sound)), plan, "mp4", result)
        digest = SoundDigest(0, "aac", 48000)
        for time, payload in packets(sound, "audio"):
            digest.add(int(time * 48000), memoryview(payload))
        facts = digest.facts()
        check_result(result, PTS, plan, [facts])
        other = {"first": facts.first + 1, "size_bytes": 1, "times_sha256": ""}[change]
        with pytest.raises(PermanentError, match="sound stream 0"):
            check_result(result, PTS, plan, [facts.model_copy(update={change: other})])
