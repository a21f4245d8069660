"""TensorRT's Python package: loaded here only, with what it calls back. Versions 10.10 to 11."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from shared.errors import DualfaceError, EngineError, OutOfMemoryError

OLDEST = (10, 10)
"""The first whose contexts say how much memory a shape of input needs; types as in 11."""

LINES_MAX = 20_000
"""Of a log of compiling; more tell no more."""

INSTALL = "docs/tensorrt.md says how to install it from NVIDIA"

_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory|OUT_OF_MEMORY|MEM_ALLOC_FAILED")


def load() -> Any:
    """The package. Raises EngineError where it, or the library under it, is not there, too old, or
    made for another CUDA."""
    try:
        import tensorrt
    except (ImportError, OSError, RuntimeError) as error:
        # its own libraries missing are an ImportError or an OSError, by the way it was packed
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"TensorRT can't be imported ({reason}); {INSTALL}.") from error
    version = version_of(tensorrt)
    if version < OLDEST:
        raise EngineError(
            f"TensorRT {tensorrt.__version__} is older than {OLDEST[0]}.{OLDEST[1]}; {INSTALL}."
        )
    return tensorrt


def version_of(trt: Any) -> tuple[int, ...]:
    """(11, 4, 0, 106) of "11.4.0.106"; (0,) of a package that does not say."""
    found = re.match(r"\d+(\.\d+)*", str(getattr(trt, "__version__", "")))
    return tuple(int(part) for part in found.group().split(".")) if found else (0,)


def listener(trt: Any) -> Any:
    """A logger that keeps what TensorRT says: `lines` for people, `errors` for us."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity == trt.ILogger.VERBOSE:
                return
            if len(self.lines) < LINES_MAX:
                self.lines.append(f"{severity.name}: {msg}")
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                del self.errors[:-9]
                self.errors.append(" ".join(msg.split())[:300])

    return Listener()


def pacemaker(trt: Any, on_step: Callable[[], None]) -> Any:
    """A progress monitor that calls `on_step` with each step of compiling, and ends it when that
    raises; `failure` is what it raised."""

    class Pacemaker(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del phase_name, parent_phase, num_steps
            self._step()

        def phase_finish(self, phase_name: str) -> None:
            del phase_name
            self._step()

        def step_complete(self, phase_name: str, step: int) -> bool:
            del phase_name, step
            self._step()
            return self.failure is None

        def _step(self) -> None:
            if self.failure is None:
                try:
                    on_step()
                except BaseException as error:  # noqa: BLE001 - must not pass through C++
                    self.failure = error

    return Pacemaker()


def failed(listening: Any, what: str) -> DualfaceError:
    """The error for something that TensorRT did not do, by what it said of it last; that is taken
    off the list."""
    errors = list(dict.fromkeys(listening.errors))
    listening.errors.clear()
    told = "; ".join(errors) or "it does not say why"
    if any(_OUT_OF_MEMORY.search(each) for each in errors):
        return OutOfMemoryError(f"TensorRT, {what} ({told[:300]})")
    return EngineError(f"TensorRT failed {what}: {told}.", able=True)
