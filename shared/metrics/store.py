"""An object store whose operations are timed and whose failures are counted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from shared.metrics.meter import Meter
from shared.storage.base import DirectUploads, ObjectStore, OpenUpload


def metered(store: ObjectStore, meter: Meter) -> ObjectStore:
    """`store` as a process uses it, with its figures; itself where nothing is counted."""
    if not meter.on:
        return store
    if isinstance(store, DirectUploads):
        return MeteredDirectStore(store, store, meter)
    return MeteredStore(store, meter)


class MeteredStore:
    """An ObjectStore in front of another one. Listing and reading piece by piece go as fast as
    their caller does, so only their failures to begin are told by the store behind."""

    def __init__(self, store: ObjectStore, meter: Meter) -> None:
        self._store = store
        self._meter = meter

    def check(self) -> None:
        """See ObjectStore, as for all that follow."""
        self._store.check()

    def put(self, key: str, path: Path) -> None:
        with self._meter.store("put"):
            self._store.put(key, path)

    def adopt(self, key: str, path: Path) -> None:
        with self._meter.store("put"):
            self._store.adopt(key, path)

    def write(self, key: str, pieces: Iterable[bytes]) -> int:
        given = _Given(pieces)
        with self._meter.store("put", lambda: given.waited_s, lambda: given.broken):
            return self._store.write(key, given)

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        return self._store.read(key, start, length)

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        with ExitStack() as stack:
            with self._meter.store("get"):
                path = stack.enter_context(self._store.local(key))
            yield path

    @contextmanager
    def local_many(self, keys: Sequence[str]) -> Iterator[list[Path]]:
        with ExitStack() as stack:
            with self._meter.store("get"):
                paths = stack.enter_context(self._store.local_many(keys))
            yield paths

    def scratch(self) -> AbstractContextManager[Path]:
        return self._store.scratch()

    def exists(self, key: str) -> bool:
        with self._meter.store("stat"):
            return self._store.exists(key)

    def size(self, key: str) -> int | None:
        with self._meter.store("stat"):
            return self._store.size(key)

    def keys(self, prefix: str) -> Iterator[str]:
        return self._store.keys(prefix)

    def delete(self, prefix: str) -> int:
        with self._meter.store("delete"):
            return self._store.delete(prefix)

    def link(self, key: str, valid_s: int, name: str) -> str | None:
        return self._store.link(key, valid_s, name)

    def clear_leftovers(self, older_than_s: float) -> int:
        return self._store.clear_leftovers(older_than_s)


class MeteredDirectStore(MeteredStore):
    """One that clients may send objects to past us: what we do for that is counted."""

    def __init__(self, store: ObjectStore, direct: DirectUploads, meter: Meter) -> None:
        """`direct` is the same store."""
        super().__init__(store, meter)
        self._direct = direct

    def begin(self, key: str) -> str:
        """See DirectUploads, as for all that follow."""
        with self._meter.store("put"):
            return self._direct.begin(key)

    def part_link(self, key: str, upload: str, number: int, valid_s: int) -> str:
        return self._direct.part_link(key, upload, number, valid_s)

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        with self._meter.store("put"):
            self._direct.complete(key, upload, parts)

    def abort(self, key: str, upload: str) -> None:
        with self._meter.store("delete"):
            self._direct.abort(key, upload)

    def open_uploads(self, prefix: str, older_than: datetime) -> Iterator[OpenUpload]:
        return self._direct.open_uploads(prefix, older_than)


class _Given:
    """What a caller gives piece by piece: how long it was waited for, and whether it broke off.
    Neither is the store's."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.waited_s = 0.0
        self.broken = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        since = time.monotonic()
        try:
            return next(self._pieces)
        except StopIteration:
            raise
        except BaseException:
            self.broken = True
            raise
        finally:
            self.waited_s += time.monotonic() - since
