"""Sources as they come in: from the connection straight into the store, never whole in memory.

The event loop reads and parses, a thread writes; between them lie at most AHEAD pieces, so a slow
store slows its sender down and nothing piles up.
"""

from __future__ import annotations

import asyncio
import hashlib
import queue
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from services.coordinator.api.service import Service
from shared.errors import DualfaceError, ErrorCode, PermanentError, TemporaryError
from shared.keys import ApiKey
from shared.uploads import suffix_of

AHEAD = 8
AT_ONCE = 16
"""Uploads of one process: each has a thread and a connection to the store."""
STALL_S = 60.0
"""Longest silence of a sender."""
SPEC_BYTES_MAX = 64 * 1024
FORM_PARTS_MAX = 8

_writers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload")


@dataclass
class Form:
    """What an upload form brought: a file of `size` bytes with this SHA-256 ("": not asked for),
    in the store under `key` if it is `stored`."""

    name: str = ""
    key: str = ""
    spec: str = ""
    size: int = 0
    digest: str = ""
    stored: bool = False


class Inflow:
    """An object of the store that is being written while its bytes come in."""

    def __init__(
        self, service: Service, key: str, limit: int, *, keep: bool = True, digest: bool = False
    ) -> None:
        """`limit`: most bytes. Without `keep` they are dropped. `digest`: SHA-256 is asked for."""
        self._sum = hashlib.sha256() if digest else None
        self._limit = limit
        self._bytes = 0
        self._space = asyncio.Semaphore(AHEAD)
        self._pieces: queue.SimpleQueue[bytes | DualfaceError | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        store = service.store

        def write() -> int:
            return store.write(key, self._taken()) if keep else sum(map(len, self._taken()))

        self._writer = self._loop.run_in_executor(_writers, write)
        # It may fail while nobody has a piece for it: whoever waits for space learns of it.
        self._writer.add_done_callback(lambda _: self._space.release())

    async def put(self, piece: bytes) -> None:
        """One more piece. Raises PermanentError TOO_LARGE, and what the store raises."""
        self._bytes += len(piece)
        if self._bytes > self._limit:
            raise too_large(self._limit)
        await self._space.acquire()
        if self._writer.done():
            await self._writer
            raise TemporaryError(ErrorCode.BUSY, "The store stopped taking the upload.", 5.0)
        self._pieces.put(piece)

    async def finish(self) -> int:
        """That was all; how many bytes are in the store."""
        self._pieces.put(None)
        return await self._writer

    @property
    def digest(self) -> str:
        """Of all bytes, when it is finished; "" where it was not asked for."""
        return "" if self._sum is None else self._sum.hexdigest()

    async def abandon(self) -> None:
        """Nothing of it stays."""
        self._pieces.put(TemporaryError(ErrorCode.BUSY, "The upload was broken off."))
        await asyncio.gather(self._writer, return_exceptions=True)

    def _taken(self) -> Iterator[bytes]:
        """In the writer's thread."""
        while True:
            # The sender's own time limit comes first; this one is for a lost event loop.
            piece = self._pieces.get(timeout=4 * STALL_S)
            if piece is None:
                return
            if isinstance(piece, DualfaceError):
                raise piece
            self._loop.call_soon_threadsafe(self._space.release)
            if self._sum is not None:
                self._sum.update(piece)
            yield piece


async def receive_body(
    request: Request, service: Service, key: str, limit: int, check: Callable[[int], None]
) -> int:
    """Store a request's body as the object `key`; how many bytes. Raises DualfaceError.

    `check` is called in a thread with that number before the object is there: what it raises
    passes, and what was stored under `key` before stays.
    """
    check_length(request, limit)
    flow = Inflow(service, key, limit)
    size = 0
    try:
        async for piece in _pieces(request):
            size += len(piece)
            await flow.put(piece)
        await run_in_threadpool(check, size)
        return await flow.finish()
    except BaseException:
        await flow.abandon()
        raise


async def receive_form(
    request: Request,
    service: Service,
    key: ApiKey,
    place: Callable[[str], str],
    check: Callable[[Form], object],
    *,
    keep: bool,
    digest: bool,
) -> Form:
    """Store the file of a multipart/form-data request under what `place` makes of its suffix;
    without `keep` it is read and dropped. `digest`: SHA-256 is asked for.

    `check` is called in a thread before the object is there, and also before the first byte where
    `spec` came before the file: what it raises passes, and nothing is stored.
    """
    limit = upload_limit(service, key)
    check_length(request, limit, beside=SPEC_BYTES_MAX)
    reader = _FormReader(request.headers["content-type"])
    flow: Inflow | None = None
    try:
        async for piece in _pieces(request):
            reader.feed(piece)
            if reader.file_name is not None and not reader.form.key:
                reader.form.key = place(suffix_of(reader.form.name))
                if reader.form.spec:
                    await run_in_threadpool(check, reader.form)
                flow = Inflow(service, reader.form.key, limit, keep=keep, digest=digest)
            for data in reader.taken():
                reader.form.size += len(data)
                if flow is not None:
                    await flow.put(data)
        reader.close()
        if flow is None:
            raise PermanentError(ErrorCode.BAD_OPTION, "file: the form has no file of that name.")
        if not reader.form.size:
            raise PermanentError(ErrorCode.BAD_OPTION, "file: it is empty; it is to be the video.")
        await run_in_threadpool(check, reader.form)
        await flow.finish()
        reader.form.digest, reader.form.stored = flow.digest, keep
    except BaseException:
        if flow is not None:
            await flow.abandon()
        raise
    return reader.form


def upload_limit(service: Service, key: ApiKey) -> int:
    """Most bytes that `key` may send at once."""
    return min(key.most_bytes or service.limits.size_bytes, service.limits.size_bytes)


def check_length(request: Request, limit: int, beside: int = 0) -> None:
    """Raises PermanentError TOO_LARGE before a byte is read, where the sender says how many.

    `beside`: most bytes that come with those of the source.
    """
    text = request.headers.get("content-length", "")
    if text.isdecimal() and int(text) > limit + beside:
        raise too_large(limit)


def too_large(limit: int) -> PermanentError:
    """The error for an upload beyond `limit` bytes."""
    return PermanentError(ErrorCode.TOO_LARGE, f"More than {limit} bytes, the most for a source.")


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes; a sender that is silent for STALL_S is given up."""
    stream = request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise TemporaryError(
                ErrorCode.BUSY, f"Nothing came for {STALL_S:.0f} s; send it again.", 1.0
            ) from error
        if piece:
            yield piece


@dataclass
class _FormReader:
    """The state of the multipart parser: which part is being read, and what came of it."""

    content_type: str
    form: Form = field(default_factory=Form)
    file_name: str | None = None
    _header: tuple[bytes, bytes] = (b"", b"")
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _part: str = ""
    _parts: int = 0
    _spec: bytearray = field(default_factory=bytearray)
    _file: list[bytes] = field(default_factory=list)
    _ended: bool = False

    def __post_init__(self) -> None:
        _, options = parse_options_header(self.content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise PermanentError(ErrorCode.BAD_OPTION, "multipart/form-data without a boundary.")
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._name_of_header,
                "on_header_value": self._value_of_header,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_data,
                "on_part_data": self._data,
                "on_end": self._end,
            },
        )

    def feed(self, piece: bytes) -> None:
        """Parse one more piece. Raises PermanentError BAD_OPTION for what is no form."""
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise PermanentError(ErrorCode.BAD_OPTION, f"The form is broken ({error}).") from error

    def taken(self) -> list[bytes]:
        """The file's bytes that came since the last call."""
        taken, self._file = self._file, []
        return taken

    def close(self) -> None:
        """The body has ended. Raises PermanentError BAD_OPTION when the form has not."""
        if not self._ended:
            raise PermanentError(ErrorCode.BAD_OPTION, "The form ends in the middle.")
        self.form.spec = self._spec.decode(errors="replace")

    def _begin_part(self) -> None:
        self._headers, self._header = {}, (b"", b"")
        self._parts += 1
        if self._parts > FORM_PARTS_MAX:
            raise PermanentError(ErrorCode.BAD_OPTION, "The form has too many parts.")

    def _name_of_header(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def _value_of_header(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])

    def _end_header(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = (b"", b"")

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._part = options.get(b"name", b"").decode(errors="replace")
        if self._part == "file":
            if self.file_name is not None:
                raise PermanentError(ErrorCode.BAD_OPTION, "file: only one, please.")
            self.file_name = _plain(options.get(b"filename", b"").decode(errors="replace"))
            self.form.name = self.file_name.replace("\\", "/").rpartition("/")[2][:255]
            self.form.spec = self._spec.decode(errors="replace")  # if it came first
        elif self._part != "spec":
            raise PermanentError(
                ErrorCode.BAD_OPTION, "The form has a part that is neither `file` nor `spec`."
            )

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part == "file":
            self._file.append(data[start:end])
        elif self._part == "spec":
            self._spec += data[start:end]
            if len(self._spec) > SPEC_BYTES_MAX:
                raise PermanentError(ErrorCode.TOO_LARGE, "spec: more than 64 KiB.")

    def _end(self) -> None:
        self._ended = True


def _plain(name: str) -> str:
    """A file's name as it was before it went into a form: browsers and curl hide these three
    characters so, and no other (HTML standard, multipart/form-data)."""
    for hidden, meant in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
        name = name.replace(hidden, meant)
    return name
