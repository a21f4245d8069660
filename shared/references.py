"""Where a source may come from when it is not in the store: syntax and policy, without network.

A source is named by the key of an object in the store, by `https://HOST/...` (`http://` where an
entry of DUALFACE_SOURCE_HOSTS says so) or by `s3://BUCKET/KEY`. What stands behind a `?` may be a
secret (a presigned address), so none of the sentences here repeats it, nor an address that can't be
read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Literal, Protocol, TypeAlias

from shared.errors import ErrorCode, PermanentError

Network: TypeAlias = IPv4Network | IPv6Network
Scheme = Literal["http", "https"]

LONGEST = 4096
"""Characters of an address; presigned ones have 1,500."""

_PORTS: dict[Scheme, int] = {"https": 443, "http": 80}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
# Printable ASCII less what no address may hold and parsers disagree on (RFC 3986, appendix A).
_PLAIN = re.compile(r"[!#-;=?-\[\]_a-z~]*", re.IGNORECASE)
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[^/?#]*)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

# Not for the public, beside what `is_global` knows. Python 3.11 takes some of them for global.
_REFUSED_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata at 100.100.100.200
        "168.63.129.16/32",  # a cloud's metadata, at an address that looks public
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata at 192.0.0.192
        "192.88.99.0/24",  # relays of 6to4
        "224.0.0.0/3",  # multicast and reserved
    )
)
# Global unicast as far as it has been given out; all else (loopback, mapped and translated IPv4,
# unique local, link local, multicast) lies outside.
_UNICAST_6 = IPv6Network("2000::/3")
_REFUSED_6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments; Teredo holds an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 holds an IPv4 address
        "3fff::/20",
    )
)


class SourcePolicy(Protocol):
    """The settings that say where sources may come from."""

    @property
    def source_hosts(self) -> tuple[str, ...]:
        """Entries for `HostRule.parse`."""

    @property
    def s3_buckets(self) -> tuple[str, ...]:
        """Names of buckets."""


@dataclass(frozen=True, slots=True)
class WebSource:
    """An http or https address in its parts. `host` is lower case, without brackets; `target` is
    what a request line holds: path and query."""

    scheme: Scheme
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """As a Host field: the port is left out where it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address; may hold a secret."""
        return f"{self.scheme}://{self.authority}{self.target}"

    @property
    def shown(self) -> str:
        """For people and logs: without what stands behind `?`."""
        path, mark, _ = self.target.partition("?")
        return _shortened(f"{self.scheme}://{self.authority}{path}") + ("?..." if mark else "")


@dataclass(frozen=True, slots=True)
class BucketSource:
    """An object of an S3 bucket that is not our store."""

    bucket: str
    key: str

    @property
    def shown(self) -> str:
        """For people and logs."""
        key, mark, _ = self.key.partition("?")
        return _shortened(f"s3://{self.bucket}/{key}") + ("?..." if mark else "")


@dataclass(frozen=True, slots=True)
class HostRule:
    """An entry of DUALFACE_SOURCE_HOSTS: hosts that may be asked, in one way, at one port.

    `host` is a name, an IP address, `*.NAME` for all names below NAME, or `*` for every host.
    """

    scheme: Scheme
    host: str
    port: int

    @classmethod
    def parse(cls, entry: str) -> HostRule:
        """`[http://|https://]HOST[:PORT]`. Raises ValueError for anything else."""
        scheme, mark, rest = entry.lower().rpartition("://")
        if mark and scheme not in _PORTS:
            raise ValueError(f"{entry!r} is neither https:// nor http://")
        kind: Scheme = "http" if scheme == "http" else "https"
        below = "*." if rest.startswith("*.") else ""
        if re.fullmatch(r"\*(:[0-9]+)?", rest):
            _, port = _host_and_port("any" + rest[1:], kind)
            return cls(kind, "*", port)
        host, port = _host_and_port(rest.removeprefix(below), kind)
        return cls(kind, below + host, port)

    def allows(self, source: WebSource) -> bool:
        """True when the address falls under this entry."""
        if (source.scheme, source.port) != (self.scheme, self.port):
            return False
        if self.host.startswith("*."):
            return source.host.endswith(self.host[1:])
        return self.host in ("*", source.host)


def is_elsewhere(source: str) -> bool:
    """True when a job's source is not yet an object in the store."""
    return "://" in source


def read_source(source: str) -> WebSource | BucketSource:
    """The parts of an address. Raises PermanentError BAD_OPTION when it is none, SOURCE_FORBIDDEN
    when it is one of a kind that is never fetched."""
    scheme, mark, _ = source.partition("://")
    if not mark or len(source) > LONGEST:
        raise _unreadable(f"it is no address of the form https://... with at most {LONGEST} signs")
    scheme = scheme.lower()
    if scheme == "s3":
        return _read_bucket(source[len("s3://") :])
    if scheme not in _PORTS:
        raise _forbidden("The source is at an address that is neither https:// nor s3://.")
    return _read_web(source)


def check_reference(source: str, settings: SourcePolicy) -> None:
    """Say no before a job is accepted: everything that can be known without the network.

    For addresses; the key of an object is none. Raises PermanentError BAD_OPTION or
    SOURCE_FORBIDDEN with the sentence that the job would end with.
    """
    found = read_source(source)
    if isinstance(found, BucketSource):
        check_bucket(found, settings.s3_buckets)
    else:
        check_host(found, host_rules(settings.source_hosts))


def check_host(source: WebSource, rules: Sequence[HostRule]) -> None:
    """Raise PermanentError SOURCE_FORBIDDEN unless one of `rules` allows the address."""
    if not rules:
        raise _forbidden(
            "Sources are not fetched from other hosts here (DUALFACE_SOURCE_HOSTS is empty): "
            "upload the file instead."
        )
    if not any(rule.allows(source) for rule in rules):
        raise _forbidden(
            f"Sources are not fetched from {source.scheme}://{source.authority} here: it is not "
            "among the hosts, schemes and ports of DUALFACE_SOURCE_HOSTS."
        )


def check_bucket(source: BucketSource, buckets: Iterable[str]) -> None:
    """Raise PermanentError SOURCE_FORBIDDEN unless the bucket is one of `buckets`."""
    if source.bucket not in buckets:
        raise _forbidden(
            f"Sources are not fetched from the bucket {source.bucket} here: it is not among "
            "DUALFACE_S3_BUCKETS."
        )


def check_webhook(url: str, entries: Iterable[str]) -> WebSource:
    """The address of a webhook in its parts. Raises PermanentError BAD_OPTION when it is none,
    FORBIDDEN unless one of `entries`, those of DUALFACE_WEBHOOK_HOSTS, allows it."""
    try:
        found = read_source(url)
    except PermanentError as error:
        raise PermanentError(
            ErrorCode.BAD_OPTION, "webhook: it is no address of the form https://HOST/..."
        ) from error
    if not isinstance(found, WebSource) or not any(
        rule.allows(found) for rule in host_rules(entries)
    ):
        raise PermanentError(
            ErrorCode.FORBIDDEN,
            "webhook: it is not among the hosts, schemes and ports of DUALFACE_WEBHOOK_HOSTS.",
        )
    return found


def host_rules(entries: Iterable[str]) -> tuple[HostRule, ...]:
    """The entries of DUALFACE_SOURCE_HOSTS. Raises ValueError for one that is none."""
    return tuple(HostRule.parse(entry) for entry in entries)


def is_public(address: str, networks: Iterable[Network] = ()) -> bool:
    """True when a source may be fetched from this IP address: one of the public internet, or of
    `networks`. False also for what is no IP address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if any(parsed in network for network in networks):
        return True
    if isinstance(parsed, IPv4Address):
        return parsed.is_global and not any(parsed in each for each in _REFUSED_4)
    if parsed.scope_id is not None or parsed not in _UNICAST_6:
        return False
    return parsed.is_global and not any(parsed in each for each in _REFUSED_6)


def shown_source(source: str) -> str:
    """A job's source for people and logs: without secrets, on one line."""
    if not is_elsewhere(source):
        return _shortened("".join(sign if sign.isprintable() else "?" for sign in source))
    try:
        return read_source(source).shown
    except PermanentError:
        return "an address that can't be read"


def _read_web(source: str) -> WebSource:
    found = _ADDRESS.fullmatch(source)
    if found is None or not _PLAIN.fullmatch(source):
        raise _unreadable(
            "it holds signs that an address may not have as they are: write them as %XX, and a "
            "host's name as xn--..."
        )
    kind: Scheme = "https" if found["scheme"].lower() == "https" else "http"
    if "@" in found["host"]:
        raise _forbidden("The source's address holds a user or a password, which are never used.")
    try:
        host, port = _host_and_port(found["host"].lower(), kind)
    except ValueError as error:
        raise _unreadable("its host or port is none") from error
    return WebSource(kind, host, port, (found["path"] or "/") + (found["query"] or ""))


def _host_and_port(text: str, scheme: Scheme) -> tuple[str, int]:
    """Both parts of `host[:port]`, lower case. Raises ValueError."""
    found = _HOST_AND_PORT.fullmatch(text)
    port = int(found["port"] or _PORTS[scheme]) if found else 0
    if found is None or not 0 < port < 65536:
        raise ValueError(f"{text!r} is no host, or no host and port")
    host = found["host"]
    if host.startswith("["):
        return str(IPv6Address(host[1:-1])), port
    host = host.removesuffix(".")
    if not _NAME.fullmatch(host):
        raise ValueError(f"{host!r} is no name of a host")
    last = host.rpartition(".")[2]
    if last.isdecimal() or re.fullmatch("0x[0-9a-f]*", last):
        # Resolvers take 2130706433, 0x7f.1 and 127.1 for addresses, too.
        return str(IPv4Address(host)), port
    return host, port


def _read_bucket(rest: str) -> BucketSource:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or not key or not key.isprintable():
        raise _unreadable("it is not of the form s3://BUCKET/KEY")
    return BucketSource(bucket, key)


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."


def _unreadable(why: str) -> PermanentError:
    return PermanentError(ErrorCode.BAD_OPTION, f"The source can't be read: {why}.")


def _forbidden(sentence: str) -> PermanentError:
    return PermanentError(ErrorCode.SOURCE_FORBIDDEN, sentence)
