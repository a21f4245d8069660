"""Where every host says how its GPUs are, for whoever shows the cluster: a key in Redis per host
and arena, as the processes of one container may see other GPUs than those of another.

It expires soon after the host's last word: GPUs of a host that is gone are gone from the list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import ValidationError

from shared.jobs import Model

if TYPE_CHECKING:
    from shared.redisdb import Connection

PREFIX = "df:gpus:"
EXPIRES_S = 16
"""Three samples and a bit: one that is late takes no GPU off the list."""


class GpuRecord(Model):
    """One GPU at one moment. Shares are 0 to 1; None: NVML does not tell (parts of a GPU)."""

    uuid: str
    name: str
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    busy: float | None = None
    decoder_busy: float | None = None
    encoder_busy: float | None = None


class HostGpus(Model):
    """All GPUs of a host, as `host_of` names it."""

    host: str
    gpus: tuple[GpuRecord, ...]


class GpuBoard:
    """What one host says, or one of its arenas."""

    def __init__(self, connection: Connection, host: str, arena: str = "") -> None:
        self._redis = connection
        self._host = host
        self._key = f"{PREFIX}{host}:{arena}"

    def put(self, gpus: Sequence[GpuRecord]) -> None:
        """Say it. Where Redis is away, the next time will do."""
        from shared.redisdb import RedisError  # 0.2 s, for who only asks which GPUs there are

        record = HostGpus(host=self._host, gpus=tuple(gpus))
        with suppress(RedisError):
            self._redis.set(self._key, record.model_dump_json(), ex=EXPIRES_S)


def hosts(connection: Connection) -> Iterator[HostGpus]:
    """What all hosts said lately, by name, each GPU once. Raises RedisError."""
    found: dict[str, dict[str, GpuRecord]] = {}
    for each in _said(connection):
        found.setdefault(each.host, {}).update({gpu.uuid: gpu for gpu in each.gpus})
    for host, gpus in found.items():
        yield HostGpus(host=host, gpus=tuple(gpus.values()))


def _said(connection: Connection) -> Iterator[HostGpus]:
    keys = sorted(str(key) for key in connection.scan_iter(match=f"{PREFIX}*", count=500))
    for kept in connection.mget(keys) if keys else []:
        if kept is None:
            continue  # expired between the two calls
        with suppress(ValidationError):  # of another release
            yield HostGpus.read_kept(str(kept))
