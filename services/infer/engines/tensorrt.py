"""Face detection by TensorRT, on the frames where they lie.

Contexts, buffers and CUDA graphs are kept per shape of input; the memory that a run needs for
itself is one piece for all of them, as they run one after the other on one stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

from services.infer.engines.batches import (
    Batches,
    Output,
    Outputs,
    address,
    damaged,
    sides_of,
)
from services.infer.engines.trt_api import failed, listener, load
from services.infer.engines.trt_build import build
from services.infer.engines.trt_cache import EngineCache, OnStep
from services.infer.engines.trt_plan import (
    Profile,
    Recipe,
    fixed_sizes,
    profile_for,
    profiles_of,
    workspace_bytes,
)
from services.infer.families import Array
from shared.assets import sha256_of
from shared.cuda.device import Device
from shared.cuda.graphs import Graph, record
from shared.cuda.memory import Memory
from shared.errors import DeviceLostError, EngineError, OutOfMemoryError
from shared.faces import Face
from shared.logs import Log
from shared.media.layout import FrameLayout, Planes
from shared.models import ModelEntry
from shared.models.precision import Precision

_DTYPES = {"FLOAT": "float32", "HALF": "float16"}
"""NumPy's names for the types that inputs and outputs may have."""


@dataclass(frozen=True)
class Options:
    """How a detector is set up. `batch`: pictures in a call at most. `budget_bytes`: GPU memory
    that engines and contexts of all processes may use. `graphs`: record CUDA graphs."""

    precision: Precision = "fp16"
    batch: int = 8
    budget_bytes: int = 1 << 30
    graphs: bool = True
    long_side_px: int | None = None
    second_long_side_px: int | None = None


class TensorRtDetector:
    """A `Detector` for frames on the device."""

    memory: Memory = "device"

    def __init__(
        self,
        device: Device,
        entry: ModelEntry,
        path: Path,
        cache: EngineCache,
        options: Options,
        on_step: OnStep = lambda: None,
    ) -> None:
        """Load the engine of the model in `path`, which is compiled first where there is none yet:
        then it takes minutes, and `on_step` is called now and then.

        `path` is the model as published for fp32 and fp16, the quantised one for int8. Raises
        EngineError where there is no TensorRT or it can't do the model, OutOfMemoryError,
        PermanentError MODEL_DAMAGED for what is not a model of its family; and what `on_step` does.
        """
        trt = load()
        self.name = f"tensorrt-{options.precision}:{entry.name}"
        sides = sides_of(entry, options.long_side_px, options.second_long_side_px)
        recipe = Recipe(
            model=entry.name,
            model_sha256=_sha256(entry, path),
            precision=options.precision,
            profiles=profiles_of(entry, sides.each, options.batch),
            tensorrt=str(trt.__version__),
            gpu=device.name,
            compute=device.compute,
        )
        scratch = workspace_bytes(options.budget_bytes)
        try:
            self._net = cache.obtain(
                recipe,
                lambda timing, step: build(trt, entry, path, recipe, scratch, timing, step),
                lambda plan, outputs: _Net.load(trt, device, plan, outputs, options.graphs),
                on_step,
            )
        except (EngineError, OutOfMemoryError):
            device.finish()  # a broken context is the end of the process
            raise
        sizes = fixed_sizes(min(options.batch, self._net.batch))
        self._batches = Batches(device, entry, sides, sizes, self._net.prepare)
        self._batches.trial()

    def detect(self, frames: Sequence[Planes], layout: FrameLayout) -> list[tuple[Face, ...]]:
        """See `Detector.detect`, and `looks.at_once`. `layout` has to be NV12."""
        return self._batches.detect(frames, layout)

    def free(self) -> None:
        """See `Detector.free`."""
        self._net.free()
        self._batches.free()


class _Net:
    """An engine in memory, and the scratch memory of its runs."""

    def __init__(
        self, trt: Any, device: Device, engine: Any, outputs: Sequence[str], graphs: bool, told: Any
    ) -> None:
        self.trt = trt
        self.device = device
        self.told = told
        self.engine = engine
        self.outputs = outputs
        self.graphs = graphs
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        (self.input,) = (name for name in names if name not in outputs)
        self.profiles = [
            Profile.model_validate(dict(zip(Profile.model_fields, shapes, strict=True)))
            for shapes in (
                [tuple(shape) for shape in engine.get_tensor_profile_shape(self.input, index)]
                for index in range(engine.num_optimization_profiles)
            )
        ]
        self._scratch: Any = None
        self._users: WeakSet[_Run] = WeakSet()

    @classmethod
    def load(
        cls, trt: Any, device: Device, plan: bytes, outputs: Sequence[str], graphs: bool
    ) -> _Net | None:
        """None for a plan that this TensorRT can't load, or whose outputs are others."""
        told = listener(trt)
        try:
            runtime = trt.Runtime(told)
        except (TypeError, RuntimeError) as error:
            raise failed(told, "starting its runtime") from error
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            error_ = failed(told, "loading an engine")
            if not isinstance(error_, EngineError):
                raise error_  # short of memory: the plan may be a good one
            Log().warning("engine not loaded", reason=error_.message)
            return None
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        made = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        if sorted(made) != sorted(outputs) or len(names) != len(outputs) + 1:
            return None
        return cls(trt, device, engine, outputs, graphs, told)

    @property
    def batch(self) -> int:
        """Most pictures that a call takes."""
        return min(profile.most[0] for profile in self.profiles)

    def prepare(self, size: int, padded: tuple[int, int]) -> _Run:
        """See `Batches`."""
        width, height = padded
        return _Run(self, (size, 3, height, width))

    def scratch(self, size: int, user: _Run) -> Any:
        """At least `size` bytes, the same for all runs. When it has to grow, runs that have the old
        piece get the new one, too."""
        if self._scratch is None or self._scratch.size < size:
            for run in self._users:
                run.detach()
            self._users.clear()
            self._scratch = None  # first, so that both need not fit
            self._scratch = self.device.empty((size,))
        self._users.add(user)
        return self._scratch

    def free(self) -> None:
        """Let go of the scratch memory; the next runs get another."""
        for run in self._users:
            run.detach()
        self._users.clear()
        self._scratch = None

    def dtype(self, name: str) -> str:
        """NumPy's name for the type of an input or output."""
        kind: str = self.engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(f"TensorRT has {name} as {kind}, not as a floating-point number.")
        return _DTYPES[kind]


class _Run:
    """One shape of input: a context, its buffers, and the graph of its work. A `Prepared`."""

    def __init__(self, net: _Net, shape: tuple[int, int, int, int]) -> None:
        self._net = net
        trt, engine, stream = net.trt, net.engine, net.device.stream
        self._context = engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self._context is None:
            raise self._failed("making a context")
        profile = profile_for(net.profiles, shape)
        if profile is None:
            raise EngineError(f"The engine takes no input {shape}.", able=True)
        context = self._context
        if not context.set_optimization_profile_async(profile, stream):
            raise self._failed("choosing a profile")
        if not context.set_input_shape(net.input, shape):
            raise self._failed(f"at an input {shape}")
        self.batch: Any = net.device.empty(shape, net.dtype(net.input))
        outputs = [Output(tuple(context.get_tensor_shape(n)), net.dtype(n)) for n in net.outputs]
        if any(side < 0 for output in outputs for side in output.shape):
            raise EngineError("The model's outputs have sizes that depend on the picture.")
        self._outputs = Outputs(net.device, outputs)
        at = [address(self.batch), *self._outputs.addresses]
        for name, pointer in zip((net.input, *net.outputs), at, strict=True):
            if not context.set_tensor_address(name, pointer):
                raise self._failed(f"at the address of {name}")
        self._scratch_bytes = max(1, int(context.update_device_memory_size_for_shapes()))
        self._scratch: Any = None
        self._graph: Graph | None = None
        self._may_record = net.graphs

    def run(self) -> list[Array]:
        """See `Prepared`. The first run after a change of memory is a plain one, the second is
        recorded, all others replay it."""
        if self._scratch is None:
            self._scratch = self._net.scratch(self._scratch_bytes, self)
            self._context.set_device_memory(address(self._scratch), self._scratch.size)
            self._enqueue()
        else:
            if self._graph is None and self._may_record:
                self._graph = self._recorded()
            if self._graph is None:
                self._enqueue()
            else:
                self._graph.launch()
        return self._outputs.download()

    def detach(self) -> None:
        """The scratch memory goes; what was recorded would still write there."""
        self._scratch = self._graph = None

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._net.device.stream):
            raise self._failed("running")

    def _recorded(self) -> Graph | None:
        try:
            return record(self._net.device, self._enqueue)
        except DeviceLostError:
            raise
        except EngineError as error:
            self._may_record = False
            Log().warning("detection runs without a CUDA graph", reason=error.message)
            return None

    def _failed(self, what: str) -> Exception:
        """By what the device says first: a broken context is the end of the process."""
        self._net.device.finish()
        return failed(self._net.told, what)


def _sha256(entry: ModelEntry, path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise damaged(entry, f"its file can't be read: {reason}") from error
