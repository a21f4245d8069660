"""What this project logged, and nobody else in the process."""

from __future__ import annotations

import logging

import pytest


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Records of the project's own logger, in the order in which they came."""
    return [record for record in caplog.records if record.name == "dualface"]
