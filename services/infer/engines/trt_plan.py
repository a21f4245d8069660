"""Pure decisions about TensorRT: what an engine is built for, and by which name it is known.

An engine is a model compiled for one kind of GPU by one version of TensorRT. It takes what its
optimisation profiles cover: here one profile for each look, of any picture that a frame of any
shape becomes, and of one to `batch` pictures at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pydantic import Field

from shared.jobs import Model
from shared.models.catalogue import ModelEntry, Sha256
from shared.models.precision import Precision

BUILDER = 1
"""Raised when the same recipe would be built in another way than before: older engines in the store
are then passed over."""

Shape = tuple[int, int, int, int]
"""Pictures, channels, rows, columns."""

WIDE = (16, 9)
"""Most videos: the picture that a profile is tuned for."""

WASTE = 0.25
"""Of the pictures of a call, so many may be idle before it is cut in two."""

WORKSPACE_SHARE = 4
WORKSPACE_MIN = 64 << 20
WORKSPACE_MAX = 1 << 30
"""Scratch memory that a tactic may use, bytes. The convolutions of these models are small; what
they gain from more was never measured."""


class Profile(Model):
    """The shapes of the input that an engine takes, and the one that it is tuned for."""

    least: Shape
    usual: Shape
    most: Shape

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether every side of `shape` lies within."""
        bounds = zip(self.least, shape, self.most, strict=True)
        return all(low <= side <= high for low, side, high in bounds)


class Recipe(Model):
    """All that decides what an engine is; two equal recipes make interchangeable engines.

    How much memory the builder had is left out: with less of it an engine may be slower, no other.
    """

    model: str
    model_sha256: Sha256
    precision: Precision
    profiles: tuple[Profile, ...] = Field(min_length=1)
    tensorrt: str
    gpu: str
    compute: tuple[int, int]
    builder: int = BUILDER

    @property
    def digest(self) -> str:
        """Hex SHA-256 over every ingredient."""
        return _digest(self.model_dump(mode="json"))

    @property
    def timing_digest(self) -> str:
        """Of what a timing cache depends on: measurements of one GPU by one TensorRT."""
        return _digest({"tensorrt": self.tensorrt, "gpu": self.gpu, "compute": self.compute})


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def profiles_of(entry: ModelEntry, sides: Sequence[int], batch: int) -> tuple[Profile, ...]:
    """A profile for each look, `sides` being the longer sides of their pictures in px, ascending.

    A model of one size has one. Raises ValueError unless `batch` is positive.
    """
    if batch < 1:
        raise ValueError(f"a batch of {batch} pictures is none")
    if entry.fixed_input is not None:
        width, height = entry.fixed_input
        return (_profile(batch, (height, width), (height, width), (height, width)),)
    multiple = entry.side_multiple
    made = []
    for side in sides:
        long = padded(side, multiple)
        short = padded(round(side * WIDE[1] / WIDE[0]), multiple)
        made.append(_profile(batch, (multiple, multiple), (short, long), (long, long)))
    return tuple(made)


def _profile(
    batch: int, least: tuple[int, int], usual: tuple[int, int], most: tuple[int, int]
) -> Profile:
    return Profile(least=(1, 3, *least), usual=(batch, 3, *usual), most=(batch, 3, *most))


def padded(side: int, multiple: int) -> int:
    """The least multiple that is not below `side`, px."""
    return -(-side // multiple) * multiple


def profile_for(profiles: Sequence[Profile], shape: Sequence[int]) -> int | None:
    """Index of the smallest profile that takes the shape, None when none does."""
    able = [index for index, profile in enumerate(profiles) if profile.takes(shape)]
    return min(able, key=lambda index: profiles[index].most, default=None)


def fixed_sizes(batch: int) -> tuple[int, ...]:
    """Pictures per call, ascending: powers of two below `batch`, and `batch`.

    Each has its own buffers and its own CUDA graph, so there should be few.
    """
    powers = (1 << bit for bit in range(batch.bit_length()))
    return (*(size for size in powers if size < batch), batch)


def calls(count: int, sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """How `count` pictures go through calls of `sizes`: (pictures, size) of each call, in order.

    A call has idle places where that saves a further one and they are few (`WASTE`).
    """
    made = []
    while count:
        at_most = max(size for size in sizes if size <= count)
        fits = min((size for size in sizes if size >= count), default=at_most)
        size = fits if fits - count <= WASTE * fits else at_most
        taken = min(size, count)
        made.append((taken, size))
        count -= taken
    return tuple(made)


def workspace_bytes(budget_bytes: int) -> int:
    """Scratch memory for the builder, of the GPU memory that engines and contexts may use."""
    return min(max(budget_bytes // WORKSPACE_SHARE, WORKSPACE_MIN), WORKSPACE_MAX)
