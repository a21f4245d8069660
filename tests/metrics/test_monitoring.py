"""Alerts and dashboard ask for what there is, and Prometheus's own tool is content with them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.metrics.catalogue import METRICS, Metric
from tests.metrics.conftest import PROJECT

MONITORING = PROJECT / "deploy" / "monitoring"
BY_NAME = {metric.name: metric for metric in METRICS}
SERIES = re.compile(r"(dualface_[a-z_]+)(?:\{([^}]*)\})?")
TARGET_LABELS = {"instance", "job", "pod", "namespace", "node"}
"""What Prometheus adds to every series."""


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (MONITORING / "grafana" / "dashboards" / "dualface.json").read_text()
    )
    return found


def graphs() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str, str]]:
    """Where, PromQL, legend."""
    for rule in alerts():
        yield rule["alert"], rule["expr"], ""
    for panel in graphs():
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


def metric_of(series: str) -> Metric:
    """Of a series' name, as histograms have three. KeyError for what is not in the list."""
    for metric in (BY_NAME.get(series), BY_NAME.get(re.sub("_(bucket|sum|count)$", "", series))):
        if metric is not None and (metric.name == series) == (metric.kind != "histogram"):
            return metric
    raise KeyError(series)


@pytest.mark.parametrize(("where", "query", "legend"), [*queries()], ids=lambda text: text[:30])
def test_a_query_asks_for_what_is_exported(where: str, query: str, legend: str) -> None:
    named = SERIES.findall(query)
    assert named or query.startswith("up{"), where
    labels: set[str] = set(TARGET_LABELS)
    for series, selector in named:
        metric = metric_of(series)
        names = set(metric.label_names) | ({"le"} if metric.kind == "histogram" else set())
        labels |= names
        for label, operator, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', selector):
            assert label in names
            known = dict(zip(metric.label_names, metric.labels, strict=True))[label].values
            if operator == "=" and known:
                assert value in known
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
        assert {name.strip() for name in group.split(",") if name.strip()} <= labels
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        metric_of(series).name
        for panel in graphs()
        for target in panel["targets"]
        for series, _ in SERIES.findall(target["expr"])
    }
    assert shown == set(BY_NAME)


# --- alerts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    notes = rule["annotations"]
    assert notes["summary"]
    assert len(notes["description"]) > 80
    assert "runbook_url" not in notes, "Grafana would link to it, and where you serve it is yours"
    file, _, section = notes["runbook"].partition(", section ")
    page = (PROJECT / file).read_text()
    assert json.loads(section) in re.findall(r"^#+ (.+)$", page, re.M)
    assert f"`{rule['alert']}`" in page


def test_every_alert_is_tried_in_the_tests_of_alerts() -> None:
    tests = (MONITORING / "alerts_test.yml").read_text()
    assert [rule["alert"] for rule in alerts() if f'"{rule["alert"]}"' not in tests] == []


def test_a_counter_whose_first_step_may_have_to_alarm_starts_at_zero() -> None:
    for rule in alerts():
        for series in re.findall(r"increase\((dualface_[a-z_]+)", rule["expr"]):
            assert BY_NAME[series].zero, rule["alert"]


def test_so_many_events_are_asked_for_in_a_way_that_one_less_never_is() -> None:
    """`increase` makes more of them than there were, at most moments."""
    for rule in alerts():
        for limit in re.findall(r"increase\([^>]*> ([\d.]+)", rule["expr"]):
            assert limit == "0" or limit.endswith(".5"), rule["alert"]
            assert limit == "0" or rule["for"] == "1m", rule["alert"]


# --- dashboard ------------------------------------------------------------------------------------


def test_the_dashboard_is_as_its_script_makes_it() -> None:
    """`python deploy/monitoring/dashboard.py`"""
    path = MONITORING / "dashboard.py"
    spec = importlib.util.spec_from_file_location("dashboard_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass asks for it
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    assert module.TARGET.read_text() == module.text()


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]),
                range(place["y"], place["y"] + place["h"]),
            )
        )
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_goes_to_the_data_source_that_is_chosen() -> None:
    (variable,) = dashboard()["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    for panel in graphs():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {f"${{{variable['name']}}}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


def test_the_rows_are_those_that_operators_look_for() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    wanted = ["Pipeline stages", "Resources", "Streams and jobs", "Queues, workers and storage"]
    assert rows == wanted


def test_grafana_finds_dashboard_and_data_source() -> None:
    folder = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((folder / "dashboards" / "dualface.yml").read_text())["providers"]
    assert provider["type"] == "file"


# --- Prometheus's own tool ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def promtool() -> str:
    """Of Debian's package `prometheus`."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian's package `prometheus` has it)")
    return found


def test_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    run(promtool, "test", "rules", "alerts_test.yml")


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-kubernetes.yml"])
def test_prometheus_reads_its_configuration(promtool: str, tmp_path: Path, name: str) -> None:
    """But for discovery in Kubernetes, which Debian builds without."""
    config = yaml.safe_load((MONITORING / name).read_text())
    for job in config["scrape_configs"]:
        job.pop("kubernetes_sd_configs", None)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    run(promtool, "check", "config", str(tmp_path / "prometheus.yml"))


@pytest.mark.parametrize(
    ("annotations", "address"),
    [
        ({"scrape": "true", "port": "9464"}, "10.0.0.7:9464"),
        ({"scrape": "false"}, None),
        ({}, None),
    ],
)
def test_a_pod_is_asked_at_the_port_of_its_annotation(
    annotations: dict[str, str], address: str | None
) -> None:
    """Prometheus's relabelling by hand, as far as it is used here."""
    meta = "__meta_kubernetes_pod_"
    labels = {
        f"{meta}annotation_prometheus_io_{name}": value for name, value in annotations.items()
    }
    labels |= {f"{meta}ip": "10.0.0.7", f"{meta}label_app_kubernetes_io_part_of": "dualface"}
    labels |= {f"{meta}name": "gpu-0", f"{meta}phase": "Running", "__address__": "10.0.0.7:8000"}
    config = yaml.safe_load((MONITORING / "prometheus-kubernetes.yml").read_text())
    (pods,) = config["scrape_configs"]
    for rule in pods["relabel_configs"]:
        value = ";".join(labels.get(name, "") for name in rule["source_labels"])
        match = re.fullmatch(rule.get("regex", "(.*)"), value)
        action = rule.get("action", "replace")
        if (action == "keep" and match is None) or (action == "drop" and match is not None):
            assert address is None
            return
        if action == "replace" and match is not None:
            template = re.sub(r"\$(\d)", r"\\\1", rule.get("replacement", "$1"))
            labels[rule["target_label"]] = match.expand(template)
    assert labels["__address__"] == address
    assert labels["pod"] == "gpu-0"


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
