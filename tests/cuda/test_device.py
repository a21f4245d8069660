"""The GPU of a process, over the double and, where there is one, over the real thing."""

# ruff: noqa: ARG001

from __future__ import annotations

import operator
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shared.cuda.device import IPC_HANDLE_BYTES, Device
from shared.cuda.errors import STICKY, failure, status
from shared.cuda.memory import Staging, on_device
from shared.errors import (
    DeviceLostError,
    EngineError,
    ErrorCode,
    OutOfMemoryError,
    TemporaryError,
)
from shared.media.layout import FrameLayout, PixelFormat
from tests.doubles import device_env
from tests.doubles.fixtures import Environment

Array = npt.NDArray[Any]

SOURCE = """
extern "C" __global__ void shift(
    const unsigned char* source, unsigned char* target, int count, float by)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        target[i] = (unsigned char)(source[i] + by);
}
"""

OWNER = """
import sys
import numpy as np
from shared.cuda.device import Device

device = Device()
pointer = device.allocate(100_000)
slab = device.view(pointer, 100_000)
device.upload((np.arange(100_000) % 251).astype(np.uint8), slab)
print(device.export(pointer).hex(), flush=True)
for line in sys.stdin:
    if line == "free\\n":
        device.free(pointer)
        print("freed", flush=True)
        continue
    start, stop = map(int, line.split())
    part = np.empty(stop - start, np.uint8)
    device.download(slab[start:stop], part)
    print(part.tobytes().hex(), flush=True)
"""

FORK = """
import os, sys
from shared.cuda.device import Device
from shared.errors import EngineError

Device()
if os.fork() == 0:
    try:
        Device()
    except EngineError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def pattern(*shape: int) -> Array:
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def on(device: Device, host: Array, pitch: int = 0) -> Any:
    """A device array with the content of `host`, its rows `pitch` bytes apart."""
    if not pitch:
        array = device.empty(host.shape)
    else:
        array = device.empty((host.shape[0], pitch))[:, : host.shape[1]]
    device.upload(host, array)
    return array


def back(device: Device, array: Any) -> Array:
    host = np.empty(array.shape, array.dtype)
    device.download(array, host)
    return host


class Lent:
    """Memory as a library lends it: by one protocol only."""

    def __init__(self, array: Any, names: tuple[str, ...]) -> None:
        self.names = names
        self.array = array

    def __getattr__(self, name: str) -> Any:
        if name in self.names:
            return getattr(self.array, name)
        raise AttributeError(name)


@contextmanager
def owner(environment: Environment) -> Iterator[tuple[subprocess.Popen[str], bytes]]:
    """A process with 100,000 bytes (i % 251) on the device, and their handle."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], env=environment(), stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, bytes.fromhex(process.stdout.readline())
        finally:
            process.kill()


def say(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    print(line, file=process.stdin, flush=True)
    return process.stdout.readline().strip()


def test_a_device_says_who_it_is(device: Device) -> None:
    assert re.fullmatch(r"GPU-(\w{8}(-\w{4}){3}-\w{12}|[\w:.]+)", device.uuid)
    assert device.name
    assert device.compute >= (7, 5)
    assert 0 < device.free_bytes() <= device.total_bytes


def test_cupys_own_operations_go_to_the_devices_stream(device: Device) -> None:
    import cupy

    assert device.stream != 0
    assert cupy.cuda.get_current_stream().ptr == device.stream


def test_frames_cut_out_of_a_slab_lie_at_their_own_offsets(device: Device) -> None:
    layout = FrameLayout(width=5, height=3, format=PixelFormat.NV12)
    pointer = device.allocate(3 * layout.frame_bytes)
    slab = device.view(pointer, 3 * layout.frame_bytes)
    whole = pattern(3 * layout.frame_bytes)
    device.upload(whole, slab)
    luma, chroma = layout.planes(slab, 1)
    assert on_device((luma, chroma))
    assert luma.data.ptr == pointer + layout.frame_bytes  # type: ignore[attr-defined]
    expected = layout.planes(whole, 1)
    assert np.array_equal(back(device, luma), expected[0])
    assert np.array_equal(back(device, chroma), expected[1])
    device.free(pointer)


@pytest.mark.parametrize("columns", [1, 7, 64, 333])
@pytest.mark.parametrize("pitches", [(0, 0), (512, 0), (0, 512), (512, 640)])
def test_a_copy_moves_every_byte_and_only_those(
    device: Device,
    columns: int,
    pitches: tuple[int, int],
) -> None:
    host = pattern(9, columns)
    source = on(device, host, pitches[0])
    room = device.empty((9, pitches[1] or columns))
    device.upload(np.full(room.shape, 77, np.uint8), room)
    target = room[:, :columns] if pitches[1] else room
    device.copy(source, target)
    assert np.array_equal(back(device, target), host)
    assert np.all(back(device, room)[:, columns:] == 77)


def test_rows_of_the_host_may_be_strided_too(device: Device) -> None:
    host = pattern(6, 40)
    array = device.empty((6, 11))
    device.upload(host[:, 5:16], array)
    wide = np.zeros((6, 30), np.uint8)
    device.download(array, wide[:, 9:20])
    assert np.array_equal(wide[:, 9:20], host[:, 5:16])
    assert not wide[:, :9].any()
    assert not wide[:, 20:].any()


def test_nothing_is_copied_from_an_empty_array(device: Device) -> None:
    device.copy(device.empty((0, 4)), device.empty((0, 4)))


def test_copies_that_do_not_fit_are_refused(device: Device) -> None:
    array = device.empty((4, 6))
    with pytest.raises(ValueError, match=r"\(4, 5\) of uint8 into \(4, 6\)"):
        device.upload(pattern(4, 5), array)
    with pytest.raises(ValueError, match="int8"):
        device.upload(pattern(4, 6).view(np.int8), array)
    with pytest.raises(ValueError, match="no rows at a pitch"):
        device.copy(array[:, ::2], device.empty((4, 3)))
    frozen = pattern(4, 6)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        device.download(array, frozen)


def test_copies_between_host_and_device_are_counted_and_no_others(
    device: Device,
) -> None:
    counted: list[tuple[str, int]] = []
    own = Device(lambda direction, size: counted.append((direction, size)))
    array = own.empty((3, 512))[:, :5]
    own.upload(pattern(3, 5), array)
    own.copy(array, own.empty((3, 5)))
    own.download(array, np.empty((3, 5), np.uint8))
    assert counted == [("host_to_device", 15), ("device_to_host", 15)]


@pytest.mark.parametrize(
    "touch",
    [np.asarray, float, memoryview, lambda array: operator.setitem(np.empty((2, 3)), ..., array)],
    ids=["asarray", "float", "memoryview", "assignment"],
)
def test_numpy_can_not_touch_device_memory_by_itself(device: Device, touch: Any) -> None:
    with pytest.raises(TypeError):
        touch(on(device, pattern(2, 3)))


def test_page_locked_memory_is_plain_bytes_of_the_host(device: Device) -> None:
    locked = device.pinned(1001)
    assert (locked.shape, locked.dtype) == ((1001,), np.uint8)
    locked[...] = pattern(1001)
    assert np.array_equal(back(device, on(device, locked)), pattern(1001))


def test_another_process_reads_and_writes_the_same_memory(
    device: Device,
    environment: Environment,
) -> None:
    with owner(environment) as (process, handle):
        assert len(handle) == IPC_HANDLE_BYTES
        pointer = device.open(handle)
        slab = device.view(pointer, 100_000)
        assert np.array_equal(back(device, slab[70_000:70_300]), np.arange(70_000, 70_300) % 251)
        device.upload(pattern(200), slab[70_050:70_250])
        seen = bytes.fromhex(say(process, "70049 70251"))
        assert seen[1:-1] == pattern(200).tobytes()
        assert (seen[0], seen[-1]) == (70_049 % 251, 70_250 % 251)
        device.close(pointer)


def test_memory_of_a_killed_owner_can_not_be_opened(
    device: Device,
    environment: Environment,
) -> None:
    with owner(environment) as (process, handle):
        process.kill()
        process.wait()
        with pytest.raises(TemporaryError, match="its owner restarts it") as caught:
            device.open(handle)
        assert caught.value.code == ErrorCode.BUSY


def test_memory_that_its_owner_freed_can_not_be_opened(doubles: None) -> None:
    with owner(device_env) as (process, handle):
        assert say(process, "free") == "freed"
        with pytest.raises(TemporaryError, match="gone"):
            Device().open(handle)


def test_a_process_does_not_open_its_own_memory(device: Device) -> None:
    pointer = device.allocate(1000)
    with pytest.raises(EngineError, match="PID namespace") as caught:
        device.open(device.export(pointer))
    assert caught.value.able
    device.free(pointer)


def test_more_memory_than_there_is_is_refused_and_the_device_goes_on(
    device: Device,
) -> None:
    with pytest.raises(OutOfMemoryError, match="allocating"):
        device.allocate(1 << 50)
    with pytest.raises(OutOfMemoryError, match="uint8"):
        device.empty((1 << 25, 1 << 25))
    device.free(device.allocate(1 << 20))


def test_memory_comes_back_when_it_is_freed_and_the_pool_shrunk(device: Device) -> None:
    device.shrink()
    free = device.free_bytes()
    pointer, array = device.allocate(64 << 20), device.empty((64 << 20,))
    assert device.free_bytes() <= free - (128 << 20)
    device.free(pointer)
    del array
    assert device.free_bytes() <= free - (64 << 20)
    device.shrink()
    assert device.free_bytes() >= free - (32 << 20)


def test_a_kernel_runs_on_arrays_and_scalars_of_exact_types(
    device: Device,
    tmp_path: Path,
) -> None:
    source = tmp_path / "shift.cu"
    source.write_text(SOURCE)
    kernel = device.kernel(source, "shift")
    host = pattern(300) // 2
    array, target = on(device, host), on(device, np.zeros(300, np.uint8))
    kernel((3, 1, 1), (128, 1, 1), array, target, np.int32(299), np.float32(9.0))
    device.finish()
    assert np.array_equal(back(device, target)[:299], host[:299] + 9)
    assert back(device, target)[299] == 0


def test_a_kernel_that_is_not_there_or_does_not_compile_is_an_engines_error(
    device: Device,
    tmp_path: Path,
) -> None:
    source = tmp_path / "shift.cu"
    source.write_text(SOURCE)
    with pytest.raises(EngineError, match=r"shift\.cu"):
        device.kernel(source, "other")
    broken = tmp_path / "broken.cu"
    broken.write_text(SOURCE.replace("by)", "by) oops"))
    with pytest.raises(EngineError, match="does not compile"):
        device.kernel(broken, "shift")


@pytest.mark.parametrize(
    "names",
    [("__cuda_array_interface__",), ("__dlpack__", "__dlpack_device__")],
    ids=["interface", "dlpack"],
)
def test_memory_of_a_library_is_seen_at_its_pitch(device: Device, names: tuple[str, ...]) -> None:
    surface = on(device, pattern(4, 10), 256)
    adopted = device.adopt(Lent(surface, names))
    assert adopted.data.ptr == surface.data.ptr
    assert (adopted.shape, adopted.strides) == ((4, 10), (256, 1))
    assert np.array_equal(back(device, adopted), pattern(4, 10))
    tight = device.empty((4, 10))
    device.copy(adopted, tight)
    assert np.array_equal(back(device, tight), pattern(4, 10))


def test_what_is_no_device_memory_is_not_adopted(device: Device) -> None:
    with pytest.raises(TypeError):
        device.adopt(pattern(4))
    with pytest.raises(TypeError, match="no device memory"):
        device.adopt(b"bytes")


def test_planes_come_down_and_go_up_through_staging(device: Device) -> None:
    counted: list[int] = []
    own = Device(lambda _, size: counted.append(size))
    staging = Staging(own)
    for width, height in ((7, 5), (3, 2)):
        layout = FrameLayout(width=width, height=height, format=PixelFormat.NV12)
        whole = pattern(layout.frame_bytes)
        planes = layout.planes(on(own, whole))
        down = staging.down(planes)
        for copy, plane in zip(down, layout.planes(whole), strict=True):
            assert np.array_equal(copy, plane)
        blank = staging.blank(planes)
        for host, plane in zip(blank, down, strict=True):
            host[...] = 255 - plane
        staging.up(blank, planes)
        assert np.array_equal(back(own, planes[1]), 255 - down[1])
        assert sum(counted) == 3 * layout.frame_bytes + planes[1].nbytes
        counted.clear()


def test_a_forked_child_is_told_to_start_again(
    device: Device,
    environment: Environment,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], env=environment(), capture_output=True, text=True, check=True
    )
    assert "before it forked" in done.stdout


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("DOUBLE_GPUS", "0", "There is no GPU here.*cudaErrorNoDevice"),
        ("DOUBLE_GPUS", "no-driver", "There is no NVIDIA driver here"),
        ("CUDA_VISIBLE_DEVICES", "GPU-12345678", "CUDA_VISIBLE_DEVICES names none"),
    ],
)
def test_without_a_device_the_engine_says_what_is_missing(
    doubles: None, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(EngineError, match=sentence) as caught:
        Device()
    assert not caught.value.able


def test_without_cupy_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(EngineError, match="install the extra `gpu`") as caught:
        Device()
    assert not caught.value.able


@pytest.mark.parametrize(
    ("told", "by_cuda", "expected"),
    [
        ("", "d0b1" + 14 * "ee", "GPU-d0b1eeee-eeee-eeee-eeee-eeeeeeeeeeee"),
        ("", "d000" + 14 * "ee", "GPU-0000:01:00.0"),
        ("0", "d0b1" + 14 * "ee", "GPU-d0b1eeee-eeee-eeee-eeee-eeeeeeeeeeee"),
        (
            "MIG-aa4c2b1c-1111-2222-3333-444455556666",
            16 * "dd",
            "MIG-aa4c2b1c-1111-2222-3333-444455556666",
        ),
        (
            "GPU-d000eeee-eeee-eeee-eeee-eeeeeeeeeeee,1",
            "d000" + 14 * "ee",
            "GPU-d000eeee-eeee-eeee-eeee-eeeeeeeeeeee",
        ),
    ],
    ids=["whole", "cut at a zero", "index", "slice", "list"],
)
def test_a_devices_name_is_that_of_nvml(
    doubles: None, monkeypatch: pytest.MonkeyPatch, told: str, by_cuda: str, expected: str
) -> None:
    monkeypatch.setenv("DOUBLE_UUID", by_cuda)
    assert Device(visible=told).uuid == expected


def test_an_illegal_access_ends_the_use_of_the_device(
    doubles: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOUBLE_FAULTS", "illegal=2")
    device = Device()
    source = tmp_path / "shift.cu"
    source.write_text(SOURCE)
    kernel, array = device.kernel(source, "shift"), device.empty((8,))
    for _ in range(2):
        kernel((1, 1, 1), (8, 1, 1), array, array, np.int32(8), np.float32(1))
    for call in (device.finish, device.free_bytes, lambda: device.allocate(5)):
        with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
            call()


def test_a_kernel_on_memory_that_was_freed_loses_the_device(doubles: None, tmp_path: Path) -> None:
    device = Device()
    source = tmp_path / "shift.cu"
    source.write_text(SOURCE)
    pointer = device.allocate(8)
    array = device.view(pointer, 8)
    kernel = device.kernel(source, "shift")
    device.free(pointer)
    kernel((1, 1, 1), (8, 1, 1), array, array, np.int32(8), np.float32(1))
    with pytest.raises(DeviceLostError):
        device.finish()


def test_memory_of_the_double_is_gone_when_it_is_freed(doubles: None) -> None:
    def files() -> int:
        links = (os.path.realpath(each) for each in Path("/proc/self/fd").iterdir())
        return sum("double-of-gpu-memory" in each for each in links)

    device = Device()
    pointer = device.allocate(1000)
    array = device.empty((1000,))
    assert files() > 0
    device.free(pointer)
    del array
    device.shrink()
    assert files() == 0


def test_a_fault_from_a_file_strikes_once(
    doubles: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faults = tmp_path / "faults"
    faults.write_text("malloc=1")
    monkeypatch.setenv("DOUBLE_FAULTS_FILE", str(faults))
    device = Device()
    with pytest.raises(OutOfMemoryError):
        device.allocate(10)
    assert not faults.exists()
    device.free(device.allocate(10))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (PermissionError(13, "Permission denied", "/.cupy"), "CUPY_CACHE_DIR"),
        (RuntimeError("CuPy failed to load libnvrtc.so.13"), "install NVRTC"),
    ],
)
def test_where_kernels_can_not_be_compiled_the_engine_says_what_helps(
    doubles: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: Exception,
    advice: str,
) -> None:
    import cupy

    def refused(**_: object) -> None:
        raise error

    device = Device()
    monkeypatch.setattr(cupy, "RawModule", refused)
    (tmp_path / "shift.cu").write_text(SOURCE)
    with pytest.raises(EngineError, match=advice) as caught:
        device.kernel(tmp_path / "shift.cu", "shift")
    assert not caught.value.able


def test_without_cudas_headers_the_engine_says_what_helps(
    doubles: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The wheel of CuPy has none; NVRTC's words."""
    import cupy

    said = 'x.cu(12): catastrophic error: could not open source file "cuda_fp16.h"'

    def refused(**_: object) -> None:
        raise cupy.cuda.compiler.CompileException(said)

    device = Device()
    monkeypatch.setattr(cupy, "RawModule", refused)
    (tmp_path / "shift.cu").write_text(SOURCE)
    with pytest.raises(EngineError, match="needs CUDA's headers; install") as caught:
        device.kernel(tmp_path / "shift.cu", "shift")
    assert not caught.value.able


@pytest.mark.parametrize("code", sorted({*STICKY, 2, 1, 701}))
def test_cudas_errors_are_told_apart_by_their_numbers(code: int) -> None:
    class CudaError(RuntimeError):
        status = code

    ours = failure(CudaError("cudaErrorX: x"), "copying")
    kinds = {2: OutOfMemoryError, 1: EngineError, 701: EngineError}
    assert type(ours) is kinds.get(code, DeviceLostError)
    assert status(CudaError()) == code
    assert status(ValueError()) is None
