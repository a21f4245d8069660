"""CUDA kernels compiled for the CPU: the very `.cu` files, run thread after thread.

`compiled(path).launch(name, grid, block, args)` does what a launch on a GPU does, and refuses what
CUDA would refuse or silently misread: a wrong number of arguments, a scalar of another type than
the parameter's, a grid or block beyond the hardware's limits. Threads run one after the other, so a
kernel that needs them to wait for each other (`__syncthreads`) can't be compiled here.

Needs g++; `missing()` says so in one sentence where there is none.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.doubles.cuda_on_cpu.signatures import Parameter, signatures

Dim = tuple[int, int, int]

COMPILER = "g++"
# A GPU divides and takes roots as IEEE says, but may contract a * b + c; the CPU does not here, so
# that the same bytes come out on every machine.
FLAGS = ("-O2", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden")
WARNINGS = (
    *("-Wall", "-Wextra", "-Werror"),
    # `#pragma unroll` is CUDA's; a kernel may leave parts of a template's signature unused.
    *("-Wno-unknown-pragmas", "-Wno-unused-parameter", "-Wno-unused-function"),
)
SHIM = Path(__file__).parent / "shim"

# CUDA C++ Programming Guide, "Technical specifications per compute capability": alike from 5.0 on.
MOST_THREADS = 1024
MOST_BLOCK: Dim = (1024, 1024, 64)
MOST_GRID: Dim = (2**31 - 1, 65535, 65535)


class KernelError(Exception):
    """A source that does not compile, or a launch that a GPU would refuse or misread."""


def missing() -> str:
    """Why kernels can't be compiled here; empty where they can."""
    return "" if shutil.which(COMPILER) else f"{COMPILER} is not installed"


@dataclass(frozen=True)
class Kernels:
    """The `__global__` functions of one source. Launches return when all threads have run."""

    parameters: Mapping[str, tuple[Parameter, ...]]
    _library: ctypes.CDLL

    def launch(self, name: str, grid: Dim, block: Dim, args: Sequence[object]) -> None:
        """Run every thread. `args`: addresses as int for pointers, NumPy scalars of the
        parameters' exact types for the rest. Raises KernelError."""
        if name not in self.parameters:
            raise KernelError(f"no kernel {name}, only {', '.join(self.parameters)}")
        _check_dims(name, grid, block)
        wanted = self.parameters[name]
        if len(args) != len(wanted):
            raise KernelError(f"{name} takes {len(wanted)} arguments, not {len(args)}")
        kept = [_bytes_of(name, p, a) for p, a in zip(wanted, args, strict=True)]
        pointers = (ctypes.c_void_p * len(kept))(*(ctypes.addressof(value) for value in kept))
        dims = (ctypes.c_uint * 6)(*grid, *block)
        getattr(self._library, f"launch__{name}")(dims, pointers)


def compiled(source: Path) -> Kernels:
    """The kernels of a `.cu` file, compiled once per content and machine. Raises KernelError."""
    return compiled_text(source.read_text(), str(source))


@functools.cache
def compiled_text(text: str, name: str = "kernel.cu") -> Kernels:
    """As `compiled`, of source text; `name` is for the compiler's messages."""
    if reason := missing():
        raise KernelError(reason)
    try:
        found = signatures(text)
    except ValueError as error:
        raise KernelError(f"{name}: {error}") from error
    unit = _unit(text, name, found)
    shims = "".join(path.read_text() for path in sorted(SHIM.iterdir()) if path.is_file())
    parts = (unit, shims, *FLAGS, platform.machine(), platform.node())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    library = _cache() / f"{digest}.so"
    if not library.exists():
        _compile(unit, library, name)
    return Kernels(found, ctypes.CDLL(str(library)))


def _unit(text: str, name: str, found: Mapping[str, Sequence[Parameter]]) -> str:
    """The source, followed by a launcher for each kernel."""
    lines = ['#include "cuda_on_cpu.h"', f'#line 1 "{name}"', text, '#line 1 "launchers"']
    for kernel, parameters in found.items():
        values = ", ".join(
            f"*static_cast<{p.type}*>(arguments[{i}])" for i, p in enumerate(parameters)
        )
        lines.append(
            f'extern "C" __attribute__((visibility("default"))) void launch__{kernel}('
            "const unsigned* dims, void** arguments) {"
            f" for_all_threads(dims, [=] {{ {kernel}({values}); }}); }}"
        )
    return "\n".join(lines) + "\n"


def _cache() -> Path:
    """A folder of this user's only: what lies in it is loaded and run."""
    folder = Path(tempfile.gettempdir()) / f"dualface-cuda-on-cpu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise KernelError(f"{folder} belongs to somebody else")
    return folder


def _compile(unit: str, library: Path, name: str) -> None:
    """Into a name of its own first: other processes see the library whole or not at all."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / "kernels.so"
        command = [
            COMPILER,
            *FLAGS,
            *WARNINGS,
            f"-I{SHIM}",
            "-x",
            "c++",
            "-",
            "-o",
            str(made),
            "-lm",
        ]
        done = subprocess.run(command, input=unit, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KernelError(f"{name} does not compile for the CPU:\n{done.stderr}")
        made.rename(library)


def _check_dims(name: str, grid: Dim, block: Dim) -> None:
    for what, dims, most in (("grid", grid, MOST_GRID), ("block", block, MOST_BLOCK)):
        if len(dims) != 3 or any(not 1 <= d <= m for d, m in zip(dims, most, strict=True)):
            raise KernelError(f"{name}: the {what} {dims} is not within 1..{most}")
    if block[0] * block[1] * block[2] > MOST_THREADS:
        raise KernelError(f"{name}: a block of {block} has more than {MOST_THREADS} threads")


def _bytes_of(name: str, parameter: Parameter, value: object) -> ctypes.Array[ctypes.c_char]:
    """The argument as it lies in a GPU's parameter memory."""
    wanted = parameter.dtype
    if wanted is None:
        if type(value) is not int or not 0 <= value < 2**64:
            raise KernelError(f"{name}: {parameter.name} is a pointer, not {value!r}")
        data = value.to_bytes(8, "little")
    else:
        if not isinstance(value, np.generic) or value.dtype != wanted:
            raise KernelError(f"{name}: {parameter.name} is {wanted}, not {_kind(value)}")
        data = value.tobytes()
    return ctypes.create_string_buffer(data, len(data))


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, np.generic) else type(value).__name__
