"""The detectors, in the order of preference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.infer.engines.base import Detector
from services.infer.engines.none import NoDetector
from services.infer.engines.onnx_cpu import OnnxCpuDetector
from shared.cuda.memory import Memory
from shared.errors import EngineError
from shared.models import choose, is_here
from shared.models.precision import locate_precision
from shared.runtime import Runtime


class LazyDetector:
    """A detector that is made when it is first needed: loading a model takes long, and may be what
    ends the process. One that can't be made is not tried again."""

    def __init__(self, name: str, make: Callable[[], Detector]) -> None:
        """`name` of the engine, until it is there."""
        self._name = name
        self._make = make
        self._made: Detector | None = None
        self._refusal: EngineError | None = None

    @property
    def name(self) -> str:
        """As `Detector.name`."""
        return self._made.name if self._made is not None else self._name

    def get(self) -> Detector:
        """The detector. Raises what making it raised, an EngineError again and again."""
        if self._refusal is not None:
            raise self._refusal
        if self._made is None:
            try:
                self._made = self._make()
            except EngineError as error:
                self._refusal = error
                raise
        return self._made


class Detectors:
    """Those of this process, by the model that was asked for; bounded by the number of models."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, Memory], Sequence[LazyDetector]] = {}

    def warm_up(self, runtime: Runtime) -> None:
        """Load the default model, where one is here; it is not fetched."""
        cache, folders = runtime.settings.cache_dir / "models", runtime.settings.model_folders
        if not is_here(choose("auto", cache, folders).name, cache, folders):
            return
        memory = runtime.arenas.current(runtime.settings.arena).descriptor.memory
        for each in self.of(runtime, "auto", memory):
            try:
                each.get()
            except EngineError:
                continue
            return

    def of(self, runtime: Runtime, wanted: str, memory: Memory) -> Sequence[LazyDetector]:
        """For frames in `memory`, best first, the one that sees nobody last."""
        known = self._made.get((wanted, memory))
        if known is None:
            known = (
                LazyDetector("onnx-cpu", lambda: _on_cpu(runtime, wanted)),
                LazyDetector(NoDetector.name, NoDetector),
            )
            self._made[wanted, memory] = known
        return known


def _on_cpu(runtime: Runtime, wanted: str) -> Detector:
    """Raises PermanentError when the model is missing or damaged."""
    settings = runtime.settings
    cache = settings.cache_dir / "models"
    entry = choose(wanted, cache, settings.model_folders)
    path, precision = locate_precision(
        entry.name, settings.infer_precision, cache, settings.model_folders, device="cpu"
    )
    if precision != "fp32":  # so that a job's report says what looked
        entry = entry.model_copy(update={"name": f"{entry.name}.{precision}"})
    return OnnxCpuDetector(entry, path, threads=settings.infer_threads)
