"""The contract of every object store, run over each implementation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ErrorCode, PermanentError
from shared.storage.base import PIECE_BYTES, DirectUploads, ObjectStore
from shared.storage.directory import DirectoryStore
from tests.storage.conftest import MakeS3

LARGE = random.Random(1).randbytes(9 << 20)
"""More than a part and than a window."""


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    make: MakeS3 = request.getfixturevalue("make_s3")
    return make()


def put(store: ObjectStore, key: str, data: bytes) -> None:
    with store.scratch() as folder:
        file = folder / "x"
        file.write_bytes(data)
        store.put(key, file)


def read(store: ObjectStore, key: str) -> bytes:
    with store.local(key) as path:
        return path.read_bytes()


def test_a_store_that_works_passes_its_check_and_keeps_nothing_of_it(store: ObjectStore) -> None:
    store.check()
    assert list(store.keys(".check")) == []


@pytest.mark.parametrize("data", [b"", b"22", LARGE], ids=["empty", "small", "large"])
def test_what_is_put_can_be_read_and_replaced(store: ObjectStore, data: bytes) -> None:
    put(store, "jobs/a/x", b"1")
    put(store, "jobs/a/x", data)
    assert read(store, "jobs/a/x") == data
    assert b"".join(store.read("jobs/a/x")) == data
    assert store.size("jobs/a/x") == len(data)


def test_any_part_of_an_object_can_be_read(store: ObjectStore) -> None:
    put(store, "x", LARGE)
    end = len(LARGE)
    ranges = [(0, 1), (3, 5), (0, end), ((8 << 20) - 1, 2), (end - 1, 7), (end, 1), (5, 0)]
    for start, length in ranges:
        pieces = list(store.read("x", start, length))
        assert b"".join(pieces) == LARGE[start : start + length], (start, length)
        assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)


def test_reading_from_somewhere_on_ends_with_the_object(store: ObjectStore) -> None:
    put(store, "x", LARGE)
    assert b"".join(store.read("x", 1000)) == LARGE[1000:]


def test_a_reader_may_stop_in_the_middle(store: ObjectStore) -> None:
    put(store, "x", LARGE)
    pieces = store.read("x")
    assert next(pieces) == LARGE[:PIECE_BYTES]
    assert isinstance(pieces, Iterator)
    del pieces


@pytest.mark.parametrize("piece", [1000_003, len(LARGE)])
def test_what_comes_piece_by_piece_becomes_one_object(store: ObjectStore, piece: int) -> None:
    pieces = (LARGE[at : at + piece] for at in range(0, len(LARGE), piece))
    assert store.write("jobs/a/source.mp4", pieces) == len(LARGE)
    assert read(store, "jobs/a/source.mp4") == LARGE


@pytest.mark.parametrize("pieces", [[], [b""], [b"ab", b"", b"c"]])
def test_few_bytes_piece_by_piece_become_one_object(
    store: ObjectStore, pieces: list[bytes]
) -> None:
    assert store.write("x", pieces) == len(b"".join(pieces))
    assert read(store, "x") == b"".join(pieces)


@pytest.mark.parametrize("before", [0, 1, len(LARGE)])
def test_a_writer_that_breaks_off_leaves_the_object_as_it_was(
    store: ObjectStore, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.storage.s3.LAST_S", 60.0)  # as long as a busy server takes
    put(store, "x", b"older")

    def pieces() -> Iterator[bytes]:
        yield LARGE[:before]
        raise ConnectionResetError("the client is gone")

    with pytest.raises(ConnectionResetError):
        store.write("x", pieces())
    assert read(store, "x") == b"older"
    assert store.clear_leftovers(0) == 0


def test_keys_lists_what_is_below_a_prefix_in_order_of_its_bytes(store: ObjectStore) -> None:
    names = ["jobs/a/c/2", "jobs/a/c/1", "jobs/a/c-d/1", "jobs/ab/x", "jobs/a/s", "jobs/a/é Z+"]
    for key in names:
        put(store, key, b"")
    below = sorted((key for key in names if key.startswith("jobs/a/")), key=str.encode)
    assert list(store.keys("jobs/a")) == below
    assert list(store.keys("jobs")) == sorted(names, key=str.encode)
    assert list(store.keys("nothing")) == []


def test_delete_takes_an_object_or_all_below_it_and_may_be_repeated(store: ObjectStore) -> None:
    for key in ("jobs/a/1", "jobs/a/2", "jobs/b", "jobs/bc"):
        put(store, key, b"")
    assert store.delete("jobs/a") == 2
    assert store.delete("jobs/a") == 0
    assert store.delete("jobs/b") == 1
    assert not store.exists("jobs/b")
    assert store.exists("jobs/bc")


def test_what_is_deleted_while_it_is_listed_does_no_harm(store: ObjectStore) -> None:
    for number in range(4):
        put(store, f"jobs/{number}/x", b"")
    listed = store.keys("jobs")
    first = next(listed)
    store.delete("jobs/2")
    assert first == "jobs/0/x"
    assert {"jobs/1/x", "jobs/3/x"} <= set(listed)


def test_a_missing_object_is_a_permanent_error(store: ObjectStore) -> None:
    for look in (store.local("jobs/none"), store.local_many(["jobs/none"])):
        with pytest.raises(PermanentError) as caught, look:
            pass
        assert caught.value.code is ErrorCode.SOURCE_MISSING
        assert "jobs/none is not in the store" in caught.value.message
    with pytest.raises(PermanentError) as caught:
        next(store.read("jobs/none"))
    assert caught.value.code is ErrorCode.SOURCE_MISSING
    assert store.size("jobs/none") is None
    assert not store.exists("jobs/none")


def test_many_objects_come_in_the_order_they_were_asked_for(store: ObjectStore) -> None:
    keys = [f"jobs/a/chunks/{number:06d}.nut" for number in range(12)]
    for key in keys:
        put(store, key, key.encode())
    wanted = [*reversed(keys), keys[0]]
    with store.local_many(wanted) as paths:
        assert [path.read_text() for path in paths] == wanted
        assert all(path.name.endswith(".nut") for path in paths)
    with store.local_many([]) as paths:
        assert paths == []


def test_scratch_leaves_nothing(store: ObjectStore) -> None:
    with store.scratch() as folder:
        (folder / "left").write_bytes(b"1")
    assert not folder.exists()


def test_an_adopted_file_stays_where_it_is(store: ObjectStore, tmp_path: Path) -> None:
    mine = tmp_path / "mine.mp4"
    mine.write_bytes(b"video")
    store.adopt("jobs/a/source.mp4", mine)
    assert read(store, "jobs/a/source.mp4") == b"video"
    assert store.size("jobs/a/source.mp4") == 5
    store.delete("jobs/a")
    assert mine.read_bytes() == b"video"


def test_adopting_what_is_not_there_is_a_permanent_error(
    store: ObjectStore, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError) as caught:
        store.adopt("jobs/a/source.mp4", tmp_path / "nothing")
    assert caught.value.code is ErrorCode.SOURCE_MISSING


@pytest.mark.parametrize(
    "key", ["../x", "/etc/passwd", "a/../../b", "", "a//b", "a/", ".scratch/x"]
)
def test_a_key_never_leads_out_of_the_store(store: ObjectStore, key: str) -> None:
    for use in (store.exists, store.size, store.delete, lambda key: next(store.read(key))):
        with pytest.raises(ValueError, match="not a key"):
            use(key)
    with pytest.raises(ValueError, match="not a key"):
        store.write(key, [b"x"])


def test_a_store_gives_links_and_takes_direct_uploads_or_says_that_it_does_not(
    store: ObjectStore,
) -> None:
    direct = isinstance(store, DirectUploads)
    assert direct != isinstance(store, DirectoryStore)
    assert (store.link("x", 60, "x.mp4") is not None) == direct
