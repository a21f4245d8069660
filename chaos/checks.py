"""What must hold afterwards, whatever happened."""

from __future__ import annotations

from chaos.cluster import Cluster
from shared.arena.base import POOLS
from shared.arena.registry import ArenaRegistry
from tests.waiting import wait_until

CALM_S = 30.0

PERMANENT = (
    "df:arenas",
    "df:lease:slots:",  # `meta` only: the last fencing token has to be remembered
    "df:index:",
    "df:wake",
    "df:keys",
    "df:lease:things",
    "_kombu.binding",
    "unacked",
)
"""Beginnings of keys that may stay without an expiry while a stack is up and idle."""

KEPT = ("result", "report", "tracks", "thumbnails")
"""Objects of a job that succeeded."""

MORE_FILES = 24
"""Open files that a process which stays may gain by connections made anew."""


def problems_while_up(cluster: Cluster, files_before: dict[str, int]) -> list[str]:
    """Of an idle stack; waits a moment until it is idle."""
    found = []
    for name, check in (("slots", _slots), ("keys", _keys), ("objects", _objects)):
        try:
            wait_until(lambda check=check: not check(cluster), name, CALM_S)  # type: ignore[misc]
        except AssertionError:
            found += check(cluster)
    for name, count in cluster.descriptors().items():
        if count > files_before.get(name, count) + MORE_FILES:
            found.append(f"{name} has {count} open files, {files_before[name]} before")
    return found


def problems_after(cluster: Cluster) -> list[str]:
    """Of a stack that was stopped: nothing may be left."""
    home = cluster.home
    found = [f"left: {path}" for path in home.shm.iterdir()]
    found += [f"left: {path}" for path in home.state.glob("store/.scratch/*")]
    found += [f"left: {path}" for path in home.state.glob("scratch/*")]
    if left := cluster.store.clear_leftovers(0):
        found.append(f"left: {left} unfinished uploads")
    found += [f"lives: {process}" for process in home.processes()]
    return found


def over_limit(cluster: Cluster) -> list[str]:
    """More units held than there are, at this instant."""
    found = []
    for arena in ArenaRegistry(cluster.redis).all():
        for pool in POOLS:
            look = cluster.leases.look(arena.thing(pool))
            units = [lease.unit for lease in look.leases]
            if look.used > arena.count(pool) or len(set(units)) != len(units):
                found.append(f"{look.used} of {arena.count(pool)} {pool} slots: {units}")
    return found


def _slots(cluster: Cluster) -> list[str]:
    found = []
    for arena in ArenaRegistry(cluster.redis).all():
        for pool in POOLS:
            look = cluster.leases.look(arena.thing(pool))
            found += [f"slot {lease.unit} is held by {lease.holder}" for lease in look.leases]
            if look.waiting:
                found.append(f"{look.waiting} wait for {pool} slots")
    return found


def _keys(cluster: Cluster) -> list[str]:
    redis = cluster.redis
    keys = [str(key) for key in redis.scan_iter(count=1000)]
    kept = [key for key in keys if redis.ttl(key) == -1 and not key.startswith(PERMANENT)]
    return [f"key without expiry: {key}" for key in sorted(kept)]


def _objects(cluster: Cluster) -> list[str]:
    keys = cluster.store.keys("jobs")
    return [f"object: {key}" for key in keys if key.split("/")[2].partition(".")[0] not in KEPT]
