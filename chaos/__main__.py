"""`python -m chaos`: attack a stack for a while, then judge it. Exit code 0 when all held."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from chaos.checks import over_limit, problems_after, problems_while_up
from chaos.cluster import Cluster, settled
from chaos.faults import FAULTS, Attack, power_cut
from chaos.proxy import Proxy, proxy_to
from shared.errors import DualfaceError
from shared.jobs import JobState
from shared.redisdb import RedisError
from tests.servers import s3_server
from tests.system.runs import home_in, picture_hash
from tests.videos import VideoSpec, make_video

PASSING = (RedisError, DualfaceError, OSError, ValueError, psutil.Error, httpx.HTTPError)
"""What asking a stack under attack may raise."""

LONGEST_QUIET_S = 120.0
"""After the last fault every job must have ended within this."""

VIDEOS = (
    VideoSpec(size=(320, 180), frames=150, gop=25, audio="aac"),
    VideoSpec(size=(192, 108), frames=90, gop=90, bframes=3),
    VideoSpec(size=(128, 96), frames=240, gop=12, audio="aac"),
)


@dataclass(frozen=True)
class Chosen:
    """The command's options."""

    seed: int
    minutes: float
    jobs: int
    every: float
    store: str


@dataclass
class Story:
    """What happened, for the summary."""

    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line for people."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@dataclass
class Jobs:
    """Keeps some jobs going, and judges those that end."""

    cluster: Cluster
    chance: random.Random
    story: Story
    videos: dict[Path, str]
    at_once: int
    live: dict[str, Path] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    submitted: int = 0
    next: tuple[Path, int, bool] | None = None

    def step(self, *, more: bool) -> None:
        """Submit what is missing, cancel now and then, judge what ended."""
        while more and len(self.live) < self.at_once:
            # What did not get through is sent once more, as the same job.
            if self.next is None:
                video = self.chance.choice(list(self.videos))
                self.next = (video, self.chance.randint(0, 9), self.chance.random() < 0.5)
            video, priority, by_api = self.next
            job = f"chaos-{self.submitted}"
            if by_api:
                job = self.cluster.submit_by_api(job, video, priority)
            else:
                self.cluster.submit(job, video, priority)
            self.submitted += 1
            self.next = None
            self.live[job] = video
        if more and self.live and self.chance.random() < 0.004:
            job = self.chance.choice(list(self.live))
            self.cancelled.add(job)  # first: the answer may be lost
            self.cluster.ledger.cancel(job)
        for job, video in list(self.live.items()):
            view = self.cluster.view(job)
            if view is not None and view.state.ended:
                self._judge(job, video, view.state, view.message)
                del self.live[job]

    def _judge(self, job: str, video: Path, state: JobState, message: str) -> None:
        self.story.outcomes[state.value] += 1
        self.story.say(f"{job} {state.value}")
        if state is JobState.SUCCEEDED:
            view = self.cluster.view(job)
            assert view is not None
            assert view.result is not None
            with self.cluster.store.local(view.result.key) as path:
                if picture_hash(path) != self.videos[video]:
                    self.story.problems.append(f"{job} of {video.name}: another picture")
        elif state is not JobState.CANCELLED or job not in self.cancelled:
            self.story.problems.append(f"{job} {state.value}: {message}")


@contextmanager
def a_store(folder: Path, kind: str) -> Iterator[tuple[Proxy | None, dict[str, str]]]:
    """The proxy in front of an S3 server, and settings for it; for a folder neither."""
    if kind == "folder":
        yield None, {}
        return
    (folder / "s3").mkdir()
    with s3_server(folder / "s3") as server, proxy_to(server.host, server.port) as proxy:
        yield proxy, server.settings("chaos", "some/where", proxy.port) | {"s3_timeout_s": "3"}


def run(chosen: Chosen, folder: Path) -> Story:
    """The whole story; `folder` is for everything."""
    chance, story = random.Random(chosen.seed), Story()
    with (
        a_store(folder, chosen.store) as (proxy, settings),
        home_in(folder, retention_s="600", **settings) as home,
    ):
        cluster = Cluster(home, proxy)
        videos = {}
        for number, spec in enumerate(VIDEOS):
            video = make_video(folder / f"video-{number}.mp4", spec)
            calm = home.run("run", video, "-o", f"calm-{number}.mp4")
            if calm.code != 0:
                raise SystemExit(f"the undisturbed run failed: {calm.said}")
            videos[video] = picture_hash(home.results / f"calm-{number}.mp4")
        cluster.start()
        files = cluster.descriptors()
        jobs = Jobs(cluster, chance, story, videos, chosen.jobs)
        attack = Attack(cluster, chance, min(20.0, 12 * chosen.minutes))
        _attack(attack, jobs, story, 60 * chosen.minutes, chosen.every)
        _calm_down(attack, jobs, story)
        if not story.problems:
            story.problems += problems_while_up(cluster, files)
        cluster.stop()
        home.wait_until_all_gone()
        story.problems += problems_after(cluster)
        if story.problems:
            for log in sorted((home.state / "logs").glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}")
    return story


def _attack(attack: Attack, jobs: Jobs, story: Story, seconds: float, every_s: float) -> None:
    end, next_fault = time.monotonic() + seconds, time.monotonic() + every_s
    faults, weights = list(FAULTS), list(FAULTS.values())
    while time.monotonic() < end:
        try:
            if not attack.frozen:
                jobs.step(more=True)
                attack.watch()
                story.problems += over_limit(attack.cluster)
            if time.monotonic() >= next_fault:
                next_fault = time.monotonic() + attack.chance.uniform(0.5, 1.5) * every_s
                fault = attack.chance.choices(faults, weights)[0]
                story.say(fault(attack))
                story.faults[fault.__name__] += 1
        except (*PASSING, AssertionError) as error:
            _revive(attack, story, error)
        time.sleep(0.1)


def _revive(attack: Attack, story: Story, error: BaseException) -> None:
    """The stack gave up, as it does when its parts die too often within a minute: start it again,
    as the service manager of a machine would."""
    command = attack.cluster.command
    if command is not None and command.process.poll() is not None:
        story.say(f"the stack had ended ({command.said().strip()[-200:]}), started again")
        story.faults["revived"] += 1
        power_cut(attack)
    elif isinstance(error, AssertionError):
        story.say(f"passing: {error}")


def _calm_down(attack: Attack, jobs: Jobs, story: Story) -> None:
    """No more faults: every job must end by itself."""
    attack.thaw_all()
    attack.cluster.heal()
    story.say(f"no more faults, {len(jobs.live)} jobs to go")
    deadline = time.monotonic() + LONGEST_QUIET_S
    while jobs.live and time.monotonic() < deadline:
        try:
            jobs.step(more=False)
        except PASSING as error:
            _revive(attack, story, error)
            settled(attack.cluster, 5)
        time.sleep(0.1)
    for job in jobs.live:
        view = jobs.cluster.view(job)
        state = "unknown" if view is None else f"{view.state.value}, {view.done} of {view.expected}"
        story.problems.append(f"{job} has not ended: {state}")


def main() -> int:
    """Parse, run, sum up."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--jobs", type=int, default=4, help="how many at a time")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between faults, about")
    parser.add_argument("--store", choices=("s3", "folder"), help="default: by the seed")
    given = vars(parser.parse_args())
    chosen = Chosen(**{**given, "store": given["store"] or ("folder", "s3")[given["seed"] % 2]})
    with tempfile.TemporaryDirectory(prefix="dualface-chaos-") as folder:
        story = run(chosen, Path(folder))
    print(f"seed {chosen.seed}, store {chosen.store}")
    print(f"faults: {sum(story.faults.values())} {dict(story.faults)}")
    print(f"jobs: {dict(story.outcomes)}")
    for problem in story.problems:
        print(f"PROBLEM {problem}")
    return 1 if story.problems else 0


if __name__ == "__main__":
    sys.exit(main())
