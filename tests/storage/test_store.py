"""The contract of every object store, run over each implementation."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ErrorCode, PermanentError
from shared.storage.base import ObjectStore
from shared.storage.directory import DirectoryStore


@pytest.fixture(params=["directory"])
def store(tmp_path: Path) -> ObjectStore:
    return DirectoryStore(tmp_path / "store")


def put(store: ObjectStore, key: str, data: bytes) -> None:
    with store.scratch() as folder:
        file = folder / "x"
        file.write_bytes(data)
        store.put(key, file)


def read(store: ObjectStore, key: str) -> bytes:
    with store.local(key) as path:
        return path.read_bytes()


def test_what_is_put_can_be_read_and_replaced(store: ObjectStore) -> None:
    put(store, "jobs/a/x", b"1")
    put(store, "jobs/a/x", b"22")
    assert read(store, "jobs/a/x") == b"22"


def test_keys_lists_what_is_below_a_prefix_in_order(store: ObjectStore) -> None:
    for key in ("jobs/a/c/2", "jobs/a/c/1", "jobs/ab/x", "jobs/a/s"):
        put(store, key, b"")
    assert list(store.keys("jobs/a")) == ["jobs/a/c/1", "jobs/a/c/2", "jobs/a/s"]


def test_delete_takes_an_object_or_all_below_it_and_may_be_repeated(store: ObjectStore) -> None:
    for key in ("jobs/a/1", "jobs/a/2", "jobs/b"):
        put(store, key, b"")
    assert store.delete("jobs/a") == 2
    assert store.delete("jobs/a") == 0
    assert store.delete("jobs/b") == 1
    assert not store.exists("jobs/b")


def test_a_missing_object_is_a_permanent_error(store: ObjectStore) -> None:
    with pytest.raises(PermanentError) as caught, store.local("jobs/none"):
        pass
    assert caught.value.code is ErrorCode.SOURCE_MISSING


def test_scratch_leaves_nothing(store: ObjectStore) -> None:
    with store.scratch() as folder:
        (folder / "left").write_bytes(b"1")
    assert not folder.exists()


def test_an_adopted_file_stays_where_it_is(store: ObjectStore, tmp_path: Path) -> None:
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(b"video")
    store.adopt("jobs/a/source.mp4", mine)
    assert read(store, "jobs/a/source.mp4") == b"video"
    store.delete("jobs/a")
    assert mine.read_bytes() == b"video"


def test_adopting_what_is_not_there_is_a_permanent_error(
    store: ObjectStore, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError):
        store.adopt("jobs/a/source.mp4", tmp_path / "nothing")


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../b", ""])
def test_a_key_never_leads_out_of_the_store(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.exists(key)
