"""Facts about what the stack starts on a host with GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from client import gpus
from client.gpus import look, places, suited
from shared.errors import ErrorCode, PermanentError
from shared.gpu import Gpu, Hardware, MigSlice, inventory
from shared.settings import Settings
from shared.settings.hardware import GpuFacts, derive
from shared.settings.probing import host_facts, write_detected
from tests.doctor.doubles import pynvml_of

GIB = 1 << 30
PLAIN = Gpu(
    index=0,
    uuid="GPU-a",
    name="NVIDIA L4",
    compute=(8, 9),
    nvenc=True,
    memory_total_bytes=24 * GIB,
)
NO_NVENC = Gpu(
    index=1,
    uuid="GPU-b",
    name="NVIDIA H100",
    compute=(9, 0),
    nvenc=False,
    memory_total_bytes=80 * GIB,
)


def chosen(**values: Any) -> Settings:
    return Settings.model_validate({"gpu_devices": "auto", **values})


def cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))


def double(name: str) -> Hardware:
    with pynvml_of(name) as nvml:
        return inventory(nvml)


def encoders_of(hardware: Hardware, **values: Any) -> list[int]:
    return [each.encode_workers for each in places(chosen(**values), hardware)]


TWO = Hardware(driver="580.95", gpus=(PLAIN, NO_NVENC))


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "find_spec", lambda _: object())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_gpu_has_an_arena_and_stages_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 32)
    found = places(chosen(max_concurrent_streams=3), TWO)
    assert [(each.arena, each.gpu_device) for each in found] == [
        ("gpu0", "GPU-a"),
        ("gpu1", "GPU-b"),
    ]
    assert [each.encode_workers for each in found] == [3, 16]


def test_where_cores_encode_a_gpu_has_its_share_of_them_divided_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores(monkeypatch, 12)
    assert encoders_of(double("h100"), max_concurrent_streams=2) == [12]
    assert encoders_of(double("h100-mig"), max_concurrent_streams=2) == [6, 6]


def test_encoders_follow_the_probe_where_no_nvenc_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 16)
    hardware = double("rtx4090")
    assert encoders_of(hardware, max_concurrent_streams=2) == [2]
    assert encoders_of(hardware, max_concurrent_streams=2, nvenc_sessions=0) == [16]


def test_a_slice_without_an_encoder_of_a_gpu_that_has_one_is_encoded_for_by_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores(monkeypatch, 8)
    part = MigSlice(uuid="MIG-a", profile="1g.24gb", memory_bytes=24 * GIB, encoders=0)
    able = part.model_copy(update={"uuid": "MIG-b", "encoders": 1})
    gpu = PLAIN.model_copy(update={"mig": True, "slices": (part, able)})
    hardware = Hardware(driver="580.95", gpus=(gpu,))
    assert encoders_of(hardware, max_concurrent_streams=2) == [4, 2]


@pytest.mark.parametrize(
    ("gib", "streams", "more", "encoders"),
    [
        (24, 8, {}, 14),
        (24, 2, {}, 30),
        (24, 2, {"arena_mib": 8192}, 17),
        (24, 2, {"gpu_memory_share": 0.5}, 15),
        (24, 2, {"gpu_engine_margin": 0.5}, 15),
        (80, 8, {}, 64),
        (10, 8, {}, 1),
    ],
)
def test_contexts_of_encoders_fit_beside_the_frames_in_the_gpus_memory(
    gib: int,
    streams: int,
    more: dict[str, Any],
    encoders: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cores(monkeypatch, 64)
    gpu = NO_NVENC.model_copy(update={"memory_total_bytes": gib * GIB})
    hardware = Hardware(driver="580.95", gpus=(gpu,))
    assert encoders_of(hardware, max_concurrent_streams=streams, **more) == [encoders]
    silent = gpu.model_copy(update={"memory_total_bytes": None})
    hardware = Hardware(driver="580.95", gpus=(silent,))
    assert encoders_of(hardware, max_concurrent_streams=streams, **more) == [streams]


def test_a_gpu_that_was_not_granted_gets_no_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [each.gpu_device for each in places(chosen(), TWO)] == ["GPU-b"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert places(chosen(), TWO) == [chosen()]


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
    assert suited(settings, TWO) == settings, "nothing is tried that could only fail"
    with pytest.raises(PermanentError, match=r"make setup GPU=1.*\.venv-gpu/bin/dualface"):
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
