"""Whole runs over an S3 store: the same picture as over a folder, whatever the store does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.proxy import Fault, Proxy, proxy_to
from shared.settings import Settings
from shared.storage import open_store
from shared.storage.s3 import S3Store
from tests.servers import S3Server, s3_server
from tests.system.runs import DEADLINE_S, Home, Running, home_in, picture_hash
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(200)

BUCKET = "dualface"
PREFIX = "some/where"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with proxy_to(s3.host, s3.port) as made:
        yield made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.mp4"
    return make_video(path, VideoSpec(size=(320, 180), frames=120, gop=30, audio="aac"))


@pytest.fixture(scope="module")
def picture(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run over a folder makes of it."""
    with home_in(tmp_path_factory.mktemp("folder")) as home:
        done = home.run("run", source, "-o", "out.mp4")
        assert done.code == 0, done.said
        return picture_hash(home.results / "out.mp4")


@pytest.fixture
def home(s3: S3Server, proxy: Proxy, tmp_path: Path) -> Iterator[Home]:
    """One whose store is behind the proxy, and whose workers take silence for an outage soon."""
    settings = s3.settings(BUCKET, PREFIX, proxy.port)
    # Nobody dies here, however long a busy machine keeps a worker waiting.
    with home_in(tmp_path, **settings, s3_timeout_s="1", dead_after_s="30") as made:
        yield made


def left(home: Home, s3: S3Server) -> list[str]:
    """What should not be there after a command, in the bucket as elsewhere."""
    store = open_store(Settings.model_validate(s3.settings(BUCKET, PREFIX)))
    assert isinstance(store, S3Store)
    found = home.leftovers() + s3.objects(BUCKET)
    found += [str(path) for path in home.state.glob("scratch/*")]
    return found + ["an upload"] * store.clear_leftovers(0)


def chunks(s3: S3Server) -> int:
    return sum("/chunks/" in key for key in s3.objects(BUCKET))


def wait_for_chunks(s3: S3Server, run: Running, count: int) -> None:
    wait_until(
        lambda: chunks(s3) >= count or run.process.poll() is not None,
        f"{count} chunks are there: {run.said()}",
        DEADLINE_S,
    )
    assert run.process.poll() is None, run.said()


def test_a_run_over_s3_through_outages_gives_the_same_picture_and_leaves_nothing(
    home: Home, source: Path, picture: str, s3: S3Server, proxy: Proxy
) -> None:
    run = home.start("run", source, "-o", "out.mp4")
    wait_for_chunks(s3, run, 1)
    proxy.set(Fault("hang"))
    wait_until(lambda: proxy.struck >= 4, "four connections hung", DEADLINE_S)
    proxy.set(Fault("error"))
    wait_until(lambda: proxy.struck >= 12, "twelve requests failed", DEADLINE_S)
    assert run.process.poll() is None, run.said()
    proxy.set(Fault())
    done = run.wait()
    assert done.code == 0, done.said
    assert "Traceback" not in done.said
    assert picture_hash(home.results / "out.mp4") == picture
    assert left(home, s3) == []
    # No process ended over it.
    assert '"lost_worker": "' not in (home.state / "logs" / "coordinator.log").read_text()


def test_a_run_whose_store_refuses_says_so_before_anything_is_started(
    tmp_path: Path, source: Path, s3: S3Server
) -> None:
    settings = s3.settings(BUCKET) | {"s3_secret_key": "guessed"}
    with home_in(tmp_path, **settings) as home:
        done = home.run("run", source, "-o", "out.mp4")
        assert done.code == 2
        assert done.err.count("\n") == 1
        assert done.err.startswith("dualface: The store http://127.0.0.1:")
        assert "DUALFACE_S3_SECRET_KEY" in done.err
        assert not (home.state / "redis").exists()
