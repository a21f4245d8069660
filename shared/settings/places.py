"""Where the files of settings lie."""

from __future__ import annotations

import os
from pathlib import Path

MANUAL = "manual_config.yaml"
"""What a person set."""
DETECTED = "auto_detected.yaml"
"""What was probed on this hardware."""


def config_home() -> Path:
    """The folder of both, unless DUALFACE_CONFIG_DIR says another. Without a home it is none that
    exists."""
    # Not Path.expanduser, which raises for a user without a home, as containers have.
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "dualface"


def config_dir() -> Path:
    """As `Settings.config_dir`, for those who need nothing else of it."""
    chosen = os.environ.get("DUALFACE_CONFIG_DIR")
    return Path(chosen) if chosen else config_home()
