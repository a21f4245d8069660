"""Labelled sets: which faces are in which pictures, as somebody drew them.

Formats, told by the file's suffix: `.xml` is dlib's (imglab), `.txt` WIDER FACE's, `.json` and
`.csv` are our own (docs/int8.md). Boxes are px of the picture as it is stored.
"""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from pydantic import Field, ValidationError

from shared.errors import ErrorCode, PermanentError
from shared.jobs import Model
from shared.models.precision import Condition

LABEL_BYTES_MAX = 256 * 1024 * 1024
"""WIDER FACE's training set has 5 MB."""


@dataclass(frozen=True)
class LabelledFace:
    """A face somebody drew. `ignored`: a detection of it counts neither for nor against a model.
    `condition` is None where the set does not name one."""

    x: float
    y: float
    w: float
    h: float
    ignored: bool = False
    condition: Condition | None = None


@dataclass(frozen=True)
class LabelledPicture:
    """`file` is the picture's path; `name` as the set calls it; `condition` names that of all."""

    name: str
    file: Path
    faces: tuple[LabelledFace, ...]
    condition: Condition | None = None


class JsonFace(Model):
    """A face in our JSON format, px."""

    x: float = Field(allow_inf_nan=False)
    y: float = Field(allow_inf_nan=False)
    w: float = Field(allow_inf_nan=False)
    h: float = Field(allow_inf_nan=False)
    ignore: bool = False
    condition: Condition | None = None


class JsonPicture(Model):
    """A picture in our JSON format."""

    file: str
    condition: Condition | None = None
    faces: tuple[JsonFace, ...] = ()


class JsonSet(Model):
    """Our JSON format."""

    pictures: tuple[JsonPicture, ...]


def read_labels(labels: Path, images: Path | None = None) -> list[LabelledPicture]:
    """The set in the file `labels`; its pictures lie in `images`, by default beside it.

    Reads no picture. Raises PermanentError: SOURCE_MISSING when the file or a picture is not there,
    SOURCE_UNREADABLE when it can't be read, BAD_OPTION when what it says can't be, SOURCE_EMPTY
    when it has no picture or no face.
    """
    reader = _READERS.get(labels.suffix.lower())
    if reader is None:
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"{labels} is no labelled set: its name must end with one of {', '.join(_READERS)} "
            "(docs/int8.md describes the formats).",
        )
    text = _text(labels)
    try:
        found = list(reader(text))
    except (_UnlikeError, csv.Error) as error:
        raise PermanentError(ErrorCode.SOURCE_UNREADABLE, f"{labels}: {error}.") from error
    pictures = [_checked(each, labels, images or labels.parent) for each in found]
    _check_not_empty(labels, pictures)
    return pictures


class _UnlikeError(Exception):
    """The text is not of its format; says where."""


def _text(labels: Path) -> str:
    try:
        if labels.stat().st_size > LABEL_BYTES_MAX:
            raise PermanentError(ErrorCode.TOO_LARGE, f"{labels} is too large for a list of faces.")
        data = labels.read_bytes()
    except FileNotFoundError as error:
        raise PermanentError(
            ErrorCode.SOURCE_MISSING, f"The file of labels {labels} does not exist."
        ) from error
    except OSError as error:
        raise PermanentError(
            ErrorCode.SOURCE_UNREADABLE,
            f"The file of labels {labels} can't be read ({error.strerror}).",
        ) from error
    return data.decode("utf-8-sig", errors="replace")


def _checked(picture: LabelledPicture, labels: Path, images: Path) -> LabelledPicture:
    """With its path. A name that leads out of the folder is refused: the report shows pictures."""
    name = PurePosixPath(picture.name.replace("\\", "/"))
    if not picture.name or name.is_absolute() or ".." in name.parts:
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"{labels} names the picture {picture.name!r}, which is not a path inside a folder.",
        )
    for face in picture.faces:
        if not face.ignored and (face.w <= 0 or face.h <= 0):
            raise PermanentError(
                ErrorCode.BAD_OPTION, f"{labels}: a face in {picture.name} has no size."
            )
    file = images / name
    if not file.is_file():
        raise PermanentError(
            ErrorCode.SOURCE_MISSING,
            f"The picture {picture.name} of {labels} is not in {images}; name its folder by "
            "--images.",
        )
    return LabelledPicture(picture.name, file, picture.faces, picture.condition)


def _check_not_empty(labels: Path, pictures: list[LabelledPicture]) -> None:
    if not pictures:
        raise PermanentError(ErrorCode.SOURCE_EMPTY, f"{labels} lists no picture.")
    if not any(not face.ignored for picture in pictures for face in picture.faces):
        raise PermanentError(ErrorCode.SOURCE_EMPTY, f"{labels} labels no face.")
    names = [picture.name for picture in pictures]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PermanentError(ErrorCode.BAD_OPTION, f"{labels} lists {twice} twice.")


def _read_dlib(text: str) -> Iterator[LabelledPicture]:
    """dlib's XML. `ignore` is followed, and `occluded`, which imglab can set."""
    if "<!ENTITY" in text:
        raise _UnlikeError("it defines entities, which no list of faces needs")
    try:
        # what it says of its encoding does not hold any more
        root = ElementTree.fromstring(text[max(0, text.find("<dataset")) :])
    except ElementTree.ParseError as error:
        raise _UnlikeError(f"it is not XML ({error})") from error
    if root.tag != "dataset":
        raise _UnlikeError("it is not dlib's format (no <dataset>)")
    for image in root.iter("image"):
        faces = []
        for box in image.iter("box"):
            at = {name: _number(box.get(name), "a box") for name in ("left", "top")}
            size = {name: _number(box.get(name), "a box") for name in ("width", "height")}
            faces.append(
                LabelledFace(
                    at["left"],
                    at["top"],
                    size["width"],
                    size["height"],
                    box.get("ignore") == "1",
                    Condition.OCCLUSION if box.get("occluded") == "1" else None,
                )
            )
        yield LabelledPicture(image.get("file", ""), Path(), tuple(faces))


def _read_wider(text: str) -> Iterator[LabelledPicture]:
    """WIDER FACE: a path, a count, and so many lines (one of zeros where there is no face) of
    x y w h blur expression illumination invalid occlusion pose."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    at = 0
    while at < len(lines):
        name, count = lines[at], lines[at + 1] if at + 1 < len(lines) else ""
        if not count.isdigit():
            raise _UnlikeError(f"after the picture {name[:80]!r} there is no number of faces")
        at += 2
        rows = lines[at : at + max(1, int(count))]
        if int(count) == 0 and not (rows and _is_zeros(rows[0])):
            rows = []
        if len(rows) < int(count):
            raise _UnlikeError(f"there are fewer faces of {name[:80]!r} than it says")
        at += len(rows)
        faces = [_wider_face(row, name) for row in rows] if int(count) else []
        yield LabelledPicture(name, Path(), tuple(faces))


def _is_zeros(row: str) -> bool:
    return set(row.split()) == {"0"}


def _wider_face(row: str, name: str) -> LabelledFace:
    parts = [_number(part, f"a face of {name[:80]!r}") for part in row.split()]
    if len(parts) not in (4, 10):
        raise _UnlikeError(
            f"a face of {name[:80]!r} has {len(parts)} numbers; 4 or 10 are expected"
        )
    blur, _, _, invalid, occlusion, pose = parts[4:] or [0.0] * 6
    condition = None
    if occlusion > 0:
        condition = Condition.OCCLUSION
    elif pose > 0:
        condition = Condition.PROFILE
    elif blur > 1:
        condition = Condition.MOTION_BLUR
    x, y, w, h = parts[:4]
    return LabelledFace(x, y, w, h, invalid > 0 or w <= 0 or h <= 0, condition)


def _read_json(text: str) -> Iterator[LabelledPicture]:
    try:
        given = JsonSet.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _UnlikeError(f"{where}: {first['msg']}") from error
    for picture in given.pictures:
        faces = (
            LabelledFace(face.x, face.y, face.w, face.h, face.ignore, face.condition)
            for face in picture.faces
        )
        yield LabelledPicture(picture.file, Path(), tuple(faces), picture.condition)


def _read_csv(text: str) -> Iterator[LabelledPicture]:
    """A line per face: file,x,y,w,h and, if wanted, condition and ignore; a picture without faces
    has one line with nothing but its name."""
    rows = csv.DictReader(io.StringIO(text))
    missing = {"file", "x", "y", "w", "h"} - set(rows.fieldnames or ())
    if missing:
        raise _UnlikeError(
            f"its first line lacks {', '.join(sorted(missing))}; it must be file,x,y,w,h or "
            "file,x,y,w,h,condition,ignore, with commas, in UTF-8"
        )
    pictures: dict[str, list[LabelledFace]] = {}
    for number, row in enumerate(rows, 2):
        faces = pictures.setdefault(row["file"] or "", [])
        if not any(row[name] for name in ("x", "y", "w", "h")):
            continue
        x, y, w, h = (_number(row[name], f"line {number}") for name in ("x", "y", "w", "h"))
        named = (row.get("condition") or "").strip()
        if named and named not in set(Condition):
            raise _UnlikeError(f"line {number}: there is no condition {named[:80]!r}")
        ignored = (row.get("ignore") or "").strip().lower() in ("1", "true", "yes")
        faces.append(LabelledFace(x, y, w, h, ignored, Condition(named) if named else None))
    for name, each in pictures.items():
        yield LabelledPicture(name, Path(), tuple(each))


def _number(text: str | None, where: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = float("nan")
    if not abs(number) < 1e9:
        raise _UnlikeError(
            f"{where} has {repr(text) if text else 'nothing'} where a number must be"
        )
    return number


_READERS: Mapping[str, Callable[[str], Iterator[LabelledPicture]]] = MappingProxyType(
    {".xml": _read_dlib, ".json": _read_json, ".csv": _read_csv, ".txt": _read_wider}
)
