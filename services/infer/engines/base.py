"""What every detection engine offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, overload

from shared.cuda.memory import Memory, Staging
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes


class Detector(Protocol):
    """Finds faces in upright frames. Used by one thread at a time; keeps no state between calls."""

    @property
    def name(self) -> str:
        """Engine and model, for example "onnx-cpu:yunet_n"; goes into `BatchFaces.engine`."""

    @property
    def memory(self) -> Memory:
        """Where it wants planes."""

    def detect(self, frames: Sequence[Planes], layout: FrameLayout) -> list[tuple[Face, ...]]:
        """Faces of each frame, best score first, in px of the full frame; blocks until done.

        `frames` are the planes of whole frames as `layout` says (I420 or NV12); they are only read
        and not kept. Raises PermanentError(MODEL_DAMAGED) when the model can't do its work,
        OutOfMemoryError when fewer frames at once might be possible.
        """

    def free(self) -> None:
        """Give back what is kept only to be faster; the next `detect` may take longer."""


class Downloaded(Sequence[Planes]):
    """Frames in device memory for a detector that works on the host: each is copied when it is
    asked for, and valid until the next one is."""

    def __init__(self, frames: Sequence[Planes], staging: Staging) -> None:
        self._frames = frames
        self._staging = staging

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Planes: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Planes]: ...

    def __getitem__(self, index: int | slice) -> Planes | Sequence[Planes]:
        if isinstance(index, slice):
            return Downloaded(self._frames[index], self._staging)
        return self._staging.down(self._frames[index])
