"""Settings of a process, read from the environment (`DUALFACE_*`) once, when asked.

Only this module reads the environment. Every field says its unit and why its default is what it is.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from shared.drill import Drill
from shared.errors import ErrorCode, PermanentError
from shared.references import host_rules

MIB = 1024 * 1024


def _state_home() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "dualface"


def _cache_home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "dualface"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _half_the_memory_mib() -> int:
    return min(4096, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB // 2)


class SourceLimits(BaseSettings):
    """Limits of a source: what a file from outside may be at most.

    Of their own, as whatever opens a source reads them, also where no worker runs. Looked at before
    work, by what headers say, and again while working, since headers may lie.
    """

    model_config = SettingsConfigDict(env_prefix="DUALFACE_SOURCE_MAX_", frozen=True)

    size_bytes: int = Field(
        default=64 << 30, gt=0, description="Of the file: hours of camera footage."
    )
    expansion: int = Field(
        default=16, ge=1, description="Bytes of all packets together, as a multiple of the file's: "
        "an index may name the same data again and again, and containers may compress."
    )  # fmt: skip
    pixels: int = Field(
        default=8192 * 4320, gt=0, description="Of one picture. 8K: more is beyond the levels of "
        "decoders and encoders."
    )  # fmt: skip
    side_px: int = Field(
        default=16384, gt=0, description="Longer side of a picture; levels of H.264 end near it."
    )
    duration_s: float = Field(
        default=24 * 3600.0, gt=0, description="By header and by the times of its packets."
    )
    frames: int = Field(
        default=12_000_000, gt=0, description="24 hours at 120 per second, and some."
    )
    segments: int = Field(
        default=20_000, gt=0, description="Beyond it no more cuts are made: twice what 24 hours "
        "have; each is an object in the store and a line in the ledger."
    )  # fmt: skip
    packet_bytes: int = Field(
        default=256 << 20, gt=0, description="Of one packet: two uncompressed 8K pictures."
    )
    streams: int = Field(default=64, gt=0, description="In the container, of any kind.")
    sounds: int = Field(
        default=16, ge=0, description="Sound streams kept; each is read by a demuxer of its own."
    )
    sound_packets: int = Field(
        default=20_000_000, gt=0, description="Of one sound: 24 hours of 5 ms. Some 100 bytes of "
        "the muxer's memory each."
    )  # fmt: skip
    sample_rate: int = Field(default=768_000, gt=0, description="Of sound, Hz; none records more.")
    channels: int = Field(default=64, gt=0, description="Of one sound; what AAC and PCM go up to.")
    read_s: float = Field(
        default=60.0, gt=0, description="For its header, and for each packet: searching gigabytes "
        "of nothing for the next one takes less on a slow disk."
    )  # fmt: skip
    fetch_s: float = Field(
        default=3600.0, gt=0, description="From the first connection to the last byte, where the "
        "source is fetched from elsewhere: the largest needs 20 MB/s. Others' splits wait for it."
    )  # fmt: skip
    memory_mib: int = Field(
        default_factory=_half_the_memory_mib, ge=64, description="That FFmpeg may take for one "
        "source, beside the frames on their way: 20 pictures of 8K with 10 bits are 2 GiB. "
        "Default: half of the machine's, at most 4 GiB."
    )  # fmt: skip

    @classmethod
    def load(cls) -> SourceLimits:
        """From the environment. Raises PermanentError BAD_OPTION naming the first wrong value."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = "_".join(str(part) for part in first["loc"][:1]).upper()
            reason = f"DUALFACE_SOURCE_MAX_{name}: {first['msg']}."
            raise PermanentError(ErrorCode.BAD_OPTION, reason) from error


class Settings(BaseSettings):
    """All settings of all processes; a process uses the part it needs."""

    model_config = SettingsConfigDict(env_prefix="DUALFACE_", frozen=True, extra="ignore")

    redis_url: str = Field(
        default="",
        description="Redis of ledger, leases and broker; empty: the embedded stack starts its own.",
    )
    state_dir: Path = Field(
        default_factory=_state_home, description="Append-only file, logs, lock, embedded store."
    )
    cache_dir: Path = Field(default_factory=_cache_home, description="Detector models, portraits.")
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
    s3_secret_key: SecretStr = SecretStr("")
    s3_access_key_file: Path | None = Field(
        default=None, description="File that holds the key instead, as Docker's secrets do."
    )
    s3_secret_key_file: Path | None = None
    s3_ca_file: Path | None = Field(
        default=None, description="File (PEM) with the authority of the S3 server's certificate."
    )
    s3_timeout_s: float = Field(
        default=10.0, gt=0, description="Silence after which a try of a call to S3 is given up; "
        "servers answer within milliseconds, and a busy one within seconds."
    )  # fmt: skip
    s3_buckets: tuple[str, ...] = Field(
        default=(), description="Other buckets that sources may be taken from, as a JSON list."
    )
    model_folders: tuple[Path, ...] = Field(
        default=(), description="Further folders with model files, as a JSON list; tried first."
    )
    log_level: str = "INFO"
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
        description="How long a process may not get on, while Redis answers, until it says that it "
        "is not alive: more than the 32 s that Celery may wait before it connects again.",
    )
    gpu_memory_mib: int | None = Field(
        default=None, ge=1, description="VRAM per GPU that may be used; the metric is a share of "
        "it. Default: all of it."
    )  # fmt: skip
    traces_endpoint: str = Field(
        default="", description="`http(s)://HOST:PORT` of a collector that takes OTLP by HTTP: one "
        "trace per job goes there. Empty: none."
    )  # fmt: skip
    traces_share: float = Field(
        default=1.0, ge=0, le=1, description="Of jobs that are traced; a job is some hundred spans "
        "per minute of video."
    )  # fmt: skip
    drills: tuple[Drill, ...] = Field(
        default=(), description="Faults on purpose, as a JSON list, for rehearsals and tests."
    )

    shm_dir: Path = Field(default=Path("/dev/shm"), description="Where POSIX arenas lie; a tmpfs.")
    arena: str = Field(default="cpu0", description="Arena (a host's or a GPU's) of this worker.")
    arena_mib: int | None = Field(
        default=None,
        ge=8,
        description="Memory for frames on their way. Default: 640 MiB (six slots of 35 frames "
        "1080p), at most a quarter of the memory and half of what is free in `shm_dir`.",
    )
    decoded_slots: int = Field(
        default=3, ge=2, description="Batches between decode and compose: one being decoded, one "
        "inferred, one composed."
    )  # fmt: skip
    composed_slots: int = Field(
        default=3, ge=1, description="Batches between compose and encode: one for each encoder of "
        "two cores and one being composed."
    )  # fmt: skip
    batch_frames: int = Field(
        default=32, ge=1, le=64, description="Most frames of a batch (also a chunk's GOP): long "
        "enough that a queue hop (3 ms) and an IDR cost little, short enough that the last chunks "
        "keep all cores busy. Fewer when a slot holds fewer."
    )  # fmt: skip
    segment_target_s: float = Field(
        default=10.0, gt=0, description="Whole GOPs are joined up to about this length, seconds."
    )
    segments_in_flight: int = Field(
        default=2, ge=1, description="Segments of one job that are with decoders at a time."
    )

    decode_workers: int = Field(
        default=1, ge=1, description="Segments decoded at a time per arena; decoding is the "
        "cheapest stage, and one decoder keeps the batches in order."
    )  # fmt: skip
    decode_threads: int = Field(default=2, ge=1, description="Threads of a software decoder.")
    infer_threads: int = Field(default=1, ge=1, description="Threads of ONNX Runtime on the CPU.")
    encode_workers: int = Field(
        default_factory=_cores, ge=1, description="Encoder processes per host without a GPU: one "
        "single-threaded x264 per core wastes nothing on frame-thread synchronisation."
    )  # fmt: skip
    encode_threads: int = Field(default=1, ge=1, description="Threads of one software encoder.")
    detect_every: int = Field(default=5, ge=1, description="Frames per detection; 1: every one.")

    worker_nice: int = Field(
        default=5, ge=0, le=19, description="How far the processes that work on frames stand back "
        "for those that answer: API, coordinator, Redis, and whoever sits at the machine."
    )  # fmt: skip

    heartbeat_s: float = Field(default=1.0, gt=0, description="Between two signs of life.")
    dead_after_s: float = Field(
        default=5.0, gt=0, description="Silence after which a worker counts as dead; five beats."
    )
    unclaimed_after_s: float = Field(
        default=15.0,
        gt=0,
        description="After this long a message that nobody took up is sent again; doubled with "
        "every repeat. Longer than a queue takes to come to it, as a rule.",
    )
    lease_s: float = Field(
        default=20.0, gt=0, description="Time to live of a slot's or session's lease; the holder "
        "(or, for a waiting batch, the coordinator) renews it at every third of that."
    )  # fmt: skip
    slot_wait_s: float = Field(
        default=60.0,
        gt=0,
        description="Longest wait for a slot before a stage gives its work back.",
    )
    nvenc_sessions: int = Field(
        default=3, ge=0, description="Encoding sessions of NVENC open at a time. Drivers of "
        "consumer GPUs have allowed 2, 3, 5, 8 and 12 per system, release by release; 3 is safe "
        "with all but the oldest. Workstation and server GPUs have no such limit."
    )  # fmt: skip
    nvenc_scope: Literal["gpu", "host", "cluster"] = Field(
        default="host", description="Where `nvenc_sessions` are counted together."
    )
    nvdec_sessions: int = Field(
        default=8, ge=0, description="Decoding sessions of NVDEC per GPU: no driver limits them, "
        "some 100 MiB of its memory each does."
    )  # fmt: skip
    host: str = Field(
        default="", description="Name of the machine where something is limited per host. Default: "
        "the id of its boot, which all containers on it see."
    )  # fmt: skip
    session_idle_s: float = Field(
        default=10.0, ge=0, description="How long a session stays open between two pieces of work "
        "when nobody waits for it: opening one takes 50 to 70 ms."
    )  # fmt: skip
    busy_patience_s: float = Field(
        default=120.0, ge=0, description="How long a driver may refuse a session (other programs "
        "hold some) until the next engine takes over."
    )  # fmt: skip
    vbr_from_sessions: int = Field(
        default=3, ge=0, description="With so many encoding sessions open a constant bit rate "
        "becomes a variable one of 70 %. 0: never."
    )  # fmt: skip
    stall_s: float = Field(
        default=120.0,
        ge=0,
        description="A stage that does not get on for so long is ended, and its work done again: "
        "many times what its slowest step takes. 0: never.",
    )
    drain_s: float = Field(
        default=25.0,
        gt=0,
        description="From SIGTERM to the end of a worker at the latest; below the 30 s that "
        "Kubernetes allows.",
    )
    replaced_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Of a job's frames, how many may show the one before them, as they could not "
        "be made, until the job fails instead.",
    )
    failed_segments: int = Field(
        default=3,
        ge=0,
        description="Segments of one source that no decoder gets through, until its job fails: "
        "each has cost several processes. 0: only `replaced_share` counts.",
    )
    attempts: int = Field(default=4, ge=1, description="Tries of one piece of work, in all.")
    retention_s: int = Field(
        default=86400, ge=60, description="Life of an ended job's record and result: a day to "
        "fetch it."
    )  # fmt: skip
    keep_sources: bool = Field(
        default=False, description="Keep the source of a job that succeeded as long as its result."
    )
    source_hosts: tuple[str, ...] = Field(
        default=(),
        description="Hosts that sources are fetched from, as a JSON list of [http://]HOST[:PORT]; "
        "HOST may be *.NAME, or * for all. Empty: none, as fetching makes requests for others.",
    )
    source_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(),
        description="Networks beside the public internet that those hosts may lie in, as a JSON "
        "list of CIDRs. None: what answers inside is not meant for whoever gives a source.",
    )
    source_ca: Path | None = Field(
        default=None,
        description="File (PEM) with authorities that are trusted beside the public ones.",
    )
    source_bytes_per_s: int = Field(
        default=64 * 1024,
        ge=0,
        description="A source that comes slower than this for half a minute counts as broken off: "
        "below it, an hour is too short for what people film.",
    )
    jobs_ahead: int = Field(
        default=16, ge=1, description="Jobs of one priority that are split before their segments "
        "are needed: segments are a second copy of the source in the store. Also how many jobs of "
        "one priority share the decoders at a time."
    )  # fmt: skip

    api_host: str = Field(
        default="127.0.0.1",
        description="Where the API listens; 0.0.0.0 in a container, behind a proxy with TLS.",
    )
    api_port: int = Field(default=8000, ge=0, le=65535, description="Of the API and its page.")
    api_url: str = Field(
        default="", description="`https://HOST[:PORT]` of the service that client commands speak "
        "to. Empty: the local stack that is up."
    )  # fmt: skip
    api_key: SecretStr = Field(
        default=SecretStr(""), description="And the key for it; the local stack's own is known."
    )
    api_secure_cookies: bool = Field(
        default=False, description="Browsers send the session by https only; set it behind TLS."
    )
    webhook_hosts: tuple[str, ...] = Field(
        default=("*",),
        description="Hosts that may be told of a job's end, as in `source_hosts`; * is every one "
        "of the public internet, by https. Empty: none.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Signs webhooks of jobs that came without an API key; those of others are "
        "signed by their key's own.",
    )
    flower_host: str = Field(default="127.0.0.1", description="Where Flower listens.")
    flower_port: int = Field(default=5555, ge=0, le=65535)
    flower_user: str = "dualface"
    flower_password: SecretStr = Field(
        default=SecretStr(""), description="Flower is not started without: it can end workers."
    )
    result_links: bool = Field(
        default=True, description="Downloads of results go to the object store by a link, where "
        "it gives links. Off: all pass through the API, for stores that clients can't reach."
    )  # fmt: skip
    submit_queues: tuple[str, ...] = Field(
        default=("dualface", "celery"),
        description="Queues from which `dualface.submit` is taken, as a JSON list; `celery` is "
        "where a Celery client sends what it names no queue for.",
    )

    swap_dwell_frames: int = Field(
        default=15, ge=0, description="How long two people must have changed sides before their "
        "tiles do; counted at 30 frames/s (15 = 0.5 s)."
    )  # fmt: skip
    swap_margin: float = Field(
        default=0.10, ge=0, le=1, description="And by how much, as a share of the frame's width."
    )

    @field_validator("source_hosts", "webhook_hosts")
    @classmethod
    def _are_hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        host_rules(entries)
        return entries

    @field_validator("traces_endpoint")
    @classmethod
    def _is_address(cls, address: str) -> str:
        parts = urlsplit(address)
        if address and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("it has to be http(s)://HOST:PORT")
        return address

    @classmethod
    def load(cls) -> Settings:
        """From the environment. Raises PermanentError BAD_OPTION naming the first wrong value."""
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = "_".join(str(part) for part in first["loc"][:1]).upper()
            reason = f"DUALFACE_{name}: {first['msg']}."
        except SettingsError as error:
            reason = f"A DUALFACE_ variable can't be read: {error}."
        raise PermanentError(ErrorCode.BAD_OPTION, reason)

    @property
    def store_path(self) -> Path:
        """Root of the directory store."""
        return self.store_dir or self.state_dir / "store"

    @property
    def scratch_path(self) -> Path:
        """Root of the folders for files on their way to and from S3."""
        return self.scratch_dir or self.state_dir / "scratch"

    @property
    def metrics_path(self) -> Path:
        """Where the figures of this host's processes lie."""
        return self.metrics_dir or self.state_dir / "run" / "metrics"
