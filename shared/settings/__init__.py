"""Settings of a process in layers, strongest first: the environment (`DUALFACE_*`),
`manual_config.yaml` (what a person set), `auto_detected.yaml` (what was probed on this hardware),
defaults.

Only this package reads the environment and the two files, when asked. `sections/` has the fields:
each says its unit and why its default is what it is.
"""

from __future__ import annotations

from shared.settings.loading import Settings, SourceLimits
from shared.settings.section import MIB

__all__ = ["MIB", "Settings", "SourceLimits"]
