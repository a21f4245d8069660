"""`docs/metrics.md`, made from the list."""

from __future__ import annotations

from shared.metrics.catalogue import METRICS, OTHER, Label, Metric

HEAD = f"""# Metrics

Made from `shared/metrics/catalogue.py` by `python -m shared.metrics > docs/metrics.md`. How they
are asked for, and the alerts, are in [operations](operations.md#metrics-and-alerts).

Percentiles are queries over histograms, for example the 95th of the latency per frame:
`histogram_quantile(0.95, sum by (le) (rate(dualface_pipeline_frame_seconds_bucket[5m])))`. Values
of a label beyond those named, or beyond its number, are counted as `{OTHER}`.

The six that matter first: `dualface_gpu_utilization_ratio`, `dualface_gpu_memory_used_bytes` (with
`dualface_gpu_memory_budget_ratio`), `dualface_gpu_decoder_utilization_ratio`,
`dualface_gpu_encoder_utilization_ratio`, `dualface_pipeline_frame_seconds`,
`dualface_queue_messages`. Those of GPUs come from NVML: they were tested against a stand-in for it
and have not run on a GPU yet. `dualface_copied_bytes_total` is for engines that copy; the CPU ones
that there are do not.
"""

TABLE = "| metric | kind, unit | labels | what | what to do |\n|---|---|---|---|---|"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for group in dict.fromkeys(metric.group for metric in METRICS):
        rows = [_row(metric) for metric in METRICS if metric.group == group]
        parts.append("\n".join([f"## {group}", "", TABLE, *rows, ""]))
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    labels = "; ".join(_label(label) for label in metric.labels)
    kind = f"{metric.kind}, {metric.unit}"
    return f"| `{metric.name}` | {kind} | {labels} | {metric.help} | {metric.advice} |"


def _label(label: Label) -> str:
    what = label.what or ", ".join(label.values) or f"at most {label.most}"
    return f"`{label.name}`: {what}"
