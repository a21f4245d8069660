"""Reads the signatures of the `__global__` functions of a `.cu` file."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

# Sizes are those of CUDA on 64-bit Linux, which are the host's.
_TYPES = {
    "bool": "?",
    "char": "i1",
    "signed char": "i1",
    "unsigned char": "u1",
    "short": "i2",
    "unsigned short": "u2",
    "int": "i4",
    "unsigned": "u4",
    "unsigned int": "u4",
    "long long": "i8",
    "unsigned long long": "u8",
    "size_t": "u8",
    "float": "f4",
    "double": "f8",
    "__half": "f2",
}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_GLOBAL = re.compile(r"\b__global__\b")
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)'
)
_QUALIFIER = re.compile(r"\b(?:const|__restrict__|volatile)\b")
_PARAMETER = re.compile(r"^(.*[\s*])(\w+)$", re.DOTALL)


class Parameter(NamedTuple):
    """`type` as C++ has it, without qualifiers; `dtype` is None for a pointer."""

    name: str
    type: str
    dtype: np.dtype[Any] | None


def signatures(text: str) -> dict[str, tuple[Parameter, ...]]:
    """Parameters of each kernel. Raises ValueError for a kernel that is not `extern "C"` and for a
    type that is not known here, as their bytes could not be checked."""
    code = _COMMENT.sub(" ", text)
    found = {match[1]: _parameters(match[2]) for match in _KERNEL.finditer(code)}
    if len(found) != len(_GLOBAL.findall(code)):
        raise ValueError('a __global__ function is not `extern "C" __global__ void name(...)`')
    return found


def _parameters(text: str) -> tuple[Parameter, ...]:
    if text.strip() in ("", "void"):
        return ()
    return tuple(_parameter(part.strip()) for part in text.split(","))


def _parameter(text: str) -> Parameter:
    match = _PARAMETER.match(text)
    if match is None:
        raise ValueError(f"the parameter {text!r} has no name")
    kind, name = match[1], match[2]
    if "*" in kind:
        # A pointer's constness matters to C++ only; __restrict__ not even to that.
        return Parameter(name, re.sub(r"\b__restrict__\b", "", kind).strip(), None)
    plain = " ".join(_QUALIFIER.sub(" ", kind).split())
    if plain not in _TYPES:
        raise ValueError(f"the type of the parameter {text!r} is not known")
    return Parameter(name, plain, np.dtype(_TYPES[plain]))
