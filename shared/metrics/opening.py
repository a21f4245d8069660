"""From settings to a meter, and to what Prometheus reads."""

from __future__ import annotations

from shared.logs import Log
from shared.metrics.meter import Meter
from shared.settings import Settings


def open_meter(settings: Settings, stage: str) -> Meter:
    """The meter of a process that does `stage`; once per process, before it forks. Off when
    settings say so, or where there is no space."""
    if not settings.metrics:
        return Meter(stage)
    # Costs 20 ms of CPU; the embedded stack's fork server has paid for all its processes.
    from shared.metrics.book import FileBook

    try:
        meter = Meter(stage, FileBook(settings.metrics_path))
    except OSError as error:
        Log(stage=stage).warning("metrics are off", reason=str(error))
        return Meter(stage)
    meter.start_at_zero()
    return meter


def render_metrics(settings: Settings) -> tuple[bytes, str]:
    """What all processes that share `metrics_path` have counted, as Prometheus reads it, and its
    content type. Some 10 ms of CPU. Ask one of them only: each tells the figures of all."""
    from shared.metrics.book import render  # as above

    return render(settings.metrics_path)
