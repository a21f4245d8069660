"""The stand-in for pynvml in this process, and the environment of processes that are to have it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tests.conftest import PROJECT

SITE = PROJECT / "tests" / "doubles" / "site"


def path_with(*folders: Path) -> str:
    """PYTHONPATH with these before all others."""
    inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return os.pathsep.join([*(str(folder) for folder in folders), str(PROJECT), *inherited])


@contextmanager
def pynvml_of(hardware: str) -> Iterator[ModuleType]:
    """The stand-in over `hardware`, a name of its `MACHINES` or JSON."""
    spec = importlib.util.spec_from_file_location("pynvml_double", SITE / "pynvml.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    before = os.environ.get("DOUBLE_HARDWARE")
    os.environ["DOUBLE_HARDWARE"] = hardware
    try:
        spec.loader.exec_module(made)
        yield made
    finally:
        if before is None:
            del os.environ["DOUBLE_HARDWARE"]
        else:
            os.environ["DOUBLE_HARDWARE"] = before
