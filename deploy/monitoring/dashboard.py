"""Makes the Grafana dashboard: `python deploy/monitoring/dashboard.py` writes it anew.

A list of rows, each of panels, each of queries; ids and places follow from the order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

TARGET = Path(__file__).parent / "grafana" / "dashboards" / "dualface.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, HEIGHT = 24, 8


@dataclass(frozen=True)
class Panel:
    """One graph. `queries`: (PromQL, legend). `unit` as Grafana calls it. `most`: end of the axis;
    `warn`: where the line turns red, as the alert has it."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    most: float | None = None
    warn: float | None = None
    note: str = ""
    stacked: bool = False


def quantile(share: float, metric: str, by: str = "") -> str:
    """PromQL of a percentile of a histogram, over all processes, for each `by`."""
    labels = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))"
    )


def rate(metric: str, by: str) -> str:
    """PromQL of a counter's growth per second, over all processes, for each `by`."""
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Pipeline stages",
        (
            Panel(
                "Pipeline latency per frame",
                (
                    (quantile(0.95, "dualface_pipeline_frame_seconds"), "p95"),
                    (quantile(0.5, "dualface_pipeline_frame_seconds"), "median"),
                ),
                "s",
                note="From a batch decoded to its chunk stored, divided by its frames; with the"
                " wait behind others, of whom there are as many as slots.",
            ),
            Panel(
                "Pipeline latency per batch",
                (
                    (quantile(0.95, "dualface_pipeline_batch_seconds"), "p95"),
                    (quantile(0.5, "dualface_pipeline_batch_seconds"), "median"),
                ),
                "s",
            ),
            Panel("Frames per second", ((rate("dualface_frames_total", "stage"), "{{stage}}"),)),
            Panel(
                "Seconds per frame by stage, p95",
                ((quantile(0.95, "dualface_stage_frame_seconds", "stage"), "{{stage}}"),),
                "s",
                warn=0.1,
            ),
            Panel(
                "Seconds per batch by stage, p95",
                ((quantile(0.95, "dualface_stage_batch_seconds", "stage"), "{{stage}}"),),
                "s",
            ),
            Panel(
                "Share of a batch that is filled, median",
                ((quantile(0.5, "dualface_batch_fill_ratio"), "fill"),),
                "percentunit",
                most=1,
            ),
            Panel(
                "Engines in use",
                ((rate("dualface_engine_uses_total", "stage, engine"), "{{stage}} {{engine}}"),),
                "ops",
            ),
            Panel(
                "Fall-backs and work given up",
                (
                    (
                        rate("dualface_engine_fallbacks_total", "stage, reason"),
                        "{{stage}}: {{reason}}",
                    ),
                    (rate("dualface_given_up_total", "stage"), "{{stage}} given up"),
                    ("rate(dualface_sources_failed_total[$__rate_interval])", "sources failed"),
                ),
                "ops",
            ),
            Panel(
                "Copies between host and device",
                (
                    (
                        rate("dualface_copied_bytes_total", "stage, direction"),
                        "{{stage}} {{direction}}",
                    ),
                ),
                "Bps",
            ),
        ),
    ),
    (
        "Resources",
        (
            Panel(
                "GPU utilisation",
                (("dualface_gpu_utilization_ratio", "{{instance}} {{gpu}}"),),
                "percentunit",
                most=1,
                warn=0.95,
            ),
            Panel(
                "VRAM, share of the budget",
                (("dualface_gpu_memory_budget_ratio", "{{instance}} {{gpu}}"),),
                "percentunit",
                most=1,
                warn=0.875,
            ),
            Panel(
                "VRAM used",
                (("dualface_gpu_memory_used_bytes", "{{instance}} {{gpu}}"),),
                "bytes",
            ),
            Panel(
                "NVDEC utilisation",
                (("dualface_gpu_decoder_utilization_ratio", "{{instance}} {{gpu}}"),),
                "percentunit",
                most=1,
            ),
            Panel(
                "NVENC utilisation",
                (("dualface_gpu_encoder_utilization_ratio", "{{instance}} {{gpu}}"),),
                "percentunit",
                most=1,
            ),
            Panel(
                "Slots and sessions in use",
                (
                    (
                        "sum by (kind) (dualface_leases_in_use)"
                        " / sum by (kind) (dualface_leases_capacity)",
                        "{{kind}}",
                    ),
                ),
                "percentunit",
                most=1,
            ),
            Panel(
                "Waiting for a slot or session, p95",
                ((quantile(0.95, "dualface_lease_wait_seconds", "kind"), "{{kind}}"),),
                "s",
            ),
            Panel(
                "Who waits for one",
                (("sum by (kind) (dualface_lease_waiters)", "{{kind}}"),),
            ),
            Panel(
                "Free share of disks",
                (("dualface_disk_free_ratio", "{{instance}} {{place}}"),),
                "percentunit",
                most=1,
            ),
        ),
    ),
    (
        "Streams and jobs",
        (
            Panel(
                "Jobs by state",
                (("sum by (state) (dualface_jobs)", "{{state}}"),),
                stacked=True,
            ),
            Panel(
                "Longest time without getting on",
                (("max by (state) (dualface_job_idle_seconds)", "{{state}}"),),
                "s",
                warn=300,
                note="Of the jobs in a state. The limit is for those that run: who waits for a turn"
                " that others have is not counted there. Queued: the longest wait.",
            ),
            Panel(
                "Jobs that ended, per minute",
                (
                    (
                        f"60 * {rate('dualface_jobs_ended_total', 'state, code')}",
                        "{{state}} {{code}}",
                    ),
                ),
            ),
            Panel(
                "Frames per second of a job, from its first segment to success",
                (
                    (quantile(0.5, "dualface_job_frames_per_second"), "median"),
                    (quantile(0.05, "dualface_job_frames_per_second"), "slowest 5 %"),
                ),
            ),
            Panel(
                "Seconds of a job",
                (
                    (quantile(0.95, "dualface_job_seconds"), "p95"),
                    (quantile(0.5, "dualface_job_seconds"), "median"),
                ),
                "s",
            ),
            Panel(
                "Calls of webhooks, per minute",
                ((f"60 * {rate('dualface_webhook_calls_total', 'outcome')}", "{{outcome}}"),),
            ),
            Panel(
                "Frames not as they should be",
                ((rate("dualface_impaired_frames_total", "kind"), "{{kind}}"),),
            ),
            Panel(
                "Changes of who is in the tiles, per minute",
                ((f"60 * {rate('dualface_place_changes_total', 'kind')}", "{{kind}}"),),
            ),
        ),
    ),
    (
        "Queues, workers and storage",
        (
            Panel(
                "Messages in queues",
                (("sum by (queue) (dualface_queue_messages)", "{{queue}}"),),
                warn=20,
            ),
            Panel(
                "Messages in queues, p99",
                ((quantile(0.99, "dualface_queue_sampled_messages", "queue"), "{{queue}}"),),
                note="Of samples taken every few seconds.",
            ),
            Panel(
                "With workers, and unreadable",
                (
                    ("max(dualface_unacknowledged_messages)", "with a worker"),
                    ("max(dualface_dead_letters)", "dead letters"),
                    (rate("dualface_refused_messages_total", "reason"), "refused: {{reason}}"),
                ),
            ),
            Panel("Workers alive", (("max by (stage) (dualface_workers)", "{{stage}}"),)),
            Panel(
                "Tasks by outcome",
                ((rate("dualface_tasks_total", "outcome"), "{{outcome}}"),),
                "ops",
            ),
            Panel(
                "Seconds of a task, p95",
                ((quantile(0.95, "dualface_task_seconds", "task"), "{{task}}"),),
                "s",
            ),
            Panel(
                "Work done again",
                ((rate("dualface_redone_total", "kind, reason"), "{{kind}}: {{reason}}"),),
                "ops",
            ),
            Panel(
                "Store operations, p95",
                (
                    (
                        quantile(0.95, "dualface_store_operation_seconds", "operation"),
                        "{{operation}}",
                    ),
                ),
                "s",
            ),
            Panel(
                "Seconds since Redis answered",
                (
                    (
                        "max by (instance, stage) (dualface_redis_silent_seconds)",
                        "{{instance}} {{stage}}",
                    ),
                ),
                "s",
                warn=60,
            ),
            Panel(
                "Errors of store and Redis",
                (
                    (rate("dualface_store_errors_total", "operation"), "store {{operation}}"),
                    (rate("dualface_redis_errors_total", "stage"), "Redis, by {{stage}}"),
                ),
                "ops",
            ),
        ),
    ),
)


def dashboard() -> dict[str, object]:
    """The whole of it, as Grafana imports it."""
    panels: list[dict[str, object]] = []
    y = 0
    for title, row in ROWS:
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place, "panels": []}
        )
        y += 1
        width = COLUMNS // 3
        for number, panel in enumerate(row):
            place = {"x": number % 3 * width, "y": y, "w": width, "h": HEIGHT}
            panels.append(_graph(len(panels) + 1, panel, place))
            if number % 3 == 2 or number == len(row) - 1:
                y += HEIGHT
    return {
        "title": "dualface",
        "uid": "dualface",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "tags": ["dualface"],
        "templating": {"list": [_datasource()]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _datasource() -> dict[str, object]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "refresh": 1,
        "options": [],
    }


def _graph(number: int, panel: Panel, place: dict[str, int]) -> dict[str, object]:
    steps: list[dict[str, object]] = [{"color": "green", "value": None}]
    if panel.warn is not None:
        steps.append({"color": "red", "value": panel.warn})
    custom = {
        "drawStyle": "line",
        "fillOpacity": 20 if panel.stacked else 0,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if panel.warn is None else "dashed"},
    }
    defaults: dict[str, object] = {
        "unit": panel.unit,
        "min": 0,
        "custom": custom,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    targets = [
        {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "range": True}
        | {"datasource": DATASOURCE}
        for at, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": targets,
    }


def text() -> str:
    """As it is written."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
