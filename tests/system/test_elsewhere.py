"""A whole job whose source lies on a web server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chaos.cluster import Cluster
from shared.jobs import JobSpec
from shared.ledger import JobResult
from tests.system.runs import home_in, picture_hash
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until
from tests.websites import make_authority, website

pytestmark = pytest.mark.timeout(300)

SECRET = "s3cr3t"


def ended(cluster: Cluster, job: str) -> JobResult:
    """What came of the job; it must not fail."""

    def is_over() -> bool:
        state = cluster.ledger.state(job)
        return state is not None and state.ended

    wait_until(is_over, f"{job} has ended", 90)
    view = cluster.view(job)
    assert view is not None
    assert view.result is not None, view.message
    return view.result


def test_a_source_on_a_web_server_becomes_the_same_video_as_one_in_the_store(
    tmp_path: Path,
) -> None:
    video = make_video(tmp_path / "video.mp4", VideoSpec(size=(320, 180), frames=24, audio="aac"))
    authority = make_authority(tmp_path)
    with website(authority) as site:
        site.scripts[f"/a/video.mp4?sig={SECRET}"] = lambda _, wire: wire.answer(
            "200 OK", video.read_bytes()
        )
        chosen = {
            "source_hosts": json.dumps([f"localhost:{site.port}"]),
            "source_networks": '["127.0.0.0/8", "::1/128"]',
            "source_ca": str(authority.ca),
        }
        with home_in(tmp_path, **chosen) as home:
            cluster = Cluster(home)
            cluster.start()
            cluster.submit("here", video, 5)
            address = f"https://localhost:{site.port}/a/video.mp4?sig={SECRET}"
            cluster.ledger.submit("elsewhere", JobSpec(source=address, name="video.mp4"))
            results = [ended(cluster, job) for job in ("here", "elsewhere")]
            made = [home.state / "store" / result.key for result in results]
            assert picture_hash(made[0]) == picture_hash(made[1])
            assert [result.sounds_copied for result in results] == [1, 1]
            cluster.stop()
            home.wait_until_all_gone()
            logs = [path.read_text() for path in (home.state / "logs").glob("*.log")]
            assert "source fetched" in "".join(logs)
            assert SECRET not in "".join(logs)
