"""Facts about putting a result in place, and about what is refused before work starts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from client.placing import NAME_BYTES, part_of, place, split_name
from client.requests import Options, check_writable, make_request, parse_size
from shared.errors import ErrorCode, PermanentError
from tests.videos import VideoSpec, make_video


def test_a_result_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    result, output = tmp_path / "r", tmp_path / "out.mp4"
    result.write_bytes(b"new")
    output.write_bytes(b"old")
    part_of(output).write_bytes(b"left by a killed run")
    place(result, output)
    assert output.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "r"]


def test_another_file_system_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    result, output = tmp_path / "r", tmp_path / "out.mp4"
    result.write_bytes(b"new")
    place(result, output)
    assert output.read_bytes() == b"new"


def test_a_result_that_cannot_be_placed_leaves_the_old_one(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"old")
    with pytest.raises(PermanentError, match="can't be written"):
        place(tmp_path / "missing", output)
    assert output.read_bytes() == b"old"


def test_a_name_too_long_for_its_ending_is_cut_between_characters_and_shared_by_no_two(
    tmp_path: Path,
) -> None:
    assert split_name("talk") == "talk-split.mp4"
    assert split_name("talk", ".mov", {"talk-split.mov"}) == "talk-split-2.mov"
    strange = os.fsdecode(b"\xff" * 250)  # no text
    for stem in ("a" * 251, "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 83, strange):
        names: set[str] = set()
        for _ in range(12):
            names.add(split_name(stem, taken=names))
        assert len(names) == 12
        for name in names:
            assert NAME_BYTES - 3 < len(os.fsencode(name)) <= NAME_BYTES
            (tmp_path / name).touch()
            assert os.fsdecode(os.fsencode(name)) == name
        assert stem.startswith(split_name(stem).removesuffix("-split.mp4"))


def test_outputs_of_the_longest_names_are_placed_by_parts_of_their_own(tmp_path: Path) -> None:
    outputs = [tmp_path / f"{'a' * 250}{end}.mp4" for end in "xy"]
    assert len({part_of(output) for output in outputs}) == 2
    for number, output in enumerate(outputs):
        result = tmp_path / str(number)
        result.write_text(output.name)
        place(result, output)
    assert [output.read_text() for output in outputs] == [output.name for output in outputs]


@pytest.mark.parametrize("text", ["1280", "1280x", "x720", "axb", "1280x-720", "12.5x7"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="WIDTHxHEIGHT"):
        parse_size(text)


def test_an_output_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        check_writable(tmp_path / "no" / "out.mp4")
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE


def test_an_output_that_no_file_can_be_called_is_refused(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    make_video(video, VideoSpec(frames=3))
    for dry_run in (True, False):
        with pytest.raises(PermanentError, match="name too long") as caught:
            make_request(video, tmp_path / f"{'a' * 252}.mp4", Options(), dry_run=dry_run)
        assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE


def test_a_job_is_the_same_for_the_same_request_and_another_for_any_other(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    make_video(video, VideoSpec(frames=3))
    first = make_request(video, tmp_path / "o.mp4", Options())
    assert make_request(video, tmp_path / "o.mp4", Options()).job == first.job
    others = [
        make_request(video, tmp_path / "p.mp4", Options()).job,
        make_request(video, tmp_path / "o.mp4", Options(crf=30)).job,
        make_request(video, tmp_path / "o.mp4", Options(annotate=True)).job,
    ]
    os.utime(video, ns=(1, 1))
    others.append(make_request(video, tmp_path / "o.mp4", Options()).job)
    assert len({first.job, *others}) == 5
