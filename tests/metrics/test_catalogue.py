"""Facts about the list of metrics, and about what counts with it."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys

import pytest

from shared.metrics import Meter, kind_of
from shared.metrics.catalogue import (
    ENGINE_USES,
    FALLBACKS,
    FRAMES,
    JOBS,
    JOBS_ENDED,
    LEASES_IN_USE,
    METRICS,
    REDONE,
    STORE_ERRORS,
    TASKS_DONE,
    Metric,
)
from shared.metrics.page import page
from tests.metrics.conftest import PROJECT
from tests.metrics.notes import Notes


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_is_named_as_prometheus_wants_it(metric: Metric) -> None:
    assert re.fullmatch(r"dualface(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert tuple(sorted(metric.buckets)) == metric.buckets
    endings = {"seconds": "_seconds", "bytes": "_bytes", "share": "_ratio"}
    assert endings.get(metric.unit, "") in metric.name
    assert metric.help
    assert metric.advice
    assert not metric.zero or metric.kind == "counter"


def test_names_are_unique_and_all_series_together_are_bounded() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert all(label.values or label.most for metric in METRICS for label in metric.labels)
    # Those of hosts and arenas come one by one with them.
    fixed = [m for m in METRICS if not {"queue", "arena", "gpu", "engine"} & set(m.label_names)]
    assert sum(metric.series for metric in fixed) < 1500


def test_the_page_of_metrics_is_up_to_date() -> None:
    """`python -m shared.metrics > docs/metrics.md`"""
    assert (PROJECT / "docs" / "metrics.md").read_text() == page()


def test_a_label_has_no_more_values_than_its_bound() -> None:
    notes = Notes()
    meter = Meter("encode", notes)
    for number in range(100):
        meter.count(ENGINE_USES, stage="encode", engine=f"engine{number}")
    meter.count(STORE_ERRORS, operation="unheard-of")
    bound = dict(zip(ENGINE_USES.label_names, ENGINE_USES.labels, strict=True))["engine"].bound
    engines = {labels for name, labels in notes.sums if name == ENGINE_USES.name}
    assert len(engines) == bound
    assert notes.sum(ENGINE_USES, "encode", "other") == 100 - (bound - 1)
    assert notes.sum(STORE_ERRORS, "other") == 1


def test_labels_and_kind_have_to_be_the_metrics() -> None:
    meter = Meter("encode", Notes())
    with pytest.raises(ValueError, match="dualface_frames"):
        meter.count(FRAMES, 1)
    with pytest.raises(ValueError, match="dualface_frames"):
        meter.count(FRAMES, 1, stage="encode", job="j")
    with pytest.raises(ValueError, match="dualface_jobs"):
        meter.count(JOBS, 1, state="running")


def test_a_stage_starts_with_its_own_counters_at_zero() -> None:
    notes = Notes()
    Meter("decode", notes).start_at_zero()
    assert (FRAMES.name, ("decode",)) in notes.sums
    assert (FRAMES.name, ("encode",)) not in notes.sums
    assert (FALLBACKS.name, ("decode", "out_of_memory")) in notes.sums
    assert (TASKS_DONE.name, ("decode.split", "again")) in notes.sums
    assert JOBS_ENDED.name not in {name for name, _ in notes.sums}
    assert not any(notes.sums.values())


def test_the_coordinator_starts_with_every_end_that_a_job_can_have_at_zero() -> None:
    notes = Notes()
    Meter("coordinator", notes).start_at_zero()
    ends = {labels for name, labels in notes.sums if name == JOBS_ENDED.name}
    assert {("succeeded", "ok"), ("cancelled", "cancelled"), ("failed", "stage_failed")} <= ends
    assert ("succeeded", "stage_failed") not in ends
    assert (REDONE.name, ("batch", "slot_lost")) in notes.sums


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_what_starts_at_zero_is_within_its_labels(metric: Metric) -> None:
    for stage in metric.zero:
        zeros = [*metric.zeros(stage)]
        assert zeros
        for labels in zeros:
            assert tuple(labels) == metric.label_names
            assert all(labels[label.name] in label.values for label in metric.labels)


def test_a_gauge_of_what_is_gone_leaves_room_for_others() -> None:
    notes = Notes()
    meter = Meter("coordinator", notes)
    for number in range(1000):
        labels = {"kind": "decoded", "arena": f"arena{number}"}
        meter.set(LEASES_IN_USE, 3, **labels)
        meter.set(LEASES_IN_USE, 3, kind="nvenc", arena=f"arena{number}")
        meter.forget(LEASES_IN_USE, **labels)
        assert math.isnan(notes.values[LEASES_IN_USE.name, ("decoded", f"arena{number}")])
        assert notes.value(LEASES_IN_USE, "nvenc", f"arena{number}") == 3
        meter.forget(LEASES_IN_USE, kind="nvenc", arena=f"arena{number}")
    assert (LEASES_IN_USE.name, ("decoded", "other")) not in notes.values


def test_what_was_counted_with_others_is_not_forgotten_for_one_of_them() -> None:
    notes = Notes()
    meter = Meter("coordinator", notes)
    most = LEASES_IN_USE.labels[1].most
    for number in range(most + 2):
        meter.set(LEASES_IN_USE, 3, kind="decoded", arena=f"arena{number}")
    meter.forget(LEASES_IN_USE, kind="decoded", arena=f"arena{most}")
    assert notes.value(LEASES_IN_USE, "decoded", "other") == 3


def test_things_that_are_leased_are_told_apart_by_kind() -> None:
    things = ("slots:cpu0:decoded", "slots:cpu0:composed", "sessions:nvenc:GPU-1", "x")
    assert [kind_of(thing) for thing in things] == ["decoded", "composed", "nvenc", "other"]


def test_nothing_is_imported_for_metrics_that_are_off() -> None:
    code = (
        "import sys; from shared.settings import Settings; from shared.metrics import *;"
        "from shared.metrics.catalogue import FRAMES;"
        "meter = open_meter(Settings(metrics=False), 'encode');"
        "meter.count(FRAMES, 1, stage='encode');"
        "sys.exit('prometheus_client' in sys.modules or 'http.server' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def test_every_combination_of_named_labels_is_written_down() -> None:
    notes = Notes()
    meter = Meter("encode", notes)
    do = {"counter": meter.count, "gauge": meter.set, "histogram": meter.observe}
    for metric in METRICS:
        values = [label.values or ("one", "two") for label in metric.labels]
        for labels in itertools.product(*values):
            do[metric.kind](metric, 1, **dict(zip(metric.label_names, labels, strict=True)))
    written = {name for name, _ in [*notes.sums, *notes.values, *notes.seen]}
    assert written == {metric.name for metric in METRICS}
