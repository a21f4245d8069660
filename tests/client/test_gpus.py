"""Facts about what the stack starts on a host with GPUs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from client import gpus
from client.gpus import places
from shared.errors import ErrorCode, PermanentError
from shared.gpu import Gpu, Hardware
from shared.settings import Settings

PLAIN = Gpu(index=0, uuid="GPU-a", name="NVIDIA L4", compute=(8, 9), nvenc=True)
NO_NVENC = Gpu(index=1, uuid="GPU-b", name="NVIDIA H100", compute=(9, 0), nvenc=False)


def chosen(**values: Any) -> Settings:
    return Settings.model_validate({"gpu_devices": "auto", **values})


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware(driver="580.95", gpus=(PLAIN, NO_NVENC))
    monkeypatch.setattr(gpus, "inventory", lambda: hardware)
    monkeypatch.setattr(gpus, "find_spec", lambda _: object())


@pytest.mark.usefixtures("two_gpus")
def test_each_gpu_has_an_arena_and_stages_of_its_own() -> None:
    found, note = places(chosen(max_concurrent_streams=3))
    assert [(each.arena, each.gpu_device) for each in found] == [
        ("gpu0", "GPU-a"),
        ("gpu1", "GPU-b"),
    ]
    assert note == ""
    cores = len(os.sched_getaffinity(0))
    assert [each.encode_workers for each in found] == [3, max(1, cores // 2)]


@pytest.mark.usefixtures("two_gpus")
def test_what_a_person_set_is_kept() -> None:
    found, _ = places(chosen(arena="left", encode_workers=7, gpu_devices=("GPU-b",)))
    assert [(each.arena, each.gpu_device, each.encode_workers) for each in found] == [
        ("left-0", "GPU-b", 7)
    ]


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(PermanentError, match="GPU-z") as caught:
        places(chosen(gpu_devices=("GPU-z",)))
    assert caught.value.code is ErrorCode.BAD_OPTION


@pytest.mark.usefixtures("two_gpus")
def test_no_gpu_is_used_where_none_is_wanted() -> None:
    settings = chosen(gpu_devices="none")
    assert places(settings) == ([settings], "")


@pytest.mark.usefixtures("two_gpus")
def test_without_the_packages_the_cpu_works_and_a_person_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "find_spec", lambda _: None)
    settings = chosen()
    found, note = places(settings)
    assert found == [settings]
    assert "pip install 'dualface[gpu]'" in note
    with pytest.raises(PermanentError, match="packages for GPUs"):
        places(chosen(gpu_devices=("GPU-a",)))


def test_a_host_without_a_gpu_is_one_arena_in_host_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "inventory", lambda: Hardware(reason="no driver"))
    settings = chosen()
    assert places(settings) == ([settings], "")
