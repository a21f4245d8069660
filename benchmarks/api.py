"""How fast the API answers, and how soon a watcher hears, while the machine makes a video.

`python -m benchmarks.api [--jobs N] [--seconds S] [--connections C]`: a stack of its own with a job
that runs all the time and N ended jobs in the ledger; then load by `wrk` (on Debian: apt-get
install wrk) on each kind of request, with the median and the 99th percentile of its answers' times;
last how long after a change (its time in Redis) a watcher on a stream of events has it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from chaos.cluster import Cluster
from shared.jobs import JobSpec
from shared.keys import Keys, Role
from shared.ledger import JobResult
from tests.system.runs import home_in
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until

SCRIPT = """
wrk.headers["Authorization"] = "Bearer {key}"
wrk.headers["Content-Type"] = "application/json"
{more}
done = function(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.timeout + summary.errors.read
  io.write(string.format("RESULT %d %f %f %f %d\\n", summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000, failed))
end
"""
POST = """
wrk.method = "POST"
wrk.body = '{"source": "https://videos.invalid/a.mp4", "name": "a.mp4", "priority": 0}'
"""
EVENTS_S = 30.0


def load(url: str, key: str, path: str, args: argparse.Namespace, more: str = "") -> str:
    """A line about requests to `path`."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.replace("{key}", key).replace("{more}", more))
        script.flush()
        command = ["wrk", "-t1", f"-c{args.connections}", f"-d{args.seconds}s", "-s", script.name]
        out = subprocess.run([*command, url + path], capture_output=True, text=True, check=True)
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+) (\S+)", out.stdout)
    assert found, out.stdout
    count, spent, median, p99, failed = (float(part) for part in found.groups())
    return (
        f"{count / spent:7.0f} /s   median {median:6.1f} ms   p99 {p99:6.1f} ms   "
        f"{failed:.0f} failed of {count:.0f}"
    )


def heard(cluster: Cluster, url: str, key: str) -> list[float]:
    """Seconds from each change of the busy jobs to its arrival here, for EVENTS_S."""
    delays: list[float] = []
    until = time.monotonic() + EVENTS_S
    headers = {"Authorization": f"Bearer {key}"}
    while time.monotonic() < until:
        job = next((j for j in cluster.ledger.open(0, 1000) if j.startswith("busy")), None)
        if job is None:
            time.sleep(0.1)
            continue
        fresh = time.time()
        path = f"{url}/v1/jobs/{job}/events"
        with httpx.stream("GET", path, headers=headers, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    at = int(line.removeprefix("id: ").partition("-")[0]) / 1000
                    if at > fresh:
                        delays.append(time.time() - at)
                if time.monotonic() > until:
                    break
    return delays


def fill(cluster: Cluster, jobs: int) -> None:
    """So many jobs that have succeeded."""
    ledger = cluster.ledger
    for number in range(jobs):
        name = f"old-{number:06d}"
        ledger.submit(name, JobSpec(source=f"jobs/{name}/source.mp4", name=name), "local")
        ledger.finish(name, JobResult(key=f"jobs/{name}/result.mp4", frames=1))
    wait_until(lambda: not ledger.ended(), "all were cleaned up after", 300)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--connections", type=int, default=8)
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not here; on Debian: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        video = make_video(Path(folder) / "v.mp4", VideoSpec(size=(1280, 720), frames=3000))
        with home_in(Path(folder), source_hosts='["videos.invalid"]', arena_mib="256") as home:
            cluster = Cluster(home)
            cluster.start()
            fill(cluster, args.jobs)
            facts = json.loads((home.state / "stack.json").read_text())
            url = str(facts["api_url"])
            # The limits of a key are not what is measured.
            _, key = Keys(cluster.redis).add(
                "local", (Role.ADMIN,), per_minute=10_000_000, most_live=0
            )
            ended = threading.Event()
            busy = threading.Thread(target=keep_busy, args=(cluster, video, ended))
            busy.start()
            wait_until(lambda: cluster.ledger.count(None, "running"), "a job runs", 60)
            for name, path, more in (
                ("one job", "/v1/jobs/old-000123", ""),
                ("a page of 50 jobs", "/v1/jobs?limit=50", ""),
                ("a page of a state", "/v1/jobs?state=succeeded&limit=20", ""),
                ("submit", "/v1/jobs", POST),
            ):
                print(f"{name:20} {load(url, key, path, args, more)}", flush=True)
            delays = [1000 * delay for delay in heard(cluster, url, key)]
            ended.set()
            busy.join()
            cluster.kill()
    p95 = statistics.quantiles(delays, n=20)[-1]
    print(
        f"{'an event':20} {len(delays)} heard   median {statistics.median(delays):.1f} ms   "
        f"p95 {p95:.1f} ms   longest {max(delays):.1f} ms"
    )


def keep_busy(cluster: Cluster, video: Path, ended: threading.Event) -> None:
    """A job at a time, until `ended`."""
    number = 0
    while not ended.is_set():
        name = f"busy-{number}"
        cluster.submit(name, video, 9)
        while not ended.is_set() and cluster.ledger.is_live(name):
            ended.wait(0.2)
        number += 1


if __name__ == "__main__":
    main()
