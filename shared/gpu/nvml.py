"""NVML, opened and asked without surprises. The one importer of `pynvml`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

Handle = Any
"""NVML's pointer to a GPU or a MIG slice; means nothing to anybody else."""


class Nvml:
    """NVML of this process. Use from one thread. Calls block for milliseconds, with a sick driver
    longer, or for ever."""

    def __init__(self, module: ModuleType | None = None) -> None:
        """`module`: instead of pynvml. Raises nothing: `reason` says why there is nothing."""
        self.reason = ""
        self._module = module if module is not None else pynvml()
        if self._module is None:
            self.reason = "the package nvidia-ml-py is not installed"
            return
        try:
            self._module.nvmlInit()
        except self._module.NVMLError as error:
            self.reason = str(error)
            self._module = None

    @property
    def module(self) -> ModuleType | None:
        """pynvml; None where there is no driver or no package."""
        return self._module

    def told(self, ask: Callable[[ModuleType], T]) -> T | None:
        """What `ask` gets; None where the device, the driver or an older package has no answer."""
        if self._module is None:
            return None
        try:
            return ask(self._module)
        except (self._module.NVMLError, AttributeError):
            return None

    def handles(self) -> list[tuple[int, Handle]]:
        """Every GPU that answers, with its index."""
        count = self.told(lambda nvml: int(nvml.nvmlDeviceGetCount())) or 0
        found = [(index, self.handle(index)) for index in range(count)]
        return [(index, handle) for index, handle in found if handle is not None]

    def handle(self, index: int) -> Handle | None:
        """The GPU with this index; None when it fell off the bus, or is another's."""
        return self.told(lambda nvml: nvml.nvmlDeviceGetHandleByIndex(index))

    def close(self) -> None:
        """NVML is used no more."""
        if self._module is not None:
            self._module.nvmlShutdown()
            self._module = None


def text(answer: object) -> str:
    """Older packages answer bytes."""
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def pynvml() -> ModuleType | None:
    """The package, where it is installed."""
    try:
        import pynvml as found
    except ImportError:
        return None
    module: ModuleType = found
    return module
