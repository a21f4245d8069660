"""Where sources may come from, as far as it can be said without the network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ErrorCode, PermanentError
from shared.names import source_of
from shared.references import (
    BucketSource,
    HostRule,
    WebSource,
    check_reference,
    is_public,
    read_source,
    shown_source,
)
from shared.settings import Settings

HOSTS = (
    "media.example.com",
    "*.cdn.example.com",
    "files.example.com:8443",
    "http://intranet.example.com",
    "http://192.0.2.7:8080",
)


def settings(*hosts: str, buckets: tuple[str, ...] = ()) -> Settings:
    return Settings.model_validate({"source_hosts": hosts, "s3_buckets": buckets})


def code_of(source: str, chosen: Settings) -> ErrorCode | None:
    """How it is refused; None when it may be tried."""
    try:
        check_reference(source, chosen)
    except PermanentError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    "source",
    [
        "https://media.example.com/a/b.mp4?x=1",
        "HTTPS://Media.Example.COM:443/a",
        "https://media.example.com./a",
        "https://media.example.com",
        "https://a.cdn.example.com/",
        "https://a.b.cdn.example.com/",
        "https://files.example.com:8443/",
        "http://intranet.example.com/a",
        "http://192.0.2.7:8080/a",
        "s3://films/2026/a b?c#d.mp4",
    ],
)
def test_a_source_of_a_listed_host_or_bucket_may_be_tried(source: str) -> None:
    assert code_of(source, settings(*HOSTS, buckets=("films",))) is None


FORBIDDEN, WRONG = ErrorCode.SOURCE_FORBIDDEN, ErrorCode.BAD_OPTION


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("https://example.com/", FORBIDDEN),
        ("https://evilmedia.example.com/", FORBIDDEN),
        ("https://media.example.com.evil.net/", FORBIDDEN),
        ("https://media.example.com:8443/", FORBIDDEN),
        ("http://media.example.com/", FORBIDDEN),
        ("https://cdn.example.com/", FORBIDDEN),
        ("https://evilcdn.example.com/", FORBIDDEN),
        ("https://files.example.com/", FORBIDDEN),
        ("https://intranet.example.com/", FORBIDDEN),
        ("http://intranet.example.com:8080/", FORBIDDEN),
        ("https://user:word@media.example.com/", FORBIDDEN),
        ("https://media.example.com@evil.net/", FORBIDDEN),
        ("https://evil.net#@media.example.com/", FORBIDDEN),
        ("https://evil.net?@media.example.com/", FORBIDDEN),
        ("file:///etc/passwd", FORBIDDEN),
        ("ftp://media.example.com/a", FORBIDDEN),
        ("s3://others/a", FORBIDDEN),
        ("https://evil.net\\@media.example.com/", WRONG),
        ("https://media.example.com\t/", WRONG),
        ("https://media.example.com/\r\nHost: evil.net", WRONG),
        ("https://media.example.com/a b", WRONG),
        ("https://m\u00e9dia.example.com/", WRONG),
        ("https://media%2eexample.com/", WRONG),
        ("https://media.example.com:0/", WRONG),
        ("https://media.example.com:65536/", WRONG),
        ("https://media.example.com:/", WRONG),
        ("https://media..example.com/", WRONG),
        ("https://-media.example.com/", WRONG),
        ("https://0x7f.1/", WRONG),
        ("https://2130706433/", WRONG),
        ("https://127.1/", WRONG),
        ("https://[::1/", WRONG),
        ("https://[127.0.0.1]/", WRONG),
        ("https://[fe80::1%25eth0]/", WRONG),
        ("https:///a", WRONG),
        ("https:/media.example.com/a", WRONG),
        ("https://media.example.com/" + "a" * 4096, WRONG),
        ("s3://films", WRONG),
        ("s3://films/", WRONG),
        ("s3://Films/a", WRONG),
        ("s3://films/a\nb", WRONG),
        ("jobs/other/source.mp4", WRONG),
        ("", WRONG),
    ],
)
def test_any_other_source_is_refused(source: str, code: ErrorCode) -> None:
    assert code_of(source, settings(*HOSTS, buckets=("films",))) is code


def test_without_a_list_no_host_is_asked() -> None:
    with pytest.raises(PermanentError, match="DUALFACE_SOURCE_HOSTS is empty") as caught:
        check_reference("https://example.com/", settings())
    assert caught.value.code is FORBIDDEN
    assert code_of("https://example.com/", settings("*")) is None
    assert code_of("https://example.com:8443/", settings("*")) is FORBIDDEN


@pytest.mark.parametrize(
    "entry", ["", "*.", "a.*", "**.a", "a b", "ftp://a", "a/b", "a:x", "a:0", "u@a", "*a.b", "1.2"]
)
def test_an_entry_that_is_no_host_is_refused_with_its_settings_name(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALFACE_SOURCE_HOSTS", f'["{entry}"]')
    with pytest.raises(PermanentError, match="DUALFACE_SOURCE_HOSTS") as caught:
        Settings.load()
    assert caught.value.code is WRONG


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALFACE_SOURCE_HOSTS", '["*.example.com:8443"]')
    monkeypatch.setenv("DUALFACE_SOURCE_NETWORKS", '["10.0.0.0/8", "fd00::/8"]')
    monkeypatch.setenv("DUALFACE_SOURCE_CA", "/ca.pem")
    read = Settings.load()
    assert HostRule.parse(read.source_hosts[0]) == HostRule("https", "*.example.com", 8443)
    assert read.source_networks == (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8"))
    assert read.source_ca == Path("/ca.pem")
    monkeypatch.setenv("DUALFACE_SOURCE_NETWORKS", '["10.0.0.1/8"]')
    with pytest.raises(PermanentError, match="DUALFACE_SOURCE_NETWORKS"):
        Settings.load()


# --- addresses ------------------------------------------------------------------------------------

SPECIAL_4 = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    "168.63.129.16/32",
)
"""IANA's special-purpose registry, multicast, and a cloud's metadata at a public address."""

SPECIAL_6 = (
    *("::/128", "::1/128", "::ffff:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64"),
    *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7"),
    *("fe80::/10", "fec0::/10", "ff00::/8"),
)

ANY = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def within(networks: tuple[str, ...]) -> st.SearchStrategy[IPv4Address | IPv6Address]:
    return st.sampled_from(networks).flatmap(lambda text: st.ip_addresses(network=text))


@given(ANY)
def test_what_is_not_global_is_not_public(address: IPv4Address | IPv6Address) -> None:
    assert not is_public(str(address)) or (address.is_global and not address.is_multicast)


@given(st.one_of(within(SPECIAL_4), within(SPECIAL_6)))
def test_no_address_of_a_special_range_is_public(address: IPv4Address | IPv6Address) -> None:
    assert not is_public(str(address))


@given(st.ip_addresses(v=4))
def test_an_ordinary_address_is_public(address: IPv4Address) -> None:
    special = any(address in IPv4Network(text) for text in SPECIAL_4)
    assert is_public(str(address)) == (not special)


@given(st.ip_addresses(v=4), st.sampled_from(["::", "::ffff:", "64:ff9b::", "64:ff9b:1::"]))
def test_an_address_within_another_is_not_public(inner: IPv4Address, prefix: str) -> None:
    assert not is_public(f"{prefix}{inner}")
    assert not is_public(f"2002:{int(inner) >> 16:x}:{int(inner) & 0xFFFF:x}::1")


@given(st.integers(0, 2**32 - 1))
def test_a_network_that_is_allowed_counts_as_public_and_no_other_does(number: int) -> None:
    inside = IPv4Address(0x0A00_0000 | number & 0x00FF_FFFF)
    networks = (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/16"))
    assert is_public(str(inside), networks)
    assert not is_public(f"::ffff:{inside}", networks)
    assert not is_public("192.168.0.1", networks)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254"],
)
def test_metadata_of_clouds_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "text", ["", "localhost", "1.2.3", "1.2.3.4.5", "fe80::1%eth0", "2606::1%eth0", "01.2.3.4"]
)
def test_what_is_no_plain_address_is_not_public(text: str) -> None:
    assert not is_public(text)


def test_public_addresses_of_both_families_are_public() -> None:
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


# --- what is shown, and where it goes -------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("https://a.net/b.mp4?sig=1#x", "https://a.net/b.mp4?..."),
        ("https://a.net:8443/b.mp4", "https://a.net:8443/b.mp4"),
        ("https://user:word@a.net/b", "an address that can't be read"),
        ("s3://films/a.mp4?sig=1", "s3://films/a.mp4?..."),
        ("jobs/j/source.mp4", "jobs/j/source.mp4"),
    ],
)
def test_what_people_see_of_a_source_has_no_secret(source: str, shown: str) -> None:
    assert shown_source(source) == shown


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("https://a.net/b/film.MP4?sig=a.mov", "jobs/j/source.mp4"),
        ("https://a.net/b.d/film", "jobs/j/source"),
        ("https://film.mp4", "jobs/j/source"),
        ("https://a.net/film.%2e%2e", "jobs/j/source"),
        ("https://a.net/film.../", "jobs/j/source"),
        ("s3://films/a.b/film.webm", "jobs/j/source.webm"),
        ("jobs/j/source.mov", "jobs/j/source.mov"),
    ],
)
def test_bytes_from_elsewhere_lie_under_the_jobs_own_key(source: str, key: str) -> None:
    assert source_of("j", source) == key


@given(
    st.sampled_from(["a.net", "media.example.com", "192.0.2.1", "[2001:db8::1]"]),
    st.integers(1, 65535),
    st.text("abc/%20._-~!$&'()*+,;=:@", max_size=20),
)
def test_an_address_is_read_back_as_it_is_written(host: str, port: int, path: str) -> None:
    read = read_source(f"https://{host}:{port}/{path}?{path}")
    assert isinstance(read, WebSource)
    assert (read.host, read.port) == (host.strip("[]"), port)
    assert read.target == f"/{path}?{path}"
    assert read_source(read.url) == read
    if ":" in read.host:
        assert ip_address(read.host).version == 6


def test_a_key_may_hold_what_an_address_may_not() -> None:
    assert read_source("s3://films/\u00fc b#c") == BucketSource("films", "\u00fc b#c")
