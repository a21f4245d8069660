"""`python -m tests.cuda.nvrtc`: our kernels compiled for every generation of GPUs, without one.

By NVRTC, with CuPy's options, where its package and CUDA's headers are installed (`make setup
GPU=1`); of the standard library only. A warning counts as an error. What comes out is thrown away.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATIONS = (75, 80, 89, 90, 100, 120)
"""Compute capabilities times ten: Turing, Ampere, Ada, Hopper, and Blackwell's two."""
OPTIONS = ("--std=c++17", "-ftz=true", "--device-as-default-execution-space")
COMPILED = 0  # NVRTC_SUCCESS


class Compiler:
    """NVIDIA's NVRTC. May be used by several threads."""

    def __init__(self, library: Path, headers: Sequence[Path]) -> None:
        self._library = ctypes.CDLL(str(library))
        self._options = [*OPTIONS, *(f"-I{each}" for each in headers)]

    def problem(self, source: Path, generation: int) -> str:
        """What the compiler has to say of a file: nothing, when it compiles."""
        options = [each.encode() for each in (*self._options, f"-arch=sm_{generation}")]
        program = ctypes.c_void_p()
        self._call(
            "CreateProgram",
            ctypes.byref(program),
            source.read_bytes(),
            source.name.encode(),
            0,
            None,
            None,
        )
        try:
            listed = (ctypes.c_char_p * len(options))(*options)
            code = self._library.nvrtcCompileProgram(program, len(options), listed)
            log = self._log(program)
        finally:
            self._call("DestroyProgram", ctypes.byref(program))
        return log or (f"NVRTC's error {code}" if code != COMPILED else "")

    def _log(self, program: ctypes.c_void_p) -> str:
        size = ctypes.c_size_t()
        self._call("GetProgramLogSize", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call("GetProgramLog", program, text)
        return text.value.decode(errors="replace").strip()

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, f"nvrtc{name}")(*arguments)
        if code != COMPILED:
            raise RuntimeError(f"nvrtc{name} says {code}")


def installed() -> Compiler | None:
    """By NVIDIA's packages of this interpreter; None without them."""
    found = importlib.util.find_spec("nvidia")
    roots = [Path(each) for each in (found and found.submodule_search_locations) or ()]
    libraries = [path for root in roots for path in root.glob("cu*/lib/libnvrtc.so.*")]
    headers = [path for root in roots for path in root.glob("cu*/include")]
    if not libraries or not any((each / "cuda_fp16.h").exists() for each in headers):
        return None
    return Compiler(libraries[0], headers)


def kernels() -> list[Path]:
    """Our files."""
    return sorted(path for part in ("services", "shared") for path in (ROOT / part).rglob("*.cu"))


def main() -> int:
    """1: a file does not compile."""
    compiler = installed()
    if compiler is None:
        print("No nvcc here, nor NVRTC (make setup GPU=1): CUDA kernels not compiled")
        return 0
    work = [(source, generation) for source in kernels() for generation in GENERATIONS]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        problems = list(threads.map(lambda each: compiler.problem(*each), work))
    for (source, generation), problem in zip(work, problems, strict=True):
        if problem:
            print(f"{source.relative_to(ROOT)} for sm_{generation}: {problem}", file=sys.stderr)
    if any(problems):
        return 1
    print("CUDA kernels compile (by NVRTC)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
