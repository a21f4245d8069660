"""Errors as the library words them, and when the double has them."""

# ruff: noqa: N818

from __future__ import annotations

import enum
import functools
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from cupy._driver import CUDARuntimeError, driver

F = TypeVar("F", bound=Callable[..., Any])

OUT_OF_MEMORY, NOT_SUPPORTED, ILLEGAL_ADDRESS, UNKNOWN = 2, 801, 700, 999
NVENC_UNSUPPORTED_DEVICE, NVENC_INVALID_PARAM, NVENC_INVALID_CALL = 2, 8, 9
NVENC_OUT_OF_MEMORY, NVENC_GENERIC = 10, 20


class PyNvVCException(Exception):
    """Any error."""


class PyNvVCExceptionUnsupported(Exception):
    """What the hardware can't do."""


def error(what: str, code: int, *, unsupported: bool = False) -> Exception:
    kind = PyNvVCExceptionUnsupported if unsupported else PyNvVCException
    return kind(f"{what}\nError code : {code}\nError Type : double\n at line 1 in file double.cpp")


def need_driver() -> None:
    """As at the import of the real one: without a driver its libraries can't be loaded."""
    try:
        count = driver.count()
    except CUDARuntimeError as refused:
        count = 0
        if refused.status not in (35, 100):
            raise
    if count == 0:
        raise RuntimeError(
            "libnvidia-encode.so.1: cannot open shared object file: No such file or directory\n\n"
            "=== TROUBLESHOOTING STEPS ===\n..."
        )


def enter(what: str) -> None:
    """At the start of each call."""
    try:
        driver.enter()
    except CUDARuntimeError as refused:
        raise error(f"{what} returned error {refused.status}", refused.status) from refused


def of_kinds(what: str, given: Iterable[tuple[object, type]]) -> None:
    """As pybind11 has it: an enumeration is no number, nor the other way round."""
    for value, kind in given:
        if not isinstance(value, kind) or (kind is int and isinstance(value, enum.Enum)):
            raise TypeError(f"{what}(): incompatible function arguments.")


def native(method: F) -> F:
    """A method of C++: an exception keeps no frame of it, and so not its object alive."""

    @functools.wraps(method)
    def call(self: object, *arguments: object) -> object:
        try:
            return method(self, *arguments)
        except Exception as failure:  # noqa: BLE001
            told = failure.with_traceback(None)
            del self
            raise told from None

    return cast(F, call)


class Sessions:
    """What one process has open."""

    def __init__(self, name: str, usual: int) -> None:
        self._name = name
        self._usual = usual
        self._begin()

    def open(self, session: object) -> bool:
        """False when there are as many as may be."""
        self._look()
        most = int(os.environ.get(f"DOUBLE_{self._name.upper()}_SESSIONS", str(self._usual)))
        if len(self._open) >= most:
            return False
        self._open.add(session)
        return True

    def frame(self) -> int:
        """At every frame: the number of the error it has, 0 as a rule."""
        self._look()
        self._frames += 1
        if driver._strikes(self._name, self._frames):
            return UNKNOWN if self._name == "nvdec" else NVENC_GENERIC
        if driver._strikes(f"{self._name}-lost", self._frames):
            driver.lost = ILLEGAL_ADDRESS
            return ILLEGAL_ADDRESS
        return 0

    def _look(self) -> None:
        """Whether the driver was reset, as in a new process."""
        if self._process is not driver._live:
            self._begin()

    def _begin(self) -> None:
        self._process = driver._live
        self._open: weakref.WeakSet[object] = weakref.WeakSet()
        self._frames = 0
