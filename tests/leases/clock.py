"""Moves the wall clock that the lease clock last saw: the next call sees the opposite jump."""

from __future__ import annotations

from shared.leases import Leases
from shared.redisdb import Connection

CAP_S = 2.0
"""The most by which one call moves the lease clock (`shared/leases.lua`)."""


def jump(redis: Connection, thing: str, seconds: float) -> None:
    """As if the server's clock jumped by `seconds` just before the next call for `thing`."""
    redis.hincrby(f"df:lease:{thing}:meta", "wall", -round(seconds * 1000))


def pass_time(redis: Connection, leases: Leases, thing: str, seconds: float) -> None:
    """As if `seconds` passed, with a call at least every CAP_S."""
    while seconds > 0:
        jump(redis, thing, min(seconds, CAP_S))
        leases.look(thing)
        seconds -= CAP_S
