"""Facts about what the stack starts on a host with GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from client import gpus
from client.gpus import look, places, suited
from shared.errors import ErrorCode, PermanentError
from shared.gpu import Gpu, Hardware
from shared.settings import Settings
from shared.settings.hardware import GpuFacts, derive
from shared.settings.probing import host_facts, write_detected

PLAIN = Gpu(index=0, uuid="GPU-a", name="NVIDIA L4", compute=(8, 9), nvenc=True)
NO_NVENC = Gpu(index=1, uuid="GPU-b", name="NVIDIA H100", compute=(9, 0), nvenc=False)


def chosen(**values: Any) -> Settings:
    return Settings.model_validate({"gpu_devices": "auto", **values})


TWO = Hardware(driver="580.95", gpus=(PLAIN, NO_NVENC))


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "find_spec", lambda _: object())


def test_each_gpu_has_an_arena_and_stages_of_its_own() -> None:
    found = places(chosen(max_concurrent_streams=3), TWO)
    assert [(each.arena, each.gpu_device) for each in found] == [
        ("gpu0", "GPU-a"),
        ("gpu1", "GPU-b"),
    ]
    cores = len(os.sched_getaffinity(0))
    assert [each.encode_workers for each in found] == [3, max(1, cores // 2)]


def test_what_a_person_set_is_kept() -> None:
    found = places(chosen(arena="left", encode_workers=7, gpu_devices=("GPU-b",)), TWO)
    assert [(each.arena, each.gpu_device, each.encode_workers) for each in found] == [
        ("left-0", "GPU-b", 7)
    ]


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(PermanentError, match="GPU-z") as caught:
        places(chosen(gpu_devices=("GPU-z",)), TWO)
    assert caught.value.code is ErrorCode.BAD_OPTION


def test_no_gpu_is_used_or_asked_for_where_none_is_wanted() -> None:
    settings = chosen(gpu_devices="none")
    assert places(settings, TWO) == [settings]
    assert look(settings).gpus == ()


def test_without_the_packages_the_cpu_works_unless_a_gpu_was_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "find_spec", lambda _: None)
    settings = chosen()
    assert places(settings, TWO) == [settings]
    with pytest.raises(PermanentError, match="make setup GPU=1"):
        places(chosen(gpu_devices=("GPU-a",)), TWO)


def test_a_host_without_a_gpu_is_one_arena_in_host_memory() -> None:
    settings = chosen()
    assert places(settings, Hardware(reason="no driver")) == [settings]
    assert suited(settings, Hardware(reason="no driver")) == settings


def test_what_was_probed_for_gpus_does_not_count_where_none_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALFACE_CONFIG_DIR", str(tmp_path))
    facts = host_facts(8, "580.95", (GpuFacts("GPU-a", "NVIDIA L4", 23034, (8, 9), 1, 1, None),))
    values = derive(facts, memory_share=0.875, engine_margin=0.15)
    write_detected(facts, values, tmp_path)
    probed = Settings.load()
    assert probed.max_concurrent_streams > 1
    assert places(probed, TWO)[0].max_concurrent_streams == probed.max_concurrent_streams
    (alone,) = places(probed, Hardware(reason="no driver"))
    assert alone.max_concurrent_streams == 1
    assert alone.infer_batch == Settings.model_fields["infer_batch"].default
    monkeypatch.setenv("DUALFACE_MAX_CONCURRENT_STREAMS", "3")
    (own,) = places(Settings.load(), Hardware(reason="no driver"))
    assert own.max_concurrent_streams == 3, "what a person set counts"
