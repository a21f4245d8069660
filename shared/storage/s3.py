"""The object store on any server that speaks S3: SeaweedFS, Garage, Ceph, MinIO, AWS.

Objects up to a part's size are sent by one request, larger ones in parts: nothing shows before all
of it is there. Memory is bounded by a few parts, whatever the size. Nothing stays on the local disk
after use: as a rule no process reads an object twice (decoders: source and segments; encoders:
source and chunks), and a cache for all processes of a host would save one of a source's two
downloads at the price of its size on each disk.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import (
    DualfaceError,
    ErrorCode,
    PermanentError,
    StoreAwayError,
    StoreRefusedError,
    WorkOverError,
)
from shared.storage.base import PIECE_BYTES, OpenUpload, key_parts
from shared.storage.directory import missing, writing
from shared.storage.errands import (
    PAGE,
    Action,
    BadPartsError,
    Errand,
    Errands,
    ForbiddenError,
    NotThereError,
    OutOfRangeError,
    PassingError,
    T,
)
from shared.storage.scratch import Scratch

if TYPE_CHECKING:
    from shared.storage.s3client import S3Client

PART_BYTES = 8 << 20
"""S3 takes 10,000 parts of at least 5 MiB: so 78 GiB, more than a source may have."""
PARTS_MAX = 10_000
SENT_AT_ONCE = 2
FETCHED_AT_ONCE = 4
WINDOW_BYTES = 8 << 20
"""Of one request of `read`: no connection waits for whoever reads slowly."""
LAST_S = 2.0
"""For dropping an upload that failed, perhaps since the store is away."""

Part = tuple[int, str]
"""Number and ETag."""


class S3Store:
    """Objects are those of `bucket` whose keys begin with `prefix`/ (empty: all)."""

    def __init__(
        self,
        client: Callable[[], S3Client],
        bucket: str,
        prefix: str,
        scratch: Scratch,
        errands: Errands,
    ) -> None:
        """`client` is called once, when the first object is asked for. Does no I/O."""
        self._make_client = client
        self._made: S3Client | None = None
        self._bucket = bucket
        self._above = f"{prefix}/" if prefix else ""
        self._scratch = scratch
        self._errands = errands

    # --- the contract of every store --------------------------------------------------------------

    def check(self) -> None:
        with self.scratch() as folder, writing(folder):
            (folder / "check").write_bytes(bytes(4096))
        key, data = f".check/{secrets.token_hex(8)}", secrets.token_bytes(16)
        self._put_bytes(key, data)
        if b"".join(self.read(key)) != data or list(self.keys(".check")).count(key) != 1:
            raise StoreRefusedError(
                ErrorCode.STORE_REFUSED,
                f"The store {self._client.endpoint} does not give back what it was just given; is "
                "there an S3 server behind DUALFACE_S3_ENDPOINT?",
            )
        self.delete(key)

    def put(self, key: str, path: Path) -> None:
        self._put_file(key, path)

    def adopt(self, key: str, path: Path) -> None:
        if not path.is_file():
            raise PermanentError(ErrorCode.SOURCE_MISSING, f"There is no file {path}.")
        self._put_file(key, path)

    def write(self, key: str, pieces: Iterable[bytes]) -> int:
        name = self._name(key)
        parts = _parts_of(pieces)
        held = [next(parts, b"")]
        if len(held[0]) < PART_BYTES:
            self._put_bytes(key, held[0])
            return len(held[0])
        sent = 0

        def upcoming() -> Iterator[bytes]:
            yield held.pop()
            yield from parts

        def sending(upload: str) -> Iterator[Action[Part]]:
            nonlocal sent
            for number, data in enumerate(upcoming(), 1):
                if number > PARTS_MAX:
                    raise PermanentError(
                        ErrorCode.TOO_LARGE, f"More than {sent >> 30} GiB are too much for {key}."
                    )
                sent += len(data)
                yield partial(self._send_part, name, upload, number, data)
                del data

        self._upload(key, sending, lambda: sent)
        return sent

    def read(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        name = self._name(key)
        tag, at = "", start
        end = None if length is None else start + length
        while end is None or at < end:
            want = WINDOW_BYTES if end is None else min(WINDOW_BYTES, end - at)
            window = _Window(self._client, self._bucket, name, at, want)
            try:
                total, found, data = self._do(window)
            except NotThereError as error:
                raise missing(key) from error
            except OutOfRangeError:
                return
            if tag and found != tag:
                raise StoreAwayError(
                    ErrorCode.BUSY, f"The object {key} was replaced while it was read.", 0.5
                )
            tag, at = found, at + len(data)
            for offset in range(0, len(data), PIECE_BYTES):
                yield bytes(data[offset : offset + PIECE_BYTES])
            del data, window  # before the next one comes
            if at >= total:
                return

    @contextmanager
    def local(self, key: str) -> Iterator[Path]:
        with self.local_many([key]) as (path,):
            yield path

    @contextmanager
    def local_many(self, keys: Sequence[str]) -> Iterator[list[Path]]:
        names = [self._name(key) for key in keys]
        with self.scratch() as folder:
            paths = [
                folder / f"{number:06d}-{name.rpartition('/')[2]}"
                for number, name in enumerate(names)
            ]
            fetching = (
                _Download(self._client, self._bucket, name, path)
                for name, path in zip(names, paths, strict=True)
            )
            try:
                for _ in self._errands.each(fetching, FETCHED_AT_ONCE):
                    pass
            except NotThereError as error:
                raise missing(str(error).removeprefix(self._above)) from error
            yield paths

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with self._scratch.folder() as folder:
            yield folder

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        name = self._name(key)
        return self._do(partial(self._client.size, self._bucket, name))

    def keys(self, prefix: str) -> Iterator[str]:
        above = self._name(prefix) + "/"
        after = ""
        while True:
            page = self._do(partial(self._client.page, self._bucket, above, after))
            for name in page:
                yield name.removeprefix(self._above)
            if len(page) < PAGE:
                return
            after = page[-1]

    def delete(self, prefix: str) -> int:
        name = self._name(prefix)
        count = 0
        if self._tidy(partial(self._client.size, self._bucket, name)) is not None:
            self._tidy(partial(self._client.delete, self._bucket, [name]))
            count = 1
        after = ""
        while True:
            page = self._tidy(partial(self._client.page, self._bucket, f"{name}/", after))
            if page:
                self._tidy(partial(self._client.delete, self._bucket, page))
            count += len(page)
            if len(page) < PAGE:
                return count
            after = page[-1]

    def link(self, key: str, valid_s: int, name: str) -> str | None:
        return self._do(partial(self._client.link, self._bucket, self._name(key), valid_s, name))

    def clear_leftovers(self, older_than_s: float) -> int:
        count = self._scratch.clear()
        oldest = datetime.now(UTC) - timedelta(seconds=older_than_s)
        try:
            for upload in list(self._uploads(self._above, oldest)):
                self.abort(upload.key, upload.upload)
                count += 1
        except StoreRefusedError:
            # A server that keeps no such list, or rights without it: its lifecycle rules remain.
            pass
        return count

    # --- uploads by clients -----------------------------------------------------------------------

    def begin(self, key: str) -> str:
        return self._do(partial(self._client.begin, self._bucket, self._name(key)))

    def part_link(self, key: str, upload: str, number: int, valid_s: int) -> str:
        name = self._name(key)
        return self._do(
            partial(self._client.part_link, self._bucket, name, upload, number, valid_s)
        )

    def complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        try:
            self._do(partial(self._client.complete, self._bucket, self._name(key), upload, parts))
        except NotThereError as error:
            if self.size(key) is None:
                raise PermanentError(
                    ErrorCode.SOURCE_MISSING,
                    "There is no such upload (any more); begin another one.",
                ) from error
            # An answer that was lost: the upload was completed before.
        except BadPartsError as error:
            raise PermanentError(
                ErrorCode.BAD_OPTION,
                "The parts are not those that were sent; send them again, all but the last with at "
                "least 5 MiB, and give their numbers and ETags in order.",
            ) from error

    def abort(self, key: str, upload: str) -> None:
        with suppress(NotThereError):
            self._tidy(partial(self._client.abort, self._bucket, self._name(key), upload))

    def open_uploads(self, prefix: str, older_than: datetime) -> Iterator[OpenUpload]:
        return self._uploads(self._name(prefix) + "/", older_than)

    def _uploads(self, above: str, older_than: datetime) -> Iterator[OpenUpload]:
        after = ("", "")
        while True:
            before = after
            page, after = self._do(partial(self._client.uploads, self._bucket, above, before))
            for each in page:
                if each.begun < older_than:
                    key = each.key.removeprefix(self._above)
                    yield OpenUpload(key, each.upload, each.begun)
            if after in (before, ("", "")):
                return

    # --- how --------------------------------------------------------------------------------------

    @property
    def _client(self) -> S3Client:
        if self._made is None:
            self._made = self._make_client()
        return self._made

    def _name(self, key: str) -> str:
        """The object's key in the bucket."""
        return self._above + "/".join(key_parts(key))

    def _do(self, action: Action[T]) -> T:
        return self._errands.do(action)

    def _tidy(self, action: Action[T]) -> T:
        """For what has to be done all the more when the job has ended."""

        def look() -> None:
            with suppress(WorkOverError):
                self._errands.on_wait()

        return self._errands.do(action, look)

    def _put_file(self, key: str, path: Path) -> None:
        size = path.stat().st_size
        if size <= PART_BYTES:
            self._put_bytes(key, path.read_bytes())
            return
        name = self._name(key)
        length = max(PART_BYTES, -(-size // PARTS_MAX))

        def send(upload: str, number: int, errand: Errand) -> Part:
            start = (number - 1) * length
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(length)
            if len(data) != min(length, size - start):
                raise PermanentError(
                    ErrorCode.SOURCE_CHANGED, f"The file {path} changed while it was read."
                )
            return self._send_part(name, upload, number, data, errand)

        def sending(upload: str) -> Iterator[Action[Part]]:
            for number in range(1, -(-size // length) + 1):
                yield partial(send, upload, number)

        self._upload(key, sending, lambda: size)

    def _put_bytes(self, key: str, data: bytes) -> None:
        self._do(partial(self._client.put, self._bucket, self._name(key), data))

    def _send_part(self, name: str, upload: str, number: int, data: bytes, errand: Errand) -> Part:
        return number, self._client.part(self._bucket, name, upload, number, data, errand)

    def _upload(
        self,
        key: str,
        sending: Callable[[str], Iterator[Action[Part]]],
        size: Callable[[], int],
    ) -> None:
        """An object in parts: all of it, or nothing. `size` is asked at the end."""
        name = self._name(key)
        upload = self.begin(key)
        try:
            parts = sorted(part for _, part in self._errands.each(sending(upload), SENT_AT_ONCE))
            with suppress(NotThereError):  # the answer to an earlier try was lost, perhaps
                self._do(partial(self._client.complete, self._bucket, name, upload, parts))
            if self.size(key) != size():
                raise BadPartsError
        except BaseException as error:
            self._drop(name, upload)
            if isinstance(error, NotThereError | BadPartsError):
                raise StoreAwayError(
                    ErrorCode.BUSY, f"The store did not keep all of {key}; it is sent again.", 1.0
                ) from error
            raise

    def _drop(self, name: str, upload: str) -> None:
        """What can't be dropped now is found by `clear_leftovers`."""
        abort = partial(self._client.abort, self._bucket, name, upload)
        with suppress(DualfaceError, NotThereError):
            self._errands.do(abort, lambda: None, LAST_S)


class S3Buckets:
    """Buckets that sources may be taken from, beside the store."""

    def __init__(
        self,
        client: Callable[[], S3Client],
        buckets: Iterable[str],
        ours: tuple[str, str],
        errands: Errands,
    ) -> None:
        """`ours`: bucket and prefix of the store; nobody takes another's objects from there."""
        self._make_client = client
        self._buckets = frozenset(buckets)
        self._ours = ours
        self._errands = errands

    def fetch(
        self,
        bucket: str,
        key: str,
        into: Path,
        limit_bytes: int,
        on_piece: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Write the object into a new file; returns its bytes.

        `on_piece` is called several times a second with the bytes that are there so far. Raises
        PermanentError SOURCE_FORBIDDEN, SOURCE_MISSING, TOO_LARGE; what the store's methods raise.
        """
        self._check(bucket, key)
        download = _Download(self._make_client(), bucket, key, into, limit_bytes)

        def look() -> None:
            self._errands.on_wait()
            on_piece(download.have)

        try:
            self._errands.do(download, look)
        except NotThereError as error:
            raise PermanentError(
                ErrorCode.SOURCE_MISSING, f"There is no object s3://{bucket}/{key}."
            ) from error
        except ForbiddenError as error:
            raise PermanentError(
                ErrorCode.SOURCE_FORBIDDEN,
                f"This service may not read s3://{bucket}/{key}; grant it s3:GetObject there.",
            ) from error
        on_piece(download.have)
        return download.have

    def _check(self, bucket: str, key: str) -> None:
        ours, prefix = self._ours
        above = f"{prefix}/" if prefix else ""
        if bucket not in self._buckets or (bucket == ours and key.startswith(above)):
            raise PermanentError(
                ErrorCode.SOURCE_FORBIDDEN,
                f"Sources are not taken from s3://{bucket}/{key} here; allowed are the buckets of "
                "DUALFACE_S3_BUCKETS.",
            )


class _Window:
    """An action: some bytes of an object, with the object's size and ETag."""

    def __init__(self, client: S3Client, bucket: str, name: str, start: int, length: int) -> None:
        self._client = client
        self._what = bucket, name, start, length
        self._start, self._length = start, length

    def __call__(self, errand: Errand) -> tuple[int, str, bytearray]:
        with self._client.get(*self._what, errand) as body:
            wanted = min(self._length, body.total - self._start)
            data, left = bytearray(), wanted
            for piece in body.pieces:
                data += piece[:left]  # a server that knows no ranges sends more
                left = wanted - len(data)
                if left == 0:
                    break
            if left:
                raise PassingError("it broke off in the middle")
            return body.total, body.tag, data


class _Download:
    """An action: an object into a file. Goes on where an earlier try was broken off."""

    def __init__(
        self, client: S3Client, bucket: str, name: str, path: Path, limit_bytes: int | None = None
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._name = name
        self._path = path
        self._limit = limit_bytes
        self._tag = ""
        self.have = 0

    def __call__(self, errand: Errand) -> None:
        try:
            with self._client.get(self._bucket, self._name, self.have, None, errand) as body:
                if self.have and body.tag != self._tag:
                    raise OutOfRangeError
                self._tag = body.tag
                self._check(body.total)
                self._take(body.pieces, errand)
                if self.have != body.total:
                    raise PassingError("it broke off in the middle")
        except NotThereError as error:
            raise NotThereError(self._name) from error
        except OutOfRangeError as error:
            self.have = 0
            raise PassingError(f"{self._name} was replaced while it was read") from error

    def _take(self, pieces: Iterator[bytes], errand: Errand) -> None:
        with writing(self._path.parent), self._path.open("r+b" if self.have else "wb") as file:
            file.seek(self.have)
            for piece in pieces:
                self._check(self.have + len(piece))
                file.write(piece)
                self.have += len(piece)
                errand.gained()

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise PermanentError(
                ErrorCode.TOO_LARGE,
                f"The source has more than {self._limit} bytes, the most that are allowed.",
            )


def _parts_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of PART_BYTES; the last is shorter, and there is none of no bytes."""
    gathered: list[memoryview] = []
    size = 0

    def take() -> bytes:
        data = b"".join(gathered)
        gathered.clear()
        return data

    for piece in pieces:
        view = memoryview(piece)
        while view:
            fits = view[: PART_BYTES - size]
            gathered.append(fits)
            view, size = view[len(fits) :], size + len(fits)
            del fits
            if size == PART_BYTES:
                size = 0
                yield take()
    if gathered:
        yield take()
