"""Which frames INT8's ranges are measured on: probed, sorted by condition, sampled in balance."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame

from services.infer.engines.onnx_cpu import OnnxCpuDetector
from services.infer.families import Array, Candidates
from services.infer.lab.conditions import condition_of
from shared.assets import sha256_of
from shared.errors import ErrorCode, PermanentError
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes
from shared.models import ModelEntry
from shared.models.precision import CalibrationFrame, Condition

Picture = npt.NDArray[np.uint8]
"""(rows, columns, 3) as B, G, R."""

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

PROBED_PER_WANTED = 3
"""Frames looked at per frame wanted, so that rare conditions are among them."""

SEEK_BEYOND_S = 60.0
"""Longer videos are not decoded whole: each probe goes to its time."""

FRAMES_MAX = 20_000
"""Of a video that does not say how long it is, no more are decoded."""

SIDE_MAX = 16_384

_GIVE = "give videos or pictures"


@dataclass(frozen=True)
class Probe:
    """One picture that might be calibrated on; `index` counts the probes of its file."""

    file: Path
    index: int
    time_s: float | None
    picture: Picture


@dataclass(frozen=True)
class Found:
    """What was found out about a probe, without its pixels."""

    file: Path
    index: int
    time_s: float | None
    condition: Condition
    pixels_sha256: str


class RecordingDetector(OnnxCpuDetector):
    """The detector as workers use it, which also keeps what the model was given.

    A frame with few faces is looked at twice, so that ranges are measured at both sizes.
    """

    def __init__(self, entry: ModelEntry, path: Path) -> None:
        self.given: list[Array] = []
        super().__init__(entry, path)

    def faces(self, picture: Picture) -> tuple[Face, ...]:
        """Faces of one picture; `given` has then its inputs alone."""
        self.given = []
        planes, layout = planes_of(picture)
        return self.detect([planes], layout)[0]

    def _candidates(self, picture: Array) -> Candidates:
        self.given.append(picture)
        return super()._candidates(picture)


def planes_of(picture: Picture) -> tuple[Planes, FrameLayout]:
    """As a decoded frame would be; an odd last row or column is left out."""
    height, width = picture.shape[0] & ~1, picture.shape[1] & ~1
    even = np.ascontiguousarray(picture[:height, :width])
    packed = np.asarray(cv2.cvtColor(even, cv2.COLOR_BGR2YUV_I420), dtype=np.uint8)
    layout = FrameLayout(width=width, height=height)
    return layout.planes(packed.reshape(-1)), layout


def luma_of(picture: Picture) -> Picture:
    """(rows, columns), full range."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), dtype=np.uint8)


def read_image(path: Path, *, labelled: bool = False) -> Picture:
    """A picture file, upright; one of a `labelled` set as it is stored, which its boxes are px of.

    Raises PermanentError SOURCE_UNREADABLE, TOO_LARGE.
    """
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if labelled else 0)
    advice = "mend it, or take it out of the labels" if labelled else _GIVE
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        read = cv2.imdecode(data, flags) if data.size else None
    except (OSError, cv2.error) as error:
        reason = getattr(error, "strerror", None) or "damaged, or too large"
        raise _unreadable(path, reason, advice) from error
    if read is None or min(read.shape[:2]) < 2:
        raise _unreadable(path, "it is no picture", advice)
    if max(read.shape[:2]) > SIDE_MAX:
        raise PermanentError(ErrorCode.TOO_LARGE, f"The picture {path} is too large.")
    return np.asarray(read, dtype=np.uint8)


def probe(path: Path, wanted: int) -> Iterator[Probe]:
    """About `wanted` pictures of a file, spread evenly; of an image, itself.

    Which ones follows from the file alone. Raises PermanentError when there is none.
    """
    if path.suffix.lower() in IMAGES:
        yield Probe(path, 0, None, read_image(path))
        return
    seen = 0
    try:
        for seen, frame in enumerate(_frames(path, wanted), 1):
            yield Probe(path, seen - 1, frame.time, _upright(frame))
    except (av.error.FFmpegError, OSError) as error:
        if not seen:
            reason = getattr(error, "strerror", None) or str(error)
            raise _unreadable(path, reason) from error
        # damaged further on: what came until there was shown
    if not seen:
        raise _unreadable(path, "it holds no picture")


def _frames(path: Path, wanted: int) -> Iterator[VideoFrame]:
    with av.open(str(path)) as container:
        if not container.streams.video:
            return
        container.streams.video[0].thread_type = "AUTO"
        length_s = _length_s(container)
        if length_s is not None and length_s > SEEK_BEYOND_S:
            yield from _by_seeking(container, length_s, wanted)
            return
        count = min(FRAMES_MAX, _count(path))
        wanted_at = {(2 * i + 1) * count // (2 * wanted) for i in range(wanted)}
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted_at:
                yield frame
            if number >= count:
                break


def _count(path: Path) -> int:
    """Packets of the video, which costs no decoding: as many as frames, as a rule."""
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def _length_s(container: InputContainer) -> float | None:
    return container.duration / av.time_base if container.duration else None


def _by_seeking(container: InputContainer, length_s: float, wanted: int) -> Iterator[VideoFrame]:
    last: float | None = None
    for index in range(wanted):
        at = (index + 0.5) * length_s / wanted
        container.seek(round(at * av.time_base))
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time < at - 1:
                continue  # sparse keyframes: some seconds are decoded for nothing
            if frame.time != last:
                last = frame.time
                yield frame
            break


def _upright(frame: VideoFrame) -> Picture:
    picture = frame.to_ndarray(format="bgr24")
    turned = np.rot90(picture, round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(turned, dtype=np.uint8)


def look_through(
    files: Sequence[Path],
    wanted: int,
    detector: RecordingDetector,
    on_probe: Callable[[int, int], None],
) -> list[Found]:
    """Condition of every probe of all files. `on_probe` hears how many are done, of about how many.

    Raises PermanentError as `probe`, SOURCE_MISSING for a file that is not there, BAD_OPTION for a
    folder.
    """
    for path in files:
        if path.is_dir():
            raise PermanentError(
                ErrorCode.BAD_OPTION, f"{path} is a folder; name its files: {path}/*.jpg"
            )
        if not path.is_file():
            raise PermanentError(ErrorCode.SOURCE_MISSING, f"{path} does not exist.")
    each = per_file(wanted, len(files))
    of = sum(1 if path.suffix.lower() in IMAGES else each for path in files)
    found: list[Found] = []
    for path in files:
        for one in probe(path, each):
            on_probe(min(len(found), of), of)
            condition = condition_of(luma_of(one.picture), detector.faces(one.picture))
            digest = hashlib.sha256(one.picture.tobytes()).hexdigest()
            found.append(Found(one.file, one.index, one.time_s, condition, digest))
    on_probe(of, of)
    return found


def per_file(wanted: int, files: int) -> int:
    """Probes of each of so many files."""
    return max(4, -(-PROBED_PER_WANTED * wanted // max(1, files)))


def choose(found: Sequence[Found], count: int, seed: int) -> list[Found]:
    """At most `count` of them, from all conditions in turn as long as each has any; by seed.

    Equal pictures count once. Returned in the order of `found`.
    """
    unique = list({one.pixels_sha256: one for one in reversed(found)}.values())[::-1]
    groups: dict[Condition, list[Found]] = {condition: [] for condition in Condition}
    groups |= _by_condition(unique)
    chance = random.Random(seed)
    for condition in Condition:
        chance.shuffle(groups[condition])
    chosen: list[Found] = []
    while len(chosen) < count and any(groups.values()):
        for condition in Condition:
            if groups[condition] and len(chosen) < count:
                chosen.append(groups[condition].pop())
    picked = {id(one) for one in chosen}
    return [one for one in unique if id(one) in picked]


def count_conditions(found: Sequence[Found]) -> dict[Condition, int]:
    """How many of each."""
    return {condition: len(each) for condition, each in _by_condition(found).items()}


def _by_condition(found: Sequence[Found]) -> dict[Condition, list[Found]]:
    return {
        condition: each
        for condition in Condition
        if (each := [one for one in found if one.condition is condition])
    }


def inputs_of(
    chosen: Sequence[Found],
    wanted: int,
    files: Sequence[Path],
    detector: RecordingDetector,
    on_frame: Callable[[int, int], None],
) -> Iterator[Array]:
    """What the model is given for the chosen probes, (1, 3, h, w) float32 each; decodes again,
    because all of them together do not fit into memory."""
    each = per_file(wanted, len(files))
    by_file = {path: {one.index for one in chosen if one.file == path} for path in files}
    done = 0
    for path, indices in by_file.items():
        if not indices:
            continue
        for one in probe(path, each):
            if one.index in indices:
                detector.faces(one.picture)
                yield from detector.given
                done += 1
                on_frame(done, len(chosen))


def logged(chosen: Sequence[Found]) -> tuple[CalibrationFrame, ...]:
    """For the log, sorted by condition; files are named without their folders."""
    order = list(Condition)
    chosen = sorted(chosen, key=lambda one: order.index(one.condition))
    hashes = {path: sha256_of(path) for path in {one.file for one in chosen}}
    return tuple(
        CalibrationFrame(
            file=one.file.name,
            file_sha256=hashes[one.file],
            time_s=one.time_s,
            condition=one.condition,
            pixels_sha256=one.pixels_sha256,
        )
        for one in chosen
    )


def _unreadable(path: Path, reason: str, advice: str = _GIVE) -> PermanentError:
    return PermanentError(
        ErrorCode.SOURCE_UNREADABLE, f"{path} can't be read ({reason}); {advice}."
    )
