"""Doubles of GPU vendors' packages for machines without a GPU, put before the real ones.

They stand at the vendors' edge, so all of our own code runs. `device_env()` is for processes of
their own, `fixtures.device` for tests in this one.
"""

from __future__ import annotations

import os
from pathlib import Path

SITE = Path(__file__).parent / "site"
PROJECT = Path(__file__).resolve().parent.parent.parent


def device_env(**more: str) -> dict[str, str]:
    """The environment in which a child process finds the doubles. `more`: see `cupy/_driver.py`
    for what can be set."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(SITE), str(PROJECT), *([before] if before else [])]
    env = {k: v for k, v in os.environ.items() if not k.startswith("DOUBLE_")}
    env.pop("CUDA_VISIBLE_DEVICES", None)
    return env | {"PYTHONPATH": os.pathsep.join(paths), "DOUBLE_GPUS": "1"} | more
