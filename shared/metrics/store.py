"""An object store whose operations are timed and whose failures are counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from shared.metrics.meter import Meter
from shared.storage.base import ObjectStore


def metered(store: ObjectStore, meter: Meter) -> ObjectStore:
    """`store` as a stage uses it, with its figures; itself where nothing is counted."""
    return MeteredStore(store, meter) if meter.on else store


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
        with self._meter.store("put"):
            return self._store.write(key, pieces)

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
