"""Fixtures that every test area shares."""

from __future__ import annotations

import gc
import os
import re
import resource
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.redisdb import Connection, connect
from tests.doubles.fixtures import device, doubles, environment, vendor  # noqa: F401
from tests.servers import redis_server

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests ask ONNX Runtime itself

PROJECT = Path(__file__).resolve().parent.parent
FOOTAGE = PROJECT.parent / "shared" / "footage"
MODELS = PROJECT.parent / "shared" / "models"


@pytest.fixture(scope="session")
def footage() -> Path:
    """Folder of real clips beside the project; the test is skipped where it is missing."""
    if not FOOTAGE.is_dir():
        pytest.skip("the development clips (../shared/footage) are not here")
    return FOOTAGE


LONGEST = ("system", "chaos", "gpu_bench", "flower", "page", "doctor", "client", "decode")
"""Folders whose files take long: begun first, so that at the end no core waits for one of them."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Random order stays within the long and within the short ones."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=place)


def pytest_configure() -> None:
    """Examples are the same in every run, and no example fails because the machine is busy."""
    from hypothesis import HealthCheck, settings  # here: programs of tests import this module, too

    settings.register_profile(
        "ours",
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("ours")


@pytest.fixture(autouse=True, scope="session")
def no_settings_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What somebody has set for their own dualface on this machine counts for no test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_long_wait_for_a_package_index() -> Iterator[None]:
    """A slow one is a reason to skip what needs its files, before a test's time is over: also when
    processes ask one after the other, as they do for the same file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.assets.DOWNLOAD_TIMEOUT_S", 25.0)
        yield


@pytest.fixture(autouse=True)
def no_settings_of_other_tests(
    process_as_it_was: None,  # noqa: ARG001 - looks after monkeypatch has undone its changes
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor what another test has set, or has probed."""
    folder = tmp_path_factory.getbasetemp() / f"config-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))


def _of_this_process() -> dict[str, object]:
    """What a test may change for every later one, and for every process that those start."""
    limits = {
        name: resource.getrlimit(getattr(resource, name))
        for name in dir(resource)
        if name.startswith("RLIMIT_")
    }
    handlers = {each.name: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    status = Path("/proc/self/status").read_text()
    return {
        **limits,
        **handlers,
        "scheduling": (os.sched_getscheduler(0), os.nice(0), os.sched_getaffinity(0)),
        "umask": re.findall("Umask:.*", status),
        "folder": Path.cwd(),
    }


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """No test leaves the process otherwise than it was."""
    before = _of_this_process()
    yield
    if _of_this_process() != before:
        gc.collect()  # what a test left behind may hold a bound until then
    after = _of_this_process()
    assert {name: after[name] for name in after if after[name] != before[name]} == {}


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real server for the whole run; `redis` empties it for each test."""
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis(redis_url: str) -> Iterator[Connection]:
    """A connection to an empty server."""
    connection = connect(redis_url)
    connection.flushall()
    yield connection
    connection.close()
