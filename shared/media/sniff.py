"""Why a file is no video, in one sentence for people; looks at names and first bytes only."""

from __future__ import annotations

from pathlib import Path

from shared.errors import ErrorCode, PermanentError

_HEAD_BYTES = 4096
_MOST_BOXES = 4096

_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"\x00\x00\x01\x00", "icon"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
)
_IMAGE_BRANDS = (b"mif1", b"heic", b"heix", b"avif", b"heim", b"heis", b"jxl ")
_PLAYLISTS = (
    *(b"#extm3u", b"ffconcat", b"v=0\r", b"v=0\n", b"[playlist]", b"[reference]", b"rtsptext"),
    *(b"<asx", b"<smil", b"<?wpl"),
)
_BOM = b"\xef\xbb\xbf"


def refuse_obvious(path: Path, most_bytes: int, name: str | None = None) -> None:
    """Raise PermanentError for what needs no demuxer to be refused; also for playlists.

    `name`: as in `shown_name`.
    """
    name = shown_name(path, name)
    if not path.exists():
        raise PermanentError(
            ErrorCode.SOURCE_MISSING, f"There is no file {name}: check its name and place."
        )
    if not path.is_file():
        raise PermanentError(
            ErrorCode.SOURCE_UNREADABLE, f"{name} is not a file: name one video file."
        )
    size = path.stat().st_size
    if size == 0:
        raise PermanentError(
            ErrorCode.SOURCE_EMPTY, f"{name} is empty (0 bytes): copy or upload it again."
        )
    if size > most_bytes:
        raise PermanentError(
            ErrorCode.TOO_LARGE,
            f"{name} has {size} bytes, more than the {most_bytes} allowed "
            "(DUALFACE_SOURCE_MAX_SIZE_BYTES): cut or compress it first.",
        )
    kind = _kind(_head(path, name))
    if kind is not None:
        raise PermanentError(ErrorCode.NOT_A_VIDEO, f"{name} is {kind}, not a video.")


def shown_name(path: Path, name: str | None = None) -> str:
    """The file's name for a sentence: control characters would break or colour the line.

    `name`: what people call it, where that is not the name it lies under; "" where they have none.
    """
    called = path.name if name is None else name
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in called or "The file"
    )


def explain_unreadable(path: Path, error: Exception, name: str | None = None) -> PermanentError:
    """The PermanentError for a file that no allowed demuxer could open because of `error`.

    `name`: as in `shown_name`.
    """
    name = shown_name(path, name)
    if isinstance(error, PermissionError):
        return PermanentError(
            ErrorCode.SOURCE_UNREADABLE, f"{name} may not be read: check its permissions."
        )
    if b"ftyp" in _head(path, name)[4:8] and not _has_box(path, b"moov"):
        return PermanentError(
            ErrorCode.SOURCE_UNREADABLE,
            f"{name} has no MP4 header (moov): the recording or upload was cut off, "
            "get the whole file.",
        )
    return PermanentError(
        ErrorCode.NOT_A_VIDEO,
        f"{name} is in no known video format or is damaged: "
        "choose a video such as MP4, MOV, MKV or WebM.",
    )


def _head(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise PermanentError(
            ErrorCode.SOURCE_UNREADABLE, f"{name} can't be read: {error.strerror}."
        ) from error


def _kind(head: bytes) -> str | None:
    for magic, name in _IMAGES:
        # Two-byte marks need a second look: a raw video stream may begin with them.
        if head.startswith(magic) and (len(magic) > 2 or name != "BMP" or head[6:10] == bytes(4)):
            return f"an image ({name})"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "an image (WebP)"
    if head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS:
        return "an image (HEIF)"
    if _is_playlist(head):
        return "a playlist that points to other files"
    return "a text file" if _is_text(head) else None


def _is_playlist(head: bytes) -> bool:
    """Players forgive what stands before the mark, and so must this."""
    start = head.removeprefix(_BOM).lstrip()[:1024].lower()
    return start.startswith(_PLAYLISTS) or b"<mpd" in start


def _is_text(head: bytes) -> bool:
    if head.startswith(b"YUV4MPEG2") or any(c < 9 for c in head):
        return False
    try:
        # The last character may be cut in the middle.
        head[:-4].decode("utf-8") if len(head) == _HEAD_BYTES else head.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) == _HEAD_BYTES and error.start >= len(head) - 8
    return True


def _has_box(path: Path, wanted: bytes) -> bool:
    """True when the top level of an MP4 file has box `wanted` (ISO/IEC 14496-12, 4.2)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        position = 0
        for _ in range(_MOST_BOXES):
            file.seek(position)
            header = file.read(16)
            if len(header) < 8:
                return False
            if header[4:8] == wanted:
                return True
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            position += length if length >= 8 else size
            if position >= size:
                return False
    return False
