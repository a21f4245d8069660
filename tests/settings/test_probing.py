"""What hardware makes of settings, and when it has to be probed again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as run
from hypothesis import strategies as st

from shared.settings import Settings
from shared.settings.catalogue import catalogue
from shared.settings.hardware import Derived, GpuFacts, HardwareFacts, derive
from shared.settings.origins import look
from shared.settings.places import DETECTED
from shared.settings.probing import host_facts, probe_is_stale, write_detected

STREAMS = "performance.max_concurrent_streams"
NOW = datetime(2026, 11, 21, 18, 40)

GTX_1660 = GpuFacts("GPU-1", "GTX 1660", 6_144, (7, 5), 1, 1, 8)
RTX_4090 = GpuFacts("GPU-2", "RTX 4090", 24_564, (8, 9), 2, 1, 8)
T4 = GpuFacts("GPU-3", "Tesla T4", 15_360, (7, 5), 1, 2, 16)
A100 = GpuFacts("GPU-4", "A100-SXM4-80GB", 81_920, (8, 0), 0, 5)
H100 = GpuFacts("GPU-5", "H100 80GB HBM3", 81_559, (9, 0), 0, 7)
SLICE = GpuFacts("MIG-6", "H100 MIG 1g.10gb", 9_728, (9, 0), 0, 1)
BLIND = GpuFacts("MIG-7", "A100 MIG 1g.5gb", 4_864, (8, 0), 0, 0)
L4 = GpuFacts("GPU-9", "NVIDIA L4", 23_034, (8, 9), 2, 4, 16, nvenc_refused=False)
GTX_1080 = GpuFacts("GPU-8", "GTX 1080", 8_192, (6, 1), 2, 1)


def host(*gpus: GpuFacts, cores: int = 16) -> HardwareFacts:
    return HardwareFacts(cores, "0.1.0", "580.65.06" if gpus else "", gpus)


def values(facts: HardwareFacts) -> dict[str, object]:
    """By the last part of their names."""
    return {name.partition(".")[2]: each.value for name, each in derive(facts).items()}


@pytest.mark.parametrize(
    ("facts", "streams", "why", "batch", "encoding", "decoding", "preset"),
    [
        (host(GTX_1660), 4, "room|NVENC", 8, 8, 8, "p4"),
        (host(replace(GTX_1660, nvenc_sessions=2)), 2, "2 sessions", 8, 2, 8, "p4"),
        (host(replace(GTX_1660, nvenc_sessions=None)), 3, "3 sessions", 8, None, 8, "p4"),
        (host(GTX_1660, cores=2), 2, "per core", 8, 8, 8, "p4"),
        (host(RTX_4090), 8, "NVENC", 32, 8, 8, "p5"),
        (host(RTX_4090, RTX_4090), 4, "shared by 2", 32, 8, 8, "p5"),
        (host(T4), 4, "1 x NVENC", 16, 16, 8, "p4"),
        (host(A100), 2, "no NVENC", 32, 0, 8, None),
        (host(H100, cores=128), 16, "no NVENC", 32, 0, 16, None),
        (host(SLICE), 2, "no NVENC", 8, 0, 8, None),
        (host(SLICE, cores=4), 1, "no NVENC", 8, 0, 8, None),
        (host(BLIND, cores=64), 3, "room", 4, 0, 0, None),
        (host(GTX_1080), 3, "3 sessions", 8, None, 8, "p3"),
        (host(RTX_4090, GTX_1660), 4, "8 sessions|room|1 x", 8, 8, 8, "p4"),
        (host(*[H100] * 8, cores=128), 2, "16 cores per GPU", 32, 0, 8, None),
        (host(*[L4] * 8, cores=32), 4, "8 GPU(s) share", 16, 128, 8, "p5"),
        (host(*[L4] * 8, cores=128), 8, "2 x NVENC", 16, 128, 8, "p5"),
        (host(L4, cores=128), 8, "2 x NVENC", 16, 16, 8, "p5"),
        (host(L4, RTX_4090, cores=128), 4, "8 sessions", 16, 8, 8, "p5"),
    ],
    ids=lambda value: value.gpus[0].name if isinstance(value, HardwareFacts) else None,
)
def test_values_suit_the_hardware(
    facts: HardwareFacts,
    streams: int,
    why: str,
    batch: int,
    encoding: int | None,
    decoding: int,
    preset: str | None,
) -> None:
    found = values(facts)
    assert (found["max_concurrent_streams"], found["infer_batch"]) == (streams, batch)
    assert any(part in derive(facts)[STREAMS].reason for part in why.split("|"))
    assert (found.get("nvenc_sessions"), found["nvdec_sessions"]) == (encoding, decoding)
    assert found.get("encode_preset_gpu") == preset


def test_without_a_gpu_nothing_changes() -> None:
    for cores in (1, 4, 64):
        for name, derived in derive(host(cores=cores)).items():
            assert derived.value == catalogue()[name].default


@given(
    memory_mib=st.integers(256, 300_000),
    cores=st.integers(1, 256),
    encoders=st.integers(0, 4),
    sessions=st.none() | st.integers(0, 64),
    share=st.floats(0.05, 1),
    margin=st.floats(0, 0.9),
)
@run(derandomize=True, max_examples=60, deadline=None)
def test_any_hardware_gets_values_that_are_valid_and_fit_its_memory(
    memory_mib: int, cores: int, encoders: int, sessions: int | None, share: float, margin: float
) -> None:
    gpu = GpuFacts("GPU-1", "some GPU", memory_mib, (8, 6), encoders, 1, sessions)
    found = derive(host(gpu, cores=cores), memory_share=share, engine_margin=margin)
    for name, derived in found.items():
        assert catalogue()[name].check(derived.value) == derived.value
        assert derived.reason
    streams = found[STREAMS].value
    assert isinstance(streams, int)
    # One stream must do; its batches are smaller then.
    assert streams == 1 or streams * 640 <= memory_mib * share * (1 - margin)
    assert streams <= cores


def test_what_was_probed_counts_and_says_when_and_why(folder: Path) -> None:
    facts = host(RTX_4090)
    path = write_detected(facts, derive(facts), now=NOW)
    assert path == folder / DETECTED
    assert Settings.load().infer_batch == 32
    origin = look()["performance.infer_batch"].origin
    assert origin.kind == "detected"
    assert origin.text == f"{DETECTED} (probed 2026-11-21 18:40: RTX 4090 has 24564 MiB)"
    told = yaml.safe_load(path.read_text())["fingerprint"]
    gpu = {"uuid": "GPU-2", "name": "RTX 4090", "memory_mib": 24564}
    assert told == {"driver": "580.65.06", "gpus": [gpu], "cores": 16, "release": "0.1.0"}
    write_detected(host(), derive(host()))
    assert Settings.load().infer_batch == Settings.model_fields["infer_batch"].default


def test_a_probe_is_stale_when_driver_gpus_cores_or_release_changed(folder: Path) -> None:
    facts = host(RTX_4090, T4)
    assert probe_is_stale(facts) == "nothing was probed yet"
    write_detected(facts, {})
    assert probe_is_stale(facts) == ""
    assert probe_is_stale(host(T4, RTX_4090)) == ""
    changed = [
        (replace(facts, driver="590.1"), "the driver changed from 580.65.06 to 590.1"),
        (host(T4), "the GPUs changed from RTX 4090, Tesla T4 to Tesla T4"),
        (replace(facts, gpus=()), "the GPUs changed from RTX 4090, Tesla T4 to none"),
        (replace(facts, cores=8), "the number of cores changed from 16 to 8"),
        (replace(facts, release="0.2.0"), "the release changed from 0.1.0 to 0.2.0"),
    ]
    for now, why in changed:
        assert probe_is_stale(now) == why
    (folder / DETECTED).write_text("fingerprint: [")
    assert probe_is_stale(facts) == "nothing was probed yet"


def test_another_gpu_of_the_same_name_is_another_gpu(folder: Path) -> None:
    assert folder.is_dir()
    write_detected(host(T4), {})
    assert (
        probe_is_stale(host(replace(T4, uuid="GPU-9"))) == "the GPUs are others of the same names"
    )


@pytest.mark.parametrize("wrong", [{"gpu.nvenc": 1}, {STREAMS: 0}, {"api.key": "x"}])
def test_only_valid_values_of_settings_are_written(folder: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        write_detected(host(), {name: Derived(value, "") for name, value in wrong.items()})
    assert list(folder.iterdir()) == []


def test_facts_of_this_host_have_the_release() -> None:
    assert host_facts(4) == HardwareFacts(4, "0.1.0")
