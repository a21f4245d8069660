"""Logs, metrics, health, traces."""

from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from shared.settings.section import WEEK_S, Section


class Monitoring(Section):
    """Logs, metrics, health, traces."""

    section: ClassVar[str] = "monitoring"

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        default="INFO", description="Of our own lines, as Python's logging calls it; libraries "
        "speak from WARNING."
    )  # fmt: skip
    metrics: bool = Field(default=True, description="Count what processes do, for Prometheus.")
    metrics_dir: Path | None = Field(
        default=None,
        description="Where the figures of a host's or pod's processes lie, some MiB; a tmpfs is "
        "best. Default: `run/metrics` in the state folder.",
    )
    http_host: str = Field(
        default="127.0.0.1",
        description="Where a process answers for its health and metrics, without a password: for "
        "this host alone, unless its network is private (0.0.0.0 in a container).",
    )
    http_port: int = Field(
        default=0, ge=0, le=65535, description="And the port; 0: it answers nowhere."
    )
    health_patience_s: float = Field(
        default=60.0,
        gt=0,
        le=WEEK_S,
        description="How long a process may not get on, while Redis answers, until it says that it "
        "is not alive: more than the 32 s that Celery may wait before it connects again.",
    )
    traces_endpoint: str = Field(
        default="", description="`http(s)://HOST:PORT` of a collector that takes OTLP by HTTP: one "
        "trace per job goes there. Empty: none."
    )  # fmt: skip
    traces_share: float = Field(
        default=1.0, ge=0, le=1, description="Of jobs that are traced; a job is some hundred spans "
        "per minute of video."
    )  # fmt: skip

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_any_case(cls, level: object) -> object:
        if not isinstance(level, str):
            return level
        # Python's logging has two more names for two of them.
        return {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(level.upper(), level.upper())

    @field_validator("traces_endpoint")
    @classmethod
    def _is_address(cls, address: str) -> str:
        parts = urlsplit(address)
        if address and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("it has to be http(s)://HOST:PORT")
        return address
