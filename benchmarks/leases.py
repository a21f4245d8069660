"""Leases under load: are they right, and what do they cost?

    python -m benchmarks.leases stress --clients 200 --acquisitions 100000 --seed 1
    python -m benchmarks.leases contention [--rounds 5] [--seconds 2]

`stress` lets clients acquire and release while processes are killed, the clock jumps and the
capacity changes, and has an observer judge it (`tests/leases/stress.py`). Exit code 1 when it finds
a fault.

`contention` counts pairs of acquire and release per second, and how long an acquire takes, against
a spin lock of the same server in the same round: SET NX PX on each unit's key in turn, 10 ms of
sleep when all are taken, DEL to release. The spin lock has no queue, no fencing token and no check
that what it deletes is its own. PING is the bare round trip.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.leases import Leases
from shared.redisdb import Connection, connect
from tests.leases.stress import Plan, stress
from tests.servers import redis_server

CLIENTS = (1, 8, 64)
CAPACITIES = (1, 8)
PROCESSES = 4
TTL_S = 30.0
SPIN_S = 0.010
THING = "bench"

Pair = Callable[[str], Callable[[], object]]
"""Given a client's name: acquire, and give the function that releases."""


@dataclass(frozen=True)
class Round:
    """What all clients together did."""

    pairs_per_s: float
    waits_s: list[float]

    def wait_ms(self, percent: int) -> float:
        """A percentile of the time from asking to having."""
        ordered = sorted(self.waits_s)
        return 1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def by_lease(redis: Connection, capacity: int) -> Pair:
    """Pairs by the project's leases."""
    leases = Leases(redis, TTL_S)
    leases.resize(THING, capacity)

    def acquire(name: str) -> Callable[[], object]:
        lease = leases.acquire(THING, name, wait_s=60)
        if lease is None:
            raise RuntimeError("no lease within a minute")
        return lambda: leases.release(lease)

    return acquire


def by_spinning(redis: Connection, capacity: int) -> Pair:
    """Pairs by the reference."""

    def acquire(name: str) -> Callable[[], object]:
        while True:
            for unit in range(capacity):
                if redis.set(f"spin:{unit}", name, nx=True, px=int(TTL_S * 1000)):
                    return lambda: redis.delete(f"spin:{unit}")
            time.sleep(SPIN_S)

    return acquire


def by_ping(redis: Connection, _: int) -> Pair:
    """No lock at all: two round trips."""

    def acquire(name: str) -> Callable[[], object]:  # noqa: ARG001
        redis.ping()
        return redis.ping

    return acquire


WAYS: dict[str, Callable[[Connection, int], Pair]] = {
    "lease": by_lease,
    "spin": by_spinning,
    "ping": by_ping,
}


def measure(
    url: str, way: str, clients: int, capacity: int, seconds: float, hold_s: float
) -> Round:
    """One way, `clients` spread over at most PROCESSES processes, for `seconds`."""
    processes = min(PROCESSES, clients)
    readers = []
    for process in range(processes):
        reader, writer = os.pipe()
        if os.fork() == 0:
            code = 1
            try:
                os.close(reader)
                mine = range(process, clients, processes)
                waits = _clients(WAYS[way](connect(url), capacity), mine, seconds, hold_s)
                with os.fdopen(writer, "wb") as out:
                    out.write(struct.pack(f"{len(waits)}d", *waits))
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        readers.append(reader)
    data = [_all_of(reader) for reader in readers]
    for _ in readers:
        if os.wait()[1] != 0:
            raise RuntimeError("a client failed")
    waits_s = [wait for each in data for (wait,) in struct.iter_unpack("d", each)]
    return Round(len(waits_s) / seconds, waits_s)


def _all_of(reader: int) -> bytes:
    with os.fdopen(reader, "rb") as opened:
        return opened.read()


def _clients(acquire: Pair, names: Sequence[int], seconds: float, hold_s: float) -> list[float]:
    """The waits of the clients of this process; each a thread."""
    waits: list[float] = []
    end = time.perf_counter() + seconds

    def work(name: str) -> None:
        while time.perf_counter() < end:
            began = time.perf_counter()
            release = acquire(name)
            waits.append(time.perf_counter() - began)
            if hold_s:
                time.sleep(hold_s)
            release()

    threads = [threading.Thread(target=work, args=(str(name),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits


def contention(url: str, rounds: int, seconds: float, hold_s: float) -> None:
    """Print a table: medians over alternating rounds, and of the ratios within a round."""
    print(
        "| clients | capacity | way | pairs/s | p50 ms | p99 ms | longest ms | pairs/s to spin |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for clients in CLIENTS:
        for capacity in CAPACITIES:
            done: dict[str, list[Round]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way in WAYS:
                    done[way].append(measure(url, way, clients, capacity, seconds, hold_s))
            for way, each in done.items():
                print(_row(clients, capacity, way, each, done["spin"]), flush=True)


def _row(clients: int, capacity: int, way: str, mine: list[Round], spin: list[Round]) -> str:
    median = statistics.median
    ratio = median(a.pairs_per_s / b.pairs_per_s for a, b in zip(mine, spin, strict=True))
    p50, p99, p100 = (median(each.wait_ms(percent) for each in mine) for percent in (50, 99, 100))
    pairs = median(each.pairs_per_s for each in mine)
    return (
        f"| {clients} | {capacity} | {way} | {pairs:.0f} | {p50:.2f} | {p99:.2f} | {p100:.0f} "
        f"| {ratio:.2f} |"
    )


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("stress")
    load.add_argument("--clients", type=int, default=200)
    load.add_argument("--processes", type=int, default=40)
    load.add_argument("--capacity", type=int, default=8)
    load.add_argument("--acquisitions", type=int, default=100_000)
    load.add_argument("--seconds", type=float, default=1800.0, help="at most")
    load.add_argument("--seed", type=int, default=1)
    load.add_argument("--kill-every", type=float, default=1.0, metavar="SECONDS")
    load.add_argument("--json", action="store_true", help="one object instead of lines")
    cost = commands.add_parser("contention")
    cost.add_argument("--rounds", type=int, default=5)
    cost.add_argument("--seconds", type=float, default=2.0, help="of one way in one round")
    cost.add_argument("--hold-ms", type=float, default=0.0)
    return parser


def main(arguments: Sequence[str]) -> int:
    """0 when all is well."""
    chosen = _arguments().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dualface-leases-") as name:
        folder = Path(name)
        with redis_server(folder) as url:
            if chosen.command == "contention":
                contention(url, chosen.rounds, chosen.seconds, chosen.hold_ms / 1000)
                return 0
            plan = Plan(
                clients=chosen.clients,
                processes=chosen.processes,
                capacity=chosen.capacity,
                acquisitions=chosen.acquisitions,
                most_s=chosen.seconds,
                seed=chosen.seed,
                kill_every_s=chosen.kill_every,
            )
            report = stress(url, plan, folder)
    print(json.dumps(asdict(report)) if chosen.json else report.text())
    faults = report.faults()
    if faults:
        print(f"FAULTS: {faults}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
