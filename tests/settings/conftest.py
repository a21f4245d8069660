"""A folder of settings of its own, and an environment that says nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's files of settings lie; there is none yet."""
    for name in [each for each in os.environ if each.startswith("DUALFACE_")]:
        monkeypatch.delenv(name)
    made = tmp_path / "config"
    made.mkdir()
    monkeypatch.setenv("DUALFACE_CONFIG_DIR", str(made))
    return made
