"""What is found on machines where something is wrong, each with what to do about it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.doctor import host, quick, services
from client.doctor.command import Look, findings_of
from shared.findings import Finding, State
from shared.redisdb import Connection, RedisError
from shared.settings import MIB, Settings
from tests.waiting import wait_until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a machine with nothing on it yet."""
    return Settings(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")


def wrong(found: Iterable[Finding]) -> dict[str, Finding]:
    """What is not ok, by its check."""
    bad = {each.check: each for each in found if each.state is not State.OK}
    assert all(each.fix for each in bad.values())
    return bad


def test_a_healthy_machine_has_nothing_to_mend(settings: Settings) -> None:
    looks = [
        *host.python_and_packages(),
        *host.shared_memory(settings),
        *host.disks(settings),
        *host.codecs(),
        *host.clock(),
        *services.store(settings),
    ]
    assert wrong(looks) == {}
    assert not settings.state_dir.exists(), "looking leaves nothing behind"


def test_a_package_of_a_wrong_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["redis>=999", "never-heard-of>=1", 'cupy-cuda13x>=14; extra == "gpu"']
    monkeypatch.setattr(host, "requires", lambda _: needs)
    (finding,) = host.python_and_packages()
    assert finding.state is State.PROBLEM
    assert "never-heard-of is missing" in finding.text
    assert "redis" in finding.text
    assert "cupy" not in finding.text


def test_packages_that_are_not_the_tested_ones_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "pydantic==0.1 \\\n    --hash=sha256:00\n"
        "numpy==0.1 ; python_full_version < '3' \\\n    --hash=sha256:00\n"
    )
    monkeypatch.setattr(host, "LOCK", lock)
    (finding,) = host.python_and_packages()
    assert finding.state is State.WARNING
    assert "pydantic" in finding.text
    assert "numpy" not in finding.text


def test_a_container_with_less_time_than_cores_is_told_how_many_encoders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (finding,) = host.cores()
    assert finding.state is State.WARNING
    assert "DUALFACE_ENCODE_WORKERS=1" in finding.fix


@pytest.mark.parametrize(("limit_mib", "state"), [(512, State.PROBLEM), (1500, State.WARNING)])
def test_a_containers_memory_counts(
    limit_mib: int, state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit_mib * MIB}\n")
    monkeypatch.setattr(host, "CGROUP", tmp_path)
    (finding,) = host.memory()
    assert finding.state is state


def test_shared_memory_that_is_too_small_is_a_problem(settings: Settings) -> None:
    found = wrong(host.shared_memory(settings.model_copy(update={"arena_mib": 1 << 40})))
    assert "DUALFACE_ARENA_MIB" in found["shared memory"].fix
    none = settings.model_copy(update={"shm_dir": Path("/nowhere")})
    assert wrong(host.shared_memory(none))["shared memory"].state is State.PROBLEM


def test_a_folder_that_can_not_be_written_is_named_with_its_setting(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    found = wrong(host.disks(settings.model_copy(update={"state_dir": file / "below"})))
    assert set(found) == {"disk state", "disk scratch"}
    assert "DUALFACE_STATE_DIR" in found["disk state"].fix


@pytest.mark.parametrize(("free_mib", "state"), [(100, State.PROBLEM), (2000, State.WARNING)])
def test_a_disk_that_is_nearly_full_is_told(
    free_mib: int, state: State, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = SimpleNamespace(f_bavail=free_mib, f_frsize=MIB, f_fsid=1)
    monkeypatch.setattr(os, "statvfs", lambda _: facts)
    assert wrong(host.disks(settings))["disk state"].state is state


def test_a_damaged_model_is_told_and_how_to_get_it_anew(settings: Settings) -> None:
    assert wrong(host.models(settings))["models"].state is State.NOT_HERE
    folder = settings.cache_dir / "models"
    folder.mkdir(parents=True)
    (folder / "centerface.onnx").write_bytes(b"not a model")
    finding = wrong(host.models(settings))["models"]
    assert finding.state is State.WARNING
    assert "centerface" in finding.text
    assert "models pull" in finding.fix


def test_a_port_that_was_asked_for_and_is_taken_is_a_problem(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asked = Settings(api_port=taken.getsockname()[1], flower_port=0)
        assert set(wrong(host.ports(asked, up=False))) == {"port api"}
        assert wrong(host.ports(asked, up=False))["port api"].state is State.PROBLEM
        assert wrong(host.ports(asked, up=True)) == {}
    monkeypatch.setattr(host, "_is_free", lambda *_: False)
    by_default = wrong(host.ports(settings, up=False))
    assert {each.state for each in by_default.values()} == {State.WARNING}


def test_a_clock_before_this_release_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert wrong(host.clock())["clock"].state is State.PROBLEM


@pytest.mark.parametrize(
    ("off_s", "state"), [(5, State.OK), (-120, State.WARNING), (3600, State.PROBLEM)]
)
def test_a_clock_that_differs_from_the_stores_is_told(
    off_s: float, state: State, settings: Settings
) -> None:
    away = settings.model_copy(update={"store": "s3://bucket/prefix"})
    (finding,) = services.store_clock(away, lambda _: time.time() + off_s)
    assert finding.state is state
    assert list(services.store_clock(settings)) == []


def test_a_store_that_can_not_be_written_is_a_problem(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    found = wrong(services.store(settings.model_copy(update={"store_dir": file})))
    assert found["store"].state is State.PROBLEM


def test_redis_and_queues_are_tried_and_left_as_they_were(
    redis: Connection, redis_url: str
) -> None:
    with kept(redis, appendonly="yes", **{"maxmemory-policy": "noeviction"}):
        found = list(services.redis_and_queues(redis_url))
    assert [each.check for each in found] == ["redis", "redis keeps", "queues"]
    assert wrong(found) == {}
    assert redis.keys("*") == []


def test_a_redis_that_forgets_is_a_problem(redis: Connection, redis_url: str) -> None:
    with kept(redis, **{"maxmemory-policy": "allkeys-lru"}):
        finding = wrong(services.redis_and_queues(redis_url))["redis keeps"]
    assert finding.state is State.PROBLEM
    assert "noeviction" in finding.fix


def test_a_redis_without_a_file_loses_jobs_at_its_restart(
    redis: Connection, redis_url: str
) -> None:
    with kept(redis, appendonly="no"):
        finding = wrong(services.redis_and_queues(redis_url))["redis keeps"]
    assert finding.state is State.WARNING


class Away:
    """A connection to a server that is not there, without the pauses between tries."""

    def ping(self) -> None:
        raise RedisError("Connection refused.")

    def close(self) -> None:
        """Nothing is open."""


def test_a_redis_that_is_not_there_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "connect", lambda _: Away())
    finding = wrong(services.redis_and_queues("redis://127.0.0.1:1/0"))["redis"]
    assert finding.state is State.PROBLEM
    assert "DUALFACE_REDIS_URL" in finding.fix


@contextmanager
def kept(redis: Connection, **values: str) -> Iterator[None]:
    """Settings of the server, for a while."""
    before = {name: str(redis.config_get(name)[name]) for name in values}
    try:
        for name, value in values.items():
            redis.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            redis.config_set(name, value)


def test_a_look_that_hangs_or_fails_keeps_no_other_from_being_made() -> None:
    def hangs() -> Iterator[Finding]:
        wait_until(lambda: False, "never", 300.0)
        yield from ()

    def fails() -> Iterator[Finding]:
        raise RuntimeError("unforeseen")
        yield

    (hung,) = findings_of(Look("disk", hangs, 0.2))
    (failed,) = findings_of(Look("memory", fails))
    assert (hung.state, failed.state) == (State.PROBLEM, State.PROBLEM)
    assert "0.2 s" in hung.text
    assert "unforeseen" in failed.text


def test_a_start_is_told_of_three_things_at_most(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as roomy:
        roomy.setattr(quick, "available_mib", lambda: 8192)
        room = SimpleNamespace(f_bavail=8192, f_frsize=MIB, f_fsid=1)
        roomy.setattr(os, "statvfs", lambda _: room)
        assert quick.quick_checks(settings) == []
    loaded = tmp_path / "version"
    loaded.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
    )
    assert quick.driver_version(loaded) == "535.183.01"
    assert quick.driver_version(tmp_path / "none") == ""
    monkeypatch.setattr(quick, "driver_version", lambda: "535.183.01")
    monkeypatch.setattr(quick, "available_mib", lambda: 300)
    full = SimpleNamespace(f_bavail=100, f_frsize=MIB, f_fsid=1)
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    monkeypatch.setattr(quick, "find_spec", lambda _: None)
    lines = quick.quick_checks(settings)
    assert len(lines) == 3
    assert "GPUs are not installed" in lines[0]
    assert ".venv-gpu/bin/dualface" in lines[0]
    monkeypatch.setattr(quick, "find_spec", lambda name: None if name == "cupy" else object())
    assert "GPUs are not installed" in quick.quick_checks(settings)[0], "NVML's alone will not do"
    monkeypatch.setattr(quick, "find_spec", lambda _: object())
    assert "older than 580.65.06" in quick.quick_checks(settings)[0]
    spared = settings.model_copy(update={"gpu_devices": "none"})
    assert not any("NVIDIA" in line for line in quick.quick_checks(spared))
