"""Trials of every part of a GPU, over the vendors' stand-ins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from client.doctor.children import Look, found_by
from client.doctor.detect import facts_of, probe, why_probe
from client.doctor.gpus import TRIALS, session_limits, trials
from services.encode.probe import MOST_SESSIONS
from shared.findings import Finding, State, ok
from shared.gpu import Hardware, inventory
from shared.settings import Settings
from shared.settings.hardware import derive
from tests.doctor.doubles import SITE, path_with, pynvml_of
from tests.doubles.cuda_on_cpu import missing

GPU = "GPU-00000000-0000-0000-0000-000000000000"
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "")


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    """A GPU, for this process and for those that it starts."""
    monkeypatch.setenv("PYTHONPATH", path_with(SITE))
    monkeypatch.setenv("DOUBLE_GPUS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("DOUBLE_UUID", GPU.removeprefix("GPU-").replace("-", ""))
    with pynvml_of("rtx4090") as nvml:
        return inventory(nvml)


def test_every_part_of_a_gpu_is_tried(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOUBLE_NVDEC_ENGINES", "3")
    monkeypatch.setenv("DOUBLE_NVENC_ENGINES", "2")
    tried = [module for module in TRIALS if "infer" not in module]  # importing it takes long
    found = list(trials(Settings(), hardware, brief=False, modules=tried))
    states = {each.check: each.state for each in found}
    parts = ("cuda.context", "cuda.kernels", "cuda.ipc", "decode.nvdec", "encode.nvenc")
    assert {part: states[part] for part in parts} == dict.fromkeys(parts, State.OK), found
    opened = {each.check: each.facts["opened"] for each in found if "opened" in each.facts}
    assert opened["decode.sessions"] == 16
    assert opened["encode.sessions"] != 0
    told = {each.check: each.facts["engines"] for each in found if "engines" in each.facts}
    assert told == {"decode.nvdec": 3, "encode.nvenc": 2}
    (gpu,) = facts_of(Settings(), hardware, found).gpus
    assert (gpu.nvdec_engines, gpu.nvenc_engines) == (3, 2)
    assert (gpu.nvenc_sessions, gpu.nvenc_refused) == (opened["encode.sessions"], True)
    assert {each.device for each in found} == {GPU}
    assert all(each.fix for each in found if each.state is not State.OK)


def test_engines_that_nobody_counts_are_one(hardware: Hardware) -> None:
    works = [
        ok(check, "works").model_copy(update={"device": GPU})
        for check in ("decode.pyav-cuda", "encode.pyav-nvenc")
    ]
    (gpu,) = facts_of(Settings(), hardware, works).gpus
    assert (gpu.nvdec_engines, gpu.nvenc_engines) == (1, 1)


def test_a_trial_that_ends_without_a_refusal_found_no_limit(
    hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLE_NVENC_SESSIONS", "99")
    behind = ("--gpu", "--behind", "encode.pyav-nvenc")
    (found,) = found_by(Look("encode", "services.encode.probe", arguments=behind, device=GPU))
    assert (found.facts["opened"], found.facts["refused"]) == (MOST_SESSIONS, False)
    works = ok("encode.nvenc", "works").model_copy(update={"device": GPU})
    facts = facts_of(Settings(), hardware, [works, found])
    assert facts.gpus[0].nvenc_refused is False
    twice = replace(facts, gpus=facts.gpus * 2)
    assert derive(twice)["gpu.nvenc_sessions"].value == 2 * MOST_SESSIONS
    assert list(session_limits(Settings(nvenc_sessions=2 * MOST_SESSIONS), [found])) == []


def test_sessions_are_left_to_a_stack_that_is_up(
    hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Look] = []

    def noted(look: Look) -> list[Finding]:
        looks.append(look)
        return []

    monkeypatch.setattr("client.doctor.gpus.found_by", noted)
    assert list(trials(Settings(), hardware, brief=True)) == []
    codecs = [look for look in looks if "decode" in look.module or "encode" in look.module]
    assert [look.arguments for look in codecs] == [("--gpu", "--brief")] * 2
    assert {look.environment["CUDA_VISIBLE_DEVICES"] for look in looks} == {GPU}


def test_what_was_tried_is_written_down_until_the_hardware_changes(
    hardware: Hardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = [
        ok("encode.nvenc", "works").model_copy(update={"device": GPU}),
        ok("encode.sessions", "5", opened=5).model_copy(update={"device": GPU}),
        ok("decode.nvdec", "works").model_copy(update={"device": GPU}),
    ]
    monkeypatch.setattr("client.doctor.detect.trials", lambda *_, **__: iter(tried))
    settings = Settings(config_dir=tmp_path)
    assert why_probe(settings, hardware) == "nothing was probed yet"
    kept = probe(settings, hardware)[-1]
    assert (kept.check, kept.state) == ("settings", State.OK)
    written = yaml.safe_load((tmp_path / "auto_detected.yaml").read_text())
    assert written["values"]["gpu.nvenc_sessions"]["value"] == 5
    assert why_probe(settings, hardware) == ""
    newer = hardware.model_copy(update={"driver": "590.48.01"})
    assert "the driver changed" in why_probe(settings, newer)
    with pynvml_of("no-driver") as nvml:
        assert why_probe(settings, inventory(nvml)) == ""


def test_more_sessions_than_open_are_warned_of() -> None:
    opened = ok("encode.sessions", "3", opened=3)
    assert list(session_limits(Settings(nvenc_sessions=3), [opened])) == []
    (finding,) = session_limits(Settings(nvenc_sessions=8), [opened])
    assert "DUALFACE_NVENC_SESSIONS=3" in finding.fix
