"""The port of `DUALFACE_HTTP_PORT`, for the command: read without the settings' model, whose import
takes 0.3 s of CPU, and a container is asked every few seconds."""

from __future__ import annotations

import os

VARIABLE = "DUALFACE_HTTP_PORT"


def http_port() -> int:
    """As `Settings.http_port`. Raises ValueError for what is no number."""
    return int(os.environ.get(VARIABLE) or 0)
