"""What all processes count, and how it is asked for: the list, the meter, the files behind it.

`catalogue` is the list; a `Meter` counts; `book` alone imports prometheus_client, and only where
something is counted or asked for.
"""

from __future__ import annotations

from shared.metrics.meter import Meter, kind_of
from shared.metrics.opening import open_meter, render_metrics

__all__ = ["Meter", "kind_of", "open_meter", "render_metrics"]
