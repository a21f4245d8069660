"""The GPU of one process, by CuPy: memory, copies, kernels.

Which GPU is decided outside: a worker is started with CUDA_VISIBLE_DEVICES naming one device (by
UUID; a GPU or a MIG slice), so it is always the first. CUDA is touched in a worker's child only,
never before the fork: a context does not survive one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import numpy as np

from shared.cuda.errors import GONE, OWN_HANDLE, failure, mapped, not_here, status
from shared.cuda.memory import Direction
from shared.errors import EngineError, ErrorCode, TemporaryError
from shared.media.layout import Plane

IPC_HANDLE_BYTES = 64
"""CUDA_IPC_HANDLE_SIZE of the CUDA runtime API."""

DLPACK_CUDA = 2
"""kDLCUDA of DLPack's DLDeviceType."""

UUID_BYTES = 16
COMPILER_OPTIONS = ("--std=c++17",)
NO_HEADER = "could not open source file"
"""What NVRTC says of an #include that it does not find."""
INSTALL = (
    "install NVRTC and CUDA's headers (`pip install 'cupy-cuda13x[ctk]'`, or the CUDA toolkit)"
)


class Kernel(Protocol):
    """A `__global__` function. Returns at once; runs on the device's stream, in order."""

    def __call__(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], *arguments: object
    ) -> None:
        """Arguments: device arrays, or NumPy scalars of the parameters' exact types."""


class Device:
    """Opened once per process, after the fork. For one thread.

    All its work (copies, kernels, engines that are given `stream`) goes to one stream of its own,
    in order; CuPy's own operations in this thread do too. Errors: `OutOfMemoryError`;
    `DeviceLostError` when the context is beyond use, which ends the process (a CUDA context does
    not recover from an illegal access or a lost device); else `EngineError`.
    """

    uuid: str
    """`GPU-...` or `MIG-...`, as NVML says it."""
    name: str
    compute: tuple[int, int]
    """Compute capability."""
    total_bytes: int
    stream: int
    """The CUstream, as an integer, for libraries that are to work in order with it."""
    queue: Any
    """The same, as CuPy's object."""

    def __init__(
        self, on_copy: Callable[[Direction, int], None] | None = None, visible: str = ""
    ) -> None:
        """Open the first visible device. `on_copy` is told of every copy between host and device,
        in bytes. `visible`: CUDA_VISIBLE_DEVICES, from the settings: only it names a MIG slice, of
        which CUDA tells the whole GPU's UUID. Raises EngineError when there is no driver, no device
        or no CuPy, OutOfMemoryError when not even a context has room."""
        self._cupy = cupy = _cupy()
        self._cuda = cupy.cuda.runtime
        self._told = on_copy or _nobody
        self._modules: dict[Path, Any] = {}
        try:
            self._cuda.getDeviceCount()
            self._cuda.setDevice(0)
            self.queue = cupy.cuda.Stream(non_blocking=True)
            self.queue.use()
            self.total_bytes = int(self._cuda.memGetInfo()[1])
            about = self._cuda.getDeviceProperties(0)
            address = str(self._cuda.deviceGetPCIBusId(0))
        except (RuntimeError, MemoryError) as error:
            raise not_here(error) from error
        self.stream = int(self.queue.ptr)
        self.name = about["name"].decode(errors="replace")
        self.compute = (int(about["major"]), int(about["minor"]))
        self.uuid = _identity(visible, about["uuid"], address)

    def allocate(self, size: int) -> int:
        """`cudaMalloc`: a pointer that may be exported. Not from a pool. OutOfMemoryError."""
        with mapped(f"allocating {size} bytes"):
            return int(self._cuda.malloc(size))

    def free(self, pointer: int) -> None:
        """`cudaFree` of what `allocate` gave."""
        with mapped("freeing memory"):
            self._cuda.free(pointer)

    def export(self, pointer: int) -> bytes:
        """The IPC handle of an allocation; other processes may open it while this one lives."""
        with mapped("exporting memory"):
            return bytes(self._cuda.ipcGetMemHandle(pointer))

    def open(self, handle: bytes) -> int:
        """Map another process's allocation; TemporaryError when it is gone."""
        try:
            return int(self._cuda.ipcOpenMemHandle(handle))
        except RuntimeError as error:
            code = status(error)
            if code in GONE:
                raise TemporaryError(
                    ErrorCode.BUSY,
                    f"The GPU memory of an arena is gone ({error}); its owner restarts it. "
                    "Containers of one arena have to share the PID and IPC namespaces.",
                ) from error
            if code == OWN_HANDLE:
                raise EngineError(
                    "GPU memory can't be opened by the process that exported it, nor by one of "
                    "the same PID in another container: share the PID namespace.",
                    able=True,
                ) from error
            raise failure(error, "opening another process's memory") from error

    def close(self, pointer: int) -> None:
        """Unmap what `open` gave."""
        with mapped("closing another process's memory"):
            self._cuda.ipcCloseMemHandle(pointer)

    def view(self, pointer: int, size: int) -> Plane:
        """1-D uint8 array over memory of an allocation; owns nothing."""
        memory = self._cupy.cuda.UnownedMemory(pointer, size, None, 0)
        start = self._cupy.cuda.MemoryPointer(memory, 0)
        array: Plane = self._cupy.ndarray((size,), dtype=np.uint8, memptr=start)
        return array

    def empty(self, shape: tuple[int, ...], dtype: str = "uint8") -> Any:
        """An array of this process's own, from CuPy's pool, of any content."""
        with mapped(f"allocating an array {shape} of {dtype}"):
            return self._cupy.empty(shape, dtype=dtype)

    def adopt(self, thing: Any) -> Any:
        """An array over memory that a library gives (CUDA array interface or DLPack); strides
        kept; valid as long as the library says. TypeError for anything else."""
        with mapped("taking another library's memory"):
            if hasattr(thing, "__cuda_array_interface__"):
                return self._cupy.asarray(thing)
            # CuPy may copy what lies on the host; such a copy would not be counted.
            if hasattr(thing, "__dlpack__") and thing.__dlpack_device__()[0] == DLPACK_CUDA:
                return self._cupy.from_dlpack(thing)
        raise TypeError(f"{type(thing).__name__} is no device memory")

    def pinned(self, size: int) -> Plane:
        """`size` bytes of page-locked host memory, 1-D uint8 NumPy."""
        with mapped(f"page-locking {size} bytes"):
            memory = self._cupy.cuda.alloc_pinned_memory(max(size, 1))
        return np.frombuffer(memory, np.uint8, size)

    def upload(self, source: Plane, target: Plane) -> None:
        """Host array into device array of the same shape (rows may be strided). Counted. The
        source may be written again when it returns."""
        self._move(source, target, "host_to_device")

    def download(self, source: Plane, target: Plane) -> None:
        """Device array into host array of the same shape. Counted. Complete when it returns."""
        if not target.flags.writeable:
            raise ValueError("the host array to copy into is read-only")
        self._move(source, target, "device_to_host")

    def copy(self, source: Plane, target: Plane) -> None:
        """Device to device, rows may be strided (a decoder's pitch); in order on the stream."""
        self._copy(source, target, self._cuda.memcpyDeviceToDevice)

    def kernel(self, source: Path, name: str) -> Kernel:
        """`name` (an `extern "C" __global__` function) of a `.cu` file; compiled once per process
        and file, kept on disk by CuPy. EngineError when it does not compile or has no `name`."""
        function = self._function(source, name)

        def launch(
            grid: tuple[int, int, int], block: tuple[int, int, int], *arguments: object
        ) -> None:
            with mapped(f"launching {name}"):
                function(grid, block, arguments)

        return launch

    def finish(self) -> None:
        """Block until all work of the stream is done: what it wrote may be published."""
        with mapped("waiting for the stream"):
            self.queue.synchronize()

    def timed(self, do: Callable[[], object]) -> float:
        """Seconds that the device takes for what `do` gives to the stream, by the device's clock:
        from when it comes to the first of it to the end of the last. Blocks until then. For
        measurements. What `do` raises passes."""
        events = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        with mapped("timing work"):
            events[0].record(self.queue)
        do()
        with mapped("timing work"):
            events[1].record(self.queue)
            events[1].synchronize()
            return float(self._cupy.cuda.get_elapsed_time(*events)) / 1000

    def free_bytes(self) -> int:
        """VRAM that is free now, of all processes."""
        with mapped("asking for free memory"):
            return int(self._cuda.memGetInfo()[0])

    def shrink(self) -> None:
        """Give memory kept by CuPy's pool back to the driver."""
        with mapped("giving memory back"):
            self._cupy.get_default_memory_pool().free_all_blocks()

    def _move(self, source: Plane, target: Plane, direction: Direction) -> None:
        up = direction == "host_to_device"
        self._copy(
            source,
            target,
            self._cuda.memcpyHostToDevice if up else self._cuda.memcpyDeviceToHost,
        )
        # Page-locked memory is read and written while the caller goes on.
        self.finish()
        self._told(direction, int(source.nbytes))

    def _copy(self, source: Plane, target: Plane, kind: int) -> None:
        """Starts a copy of whole arrays. ValueError when they differ in shape or dtype, or when
        rows are not contiguous in themselves."""
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(
                f"{source.shape} of {source.dtype} into {target.shape} of {target.dtype}"
            )
        size = int(source.nbytes)
        if size == 0:
            return
        to, start = _address(target), _address(source)
        with mapped(f"copying {size} bytes"):
            if source.flags.c_contiguous and target.flags.c_contiguous:
                self._cuda.memcpyAsync(to, start, size, kind, self.stream)
            else:
                pitches = _pitch(target), _pitch(source)
                rows = source.shape[0]
                self._cuda.memcpy2DAsync(
                    to, pitches[0], start, pitches[1], size // rows, rows, kind, self.stream
                )

    def _function(self, source: Path, name: str) -> Any:
        try:
            if source not in self._modules:
                self._modules[source] = self._cupy.RawModule(
                    code=source.read_text(), backend="nvrtc", options=COMPILER_OPTIONS
                )
            return self._modules[source].get_function(name)  # compiled by the first of a file
        except self._cupy.cuda.compiler.CompileException as error:
            if NO_HEADER in str(error):
                raise EngineError(f"{source.name} needs CUDA's headers; {INSTALL}.") from error
            raise EngineError(f"{source.name} does not compile: {error}", able=True) from error
        except OSError as error:
            raise EngineError(
                f"Kernels can't be kept on disk ({error}); set CUPY_CACHE_DIR to a folder that "
                "can be written."
            ) from error
        except RuntimeError as error:
            if status(error) is not None:
                raise failure(error, f"loading {source.name}") from error
            raise EngineError(f"Kernels can't be compiled ({error}); {INSTALL}.") from error


def _cupy() -> Any:
    try:
        import cupy  # only where there is a GPU
    except ImportError as error:
        raise EngineError(
            f"CuPy can't be imported ({error}); install the extra `gpu` of this package."
        ) from error
    return cupy


def _nobody(direction: Direction, size: int) -> None:
    """Copies that nobody counts."""


def _identity(told: str, raw: bytes, address: str) -> str:
    """What CUDA_VISIBLE_DEVICES says, where that is a whole UUID; else CUDA's. CuPy takes the bytes
    for a C string, cut off at a zero (1 GPU of 16 has one): then the PCI address stands for them,
    by which NVML finds the device too."""
    first = told.split(",")[0].strip()
    if first.startswith("MIG-") or len(first) == len(f"GPU-{UUID(int=0)}"):
        return first
    if len(raw) < UUID_BYTES:
        return f"GPU-{address}"
    return f"GPU-{UUID(bytes=raw[:UUID_BYTES])}"


def _address(array: Any) -> int:
    """Of an array's first element, on the host or on the device."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _pitch(array: Any) -> int:
    """Bytes from one row (all but the first dimension) to the next."""
    row = int(array.nbytes) // int(array.shape[0])
    if array.flags.c_contiguous:
        return row
    pitch = int(array.strides[0])
    if pitch < row or not array[0].flags.c_contiguous:
        raise ValueError(f"strides {array.strides} of {array.shape} are no rows at a pitch")
    return pitch
