"""A job that is cancelled, in every state it may be in, with the work slowed down to be there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from chaos.checks import problems_while_up
from chaos.cluster import Cluster
from shared.jobs import JobState
from shared.workers import living
from tests.system.runs import home_in
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

SLOW = [
    {"stage": stage, "kind": "slow", "item": item, "pause_s": pause}
    for stage, item, pause in (
        ("decode", "split", 0.6),
        ("infer", "*", 0.5),
        ("compose", "*", 0.05),
        ("encode", "*", 0.2),
        ("encode", "mux", 1.0),
    )
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A stack on which everything takes its time."""
    folder = tmp_path_factory.mktemp("cancel")
    with home_in(folder, drills=json.dumps(SLOW), segment_target_s="1") as home:
        made = Cluster(home)
        make_video(folder / "video.mp4", VideoSpec(size=(320, 180), frames=300, gop=25))
        make_video(folder / "short.mp4", VideoSpec(size=(320, 180), frames=3))
        made.start()
        yield made
        made.stop()
        home.wait_until_all_gone()


def reach(cluster: Cluster, job: str, state: JobState) -> None:
    video = "short.mp4" if state is JobState.MUXING else "video.mp4"
    cluster.submit(job, cluster.home.root / video, 5)
    wait_until(lambda: cluster.ledger.state(job) is state, f"the job is {state}", 60)


def hands(cluster: Cluster, job: str) -> list[str]:
    """Who works on the job."""
    flights = [flight.worker for flight in cluster.ledger.flights(job) if flight.worker]
    return flights + list(cluster.ledger.hands(job).values())


def stages(cluster: Cluster) -> set[str]:
    """Those whose workers live."""
    return {record.stage for record in living(cluster.redis)} - {"coordinator"}


@pytest.mark.parametrize(
    "state", [JobState.QUEUED, JobState.SPLITTING, JobState.RUNNING, JobState.MUXING]
)
def test_a_cancelled_job_is_put_down_and_holds_nothing(cluster: Cluster, state: JobState) -> None:
    job = f"cancelled-{state}"
    coordinator = cluster.home.worker("coordinator")
    if state is JobState.QUEUED:
        coordinator.suspend()  # nobody dispatches
    try:
        reach(cluster, job, state)
        if state is JobState.RUNNING:
            wait_until(lambda: hands(cluster, job), "somebody works on it", 60)
        assert cluster.ledger.cancel(job)
        assert not cluster.ledger.cancel(job), "the second time there is nothing to cancel"
    finally:
        coordinator.resume()
    assert cluster.ledger.state(job) is JobState.CANCELLED
    wait_until(lambda: not hands(cluster, job), "nobody has it in hands", 30)
    assert problems_while_up(cluster, {}) == []
    assert cluster.ledger.state(job) is JobState.CANCELLED, "it stays so"
    # A sign of life may be late on a busy machine.
    wait_until(lambda: len(stages(cluster)) == 4, "a worker of each stage lives", 30)


def test_a_cancelled_job_can_be_submitted_again(cluster: Cluster) -> None:
    reach(cluster, "again", JobState.RUNNING)
    cluster.ledger.cancel("again")
    cluster.submit("again", cluster.home.root / "short.mp4", 5)
    wait_until(lambda: cluster.ledger.state("again") is JobState.SUCCEEDED, "it succeeds", 60)


def test_one_job_less_does_not_disturb_another(cluster: Cluster) -> None:
    reach(cluster, "stays", JobState.RUNNING)
    reach(cluster, "goes", JobState.RUNNING)
    cluster.ledger.cancel("goes")
    before = cluster.ledger.view("stays")
    assert before is not None

    def gets_on() -> bool:
        view = cluster.ledger.view("stays")
        return view is not None and view.done[3] > before.done[3]

    wait_until(gets_on, "the other one gets on", 60)
    cluster.ledger.cancel("stays")
