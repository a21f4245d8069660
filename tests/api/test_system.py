"""What operators see of the whole cluster."""

from __future__ import annotations

from typing import Any

import pytest

from shared.gpu import GpuBoard, GpuRecord
from shared.gpu.board import PREFIX
from shared.gpu.load import Gpus, GpuWatcher
from shared.keys import Role
from shared.metrics import Meter
from shared.redisdb import Connection
from tests.api.conftest import Served
from tests.builders import output_plan, source_info
from tests.doctor.doubles import pynvml_of

GIB = 1 << 30


@pytest.fixture
def seen(api: Served) -> Any:
    """Asks for the system as an admin does."""
    client = api.client("root", (Role.ADMIN,))
    return lambda: client.get("/v1/system").json()


def test_gpus_of_all_hosts_are_told_with_how_full_and_busy_they_are(
    redis: Connection, seen: Any
) -> None:
    with pynvml_of("two-gpus") as nvml:
        watcher = GpuWatcher(Gpus(nvml), Meter(), None, GpuBoard(redis, "host-b"))
        assert watcher.step()
    for arena in ("gpu0", "gpu1"):  # each sees both
        board = GpuBoard(redis, "host-a", arena)
        board.put([GpuRecord(uuid="GPU-1", name="NVIDIA A100-SXM4-80GB")])
    lone, first, second = seen()["gpus"]
    assert (lone["host"], lone["uuid"]) == ("host-a", "GPU-1")
    assert lone["encoder_busy"] is None
    assert first == {
        "host": "host-b",
        "uuid": "GPU-00000000-0000-0000-0000-000000000000",
        "name": "NVIDIA GeForce RTX 4090",
        "memory_used_bytes": 3 * GIB,
        "memory_total_bytes": 24 * GIB,
        "busy": 0.5,
        "decoder_busy": 0.5,
        "encoder_busy": 0.5,
    }
    assert second["name"] == "NVIDIA GeForce GTX 1080"


def test_a_host_that_falls_silent_takes_its_gpus_off_the_list(redis: Connection, seen: Any) -> None:
    GpuBoard(redis, "host-a").put([GpuRecord(uuid="GPU-1", name="Tesla T4")])
    assert 0 < redis.ttl(f"{PREFIX}host-a:") <= 16
    redis.delete(f"{PREFIX}host-a:")
    assert seen()["gpus"] == []


def test_a_host_without_gpus_tells_of_none(redis: Connection, seen: Any) -> None:
    with pynvml_of("no-driver") as nvml:
        watcher = GpuWatcher(Gpus(nvml), Meter(), None, GpuBoard(redis, "host-c"))
        assert not watcher.step()
    assert seen()["gpus"] == []


def test_a_record_of_another_release_is_passed_over(redis: Connection, seen: Any) -> None:
    redis.set(f"{PREFIX}old", '{"gpus": 3}')
    redis.set(f"{PREFIX}new", '{"host": "new", "gpus": [{"uuid": "G", "name": "T4", "more": 1}]}')
    assert [gpu["host"] for gpu in seen()["gpus"]] == ["new"]


def test_hardware_sessions_are_told_with_their_limit(api: Served, seen: Any) -> None:
    thing = "sessions:nvenc:host-a"
    api.service.leases.open(thing, 3)
    lease = api.service.leases.acquire(thing, "encode-1/nvenc")
    assert lease is not None
    (limit,) = (each for each in seen()["limits"] if each["thing"] == thing)
    assert limit == {"thing": thing, "used": 1, "capacity": 3, "waiting": 0}


def test_engines_are_counted_by_the_running_jobs_they_work_for(api: Served, seen: Any) -> None:
    ledger = api.service.ledger
    for job, engine in (("a", "nvdec"), ("b", "pyav"), ("c", "nvdec"), ("d", "nvdec")):
        api.job(job)
        ledger.note_engine(job, "decode", engine)
        if job != "d":  # waits
            ledger.take(job, "split", "decode-1")
            ledger.put_facts(job, source_info(), output_plan(), 32)
            ledger.split_done(job, 1, 50)
    assert seen()["engines"]["decode"] == {"nvdec": 2, "pyav": 1}
    assert seen()["engines"]["encode"] == {}
