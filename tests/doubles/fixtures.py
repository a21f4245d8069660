"""Fixtures with a GPU, real or double, for tests in this process and in children of their own.

A test that asks for `device` runs twice: over the doubles, and (marked `gpu`) over the real thing,
which is skipped where there is none unless REQUIRE_GPU=1 makes that an error. `doubles` is for
tests of what only the double can be told to do: fail.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from shared.errors import EngineError
from tests.doubles import SITE, device_env
from tests.doubles.cuda_on_cpu import missing

if TYPE_CHECKING:
    from shared.cuda.device import Device

Environment = Callable[..., dict[str, str]]

VENDORS = frozenset(path.stem for path in SITE.iterdir()) | {"cupy_backends", "cupyx"}
"""Top names of the packages that are put aside, one set for the other, between tests."""

_aside: dict[bool, dict[str, ModuleType]] = {True: {}, False: {}}
"""Imported modules of the real packages (True) and of the doubles: neither is imported twice."""


@pytest.fixture(params=["double", pytest.param("gpu", marks=pytest.mark.gpu)])
def vendor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`double` or `gpu`: whose packages this process imports during the test."""
    kind = str(request.param)
    with _packages(kind == "gpu", monkeypatch):
        yield kind


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The doubles' packages in this process, as in a new one."""
    with _packages(False, monkeypatch):
        yield


@pytest.fixture
def device(vendor: str) -> Iterator[Device]:
    """The device of this process, with nothing on it."""
    from shared.cuda.device import Device

    try:
        opened = Device()
    except EngineError as error:
        if vendor == "double" or os.environ.get("REQUIRE_GPU") == "1":
            raise
        pytest.skip(error.message)
    yield opened
    if vendor == "gpu":
        opened.finish()
        opened.shrink()


@pytest.fixture
def environment(vendor: str) -> Environment:
    """Of child processes that are to see the same packages as this one; takes more variables."""
    return device_env if vendor == "double" else lambda **more: os.environ | more


@contextmanager
def _packages(real: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not real:
        if reason := missing():
            pytest.skip(reason)
        monkeypatch.syspath_prepend(str(SITE))
        for name, value in device_env().items():
            if name.startswith("DOUBLE_"):
                monkeypatch.setenv(name, value)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    sys.modules.update(_aside[real])
    try:
        if not real:
            _reset()
        yield
        if not real:
            _reset()
    finally:
        here = [name for name in sys.modules if name.partition(".")[0] in VENDORS]
        _aside[real] = {name: sys.modules.pop(name) for name in here}


def _reset() -> None:
    import cupy

    reset: Callable[[], None] = cupy.reset_double
    reset()
