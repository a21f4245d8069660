"""The watch folder: what is taken, when, and that it is taken once, whatever dies."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from chaos.proxy import Fault, Proxy
from client.api import AsyncClient, Stamp, UnauthorizedError
from client.api.downloads import Download
from client.watch.folder import Settling, being_written, find, is_ignored, sample_of, scan
from client.watch.looking import look
from client.watch.record import FOLDER, Entry, State, open_record
from client.watch.watcher import Tell, UntoldError, Watcher, Wishes
from services.coordinator.api import jobs as jobs_api
from services.coordinator.api import results as results_api
from services.coordinator.api import uploads as uploads_api
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.ledger import JobResult
from shared.media.probe import probe
from shared.names import result_key
from tests.api.conftest import Served
from tests.client.conftest import QUICK, key_for, stored
from tests.conftest import PROJECT
from tests.videos import CLOSED_GOP_X264, make_video
from tests.waiting import wait_until

SETTLE_S = 0.1
VIDEO = replace(CLOSED_GOP_X264, frames=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "drop"
    made.mkdir()
    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = tmp_path / "results"
    made.mkdir()
    return made


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    make_video(path, VIDEO)
    return path


@pytest.fixture(autouse=True)
def _looks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchers of this process look at files themselves: starting another takes most of a test."""

    async def here(path: Path) -> DualfaceError | None:
        try:
            await asyncio.to_thread(probe, path, "mp4")
        except DualfaceError as error:
            return error
        return None

    monkeypatch.setattr("client.watch.watcher.look", here)


def drop(source: Path, folder: Path, name: str = "talk.mp4") -> Path:
    """Put a copy there, at once."""
    part = folder / f".{name}"
    part.write_bytes(source.read_bytes())
    return part.rename(folder / name)


def finish(api: Served, job: str, body: bytes = b"result") -> None:
    key = result_key(job, "mp4")
    api.service.store.write(key, [body])
    api.service.ledger.finish(job, JobResult(key=key, frames=3))


def live(api: Served) -> list[str]:
    return api.service.ledger.live()


def jobs(api: Served) -> int:
    return api.service.ledger.count(None)


@dataclass
class Watching:
    """A watcher in this process, and what it told."""

    told: list[tuple[str, Entry]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def of(self, event: str) -> list[str]:
        """Names of files that it told this of."""
        return [entry.name for kind, entry in self.told if kind == event]


@contextmanager
def watching(
    url: str,
    key: str,
    folder: Path,
    out: Path,
    *,
    at_once: int = 2,
    retry_failed: bool = False,
    tell: Tell | None = None,
) -> Iterator[Watching]:
    """Until the context ends."""
    it = Watching()
    told = tell or (lambda kind, entry, _: it.told.append((kind, entry)))
    loop = asyncio.new_event_loop()
    stop: list[Callable[[], object]] = []
    wishes = Wishes(folder, out, at_once, SETTLE_S, retry_failed, {"crf": 30})

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        stop.append(lambda: loop.call_soon_threadsafe(task.cancel))
        async with AsyncClient(url, key, patience=QUICK) as client:
            with open_record(folder) as record:
                await Watcher(client, record, wishes, told).run()

    def run() -> None:
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(main())
        except (PermanentError, UnauthorizedError, UntoldError) as error:
            it.errors.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_until(lambda: stop, "the watcher runs")
        yield it
    finally:
        with suppress(RuntimeError):
            stop[0]()
        thread.join(20)
        assert not thread.is_alive()


# --- what is taken --------------------------------------------------------------------------------


def test_whole_videos_are_taken_once_and_everything_else_is_left(
    api: Served, folder: Path, out: Path, talk: Path
) -> None:
    key = key_for(api)
    for name in ("~$talk.mp4", "a.mp4.part", "b.crdownload", ".hidden.mp4", "c.mp4~"):
        drop(talk, folder, name)
    (folder / "link.mp4").symlink_to(talk)
    (folder / "empty.mp4").touch()
    (folder / "folder.mp4").mkdir()
    writing = drop(talk, folder, "writing.mp4")
    (folder / "notes.mp4").write_text("no video")
    drop(talk, folder)
    with writing.open("ab"), watching(api.url, key, folder, out) as it:
        wait_until(lambda: live(api), "the video is a job")
        (job,) = live(api)
        view = api.service.ledger.view(job)
        assert view is not None
        assert (view.name, view.spec.crf) == ("talk.mp4", 30)
        assert stored(api, view.spec.source) == talk.read_bytes()
        finish(api, job)
        wait_until(lambda: it.of("done") and it.of("failed"), "both have ended")
    assert it.of("done") == it.of("taken") == ["talk.mp4"]
    assert it.of("failed") == ["notes.mp4"]
    assert (out / "talk-split.mp4").read_bytes() == b"result"
    with watching(api.url, key, folder, out) as it:
        wait_until(lambda: it.of("taken"), "the one that is no longer written")
        wait_until(lambda: live(api), "and is a job")
    assert (it.of("taken"), it.of("failed"), jobs(api)) == (["writing.mp4"], [], 2)


def test_a_changed_file_is_a_new_job_and_replaces_its_result(
    api: Served, folder: Path, out: Path, talk: Path
) -> None:
    path = drop(talk, folder)
    with watching(api.url, key_for(api), folder, out) as it:
        wait_until(lambda: live(api), "the first")
        finish(api, live(api)[0], b"one")
        wait_until(lambda: it.of("done"), "the first result")
        path.chmod(0o600)  # is no other file for that
        drop(talk, folder, "talk.mov")
        wait_until(lambda: live(api), "one of the same stem")
        finish(api, live(api)[0], b"other")
        wait_until(lambda: len(it.of("done")) == 2, "its result")
        make_video(folder / ".new", replace(VIDEO, frames=5, container="mp4"))
        (folder / ".new").rename(path)
        wait_until(lambda: live(api), "the second version")
        finish(api, live(api)[0], b"two")
        wait_until(lambda: len(it.of("done")) == 3, "the second result")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "talk-split.mp4": b"two", "talk-split-2.mp4": b"other",
    }  # fmt: skip
    assert jobs(api) == 3


def test_a_job_that_fails_is_told_of_and_made_again_by_request_only(
    api: Served, folder: Path, out: Path, talk: Path
) -> None:
    key = key_for(api)
    drop(talk, folder)
    with watching(api.url, key, folder, out) as it:
        wait_until(lambda: live(api), "the job")
        (job,) = live(api)
        api.service.ledger.fail(job, ErrorCode.TOO_DAMAGED, "It is broken.")
        wait_until(lambda: it.of("failed"), "it is told")
    assert (it.told[-1][1].code, it.told[-1][1].message) == ("too_damaged", "It is broken.")
    with watching(api.url, key, folder, out) as it:
        drop(talk, folder, "next.mp4")
        wait_until(lambda: it.of("sent"), "the next one")
    assert it.of("sent") == ["next.mp4"]
    api.service.ledger.cleaned(job)  # as the coordinator does when it has cleaned up
    for other in live(api):
        api.service.ledger.cancel(other)
    with watching(api.url, key, folder, out, retry_failed=True) as it:
        wait_until(lambda: job in live(api), "it is made again")
        finish(api, job)
        wait_until(lambda: "talk.mp4" in it.of("done"), "its result")


def test_long_names_and_equal_stems_dropped_at_once_get_a_result_each(
    api: Served, folder: Path, out: Path, talk: Path
) -> None:
    long = "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 82
    names = [f"{long}ab.mp4", f"{long}cd.mp4", "talk.mp4", "talk.mov"]
    for name in names:
        (folder / name).write_bytes(talk.read_bytes())
    with watching(api.url, key_for(api), folder, out, at_once=4) as it:
        wait_until(lambda: len(live(api)) == 4, "all are jobs")
        for job in live(api):
            finish(api, job, job.encode())
        wait_until(lambda: len(it.of("done")) == 4, "all have ended")
    results = {path.name: path.read_text() for path in out.iterdir()}
    assert results == {entry.output: entry.job for kind, entry in it.told if kind == "done"}
    assert len(set(results.values())) == 4
    assert all(len(os.fsencode(name)) <= 255 for name in results)


def test_what_the_system_refuses_of_one_file_fails_that_file_alone(
    api: Served, folder: Path, out: Path, talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(it: Download) -> None:
        if it._target.name == "bad-split.mp4":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        opened(it)

    opened = Download.open
    monkeypatch.setattr(Download, "open", broken)
    for name in ("bad.mp4", "good.mp4"):
        drop(talk, folder, name)
    with watching(api.url, key_for(api), folder, out) as it:
        wait_until(lambda: len(live(api)) == 2, "both are jobs")
        for job in live(api):
            finish(api, job)
        wait_until(lambda: it.of("done") and it.of("failed"), "both have ended")
    assert (it.of("failed"), it.of("done")) == (["bad.mp4"], ["good.mp4"])
    entry = next(entry for kind, entry in it.told if kind == "failed")
    assert (entry.code, entry.job != "") == ("internal", True)
    assert os.strerror(errno.EIO) in entry.message
    monkeypatch.undo()
    monkeypatch.setattr("client.watch.watcher.look", None)  # nothing is taken anew
    with watching(api.url, key_for(api), folder, out, retry_failed=True) as it:
        wait_until(lambda: it.of("done") == ["bad.mp4"], "its result is fetched once it can be")
    assert jobs(api) == 2


def test_a_watcher_that_nobody_hears_ends_and_no_file_fails_for_that(
    api: Served, folder: Path, out: Path, talk: Path
) -> None:
    def tell(kind: str, _: Entry, __: str) -> None:
        if kind == "sent":
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    drop(talk, folder)
    with watching(api.url, key_for(api), folder, out, tell=tell) as it:
        wait_until(lambda: it.errors, "it ends")
    assert isinstance(it.errors[0], UntoldError)
    with open_record(folder) as record:
        assert [entry.state for entry in record.all()] == [State.SENT]


def test_no_more_are_under_way_than_was_said(
    api: Served, folder: Path, out: Path, talk: Path
) -> None:
    for number in range(3):
        os.utime(drop(talk, folder, f"{number}.mp4"), (1000 + number, 1000 + number))
    with watching(api.url, key_for(api), folder, out, at_once=1) as it:
        for number in range(3):
            wait_until(lambda: live(api), "a job")
            assert len(live(api)) == 1
            finish(api, live(api)[0])
            wait_until(lambda n=number: len(it.of("done")) == n + 1, "its result")  # type: ignore[misc]
    assert it.of("done") == ["0.mp4", "1.mp4", "2.mp4"]  # oldest first


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_service_that_is_away_is_waited_for(
    api: Served, proxy: Proxy, folder: Path, out: Path, talk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("client.watch.watcher.AWAY_S", 0.05)
    url = f"http://127.0.0.1:{proxy.port}"
    proxy.set(Fault("error"))
    drop(talk, folder)
    with watching(url, key_for(api), folder, out) as it:
        wait_until(lambda: it.of("waiting"), "it waits")
        proxy.set(Fault())
        wait_until(lambda: live(api), "it goes on")
        (job,) = live(api)
        proxy.set(Fault("error"))
        finish(api, job)
        wait_until(lambda: len(it.of("waiting")) > 1, "it waits again")
        proxy.set(Fault())
        wait_until(lambda: it.of("done"), "it goes on again")
    assert jobs(api) == 1


def test_a_result_that_was_lost_with_the_service_is_made_again(
    api: Served, folder: Path, out: Path, talk: Path
) -> None:
    key = key_for(api)
    drop(talk, folder)
    with watching(api.url, key, folder, out) as it:
        wait_until(lambda: it.of("sent"), "it is sent")
    api.service.ledger.cancel(live(api)[0])
    api.service.redis.delete(*api.service.redis.keys("df:job:*"))
    with watching(api.url, key, folder, out) as it:
        wait_until(lambda: it.of("sent") and live(api), "it is sent again")
        finish(api, live(api)[0])
        wait_until(lambda: it.of("done"), "and made")


def test_a_key_that_may_not_ends_the_watcher(
    api: Served, folder: Path, out: Path, talk: Path
) -> None:
    drop(talk, folder)
    with watching(api.url, "df_wrong", folder, out) as it:
        wait_until(lambda: it.errors, "it ends")
    assert isinstance(it.errors[0], UnauthorizedError)


def test_two_watchers_of_one_folder_refuse_each_other(folder: Path) -> None:
    with (
        open_record(folder),
        pytest.raises(PermanentError, match="Another"),
        open_record(folder),
    ):
        pass
    with open_record(folder):
        pass


# --- kill -9 --------------------------------------------------------------------------------------


class Gate:
    """Holds back whoever comes to it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def pass_(self) -> None:
        """Blocks until it is opened."""
        self.reached.set()
        self._open.wait(90)

    def open(self) -> None:
        """For good."""
        self._open.set()


@contextmanager
def gated(target: Any, name: str, *, after: bool = False) -> Iterator[Gate]:
    """Whoever calls `target.name` waits at the gate, before or after."""
    gate, real = Gate(), getattr(target, name)

    def held(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs) if after else None
        gate.pass_()
        return made if after else real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, held)
        try:
            yield gate
        finally:
            gate.open()


def state_of(folder: Path) -> str:
    """The last state that the record has."""
    lines = (folder / FOLDER / "watch.jsonl").read_text().splitlines()
    return str(json.loads(lines[-1])["state"]) if lines else ""


@pytest.mark.timeout(300)
def test_a_file_is_one_job_whenever_its_watcher_is_killed(
    api: Served, folder: Path, out: Path, talk: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ, "DUALFACE_API_URL": api.url, "DUALFACE_API_KEY": key_for(api),
        "DUALFACE_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": str(PROJECT),
    }  # fmt: skip
    command = [sys.executable, "-m", "client.cli", "watch", str(folder), "--out", str(out)]
    command += ["--settle", str(SETTLE_S), "--json"]

    @contextmanager
    def watcher(number: signal.Signals = signal.SIGKILL) -> Iterator[subprocess.Popen[bytes]]:
        with (tmp_path / "said").open("ab") as said:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        try:
            yield process
        finally:
            process.send_signal(number)
            process.wait(30)

    def held_at(gate: Gate) -> None:
        wait_until(gate.reached.is_set, "the watcher is there", 90)

    drop(talk, folder)
    with gated(uploads_api, "upload_limit") as gate, watcher():
        held_at(gate)
        assert state_of(folder) == "taken"
    with gated(type(api.service.store), "write") as gate, watcher():
        held_at(gate)
        assert state_of(folder) == "sending"
    with gated(jobs_api, "_enter", after=True) as gate, watcher():
        held_at(gate)
        assert (state_of(folder), len(live(api))) == ("sending", 1)
    with watcher():
        wait_until(lambda: state_of(folder) == "sent", "the job is found again", 90)
    (job,) = live(api)
    body = random.Random(1).randbytes(3 << 20)
    finish(api, job, body)
    with gated(results_api, "file_name") as gate, watcher():
        held_at(gate)
        assert not (out / "talk-split.mp4").exists()
    with watcher(signal.SIGTERM) as last:
        wait_until(lambda: state_of(folder) == "done", "the result", 90)
    assert last.returncode == 0
    assert (out / "talk-split.mp4").read_bytes() == body
    assert [path.name for path in out.iterdir()] == ["talk-split.mp4"]
    assert jobs(api) == 1
    said = (tmp_path / "said").read_text()
    assert "Traceback" not in said
    assert '"event": "done"' in said


# --- pieces ---------------------------------------------------------------------------------------


def test_a_file_is_settled_when_it_was_left_alone(folder: Path, talk: Path) -> None:
    path = drop(talk, folder)
    os.utime(path, (1, 1))
    assert [each.name for each in Settling(60).settled(scan(folder))] == ["talk.mp4"]
    path.touch()
    patient, hasty = Settling(60), Settling(0)
    assert patient.settled(scan(folder)) == []
    assert len(hasty.settled(scan(folder))) == 1
    path.write_bytes(b"more")
    assert len(hasty.settled(scan(folder))) == 1


def test_a_file_is_looked_at_by_a_process_that_it_may_end(
    talk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asyncio.run(look(talk)) is None
    problem = asyncio.run(look(talk.with_name("none.mp4")))
    assert problem is not None
    assert problem.code is ErrorCode.SOURCE_MISSING
    monkeypatch.setattr(sys, "executable", "/bin/false")
    problem = asyncio.run(look(talk))
    assert problem is not None
    assert problem.code is ErrorCode.SOURCE_UNREADABLE


def test_open_files_are_seen_and_readers_do_not_matter(folder: Path, talk: Path) -> None:
    path = drop(talk, folder)
    found = find(path)
    assert found is not None
    with path.open("rb"):
        assert being_written({found.place}) == set()
    with path.open("ab"):
        assert being_written({found.place}) == {found.place}


def test_a_sample_is_of_the_file_as_it_was_found(folder: Path, talk: Path) -> None:
    path = drop(talk, folder)
    found = find(path)
    assert found is not None
    first = sample_of(found)
    assert first is not None
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, found.stamp.mtime_ns + 1))  # its clock may not have ticked in between
    assert sample_of(found) is None
    other = find(path)
    assert other is not None
    assert sample_of(other) not in (None, first)
    path.unlink()
    path.symlink_to(talk)
    assert (find(path), sample_of(found)) == (None, None)


def test_what_was_written_down_is_read_again_but_for_what_was_torn(folder: Path) -> None:
    strange = os.fsdecode(b"\xff caf\xc3\xa9\n.mp4")
    (folder / strange).write_bytes(b"x")
    with open_record(folder) as record:
        for name in (strange, "b.mp4"):
            entry = Entry(name, 1, 2, "s", record.output_for(name))
            record.put(record.put(entry, State.TAKEN), State.SENT, job="j")
    path = folder / FOLDER / "watch.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"name": "c.mp4", "si')
    with open_record(folder) as record:
        assert {entry.name for entry in record.all()} == {strange, "b.mp4"}
        found = record.find(strange)
        assert found is not None
        assert (found.state, found.job, found.stamp) == (State.SENT, "j", Stamp(1, 2))
        assert record.output_for("b.mov") == "b-split-2.mp4"
        assert record.output_for("b.mp4") == "b-split.mp4"
        record.put(found, State.DONE)
    assert len(path.read_bytes().splitlines()) == 3  # one of each name, and the last


def test_what_ended_long_ago_and_is_gone_is_forgotten(folder: Path) -> None:
    (folder / "kept.mp4").write_bytes(b"x")
    with open_record(folder) as record:
        for name in ("kept.mp4", "gone.mp4", "live.mp4"):
            state = State.SENT if name == "live.mp4" else State.DONE
            record.put(Entry(name, 1, 2, "s", name), state)
    path = folder / FOLDER / "watch.jsonl"
    lines = [json.loads(line) | {"at": "2020-01-01T00:00:00+00:00"} for line in path.open()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with open_record(folder) as record:
        assert {entry.name for entry in record.all()} == {"kept.mp4", "live.mp4"}


def test_a_result_that_could_never_be_called_so_gets_another_name_at_the_next_start(
    folder: Path,
) -> None:
    long = "a" * 250
    with open_record(folder) as record:
        for end in "xy":
            name = f"{long}{end}.mp4"
            entry = Entry(name, 1, 2, "s", f"{name.removesuffix('.mp4')}-split.mp4")
            record.put(entry, State.SENT, job=end)
    with open_record(folder) as record:
        outputs = {entry.output for entry in record.all()}
    assert outputs == {f"{'a' * 245}-split.mp4", f"{'a' * 243}-split-2.mp4"}


@pytest.mark.parametrize("name", ["a.part", "A.CRDOWNLOAD", ".a.mp4", "a.mp4~", "~$a", "a.tmp"])
def test_names_of_unfinished_files_are_left(name: str) -> None:
    assert is_ignored(name)
    assert not is_ignored("part of a talk.mp4")
