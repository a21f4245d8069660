"""How long until a cancelled job is put down, and until a dead worker's work runs again.

`python -m benchmarks.recovery [--rounds N]`: a stack of its own with the ordinary times (a beat per
second, dead after five), stages slowed down so that something is always at work. Seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from chaos.checks import problems_while_up
from chaos.cluster import Cluster
from shared.ledger import Flight
from tests.system.runs import home_in
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until

SLOW = [{"stage": stage, "kind": "slow", "pause_s": 0.2} for stage in ("compose", "encode")]
ORDINARY = {"heartbeat_s": "1", "dead_after_s": "5", "unclaimed_after_s": "15"}


def at_work(cluster: Cluster, job: str) -> list[Flight]:
    """Batches of the job in somebody's hands."""
    return [f for f in cluster.ledger.flights(job) if f.worker]


def put_down(cluster: Cluster, job: str, since: float) -> float:
    """Seconds from `since` (epoch) to the last worker that put the job down, as their logs say."""
    latest = since
    for log in (cluster.home.state / "logs").glob("*.log"):
        for line in log.read_text().splitlines():
            if job in line and '"put down' in line:
                latest = max(latest, datetime.fromisoformat(json.loads(line)["time"]).timestamp())
    return latest - since


def cancelled(cluster: Cluster, job: str, video: Path) -> tuple[float, float]:
    """Seconds until nobody works on the job, and until nothing of it holds a slot."""
    cluster.submit(job, video, 5)
    wait_until(lambda: len(at_work(cluster, job)) >= 3, "three at work", 60)
    began, since = time.monotonic(), time.time()
    cluster.ledger.cancel(job)
    wait_until(lambda: not problems_while_up(cluster, {}), "nothing is held", 60)
    free = time.monotonic() - began
    wait_until(lambda: put_down(cluster, job, since) > 0, "put down", 60)
    return put_down(cluster, job, since), free


def killed(cluster: Cluster, job: str, video: Path) -> float:
    """Seconds from a child's death in the middle of a batch until another has the batch."""
    cluster.submit(job, video, 5)
    wait_until(lambda: at_work(cluster, job), "somebody is at work", 60)
    victim = random.choice(at_work(cluster, job))
    assert victim.worker is not None
    began = time.monotonic()
    os.kill(int(victim.worker.rsplit("-", 2)[1]), 9)

    def goes_on() -> bool:
        now = {flight.name: flight for flight in cluster.ledger.flights(job)}
        found = now.get(victim.name)
        return found is None or found.worker not in (None, victim.worker)

    wait_until(goes_on, "another has it", 60)
    took = time.monotonic() - began
    cluster.ledger.cancel(job)
    return took


def main() -> None:
    """Measure and print medians and maxima."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        video = make_video(Path(folder) / "v.mp4", VideoSpec(size=(320, 180), frames=600, gop=25))
        with home_in(Path(folder), drills=json.dumps(SLOW), **ORDINARY) as home:
            cluster = Cluster(home)
            cluster.start()
            ended = [cancelled(cluster, f"cancelled-{k}", video) for k in range(rounds)]
            again = [killed(cluster, f"killed-{k}", video) for k in range(rounds)]
            cluster.stop()
    for name, values in (
        ("cancelled: last worker put it down", [down for down, _ in ended]),
        ("cancelled: no slot, lease or object left", [free for _, free in ended]),
        ("child killed: its batch with another", again),
    ):
        print(f"{name}: median {statistics.median(values):.2f}, longest {max(values):.2f}")


if __name__ == "__main__":
    main()
