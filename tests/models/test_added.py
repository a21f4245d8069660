"""Models that a person added, and their files on the way."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ErrorCode, PermanentError
from shared.models import added_names, choose, draft, entry_of, is_here, locate, pull
from shared.models.added import check_free, remove, save
from shared.models.catalogue import FAMILIES, Added, ModelEntry
from shared.models.draft import Draft

DATA = b"weights"


def entry(name: str, data: bytes = DATA, source: str = "/somewhere/file.onnx") -> ModelEntry:
    facts = {
        "name": name,
        "family": "yolov8-face",
        "file": f"{name}.onnx",
        "sha256": hashlib.sha256(data).hexdigest(),
        "origin": Added(source=source),
        "licence": "AGPL-3.0",
    }
    return ModelEntry.model_validate(FAMILIES["yolov8-face"].model_dump() | facts)


def add(folder: Path, name: str = "mine", data: bytes = DATA) -> Path:
    with draft.draft(folder) as file:
        file.write([data])
        return save(entry(name, data), file)


def refusal(call: Callable[[], object]) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        call()
    assert caught.value.message.count("\n") == 0
    return caught.value


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- by name --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cache", "another folder"])
def test_an_added_model_is_known_by_its_name_wherever_it_lies(tmp_path: Path, where: str) -> None:
    path = add(tmp_path / where)
    cache, folders = tmp_path / "cache", [tmp_path / "another folder"]
    assert entry_of("mine", cache, folders) == entry("mine")
    assert choose("mine", cache, folders) == entry("mine")
    assert is_here("mine", cache, folders)
    assert locate("mine", cache, folders) == pull("mine", cache, folders) == path
    assert added_names(cache, folders) == ["mine"]


def test_an_added_model_is_never_what_auto_means(tmp_path: Path) -> None:
    add(tmp_path)
    assert choose("auto", tmp_path).name == "centerface"


def test_without_its_folder_it_is_as_unknown_as_any_other(tmp_path: Path) -> None:
    add(tmp_path)
    assert refusal(lambda: entry_of("mine")).code is ErrorCode.BAD_OPTION
    assert "centerface, mine" in refusal(lambda: entry_of("other", tmp_path)).message


@pytest.mark.parametrize("name", ["yunet_n", "centerface", "auto", "yunet_n_dynamic", "a.int8"])
def test_what_is_built_in_cannot_be_shadowed(tmp_path: Path, name: str) -> None:
    known = choose(name, tmp_path) if name in ("yunet_n", "centerface", "auto") else None
    assert refusal(lambda: add(tmp_path, name)).code is ErrorCode.BAD_OPTION
    assert names(tmp_path) == set()
    (tmp_path / f"{name}.onnx").write_bytes(DATA)
    (tmp_path / f"{name}.entry.json").write_text(entry(name).model_dump_json())
    if known is not None:
        assert choose(name, tmp_path) == known
        assert name not in added_names(tmp_path)
        assert refusal(lambda: remove(name, tmp_path)).code is ErrorCode.BAD_OPTION


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a b", "a:b", "x" * 81, "ä"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(lambda: check_free(name, tmp_path)).code is ErrorCode.BAD_OPTION
    assert refusal(lambda: entry_of(name, tmp_path)).code is ErrorCode.BAD_OPTION
    assert refusal(lambda: remove(name, tmp_path)).code is ErrorCode.BAD_OPTION


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    add(tmp_path)
    assert "models remove mine" in refusal(lambda: add(tmp_path, data=b"others")).message
    assert locate("mine", tmp_path).read_bytes() == DATA


def test_what_is_removed_is_gone_with_its_copies_and_nothing_else_is(tmp_path: Path) -> None:
    add(tmp_path)
    add(tmp_path, "mine.2")
    for copy in ("mine.int8.onnx", "mine.int8.onnx.json", "mine.fp16.evaluation.json"):
        (tmp_path / copy).write_bytes(b"")
    remove("mine", tmp_path)
    assert names(tmp_path) == {"mine.2.onnx", "mine.2.entry.json"}
    assert refusal(lambda: remove("mine", tmp_path)).code is ErrorCode.BAD_OPTION


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", DATA + b"!", None])
def test_a_damaged_file_is_not_used_and_its_person_is_told(
    tmp_path: Path, damage: bytes | None
) -> None:
    path = add(tmp_path)
    path.unlink() if damage is None else path.write_bytes(damage)
    assert not is_here("mine", tmp_path)
    for call in (locate, pull):
        error = refusal(lambda call=call: call("mine", tmp_path))  # type: ignore[misc]
        assert error.code is ErrorCode.MODEL_MISSING
        assert "/somewhere/file.onnx" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        entry("other").model_dump_json(),
        json.dumps(entry("mine").model_dump() | {"file": "../../etc/passwd"}),
        json.dumps(entry("mine").model_dump() | {"scale": 0}),
        json.dumps(entry("mine").model_dump() | {"family": "rt-detr"}),
    ],
)
def test_a_damaged_entry_is_told_with_its_path(tmp_path: Path, text: str) -> None:
    add(tmp_path)
    (tmp_path / "mine.entry.json").write_text(text)
    error = refusal(lambda: choose("mine", tmp_path))
    assert error.code is ErrorCode.MODEL_DAMAGED
    assert str(tmp_path / "mine.entry.json") in error.message
    assert choose("auto", tmp_path).name == "centerface"


def test_an_entry_of_a_later_release_is_read(tmp_path: Path) -> None:
    add(tmp_path)
    path = tmp_path / "mine.entry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}))
    assert entry_of("mine", tmp_path) == entry("mine")


# --- files on their way ---------------------------------------------------------------------------


def test_a_file_that_is_not_placed_leaves_nothing(tmp_path: Path) -> None:
    with draft.draft(tmp_path / "new") as file:
        file.write([b"a", b"b"])
        assert file.path.read_bytes() == b"ab"
        assert file.sha256 == hashlib.sha256(b"ab").hexdigest()
    assert names(tmp_path / "new") == set()


def test_a_file_that_is_too_large_is_refused_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft, "MODEL_BYTES_MAX", 10)
    with draft.draft(tmp_path) as file:
        file.write([b"x" * 10])
        assert refusal(lambda: file.write([b"x"])).code is ErrorCode.TOO_LARGE
    assert names(tmp_path) == set()


def test_what_a_killed_process_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    left = tmp_path / ".draft-left.onnx"
    left.write_bytes(b"half")
    (tmp_path / "other.onnx").write_bytes(b"")
    with draft.draft(tmp_path) as mine, draft.draft(tmp_path) as other:
        assert not left.exists()
        assert names(tmp_path) == {mine.path.name, other.path.name, "other.onnx"}
        with mine.path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert names(tmp_path) == {"other.onnx"}


def test_an_entry_that_cannot_be_written_takes_its_file_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _data: bytes) -> None:
        raise PermanentError(ErrorCode.NO_SPACE, f"{path} can't be written")

    monkeypatch.setattr("shared.models.added.write_atomically", full)
    assert refusal(lambda: add(tmp_path)).code is ErrorCode.NO_SPACE
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    def make() -> None:
        with draft.draft(tmp_path / "file" / "cache"):
            raise AssertionError("there is no such folder")

    assert refusal(make).code is ErrorCode.NO_SPACE


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        file = Draft(tmp_path / "file", full)
        assert refusal(lambda: file.write([b"x" * 100_000])).code is ErrorCode.NO_SPACE
