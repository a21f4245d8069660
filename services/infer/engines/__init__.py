"""The detectors, in the order of preference."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeAlias

from services.infer.engines.base import Detector
from services.infer.engines.none import NoDetector
from services.infer.engines.onnx_cpu import OnnxCpuDetector
from shared.cuda.memory import Memory
from shared.errors import EngineError, OutOfMemoryError
from shared.leases import Leases
from shared.models import ModelEntry, choose, is_here
from shared.models.precision import Precision, locate_precision
from shared.runtime import Runtime

FULL_S = 300.0
"""After which a detector that memory was short for is tried again: others' work comes and goes."""

COMPILE_STEP_S = 600.0
"""The longest single step of TensorRT's compiler."""


Refusal: TypeAlias = EngineError | OutOfMemoryError
"""Why a detector can't be made, now or at all."""


class LazyDetector:
    """A detector that is made when it is first needed: loading a model takes long, and may be what
    ends the process. One that can't be made is not tried again, one that memory was short for not
    before FULL_S are over."""

    def __init__(self, name: str, make: Callable[[], Detector]) -> None:
        """`name` of the engine, until it is there."""
        self._name = name
        self._make = make
        self._made: Detector | None = None
        self._refusal: Refusal | None = None
        self._refused_s = 0.0

    @property
    def name(self) -> str:
        """As `Detector.name`."""
        return self._made.name if self._made is not None else self._name

    def get(self) -> Detector:
        """The detector. Raises what making it raised, now or before."""
        full = isinstance(self._refusal, OutOfMemoryError)
        if self._refusal is not None and not (
            full and time.monotonic() - self._refused_s >= FULL_S
        ):
            raise _anew(self._refusal)
        if self._made is None:
            try:
                self._made = self._make()
            except (EngineError, OutOfMemoryError) as error:
                self._refusal, self._refused_s = _anew(error), time.monotonic()
                raise
        return self._made


class Detectors:
    """Those of this process, by the model that was asked for; bounded by the number of models."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, Memory], Sequence[LazyDetector]] = {}

    def warm_up(self, runtime: Runtime) -> None:
        """Load the default model, where one is here; it is not fetched. On a GPU the first batch
        does: an engine that has to be compiled takes minutes, in which a worker that had not said
        that it lives would count as missing. There TensorRT alone is imported: while its libraries
        are opened no other thread of Python runs, nor does the one that says that it lives."""
        if runtime.settings.gpu_device:
            from services.infer.engines.trt_api import load  # the vendor's library

            with suppress(EngineError):  # the first batch says so
                load()
            return
        cache, folders = runtime.settings.cache_dir / "models", runtime.settings.model_folders
        if not is_here(choose("auto", cache, folders).name, cache, folders):
            return
        for each in self.of(runtime, "auto", "host"):
            try:
                each.get()
            except EngineError:
                continue
            return

    def of(self, runtime: Runtime, wanted: str, memory: Memory) -> Sequence[LazyDetector]:
        """For frames in `memory`, best first, the one that sees nobody last."""
        known = self._made.get((wanted, memory))
        if known is None:
            on_gpu = (
                LazyDetector("tensorrt", lambda: _tensorrt(runtime, wanted)),
                LazyDetector("onnx-cuda", lambda: _onnx_cuda(runtime, wanted)),
            )
            known = (
                *(on_gpu if memory == "device" else ()),
                LazyDetector("onnx-cpu", lambda: _on_cpu(runtime, wanted)),
                LazyDetector(NoDetector.name, NoDetector),
            )
            self._made[wanted, memory] = known
        return known


def _tensorrt(runtime: Runtime, wanted: str) -> Detector:
    """Blocks for minutes where the engine has not been compiled yet, by anybody, for such a GPU."""
    # The vendor's library: only where there is a GPU.
    from services.infer.engines.tensorrt import Options, TensorRtDetector
    from services.infer.engines.trt_cache import BUILD_LEASE_S, EngineCache

    settings, folder = runtime.settings, runtime.settings.cache_dir / "models"
    entry = choose(wanted, folder, settings.model_folders)
    path, precision = locate_precision(
        entry.name, settings.infer_precision, folder, settings.model_folders, device="gpu"
    )
    leases = Leases(runtime.redis, BUILD_LEASE_S)
    options = Options(
        precision=precision, batch=settings.infer_batch, budget_bytes=_budget_bytes(runtime)
    )
    runtime.guard.allow(COMPILE_STEP_S)
    try:
        return TensorRtDetector(
            runtime.device(),
            entry,
            path,
            EngineCache(runtime.store, leases, runtime.worker),
            options,
            runtime.guard.feed,
        )
    finally:
        runtime.guard.allow(0.0)


def _onnx_cuda(runtime: Runtime, wanted: str) -> Detector:
    from services.infer.engines.onnx_cuda import OnnxCudaDetector  # as above

    settings, folder = runtime.settings, runtime.settings.cache_dir / "models"
    entry = choose(wanted, folder, settings.model_folders)
    # Its provider for CUDA has no convolutions in INT8: it rounds like one and calculates in FP32.
    # That finds less and saves nothing, so only who names it gets it. Nor does it halve models.
    wanted_here: Precision = "int8" if settings.infer_precision == "int8" else "fp32"
    path, precision = locate_precision(
        entry.name, wanted_here, folder, settings.model_folders, device="gpu"
    )
    return OnnxCudaDetector(
        runtime.device(),
        _named(entry, precision),
        path,
        limit_bytes=_budget_bytes(runtime) // 2,
        batch=settings.infer_batch,
    )


def _budget_bytes(runtime: Runtime) -> int:
    """Of the GPU's memory, for all engines and contexts."""
    share = runtime.settings.gpu_memory_share * runtime.settings.gpu_engine_margin
    return int(runtime.device().total_bytes * share)


def _on_cpu(runtime: Runtime, wanted: str) -> Detector:
    """Raises PermanentError when the model is missing or damaged."""
    settings = runtime.settings
    cache = settings.cache_dir / "models"
    entry = choose(wanted, cache, settings.model_folders)
    path, precision = locate_precision(
        entry.name, settings.infer_precision, cache, settings.model_folders, device="cpu"
    )
    return OnnxCpuDetector(_named(entry, precision), path, threads=settings.infer_threads)


def _named(entry: ModelEntry, precision: Precision) -> ModelEntry:
    """With the precision in its name, so that a job's report says what looked."""
    if precision == "fp32":
        return entry
    return entry.model_copy(update={"name": f"{entry.name}.{precision}"})


def _anew(error: Refusal) -> Refusal:
    """The same without its traceback, which keeps all frames that it went through, and what lies
    in them: one that is kept grows with each time it is raised."""
    return type(error)(*error.args)
