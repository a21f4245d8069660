"""What all detectors on a GPU do alike: frames in, pictures in batches through a net, faces out.

Only a net's outputs leave the device. They are turned into faces on the host, by the same code as
everywhere; `docs/tensorrt.md` says when doing that on the device would pay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from services.infer.engines.letterbox import Letterbox
from services.infer.engines.looks import Faces, Look, at_once, look_of
from services.infer.engines.trt_plan import calls
from services.infer.families import DECODERS, Array, suppress, to_faces
from shared.cuda.device import Device
from shared.errors import ErrorCode, OutOfMemoryError, PermanentError
from shared.media.layout import FrameLayout, PixelFormat, Plane, Planes
from shared.models import ModelEntry

PREPARED_MAX = 16
"""Nets kept ready: a video of one shape needs one for each look and size of call that occurs."""

GROW_AFTER = 50
"""Calls in a row that went well until a larger one is tried again, after memory was short."""

ALIGN = 256
"""Bytes. What CUDA's libraries ask of the addresses they are given."""

_TRIAL = FrameLayout(width=128, height=64, format=PixelFormat.NV12)


class Prepared(Protocol):
    """A net ready for one shape of input."""

    batch: Any
    """Device array (pictures, 3, rows, columns), C-contiguous, float32 or float16: its input."""

    def run(self) -> list[Array]:
        """The outputs for what is in `batch`, in the model's order, on the host, float32; valid
        until the next call. Blocks. OutOfMemoryError, EngineError, DeviceLostError."""


@dataclass(frozen=True)
class Sides:
    """Longer sides of the pictures of both looks, px; `second` 0: there is one look."""

    first: int
    second: int

    @property
    def each(self) -> tuple[int, ...]:
        """Of the looks that there are."""
        return (self.first, self.second) if self.second else (self.first,)


def sides_of(
    entry: ModelEntry, long_side_px: int | None = None, second_long_side_px: int | None = None
) -> Sides:
    """Those of the entry, unless others are wanted. A second look has to be larger than the first,
    so a model of one size has none."""
    first = long_side_px or entry.long_side_px
    second = entry.second_long_side_px if second_long_side_px is None else second_long_side_px
    return Sides(first, second if second > first and entry.fixed_input is None else 0)


class Batches:
    """Detection by a net, in calls of a few fixed sizes. For one thread."""

    def __init__(
        self,
        device: Device,
        entry: ModelEntry,
        sides: Sides,
        sizes: Sequence[int],
        prepare: Callable[[int, tuple[int, int]], Prepared],
    ) -> None:
        """`prepare` makes the net ready for (pictures, (width, height) of the model's input); it is
        called while no other work of the net is on its way. `sizes`: pictures per call."""
        self._device = device
        self._entry = entry
        self._sides = sides
        self._sizes = sizes
        self._able = len(sizes)
        self._well = 0
        self._prepare = prepare
        self._decode = DECODERS[entry.family]
        self._letterbox = Letterbox(device, entry)
        self._ready: OrderedDict[tuple[int, tuple[int, int]], Prepared] = OrderedDict()

    def trial(self) -> None:
        """Look at one picture of anything. Raises PermanentError MODEL_DAMAGED when the model is
        none of its family: that shows only when it runs."""
        frame = self._device.empty((_TRIAL.frame_bytes,))
        look = look_of(self._entry, _TRIAL, self._sides.first)
        self._looked([_TRIAL.planes(frame)], _TRIAL, look)

    def detect(self, frames: Sequence[Planes], layout: FrameLayout) -> list[Faces]:
        """See `Detector.detect`, and `looks.at_once`."""
        first = look_of(self._entry, layout, self._sides.first)
        second = look_of(self._entry, layout, self._sides.second) if self._sides.second else None
        return at_once(
            frames,
            lambda some: self._looked(some, layout, first),
            None if second is None else lambda some: self._looked(some, layout, second),
        )

    def free(self) -> None:
        """Forget the nets that are ready, and give the device its memory back."""
        self._ready.clear()
        self._device.shrink()

    def _looked(self, frames: Sequence[Planes], layout: FrameLayout, look: Look) -> list[Faces]:
        found: list[Faces] = []
        for count, size in calls(len(frames), self._sizes[: self._able]):
            some = frames[len(found) : len(found) + count]
            outputs = self._called(some, size, layout, look)
            found += [self._faces(outputs, index, layout, look) for index in range(count)]
        return found

    def _called(
        self, frames: Sequence[Planes], size: int, layout: FrameLayout, look: Look
    ) -> list[Array]:
        """One call. Short of memory, the calls after it are smaller: how many frames there are for
        `Portions` to cut down says little about how many go through the net at a time."""
        try:
            net = self._net(size, look.padded)
            for index, planes in enumerate(frames):
                self._letterbox.fill(planes, layout, look.w, look.h, net.batch, index)
            outputs = net.run()
        except OutOfMemoryError:
            self._able, self._well = max(1, self._sizes.index(size)), 0
            raise
        self._well += 1
        if self._well >= GROW_AFTER and self._able < len(self._sizes):
            self._able, self._well = self._able + 1, 0
        return outputs

    def _net(self, size: int, padded: tuple[int, int]) -> Prepared:
        key = (size, padded)
        net = self._ready.get(key)
        if net is None:
            while len(self._ready) >= PREPARED_MAX:
                self._ready.popitem(last=False)
            net = self._ready[key] = self._prepare(size, padded)
        self._ready.move_to_end(key)
        return net

    def _faces(
        self, outputs: Sequence[Array], index: int, layout: FrameLayout, look: Look
    ) -> Faces:
        entry = self._entry
        try:
            found = self._decode(outputs, index, look.padded[0], entry.score_threshold)
        except (ValueError, IndexError) as error:
            raise damaged(entry, str(error)) from error
        best = suppress(found, entry.nms_threshold)
        return to_faces(best, layout.width / look.w, layout.height / look.h, entry.sure_score)


@dataclass(frozen=True)
class Output:
    """Shape and type (as NumPy calls it) of one output of a net."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Outputs:
    """Memory for all outputs of a net, in one piece, so that one copy brings them to the host."""

    def __init__(self, device: Device, outputs: Sequence[Output]) -> None:
        self._device = device
        self._outputs = outputs
        self._starts = []
        end = 0
        for output in outputs:
            self._starts.append(end)
            end += -(-output.size // ALIGN) * ALIGN
        self._on_device: Any = device.empty((max(end, ALIGN),))
        self._on_host: Plane = device.pinned(max(end, ALIGN))

    @property
    def addresses(self) -> list[int]:
        """Where each output is to be written, on the device."""
        return [address(self._on_device) + start for start in self._starts]

    def download(self) -> list[Array]:
        """Each output as float32, valid until the next call. Blocks until the stream is done."""
        self._device.download(self._on_device, self._on_host)
        return [self._view(*each) for each in zip(self._outputs, self._starts, strict=True)]

    def _view(self, output: Output, start: int) -> Array:
        raw = self._on_host[start : start + output.size]
        values: npt.NDArray[Any] = raw.view(output.dtype).reshape(output.shape)
        return values.astype(np.float32, copy=False)


def address(array: Any) -> int:
    """Of a device array's first element."""
    pointer: int = array.__cuda_array_interface__["data"][0]
    return pointer


def damaged(entry: ModelEntry, why: str) -> PermanentError:
    """For a model that is not what its entry says."""
    return PermanentError(
        ErrorCode.MODEL_DAMAGED,
        f"the detection model {entry.name} can't be used ({why[:300]}); {entry.remedy}",
    )
