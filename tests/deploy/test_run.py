"""compose.yaml at work: the commands, variables and health checks of its services, run here."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import pytest

from tests.deploy.composed import Composed, composed, services
from tests.servers import s3_server
from tests.system.runs import SHM, have_model
from tests.videos import VideoSpec, make_video

pytestmark = pytest.mark.timeout(600)

ELSEWHERE = ("objects", "prepare", "host", "prometheus", "grafana")
"""Images of others, and what only a container needs."""
SMALL = {"ARENA_MIB": "24", "ENCODE_WORKERS": "1"}
FRAMES = 60
JOB_S = 90.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Composed]:
    """Nothing started yet; a real S3 server stands in for the one of compose.yaml."""
    have_model()
    shm = SHM / f"dualface-test-{uuid.uuid4().hex[:12]}"
    shm.mkdir()
    (tmp_path / "s3").mkdir()
    (tmp_path / "compose").mkdir()
    try:
        with (
            s3_server(tmp_path / "s3") as objects,
            composed(tmp_path / "compose", shm, objects, **SMALL) as made,
        ):
            (made.folder / "cache").symlink_to(Path.home() / ".cache" / "dualface")
            yield made
    finally:
        shutil.rmtree(shm)


def submit(client: httpx.Client, video: Path) -> str:
    with video.open("rb") as file:
        answer = client.post("/v1/jobs", files={"file": ("talk.mp4", file, "video/mp4")})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def frames_of(video: Path) -> tuple[int, int]:
    """How many, and how wide."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return sum(1 for _ in container.decode(stream)), stream.width


def test_the_cpu_profile_takes_a_video_by_rest_and_gives_the_result_and_ends_in_order(
    stack: Composed, tmp_path: Path
) -> None:
    found = services("cpu", stack.variables)
    ours = [name for name in found if name not in (*ELSEWHERE, "bucket")]
    stack.start(found, without=ELSEWHERE)
    stack.wait_until_healthy(found, [name for name in ours if name != "flower"])

    # docker compose exec api dualface keys add ann; it is asked more often here than by people.
    command = ("dualface", "keys", "add", "ann", "--per-minute", "100000")
    secret = stack.run("api", found["api"], *command).strip()
    base = f"http://127.0.0.1:{stack.port('api', 8000)}"
    headers = {"Authorization": f"Bearer {secret}"}
    source = make_video(tmp_path / "talk.mp4", VideoSpec(size=(320, 180), frames=FRAMES, gop=30))
    with httpx.Client(base_url=base, headers=headers, timeout=30) as client:
        job = submit(client, source)

        def ended() -> bool:
            assert all(each.poll() is None for n, each in stack.processes.items() if n != "bucket")
            return client.get(f"/v1/jobs/{job}").json()["state"] in ("succeeded", "failed")

        stack.wait(ended, "the job has ended", JOB_S)
        told = client.get(f"/v1/jobs/{job}").json()
        assert told["state"] == "succeeded", told
        # Led to the object store by a link, as clients outside of the containers are.
        answer = client.get(f"/v1/jobs/{job}/result", follow_redirects=True)
    assert answer.status_code == 200
    assert str(answer.url).startswith(stack.objects.endpoint)
    (tmp_path / "result.mp4").write_bytes(answer.content)
    assert frames_of(tmp_path / "result.mp4") == (FRAMES, 320)

    # What Prometheus is pointed at tells the figures of all processes.
    figures = httpx.get(f"http://127.0.0.1:{stack.port('coordinator', 9464)}/metrics").text
    for stage in ("decode", "infer", "compose", "encode"):
        assert f'stage="{stage}"' in figures

    stack.wait_until_healthy(found, ["flower"])
    stack.processes.pop("bucket")
    # Those that nobody depends on first, as Docker Compose does.
    workers, rest = ["encode", "compose", "infer", "decode"], ["arena", "coordinator"]
    assert {*workers, *rest, "flower", "api", "redis"} == set(stack.processes)
    codes = stack.stop([*workers, "flower", "api"]) | stack.stop(rest) | stack.stop(["redis"])
    assert set(codes.values()) == {0}, codes
    assert list(stack.shm.iterdir()) == []
    assert list((stack.folder / "state" / "scratch").iterdir()) == []
