"""Looking at folders in which others make and remove things at the same time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, links too; nothing where there is no such folder. What goes away
    meanwhile is left out: `Path.rglob` would raise for a folder that goes after it was listed."""
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)
