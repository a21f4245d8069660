"""Fixtures that every test area shares."""

from __future__ import annotations

from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
FOOTAGE = PROJECT.parent / "shared" / "footage"
MODELS = PROJECT.parent / "shared" / "models"


@pytest.fixture(scope="session")
def footage() -> Path:
    """Folder of real clips beside the project; the test is skipped where it is missing."""
    if not FOOTAGE.is_dir():
        pytest.skip("the development clips (../shared/footage) are not here")
    return FOOTAGE
