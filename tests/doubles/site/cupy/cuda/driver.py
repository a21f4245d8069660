"""The CUDA driver's errors as CuPy has them: what launches and modules raise."""

from __future__ import annotations

from cupy._driver import NAMES


class CUDADriverError(RuntimeError):
    """`status` is the CUresult, whose numbers are the runtime's."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"CUDA_ERROR_{status}: {NAMES.get(status, ('', 'unknown'))[1]}")

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.status,)
