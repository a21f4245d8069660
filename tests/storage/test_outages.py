"""Facts about a store that is away for a while, overloaded, slow, or breaks off in the middle."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle
from pathlib import Path
from types import SimpleNamespace

import pytest

from chaos.proxy import Fault, Mode, Proxy
from shared.errors import ErrorCode, StoreAwayError, WorkOverError
from shared.settings import Settings
from shared.storage.errands import Errand, PassingError
from shared.storage.s3 import S3Store
from shared.storage.s3client import S3Client
from tests.servers import S3Server
from tests.storage.conftest import MakeS3

LARGE = random.Random(2).randbytes(9 << 20)
"""Two parts, two windows."""
SILENCE_S = 2.0
"""A busy machine's pauses are none."""
OUTAGES: Sequence[Mode] = ("refuse", "hang", "error")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as ever, in less time."""
    monkeypatch.setattr("shared.storage.errands.LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("shared.storage.errands.LONGEST_PAUSE_S", 0.2)


class Waiter:
    """What a store calls while it waits: sets things right after some calls, or gives up."""

    def __init__(self, then: Callable[[], None], calls: int = 1) -> None:
        self._then = then
        self._at = calls
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self._at:
            self._then()


def through(
    proxy: Proxy, make_s3: MakeS3, waiter: Callable[[], None], patience_s: float = 60.0
) -> S3Store:
    """A store behind the proxy that takes two seconds of silence for an outage."""
    endpoint = f"http://127.0.0.1:{proxy.port}"
    return make_s3(
        patience_s=patience_s, on_wait=waiter, s3_endpoint=endpoint, s3_timeout_s=SILENCE_S
    )


def over() -> None:
    raise WorkOverError("job")


def file_of(folder: Path, data: bytes) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


def fetch(store: S3Store, key: str) -> bytes:
    with store.local(key) as path:
        return path.read_bytes()


Use = Callable[[S3Store, Path], object]
USES: dict[str, Use] = {
    "put": lambda store, folder: store.put("new", file_of(folder, b"data")),
    "put in parts": lambda store, folder: store.put("new", file_of(folder, LARGE)),
    "write": lambda store, _: store.write("new", [LARGE]),
    "local": lambda store, _: fetch(store, "large"),
    "read": lambda store, _: b"".join(store.read("large")),
    "keys": lambda store, _: list(store.keys("a")),
    "size": lambda store, _: store.size("large"),
    "delete": lambda store, _: store.delete("a"),
}


@pytest.fixture
def filled(make_s3: MakeS3, tmp_path: Path) -> S3Store:
    """The same store, past the proxy, with some objects."""
    store = make_s3()
    store.put("large", file_of(tmp_path, LARGE))
    store.put("a/1", file_of(tmp_path, b"1"))
    return store


# Every use in one kind of outage, and the first in all.
PAIRS = [*zip(USES, cycle(OUTAGES)), *(("put", mode) for mode in OUTAGES[1:])]


@pytest.mark.parametrize(("use", "mode"), PAIRS)
def test_work_goes_on_where_it_stood_when_the_store_is_back(
    filled: S3Store, make_s3: MakeS3, proxy: Proxy, tmp_path: Path, mode: Mode, use: str
) -> None:
    proxy.set(Fault(mode))
    waiter = Waiter(lambda: proxy.set(Fault()))
    store = through(proxy, make_s3, waiter)
    expected = USES[use](filled, tmp_path) if use != "delete" else 1
    filled.delete("new")
    assert USES[use](store, tmp_path) == expected
    assert waiter.calls >= 1
    if use in ("put in parts", "write"):
        assert fetch(filled, "new") == LARGE
    assert filled.clear_leftovers(0) == 0


@pytest.mark.parametrize(("use", "mode"), [pair for pair in PAIRS if pair[0] != "delete"])
def test_a_job_that_ended_is_put_down_at_once_while_the_store_is_away(
    filled: S3Store,
    make_s3: MakeS3,
    proxy: Proxy,
    tmp_path: Path,
    mode: Mode,
    use: str,
) -> None:
    proxy.set(Fault(mode))
    waiter = Waiter(over)
    with pytest.raises(WorkOverError):
        USES[use](through(proxy, make_s3, waiter), tmp_path)
    assert waiter.calls == 1
    assert list((tmp_path / "state" / "scratch").glob("*")) == []
    assert not filled.exists("new")


def test_what_a_job_left_is_deleted_although_it_has_ended(
    filled: S3Store, make_s3: MakeS3, proxy: Proxy
) -> None:
    def heal() -> None:
        proxy.set(Fault())
        over()

    proxy.set(Fault("error"))
    assert through(proxy, make_s3, Waiter(heal)).delete("a") == 1
    assert not filled.exists("a/1")


@pytest.mark.parametrize("mode", OUTAGES)
def test_patience_ends_with_one_sentence(
    make_s3: MakeS3, proxy: Proxy, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on with each look at it, so that a pause of this machine is no outage;
    where there are answers, only who asks for them looks."""
    proxy.set(Fault(mode))
    ticks = count(step=0.1)
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("shared.storage.errands.time", clock)
    if mode != "hang":
        monkeypatch.setattr("shared.storage.errands.LOOK_EVERY_S", 60.0)
    store = through(proxy, make_s3, lambda: None, patience_s=2)
    with pytest.raises(StoreAwayError) as caught:
        store.exists("x")
    assert caught.value.code is ErrorCode.BUSY
    reason = {"refuse": "no connection", "hang": "no answer", "error": "it answers 503"}
    assert re.fullmatch(
        f"The store http://127.0.0.1:{proxy.port} could not be used for 2 s "
        rf"\({reason[mode]}\)\.",
        caught.value.message,
    )


@pytest.mark.parametrize("after", [100_000, 9_000_000])
@pytest.mark.usefixtures("filled")
def test_answers_that_break_off_are_gone_on_with(make_s3: MakeS3, proxy: Proxy, after: int) -> None:
    store = through(proxy, make_s3, lambda: None)
    proxy.set(Fault("cut", after_bytes=after, times=2))
    assert fetch(store, "large") == LARGE
    proxy.set(Fault("cut", after_bytes=after, times=2))
    assert b"".join(store.read("large")) == LARGE
    proxy.set(Fault("cut", after_bytes=min(after, 200), times=2))
    assert list(store.keys("a")) == ["a/1"]


def test_a_download_may_break_off_as_often_as_it_likes_if_it_gets_further(
    filled: S3Store,
    make_s3: MakeS3,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clock on which each break takes half a minute: several are longer than patience."""
    filled.put("some", file_of(tmp_path, LARGE[:500_000]))
    proxy.set(Fault("cut", after_bytes=70_000))
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 30 * proxy.struck)
    monkeypatch.setattr("shared.storage.errands.time", clock)
    monkeypatch.setattr("shared.storage.errands.FIRST_PAUSE_S", 0.01)
    store = through(proxy, make_s3, lambda: None, patience_s=100)
    assert fetch(store, "some") == LARGE[:500_000]
    assert proxy.struck >= 7


@pytest.mark.parametrize("data", [b"data", LARGE], ids=["small", "large"])
def test_a_lost_answer_to_an_upload_does_no_harm(
    filled: S3Store, make_s3: MakeS3, proxy: Proxy, tmp_path: Path, data: bytes
) -> None:
    proxy.set(Fault("cut", after_bytes=0, times=2))
    through(proxy, make_s3, lambda: None).put("new", file_of(tmp_path, data))
    assert fetch(filled, "new") == data
    filled.clear_leftovers(0)  # of a beginning whose answer was lost


class Forgetful(S3Client):
    """Its answer to the first completion is lost on the way."""

    _lost = False

    def complete(
        self, bucket: str, key: str, upload: str, parts: Sequence[tuple[int, str]], errand: Errand
    ) -> None:
        """As the server does it, but nobody hears of it."""
        super().complete(bucket, key, upload, parts, errand)
        if not self._lost:
            self._lost = True
            raise PassingError("a lost answer")


def test_an_upload_is_not_done_twice_when_only_the_answer_to_its_end_was_lost(
    s3: S3Server, bucket: str, make_s3: MakeS3, tmp_path: Path
) -> None:
    store = make_s3()
    client = Forgetful(Settings.model_validate(s3.settings(bucket)))
    vars(store)["_made"] = client
    store.put("x", file_of(tmp_path, LARGE))
    assert fetch(store, "x") == LARGE
    upload = store.begin("y")
    client._lost = False
    part = client.part(bucket, "a prefix/y", upload, 1, b"part", Errand(1))
    store.complete("y", upload, [(1, part)])
    assert fetch(store, "y") == b"part"


def test_a_slow_store_is_no_dead_one(
    filled: S3Store,
    make_s3: MakeS3,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Longer than patience, and than silence may last, but bytes move. Patience goes by a clock
    that a pause of this machine does not move."""
    ticks = count(step=0.05)
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("shared.storage.errands.time", clock)
    monkeypatch.setattr("shared.storage.errands.LOOK_EVERY_S", 0.25)
    size = 2600 << 10
    filled.put("some", file_of(tmp_path, LARGE[:size]))
    proxy.set(Fault("slow", bytes_per_s=1 << 20))
    waiter = Waiter(lambda: None)
    store = through(proxy, make_s3, waiter, patience_s=SILENCE_S)
    began = time.monotonic()
    assert fetch(store, "some") == LARGE[:size]
    assert time.monotonic() - began > SILENCE_S
    assert next(ticks) > 2 * SILENCE_S
    assert waiter.calls >= 3


def test_many_objects_survive_an_outage_in_the_middle(
    filled: S3Store, make_s3: MakeS3, proxy: Proxy, tmp_path: Path
) -> None:
    keys = [f"many/{number}" for number in range(8)]
    for key in keys:
        filled.put(key, file_of(tmp_path, key.encode() * 1000))
    proxy.set(Fault("error", times=6))
    with through(proxy, make_s3, lambda: None).local_many(keys) as paths:
        assert [path.read_bytes() for path in paths] == [key.encode() * 1000 for key in keys]


def test_an_upload_that_could_not_even_be_dropped_is_found_later(
    filled: S3Store,
    make_s3: MakeS3,
    proxy: Proxy,
    s3: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shared.storage.s3.LAST_S", 0.1)

    def pieces() -> Iterator[bytes]:
        yield LARGE
        proxy.set(Fault("refuse"))
        raise EOFError

    with pytest.raises(EOFError):
        through(proxy, make_s3, lambda: None).write("new", pieces())
    assert filled.clear_leftovers(3600) == 0
    assert filled.clear_leftovers(0) == 1
    assert filled.clear_leftovers(0) == 0
    assert s3.objects(bucket) == ["a prefix/a/1", "a prefix/large"]
