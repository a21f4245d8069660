"""Face detection by ONNX Runtime on a GPU, on the frames where they lie.

Slower than TensorRT, but nothing is compiled first and any model that runs on the CPU runs here.
Inputs and outputs are bound to memory of our own on the device, so only outputs are copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from services.infer.engines.batches import Batches, Output, Outputs, address, damaged, sides_of
from services.infer.engines.onnx_session import (
    CUDA,
    ORT_ERRORS,
    RUN_ERRORS,
    Session,
    is_out_of_memory,
    open_session,
    told,
)
from services.infer.engines.trt_plan import fixed_sizes
from services.infer.families import Array
from shared.cuda.device import Device
from shared.cuda.memory import Memory
from shared.errors import DualfaceError, EngineError, OutOfMemoryError
from shared.faces import Face
from shared.media.layout import FrameLayout, Planes
from shared.models import ModelEntry

_DTYPES: Mapping[str, str] = {"tensor(float)": "float32", "tensor(float16)": "float16"}
"""NumPy's names for the types that inputs and outputs may have."""


class OnnxCudaDetector:
    """A `Detector` for frames on the device."""

    memory: Memory = "device"

    def __init__(
        self,
        device: Device,
        entry: ModelEntry,
        path: Path,
        *,
        limit_bytes: int,
        batch: int = 8,
        long_side_px: int | None = None,
        second_long_side_px: int | None = None,
        provider: str = CUDA,
        place: Literal["cuda", "cpu"] = "cuda",
    ) -> None:
        """Load the model of `entry` from `path`, in the precision that it has. `limit_bytes` of GPU
        memory are the most that ONNX Runtime takes; `batch`: pictures in a call at most. `provider`
        and `place` (of its memory) are others in tests.

        Raises EngineError where there is no ONNX Runtime for CUDA, or it falls back to the CPU;
        PermanentError MODEL_DAMAGED when it is not a model of its family, OutOfMemoryError.
        """
        self.name = f"onnx-cuda:{entry.name}"
        options = {
            "device_id": "0",
            "user_compute_stream": str(device.stream),
            "gpu_mem_limit": str(limit_bytes),
            # grows by what is asked for, not by doubling: others share the device
            "arena_extend_strategy": "kSameAsRequested",
            # trying all algorithms takes seconds for each new shape of input
            "cudnn_conv_algo_search": "HEURISTIC",
        }
        try:
            session = open_session(path, 1, provider, options)
        except ORT_ERRORS as error:
            device.finish()
            raise _unopened(entry, error) from error
        self._net = _Net(device, session, place, self.name)
        sides = sides_of(entry, long_side_px, second_long_side_px)
        sizes = fixed_sizes(min(batch, self._net.batch or batch))
        self._batches = Batches(device, entry, sides, sizes, self._net.prepare)
        self._batches.trial()

    def detect(self, frames: Sequence[Planes], layout: FrameLayout) -> list[tuple[Face, ...]]:
        """See `Detector.detect`, and `looks.at_once`. `layout` has to be NV12."""
        return self._batches.detect(frames, layout)

    def free(self) -> None:
        """See `Detector.free`. ONNX Runtime keeps what it took for itself, up to its limit."""
        self._batches.free()


class _Net:
    """A session, and where its inputs and outputs are to lie."""

    def __init__(self, device: Device, session: Session, place: str, name: str) -> None:
        self.device = device
        self.session = session
        self.place = place
        self.name = name
        (self.input,) = session.get_inputs()
        self.outputs = [output.name for output in session.get_outputs()]

    @property
    def batch(self) -> int | None:
        """Most pictures that a call takes; None: any number."""
        given = self.input.shape[0]
        return given if isinstance(given, int) else None

    def prepare(self, size: int, padded: tuple[int, int]) -> _Run:
        """See `Batches`."""
        width, height = padded
        return _Run(self, (size, 3, height, width))


class _Run:
    """One shape of input, and its buffers. A `Prepared`."""

    def __init__(self, net: _Net, shape: tuple[int, int, int, int]) -> None:
        self._net = net
        dtype = _dtype(net.input.type)
        self.batch: Any = net.device.empty(shape, dtype)
        self._binding = net.session.io_binding()
        kind = np.dtype(dtype).type
        at = address(self.batch)
        self._binding.bind_input(net.input.name, net.place, 0, kind, shape, at)
        self._outputs: Outputs | None = None

    def run(self) -> list[Array]:
        """See `Prepared`."""
        outputs = self._outputs
        if outputs is None:
            outputs = self._outputs = self._bound()
        self._go()
        return outputs.download()

    def _bound(self) -> Outputs:
        """Memory for the outputs, as large as they are: which a first run tells, into memory that
        ONNX Runtime takes for itself."""
        net, binding = self._net, self._binding
        for name in net.outputs:
            binding.bind_output(name, net.place, 0)
        self._go()
        values = binding.get_outputs()
        told_ = [Output(tuple(value.shape()), _dtype(value.data_type())) for value in values]
        outputs = Outputs(net.device, told_)
        for name, output, at in zip(net.outputs, told_, outputs.addresses, strict=True):
            kind = np.dtype(output.dtype).type
            binding.bind_output(name, net.place, 0, kind, output.shape, at)
        return outputs

    def _go(self) -> None:
        try:
            self._net.session.run_with_iobinding(self._binding)
        except RUN_ERRORS as error:
            self._net.device.finish()  # a broken context is the end of the process
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"ONNX Runtime ({told(error)})") from error
            raise EngineError(f"{self._net.name} failed: {told(error)}.", able=True) from error


def _dtype(kind: str) -> str:
    if kind not in _DTYPES:
        raise EngineError(
            f"The model has an input or output {kind}, not of floating-point numbers."
        )
    return _DTYPES[kind]


def _unopened(entry: ModelEntry, error: Exception) -> DualfaceError:
    """For a session that did not come about: the device's fault, or the model's."""
    if is_out_of_memory(error):
        return OutOfMemoryError(f"ONNX Runtime ({told(error)})")
    if "CUDA" in str(error).upper() or "CUDNN" in str(error).upper():
        return EngineError(f"ONNX Runtime can't work on the GPU ({told(error)}).", able=True)
    return damaged(entry, told(error))
