"""Where things lie, and for how long."""

import os
import re
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from shared.settings.places import config_home
from shared.settings.section import WEEK_S, Section

_PLACE = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[^/\0]+)*)/?")


def place_of(store: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://BUCKET/PREFIX`. Raises ValueError where it is none."""
    found = _PLACE.fullmatch(store)
    if found is None or any(part in (".", "..") for part in found["prefix"].split("/")):
        raise ValueError("it has to be like s3://BUCKET/PREFIX")
    return found["bucket"], found["prefix"].strip("/")


def _state_home() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "dualface"


def _cache_home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "dualface"


class Storage(Section):
    """Where things lie, and for how long."""

    section: ClassVar[str] = "storage"

    redis_url: str = Field(
        default="",
        description="Redis of ledger, leases and broker; empty: the embedded stack starts its own.",
    )
    state_dir: Path = Field(
        default_factory=_state_home, description="Append-only file, logs, lock, embedded store."
    )
    cache_dir: Path = Field(default_factory=_cache_home, description="Detector models, portraits.")
    config_dir: Path = Field(
        default_factory=config_home, description="Folder of `manual_config.yaml` and "
        "`auto_detected.yaml`; only by the environment, as files there can't say where they are."
    )  # fmt: skip
    store_dir: Path | None = Field(
        default=None, description="Directory object store; default: `store` in the state folder."
    )
    store: str = Field(
        default="", description="`s3://BUCKET/PREFIX`: where objects lie. Empty: in `store_dir`."
    )
    scratch_dir: Path | None = Field(
        default=None, description="Local disk for files on their way to and from S3: a job's "
        "source, chunks and result together. Default: `scratch` in the state folder."
    )  # fmt: skip
    model_folders: tuple[Path, ...] = Field(
        default=(), description="Further folders with model files, as a JSON list; tried first."
    )
    retention_s: int = Field(
        default=86400, ge=60, le=10 * 365 * 86400, description="Life of an ended job's record and "
        "result: a day to fetch it."
    )  # fmt: skip
    keep_sources: bool = Field(
        default=False, description="Keep the source of a job that succeeded as long as its result."
    )
    s3_endpoint: str = Field(
        default="", description="`https://HOST:PORT` of the S3 server; TLS unless it says http://. "
        "Empty: AWS."
    )  # fmt: skip
    s3_public_endpoint: str = Field(
        default="", description="The same server as clients reach it, for links. Empty: the same."
    )
    s3_region: str = Field(
        default="", description="Region of the buckets. Empty: asked for at AWS, else us-east-1."
    )
    s3_access_key: SecretStr = Field(
        default=SecretStr(""), description="Credentials; without any, those of AWS's programs: "
        "environment, ~/.aws/credentials, the machine's or the pod's role."
    )  # fmt: skip
    s3_secret_key: SecretStr = Field(
        default=SecretStr(""), description="The secret that belongs to it."
    )
    s3_access_key_file: Path | None = Field(
        default=None, description="File that holds the key instead, as Docker's secrets do."
    )
    s3_secret_key_file: Path | None = Field(default=None, description="And for the secret.")
    s3_ca_file: Path | None = Field(
        default=None, description="File (PEM) with the authority of the S3 server's certificate."
    )
    s3_timeout_s: float = Field(
        default=10.0, gt=0, le=WEEK_S,
        description="Silence after which a try of a call to S3 is given up; "
        "servers answer within milliseconds, and a busy one within seconds."
    )  # fmt: skip
    s3_buckets: tuple[str, ...] = Field(
        default=(), description="Other buckets that sources may be taken from, as a JSON list."
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, address: str) -> str:
        if address and not _may_be_redis(address):
            # Without the reason that urlsplit has: it names a part of a password.
            raise ValueError("it has to be like redis://:PASSWORD@HOST:6379/0")
        return address

    @field_validator("store")
    @classmethod
    def _is_place(cls, store: str) -> str:
        if store:
            place_of(store)
        return store


def _may_be_redis(address: str) -> bool:
    try:
        # Reading the port checks it.
        return address.startswith("unix://") or (
            address.startswith(("redis://", "rediss://")) and urlsplit(address).port != 0
        )
    except ValueError:
        return False
