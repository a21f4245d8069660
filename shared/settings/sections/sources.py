"""Where sources may come from."""

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from shared.references import host_rules
from shared.settings.section import MIB, WEEK_S, Section


def _half_the_memory_mib() -> int:
    return min(4096, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB // 2)


class Sources(Section):
    """Where sources may come from."""

    section: ClassVar[str] = "sources"
    omitted: ClassVar[str] = "source_"

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

    @field_validator("source_hosts")
    @classmethod
    def _are_source_hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        host_rules(entries)
        return entries


class Bounds(Section):
    """What a source may be at most: looked at before work, by what headers say, and again while
    working, since headers may lie."""

    section: ClassVar[str] = "sources"
    omitted: ClassVar[str] = "source_"
    prefix: ClassVar[str] = "DUALFACE_SOURCE_MAX_"

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
        default=60.0, gt=0, le=WEEK_S,
        description="For its header, and for each packet: searching gigabytes "
        "of nothing for the next one takes less on a slow disk."
    )  # fmt: skip
    fetch_s: float = Field(
        default=3600.0, gt=0, le=WEEK_S,
        description="From the first connection to the last byte, where the "
        "source is fetched from elsewhere: the largest needs 20 MB/s. Others' splits wait for it."
    )  # fmt: skip
    memory_mib: int = Field(
        default_factory=_half_the_memory_mib, ge=64, description="That FFmpeg may take for one "
        "source, beside the frames on their way: 20 pictures of 8K with 10 bits are 2 GiB. "
        "Default: half of the machine's, at most 4 GiB."
    )  # fmt: skip
