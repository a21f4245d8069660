"""Where every host says how its GPUs are, for whoever shows the cluster: a key in Redis per host.

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
    """What one host says. Several processes of a host may: each tells the same."""

    def __init__(self, connection: Connection, host: str) -> None:
        self._redis = connection
        self._host = host

    def put(self, gpus: Sequence[GpuRecord]) -> None:
        """Say it. Where Redis is away, the next time will do."""
        from shared.redisdb import RedisError  # 0.2 s, for who only asks which GPUs there are

        record = HostGpus(host=self._host, gpus=tuple(gpus))
        with suppress(RedisError):
            self._redis.set(PREFIX + self._host, record.model_dump_json(), ex=EXPIRES_S)


def hosts(connection: Connection) -> Iterator[HostGpus]:
    """What all hosts said lately, by name. Raises RedisError."""
    keys = sorted(str(key) for key in connection.scan_iter(match=f"{PREFIX}*", count=500))
    for kept in connection.mget(keys) if keys else []:
        if kept is None:
            continue  # expired between the two calls
        with suppress(ValidationError):  # of another release
            yield HostGpus.read_kept(str(kept))
