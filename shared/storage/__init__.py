"""The object store, as the settings choose it: a folder, or a bucket of an S3 server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.errors import ErrorCode, PermanentError, StoreAwayError, StoreRefusedError
from shared.settings import Settings
from shared.settings.sections.storage import place_of
from shared.storage.base import ObjectStore
from shared.storage.directory import DirectoryStore
from shared.storage.scratch import Scratch

if TYPE_CHECKING:
    from shared.storage.s3 import S3Buckets, S3Store
    from shared.storage.s3client import S3Client

PATIENCE_S = 60.0
"""Of workers: an outage of 20 s, a server's restart among them, is not worth giving work back."""
START_PATIENCE_S = 5.0


def open_store(
    settings: Settings,
    *,
    patience_s: float = PATIENCE_S,
    on_wait: Callable[[], None] = lambda: None,
) -> ObjectStore:
    """The store of all jobs; does no I/O yet.

    `patience_s`: how long a call to a server that is away is repeated. `on_wait` is called several
    times a second by whoever waits for it, and may raise to end the waiting. Raises PermanentError
    BAD_OPTION for settings that can't be right.
    """
    if not settings.store:
        return DirectoryStore(settings.store_path)
    return _open_s3(settings, patience_s, on_wait)


def open_buckets(
    settings: Settings,
    *,
    patience_s: float = PATIENCE_S,
    on_wait: Callable[[], None] = lambda: None,
) -> S3Buckets:
    """The other buckets that sources may be taken from; like `open_store`."""
    from shared.storage.errands import Errands  # only where S3 is used
    from shared.storage.s3 import S3Buckets

    ours = place_of(settings.store) if settings.store else ("", "")
    errands = Errands(_server(settings), patience_s, on_wait)
    return S3Buckets(_client_of(settings), settings.s3_buckets, ours, errands)


def check_store(settings: Settings) -> None:
    """See that the store can be used. Raises PermanentError with one sentence when it can't."""
    store = open_store(settings, patience_s=START_PATIENCE_S)
    try:
        store.check()
    except StoreAwayError as error:
        raise PermanentError(
            ErrorCode.STACK_FAILED, f"{error.message} Is DUALFACE_S3_ENDPOINT right?"
        ) from error


def clear_scratch(settings: Settings) -> None:
    """Remove what dead processes left on the local disk; only while no other process uses the state
    folder."""
    if not settings.store:
        DirectoryStore(settings.store_path).clear_scratch()
    elif settings.scratch_dir is None:
        shutil.rmtree(settings.scratch_path, ignore_errors=True)
    else:
        Scratch(settings.scratch_path).clear()  # others may use it


def _open_s3(settings: Settings, patience_s: float, on_wait: Callable[[], None]) -> S3Store:
    from shared.storage.errands import Errands  # only where S3 is used
    from shared.storage.s3 import S3Store

    bucket, prefix = place_of(settings.store)
    scratch = Scratch(settings.scratch_path)
    errands = Errands(_server(settings), patience_s, on_wait)
    return S3Store(_client_of(settings), bucket, prefix, scratch, errands)


def _client_of(settings: Settings) -> Callable[[], S3Client]:
    def make() -> S3Client:
        # 0.2 s of importing, which no process spends that never touches an object.
        from shared.storage.s3client import S3Client

        try:
            return S3Client(settings)
        except StoreRefusedError:
            raise
        except PermanentError as error:
            # Not the fault of the job that is the first to meet it.
            raise StoreRefusedError(ErrorCode.STORE_REFUSED, error.message) from error

    return make


def _server(settings: Settings) -> str:
    return settings.s3_endpoint or "AWS S3"
