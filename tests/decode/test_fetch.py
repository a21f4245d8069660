"""Sources elsewhere: what is fetched, what is not, and what comes of servers that misbehave."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from email.utils import formatdate
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from services.decode import fetch as fetching
from services.decode.fetch import FetchLimits, Terms, fetch
from services.decode.stage import split_job
from shared import dial
from shared.arena.posix import PosixArenaOwner
from shared.arena.registry import ArenaRegistry
from shared.dial import Resolve
from shared.errors import ErrorCode, PermanentError, TemporaryError, WorkOverError
from shared.jobs import JobSpec, JobState
from shared.messages import SplitMessage
from shared.names import source_key, source_of
from shared.redisdb import Connection
from shared.references import WebSource, host_rules, read_source
from shared.runtime import Runtime
from shared.settings import Settings
from shared.storage import open_store
from tests.logged import ours
from tests.runtimes import runtime
from tests.servers import S3Server, s3_server
from tests.videos import VideoSpec, make_video
from tests.waiting import wait_until
from tests.websites import Asked, Authority, Script, Website, Wire, make_authority, website

BODY = random.Random(5).randbytes(300_000)
HALF = len(BODY) // 2
SECRET = "s3cr3t"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def site(authority: Authority) -> Iterator[Website]:
    with website(authority) as made:
        yield made


class Client:
    """Fetches from sites of this machine: to one at 127.0.0.1 lead all names of which `names` does
    not say otherwise."""

    def __init__(self, authority: Authority, port: int, folder: Path) -> None:
        self.port = port
        self.names: dict[str, Sequence[str]] = {}
        self.looked_up: list[str] = []
        self.hosts = [f"*.site.test:{port}"]
        self.step: Callable[[], None] = lambda: None
        self.resolver: Resolve = self._by_names
        self.target = folder / "fetched"
        limits = FetchLimits(10 << 20, total_s=60, bytes_per_s=0, tries=3, pause_s=0)
        self.terms = Terms((), (IPv4Network("127.0.0.1"),), limits, authority.ca)

    def limit(self, **limits: float) -> None:
        """Change some of the limits."""
        self.terms = replace(self.terms, limits=replace(self.terms.limits, **limits))  # type: ignore[arg-type]

    def get(
        self, path: str = "/film.mp4", host: str = "files.site.test", scheme: str = "https"
    ) -> bytes:
        """What is kept of the bytes that lie there."""
        source = read_source(f"{scheme}://{host}:{self.port}{path}")
        assert isinstance(source, WebSource)
        self.target.unlink(missing_ok=True)
        terms = replace(self.terms, rules=host_rules(self.hosts))
        fetch(source, self.target, terms, self.step, resolver=self.resolver)
        return self.target.read_bytes()

    def refusal(self, path: str = "/film.mp4", host: str = "files.site.test") -> PermanentError:
        """How it failed; it must."""
        with pytest.raises(PermanentError) as caught:
            self.get(path, host)
        return caught.value

    def _by_names(self, host: str, _: int) -> Sequence[str]:
        self.looked_up.append(host)
        return self.names.get(host, ["127.0.0.1"])


@pytest.fixture
def client(authority: Authority, site: Website, tmp_path: Path) -> Client:
    return Client(authority, site.port, tmp_path)


def gives(body: bytes = BODY, /, **fields: str) -> Script:
    return lambda _, wire: wire.answer("200 OK", body, **fields)


def says(status: str, **fields: str) -> Script:
    return lambda _, wire: wire.answer(status, **fields)


def begins(body: bytes, then: Callable[[Wire], object] = lambda _: None, **fields: str) -> Script:
    """An answer with these fields only, so much of it, and then this; then the line is cut."""

    def answer(_: Asked, wire: Wire) -> None:
        wire.head("200 OK", **fields)
        wire.send(body)
        then(wire)

    return answer


def in_turn(*scripts: Script) -> Script:
    """Each once, the last one for ever."""
    left = list(scripts)
    return lambda asked, wire: (left.pop(0) if len(left) > 1 else left[0])(asked, wire)


# --- what is fetched ------------------------------------------------------------------------------


def chunked(_: Asked, wire: Wire) -> None:
    wire.head("200 OK", transfer_encoding="chunked")
    for start in range(0, len(BODY), 70_000):
        piece = BODY[start : start + 70_000]
        wire.send(f"{len(piece):x}\r\n", piece, "\r\n")
    wire.send("0\r\n\r\n")


@pytest.mark.parametrize("script", [gives(), chunked], ids=["whole", "chunked"])
def test_what_is_fetched_is_the_same_byte_by_byte(
    site: Website, client: Client, script: Script
) -> None:
    site.scripts["/film.mp4?a=1&b=%20"] = script
    assert client.get("/film.mp4?a=1&b=%20#t=3") == BODY
    assert site.asked[0].fields["host"] == f"files.site.test:{site.port}"
    assert "cookie" not in site.asked[0].fields


def test_an_empty_file_is_fetched_and_left_to_the_probe(site: Website, client: Client) -> None:
    site.scripts["/film.mp4"] = gives(b"")
    assert client.get() == b""


def test_without_tls_a_source_is_fetched_only_from_a_host_that_is_listed_so(
    authority: Authority, tmp_path: Path
) -> None:
    with website(None) as plain:
        plain.scripts["/film.mp4"] = gives()
        client = Client(authority, plain.port, tmp_path)
        with pytest.raises(PermanentError) as caught:
            client.get(scheme="http")
        assert caught.value.code is ErrorCode.SOURCE_FORBIDDEN
        assert plain.connections == 0
        client.hosts.append(f"http://files.site.test:{plain.port}")
        assert client.get(scheme="http") == BODY


def test_proxies_of_the_environment_are_not_used(
    site: Website, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.scripts["/film.mp4"] = gives()
    assert client.get() == BODY


def test_a_packed_answer_is_refused(site: Website, client: Client) -> None:
    site.scripts["/film.mp4"] = gives(b"\x1f\x8b" + bytes(100), content_encoding="gzip")
    error = client.refusal()
    assert error.code is ErrorCode.SOURCE_UNREADABLE
    assert site.asked[0].fields["accept-encoding"] == "identity"
    assert client.target.read_bytes() == b""


# --- where from -----------------------------------------------------------------------------------


def test_a_redirect_is_followed_by_the_same_rules(site: Website, client: Client) -> None:
    site.scripts["/film.mp4"] = says("302 Found", location="/a film.mp4?x=1#y")
    site.scripts["/a%20film.mp4?x=1"] = says(
        "307 Temporary Redirect", location=f"https://mirror.site.test:{site.port}/b"
    )
    site.scripts["/b"] = gives()
    assert client.get() == BODY
    assert client.looked_up == ["files.site.test", "files.site.test", "mirror.site.test"]


@pytest.mark.parametrize(
    "location",
    [
        "https://inside.site.test:{port}/film.mp4",  # on the list, at a private address
        "https://elsewhere.example/film.mp4",
        "https://files.site.test/film.mp4",  # at another port
        "http://files.site.test:{port}/film.mp4",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "s3://bucket/film.mp4",
        "gopher://files.site.test:{port}/",
        "//user:word@files.site.test:{port}/film.mp4",
        "https://[::1",
        "\\\\files.site.test\\film.mp4",
    ],
)
def test_a_redirect_leads_nowhere_that_a_source_may_not_be(
    site: Website, client: Client, location: str
) -> None:
    client.names["inside.site.test"] = ["10.0.0.1"]
    client.hosts.append(f"http://files.site.test:{site.port}")
    leads_on = says("302 Found", location=location.format(port=site.port))
    site.scripts["/film.mp4"] = in_turn(leads_on, gives())
    assert client.refusal().code is ErrorCode.SOURCE_FORBIDDEN
    assert len(site.asked) == 1


@pytest.mark.parametrize("location", ["/film.mp4", ""])
def test_redirects_in_a_circle_end(site: Website, client: Client, location: str) -> None:
    site.scripts["/film.mp4"] = says("301 Moved Permanently", location=location)
    assert client.refusal().code is ErrorCode.SOURCE_FORBIDDEN
    assert len(site.asked) == 1 + client.terms.limits.redirects


def test_a_name_that_means_another_host_a_moment_later_leads_only_where_it_was_looked_at(
    authority: Authority, tmp_path: Path
) -> None:
    """127.0.0.2 is allowed, 127.0.0.1 at the same port is not."""
    with (
        website(authority, "127.0.0.1") as bait,
        website(authority, "127.0.0.2", bait.port) as allowed,
    ):
        changing = Client(authority, allowed.port, tmp_path)
        changing.terms = replace(changing.terms, networks=(IPv4Network("127.0.0.2"),))
        answers = iter([["127.0.0.2"], ["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]])
        changing.resolver = lambda *_: next(answers)
        allowed.scripts["/film.mp4"] = gives()
        assert changing.get() == BODY
        assert changing.refusal().code is ErrorCode.SOURCE_FORBIDDEN
        assert changing.refusal().code is ErrorCode.SOURCE_FORBIDDEN, "one of two is enough"
        assert (allowed.connections, bait.connections) == (1, 0)


def test_who_gives_a_source_does_not_learn_what_its_host_is_inside(client: Client) -> None:
    client.names["files.site.test"] = ["10.11.12.13"]
    error = client.refusal()
    assert error.code is ErrorCode.SOURCE_FORBIDDEN
    assert "10.11" not in error.message
    assert "DUALFACE_SOURCE_NETWORKS" in error.message


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "127.1", "[::ffff:7f00:1]", "[::1]"])
def test_addresses_instead_of_names_are_looked_at_too(
    site: Website, client: Client, host: str
) -> None:
    client.hosts = [f"*:{site.port}"]
    client.terms = replace(client.terms, networks=())
    with pytest.raises(PermanentError) as caught:
        client.get(host=host)
    assert caught.value.code in (ErrorCode.SOURCE_FORBIDDEN, ErrorCode.BAD_OPTION)
    assert site.connections == 0


def test_a_certificate_of_another_host_or_of_nobody_known_is_refused(
    site: Website, client: Client
) -> None:
    site.scripts["/film.mp4"] = gives()
    client.hosts = [f"*:{site.port}"]
    other = client.refusal(host="files.example")
    client.terms = replace(client.terms, ca=None)
    nobody = client.refusal()
    assert {other.code, nobody.code} == {ErrorCode.SOURCE_UNREACHABLE}
    assert "certificate" in other.message
    assert "certificate" in nobody.message
    assert site.asked == []


# --- limits ---------------------------------------------------------------------------------------


def test_a_file_that_is_too_large_by_its_own_word_is_not_begun(
    site: Website, client: Client
) -> None:
    client.limit(size_bytes=len(BODY) - 1)
    site.scripts["/film.mp4"] = begins(b"", Wire.hang, content_length=str(len(BODY)))
    error = client.refusal()
    assert error.code is ErrorCode.TOO_LARGE
    assert "DUALFACE_SOURCE_MAX_SIZE_BYTES" in error.message


def test_a_body_without_end_is_cut_at_the_limit(site: Website, client: Client) -> None:
    client.limit(size_bytes=len(BODY))

    def endless(_: Asked, wire: Wire) -> None:
        wire.head("200 OK", transfer_encoding="chunked")
        while True:
            wire.send(f"{HALF:x}\r\n", BODY[:HALF], "\r\n")

    site.scripts["/film.mp4"] = endless
    assert client.refusal().code is ErrorCode.TOO_LARGE
    assert client.target.stat().st_size <= len(BODY)


def test_a_file_that_is_longer_than_it_says_is_not_read_on(site: Website, client: Client) -> None:
    site.scripts["/film.mp4"] = begins(BODY, content_length=str(HALF))
    assert client.get() == BODY[:HALF]


def test_a_file_that_ends_before_it_says_is_no_file(site: Website, client: Client) -> None:
    site.scripts["/film.mp4"] = begins(BODY[:HALF], content_length=str(len(BODY)))
    assert client.refusal().code is ErrorCode.SOURCE_UNREACHABLE
    assert len(site.asked) == client.terms.limits.tries


def test_a_file_of_unknown_length_that_is_cut_off_is_no_file(site: Website, client: Client) -> None:
    """TLS tells the end of a stream from a cut."""
    site.scripts["/film.mp4"] = begins(BODY[:HALF])
    assert client.refusal().code is ErrorCode.SOURCE_UNREACHABLE


def test_a_source_that_comes_too_slowly_counts_as_broken(site: Website, client: Client) -> None:
    client.limit(bytes_per_s=100_000, window_s=0.1)
    site.scripts["/film.mp4"] = begins(b"", trickles, content_length="1000000")
    error = client.refusal()
    assert error.code is ErrorCode.SOURCE_UNREACHABLE
    assert "DUALFACE_SOURCE_BYTES_PER_S" in error.message


def trickles(wire: Wire) -> None:
    wire.trickle(b".")


def head_without_end(_: Asked, wire: Wire) -> None:
    wire.send("HTTP/1.1 200 OK\r\n")
    wire.trickle(b"X-More: of this\r\n")


def always_more_to_come(_: Asked, wire: Wire) -> None:
    wire.trickle(b"HTTP/1.1 103 Early Hints\r\n\r\n")


def silent(_: Asked, wire: Wire) -> None:
    wire.hang()


@pytest.mark.parametrize("script", [head_without_end, always_more_to_come, silent])
def test_a_server_that_does_not_come_to_its_point_is_given_up(
    site: Website, client: Client, script: Script
) -> None:
    client.limit(answer_s=0.2, tries=2)
    site.scripts["/film.mp4"] = script
    assert client.refusal().code is ErrorCode.SOURCE_UNREACHABLE


def test_a_head_of_megabytes_is_not_read(site: Website, client: Client) -> None:
    def boundless(_: Asked, wire: Wire) -> None:
        wire.send("HTTP/1.1 200 OK\r\n")
        while True:
            wire.send(b"X: " + b"x" * 50_000 + b"\r\n")

    site.scripts["/film.mp4"] = boundless
    assert client.refusal().code is ErrorCode.SOURCE_UNREACHABLE


class Clock:
    """Instead of `time`: it goes on when a test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_fetch_as_a_whole_has_its_time(
    site: Website, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(fetching, "time", clock)

    def goes_on_for_ever(wire: Wire) -> None:
        clock.now += client.terms.limits.total_s + 1
        trickles(wire)

    site.scripts["/film.mp4"] = begins(b"", goes_on_for_ever, content_length="1000000")
    error = client.refusal()
    assert error.code is ErrorCode.SOURCE_UNREACHABLE
    assert "DUALFACE_SOURCE_MAX_FETCH_S" in error.message
    assert site.connections == 1


@pytest.mark.parametrize(
    ("script", "most"), [(gives(), 0), (chunked, HALF)], ids=["known", "unknown"]
)
def test_a_source_that_the_disk_has_no_room_for_is_tried_later(
    site: Website, client: Client, script: Script, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(_: Path) -> int:
        return fetching.RESERVE_BYTES + HALF - client.target.stat().st_size

    monkeypatch.setattr(fetching, "_free_bytes", free)
    monkeypatch.setattr(fetching, "LOOK_EVERY_BYTES", 10_000)
    site.scripts["/film.mp4"] = script
    with pytest.raises(TemporaryError) as caught:
        client.get()
    assert caught.value.code is ErrorCode.NO_SPACE
    assert client.target.stat().st_size <= most


# --- what breaks ----------------------------------------------------------------------------------


def breaks_off(**fields: str) -> Script:
    """After half of the file."""
    return begins(BODY[:HALF], lambda _: None, content_length=str(len(BODY)), **fields)


def continues(body: bytes = BODY, /, **fields: str) -> Script:
    """The rest that was asked for, of whatever version."""

    def answer(asked: Asked, wire: Wire) -> None:
        start = int(asked.fields["range"].removeprefix("bytes=").rstrip("-"))
        part = f"bytes {start}-{len(body) - 1}/{len(body)}"
        wire.answer("206 Partial Content", body[start:], content_range=part, **fields)

    return answer


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"etag": '"v1"'}, '"v1"'),
        (
            {"last_modified": formatdate(1e9, usegmt=True), "date": formatdate(2e9, usegmt=True)},
            formatdate(1e9, usegmt=True),
        ),
    ],
    ids=["etag", "date"],
)
def test_a_broken_connection_is_taken_up_where_it_broke(
    site: Website, client: Client, fields: dict[str, str], condition: str
) -> None:
    site.scripts["/film.mp4"] = in_turn(breaks_off(**fields), continues(**fields))
    assert client.get() == BODY
    asked = site.asked[1].fields
    assert (asked["range"], asked["if-range"]) == (f"bytes={HALF}-", condition)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"etag": 'W/"v1"'},
        {"last_modified": formatdate(2e9, usegmt=True), "date": formatdate(2e9, usegmt=True)},
    ],
    ids=["nothing", "weak", "just changed"],
)
def test_a_file_whose_versions_can_not_be_told_apart_is_begun_anew(
    site: Website, client: Client, fields: dict[str, str]
) -> None:
    site.scripts["/film.mp4"] = in_turn(breaks_off(**fields), gives(**fields))
    assert client.get() == BODY
    assert "range" not in site.asked[1].fields


def test_a_file_that_changed_meanwhile_is_begun_anew(site: Website, client: Client) -> None:
    changed = BODY[::-1][: HALF - 7]  # shorter than what is there
    site.scripts["/film.mp4"] = in_turn(breaks_off(etag='"v1"'), gives(changed, etag='"v2"'))
    assert client.get() == changed


@pytest.mark.parametrize(
    "wrong",
    [
        continues(BODY[::-1], etag='"v2"'),
        continues(BODY + BODY, etag='"v1"'),
        lambda _, wire: wire.answer(
            "206 Partial Content", BODY, content_range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}"
        ),
        lambda _, wire: wire.answer("206 Partial Content", BODY[HALF:]),
        says("416 Range Not Satisfiable"),
    ],
    ids=["version", "length", "place", "unsaid", "none"],
)
def test_a_part_that_does_not_fit_is_never_joined(
    site: Website, client: Client, wrong: Script
) -> None:
    site.scripts["/film.mp4"] = in_turn(breaks_off(etag='"v1"'), wrong, gives(etag='"v2"'))
    assert client.get() == BODY
    assert "range" not in site.asked[2].fields


def test_tries_that_get_further_do_not_count(
    site: Website, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PROGRESS_BYTES", 40_000)

    def a_piece_at_a_time(asked: Asked, wire: Wire) -> None:
        start = int(asked.fields.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        fields = {"etag": '"v"', "content_length": str(len(BODY) - start)}
        if start:
            fields["content_range"] = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        wire.head("206 Partial Content" if start else "200 OK", **fields)
        wire.send(BODY[start : start + 50_000])

    site.scripts["/film.mp4"] = a_piece_at_a_time
    assert client.get() == BODY
    assert len(site.asked) > client.terms.limits.tries


@pytest.mark.parametrize(
    ("status", "code", "requests"),
    [
        ("404 Not Found", ErrorCode.SOURCE_MISSING, 1),
        ("410 Gone", ErrorCode.SOURCE_MISSING, 1),
        ("401 Unauthorized", ErrorCode.SOURCE_FORBIDDEN, 1),
        ("403 Forbidden", ErrorCode.SOURCE_FORBIDDEN, 1),
        ("400 Bad Request", ErrorCode.SOURCE_UNREACHABLE, 1),
        ("204 No Content", ErrorCode.SOURCE_UNREACHABLE, 1),
        ("304 Not Modified", ErrorCode.SOURCE_UNREACHABLE, 1),
        ("429 Too Many Requests", ErrorCode.SOURCE_UNREACHABLE, 3),
        ("500 Internal Server Error", ErrorCode.SOURCE_UNREACHABLE, 3),
    ],
)
def test_a_status_ends_the_job_or_is_tried_again(
    site: Website, client: Client, status: str, code: ErrorCode, requests: int
) -> None:
    site.scripts["/film.mp4"] = says(status)
    assert client.refusal().code is code
    assert len(site.asked) == requests


def test_a_server_that_recovers_is_no_failure(site: Website, client: Client) -> None:
    site.scripts["/film.mp4"] = in_turn(
        says("503 Service Unavailable", retry_after="0"), lambda *_: None, gives()
    )
    assert client.get() == BODY


def test_a_host_without_an_address_or_a_server_is_unreachable(
    authority: Authority, client: Client, tmp_path: Path
) -> None:
    client.names["nobody.site.test"] = []
    assert client.refusal(host="nobody.site.test").code is ErrorCode.SOURCE_UNREACHABLE
    with website(authority) as gone:
        pass
    assert Client(authority, gone.port, tmp_path).refusal().code is ErrorCode.SOURCE_UNREACHABLE


# --- stopping -------------------------------------------------------------------------------------


class StopError(Exception):
    """Raised by a step."""


@pytest.mark.parametrize("where", ["name", "tls", "head", "body", "pause"])
def test_a_fetch_can_be_stopped_wherever_it_waits(
    site: Website, client: Client, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own limits are long; steps go on all the time."""
    monkeypatch.setattr(dial, "SLICE_S", 0.01)
    monkeypatch.setattr(fetching, "SLICE_S", 0.01)
    waiting, done = threading.Event(), threading.Event()
    steps = iter(range(20))

    def resolver(*_: object) -> Sequence[str]:
        waiting.set()
        done.wait()
        return ["127.0.0.1"]

    def hang(_: Asked, wire: Wire) -> None:
        if where == "body":
            wire.head("200 OK", content_length="1000")
        waiting.set()
        if where != "pause":
            wire.hang()

    def on_connect(wire: Wire) -> None:
        waiting.set()
        wire.hang()

    def step() -> None:
        if waiting.is_set() and next(steps, None) is None:
            raise StopError

    client.limit(pause_s=100, connect_s=100, idle_s=100)
    client.step = step
    if where == "name":
        client.resolver = resolver
    if where == "tls":
        site.on_connect = on_connect
    site.scripts["/film.mp4"] = hang
    try:
        with pytest.raises(StopError):
            client.get()
    finally:
        done.set()


# --- the stage ------------------------------------------------------------------------------------


@pytest.fixture
def stage(
    redis: Connection, site: Website, authority: Authority, tmp_path: Path
) -> Iterator[Runtime]:
    """A worker of decode that may fetch from `site` as `127.0.0.1`."""
    made, _ = runtime(
        redis,
        tmp_path,
        source_hosts=(f"127.0.0.1:{site.port}",),
        source_networks=("127.0.0.1/32",),
        source_ca=authority.ca,
    )
    arena = PosixArenaOwner.create("cpu0", tmp_path, 4 << 20, decoded=2, composed=2)
    ArenaRegistry(redis).publish(arena.descriptor)
    yield made
    arena.close()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """With one film in the bucket `films`."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        settings = Settings.model_validate(server.settings("films"))
        open_store(settings).write("a/film.mp4", [BODY])
        yield server


def submit(stage: Runtime, source: str) -> str:
    stage.ledger.submit("job", JobSpec(source=source))
    return source_of("job", source)


def test_a_source_elsewhere_is_split_as_one_in_the_store(
    stage: Runtime, site: Website, tmp_path: Path
) -> None:
    film = make_video(tmp_path / "film.MP4", VideoSpec(frames=48))
    site.scripts[f"/films/film.MP4?sig={SECRET}"] = gives(film.read_bytes())
    key = submit(stage, f"https://127.0.0.1:{site.port}/films/film.MP4?sig={SECRET}")
    split_job(stage, SplitMessage(job="job"))
    assert key == "jobs/job/source.mp4"
    with stage.store.local(key) as path:
        assert path.read_bytes() == film.read_bytes()
    assert stage.ledger.state("job") is JobState.RUNNING
    assert stage.ledger.facts("job").source.size_bytes == film.stat().st_size


def test_a_split_that_is_done_again_does_not_fetch_again(
    stage: Runtime, site: Website, tmp_path: Path
) -> None:
    film = make_video(tmp_path / "film.mp4", VideoSpec(frames=12))
    site.scripts["/film.mp4"] = gives(film.read_bytes())
    key = submit(stage, f"https://127.0.0.1:{site.port}/film.mp4")
    stage.store.adopt(key, film)
    split_job(stage, SplitMessage(job="job"))
    assert stage.ledger.state("job") is JobState.RUNNING
    assert site.connections == 0


@pytest.mark.parametrize(("name", "says"), [("my talk.mp4", "my talk.mp4 is"), ("", "The file is")])
def test_a_job_fails_with_the_name_its_person_gave_not_with_that_of_the_store(
    stage: Runtime, name: str, says: str
) -> None:
    key = source_key("job", ".json")
    stage.store.write(key, [b"no video, but words\n"])
    stage.ledger.submit("job", JobSpec(source=key, name=name))
    with pytest.raises(PermanentError, match=f"^{says} a text file, not a video"):
        split_job(stage, SplitMessage(job="job"))


def test_a_cancelled_job_stops_fetching_and_leaves_nothing(
    stage: Runtime, site: Website, tmp_path: Path
) -> None:
    site.scripts["/film.mp4"] = begins(BODY[:HALF], Wire.hang, content_length=str(len(BODY)))
    submit(stage, f"https://127.0.0.1:{site.port}/film.mp4")
    ended: list[type[BaseException]] = []

    def work() -> None:
        try:
            split_job(stage, SplitMessage(job="job"))
        except WorkOverError as error:
            ended.append(type(error))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until(lambda: site.asked, "the fetch has begun")
        assert ended == []
    finally:
        stage.ledger.cancel("job")
    # The limits of the connection are half a minute.
    wait_until(lambda: not worker.is_alive(), "the fetch is put down", 25)
    assert ended == [WorkOverError]
    assert list(stage.store.keys("jobs")) == []
    assert list(tmp_path.glob("store/.scratch/*")) == []


def test_a_job_that_ends_with_the_last_byte_leaves_no_source(stage: Runtime, site: Website) -> None:
    def answer(_: Asked, wire: Wire) -> None:
        stage.ledger.cancel("job")
        wire.answer("200 OK", BODY)

    site.scripts["/film.mp4"] = answer
    submit(stage, f"https://127.0.0.1:{site.port}/film.mp4")
    with pytest.raises(WorkOverError):
        split_job(stage, SplitMessage(job="job"))
    assert list(stage.store.keys("jobs")) == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("s3://films/a/film.mp4", None),
        ("s3://films/none.mp4", ErrorCode.SOURCE_MISSING),
        ("s3://others/a/film.mp4", ErrorCode.SOURCE_FORBIDDEN),
    ],
)
def test_a_source_in_a_bucket_is_fetched_by_the_same_rules(
    redis: Connection, s3: S3Server, tmp_path: Path, source: str, code: ErrorCode | None
) -> None:
    chosen = {**s3.settings("films"), "store": "", "s3_buckets": ("films",)}
    stage, _ = runtime(redis, tmp_path, **chosen)
    key = submit(stage, source)
    if code is not None:
        with pytest.raises(PermanentError) as caught:
            fetching.fetch_source(stage, "job", source, key)
        assert caught.value.code is code
        return
    fetching.fetch_source(stage, "job", source, key)
    with stage.store.local(key) as path:
        assert path.read_bytes() == BODY


def test_a_secret_in_an_address_is_in_no_sentence_and_no_log(
    stage: Runtime,
    site: Website,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("DEBUG", "dualface")
    monkeypatch.setattr(fetching._Watch, "pause", lambda *_: None)
    scripts = {
        "missing": says("404 Not Found"),
        "refused": says("403 Forbidden"),
        "moved": says("302 Found", location=f"https://other.example/?sig={SECRET}"),
        "packed": gives(content_encoding="br"),
        "odd": says("299 Fine", location=SECRET),
        "nonsense": lambda _, wire: wire.send(f"{SECRET}\r\n\r\n"),
    }
    here = f"127.0.0.1:{site.port}"
    sources = [f"https://user:{SECRET}@{here}/", f"https://{SECRET}:word@{here}/film"]
    sources += [f"https://{here}/ {SECRET}", f"ftp://{here}/?{SECRET}", f"https://[{SECRET}/"]
    for name, script in scripts.items():
        site.scripts[f"/{name}?sig={SECRET}"] = script
        sources.append(f"https://{here}/{name}?sig={SECRET}#{SECRET}")
    said: list[object] = []
    for number, source in enumerate(sources):
        spec = JobSpec(source=source)
        stage.ledger.submit(f"job{number}", spec)
        with pytest.raises(PermanentError) as caught:
            split_job(stage, SplitMessage(job=f"job{number}"))
        said += [str(caught.value), repr(caught.value), repr(spec)]
    logged = [(each.getMessage(), each.exc_text, vars(each)["fields"]) for each in ours(caplog)]
    assert "fetch broken" in [event for event, *_ in logged]
    assert SECRET not in json.dumps([said, logged])
