"""The commands that speak to a service, as they are typed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from client.api.downloads import Download
from client.cli import main
from client.showing import Out, plain, table
from shared.errors import ErrorCode
from shared.keys import Role
from shared.ledger import JobResult
from shared.names import result_key
from tests.api.conftest import Served
from tests.client.conftest import MakeVideo, key_for, stored
from tests.conftest import PROJECT
from tests.servers import free_port
from tests.waiting import wait_until

ESCAPE = "\x1b[31mred\x07"


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """Its JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Dualface = Callable[..., Said]


@pytest.fixture
def settled(api: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment leads to the API."""
    monkeypatch.setenv("DUALFACE_API_URL", api.url)
    monkeypatch.setenv("DUALFACE_API_KEY", key_for(api, roles=(Role.ADMIN,)))
    monkeypatch.setenv("DUALFACE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DUALFACE_REDIS_URL", api.service.settings.redis_url)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dualface(
    settled: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Dualface]:
    """Runs a command as its entry point does, in this process."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["dualface", *map(str, arguments)])
        # With `python -m pytest` the command would be called that, and its shell's variable so.
        monkeypatch.setattr(sys.modules["__main__"], "__package__", None)
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    assert settled is None
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def start(settled: None, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command as a process."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "client.cli", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True
            )
        )
        return started[-1]

    assert settled is None
    yield begin
    for process in started:
        process.kill()
        process.communicate()


def finish(api: Served, job: str, body: bytes = b"result") -> None:
    """The job succeeds."""
    key = result_key(job, "mp4")
    api.service.store.write(key, [body])
    api.service.ledger.finish(job, JobResult(key=key, frames=3, people=2, warnings=("dark",)))


def live(api: Served) -> list[str]:
    return api.service.ledger.live()


def submitted(api: Served, process: subprocess.Popen[str]) -> str:
    """The job that the process makes, as soon as it has. Fails with its words if it ends."""
    wait_until(lambda: live(api) or process.poll() is not None, "it is submitted")
    assert live(api), process.communicate()
    (job,) = live(api)
    return job


# --- submit ---------------------------------------------------------------------------------------


def test_submitted_videos_are_jobs_with_the_options_typed(
    api: Served, dualface: Dualface, video: MakeVideo
) -> None:
    path = video(1000)
    said = dualface(
        "submit", path, "https://videos.example.com/b.mp4?token=secret", "--crf", 30,
        "--size", "640x360", "--layout", "stacked", "--priority", 8, "--annotate", "--json",
    )  # fmt: skip
    assert (said.code, said.err) == (0, "")
    jobs = {line["video"]: line["job"] for line in said.lines}
    assert set(jobs) == {"talk.mp4", "b.mp4"}
    for job in jobs.values():
        spec = job["spec"]
        told = (spec["crf"], spec["size"], spec["layout"], spec["priority"], spec["annotate"])
        assert told == (30, [640, 360], "stacked", 8, True)
    assert stored(api, jobs["talk.mp4"]["spec"]["source"]) == path.read_bytes()
    human = dualface("submit", path, "--idempotency-key", "k")
    again = dualface("submit", path, "--idempotency-key", "k")
    assert human.out == again.out
    assert human.out.split() == [human.out.split()[0], "talk.mp4"]


def test_a_submit_that_waits_ends_with_its_result_in_place(
    api: Served, start: Callable[..., subprocess.Popen[str]], video: MakeVideo, tmp_path: Path
) -> None:
    process = start("submit", video(1000), "-o", "out.mp4", "--json")
    finish(api, submitted(api, process))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["output"] == "out.mp4"
    assert (tmp_path / "out.mp4").read_bytes() == b"result"


def test_of_several_videos_long_names_have_results_and_one_that_fails_ends_no_other(
    api: Served,
    dualface: Dualface,
    video: MakeVideo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(it: Download) -> None:
        if it._target.name == "bad-split.mp4":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        opened(it)

    def finish_all() -> None:
        wait_until(lambda: len(live(api)) == 3, "all are submitted")
        for job in live(api):
            finish(api, job)

    opened = Download.open
    monkeypatch.setattr(Download, "open", broken)
    names = ("bad.mp4", f"{'a' * 250}.mp4", f"{'a' * 249}b.mp4")
    paths = [video(1000, name) for name in names]
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(finish_all)
        said = dualface("submit", *paths, "--out", "results", "--json")
        ended.result()
    assert said.code == 1
    told = {line["video"]: line for line in said.lines}
    assert told["bad.mp4"]["error"]["code"] == "internal"
    assert os.strerror(errno.EIO) in said.err
    outputs = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert outputs == [f"{'a' * 243}-split-2.mp4", f"{'a' * 245}-split.mp4"]


def test_ctrl_c_while_waiting_leaves_the_job_and_says_how_to_go_on(
    api: Served, start: Callable[..., subprocess.Popen[str]], video: MakeVideo
) -> None:
    process = start("submit", video(1000), "--wait")
    job = submitted(api, process)
    wait_until(
        lambda: api.service.redis.pubsub_numsub("df:bell") and _watched(api, job), "it waits"
    )
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"dualface wait {job}" in err
    assert "Traceback" not in err
    assert live(api) == [job]


def _watched(api: Served, job: str) -> bool:
    return bool(api.service.bell._waiting.get(job))


REFUSED = (
    (("submit", "none.mp4"), "no file"),
    (("submit", "a.mp4", "b.mp4", "-o", "x.mp4"), "--out"),
    (("submit", "a.mp4", "b.mp4", "--idempotency-key", "k"), "one video"),
    (("submit", "talk.mp4", "-o", "x.avi"), ".mp4 or .mov"),
    (("submit", "talk.mp4", "-o", "talk.mp4"), "source itself"),
    (("submit", "talk.mp4", "-o", "none/x.mp4"), "can't be written"),
    (("submit", "talk.mp4", "-o", f"{'x' * 252}.mp4"), "name too long"),
    (("submit", "talk.mp4", "--size", "99999x2"), "64 to 8192"),
    (("submit", "talk.mp4", "--preset", "zz"), "no preset 'zz'"),
    (("watch", ".", "--out", "x", "--preset", "zz"), "no preset 'zz'"),
    (("submit", "https://elsewhere.example.com/a.mp4"), "elsewhere.example.com"),
    (("submit", "talk.mp4", "--size", "big"), "WIDTHxHEIGHT"),
    (("submit", "talk.mp4", "-o", "x.mov", "--codec", "av1"), "can't hold AV1"),
    (("submit", "talk.mp4", "--size", f"{'9' * 5000}x2"), "WIDTHxHEIGHT"),
    (("submit", "talk.mp4", "--detector", "\udcff"), "no text"),
    (("submit", "talk.mp4", "--idempotency-key", "ü€"), "idempotency key is to be"),
    (("submit", "talk.mp4", "--idempotency-key", ""), "idempotency key is to be"),
    (("submit", "a\x1b.mp4"), "no file a\ufffd.mp4"),
    (("submit", "HTTPS://elsewhere.example.com/a.mp4"), "elsewhere.example.com"),
    (("get", ""), "'' is no job's id"),
    (("get", "live/report"), "'live/report' is no job's id"),
    (("wait", "../x"), "no job's id"),
    (("cancel", ""), "no job's id"),
    (("download", ""), "no job's id"),
    (("retry", "."), "no job's id"),
    (("get", "nothing"), "no such job"),
    (("cancel", "nothing"), "no such job"),
    (("download", "live"), "no result"),
    (("retry", "live"), "queued"),
    (("list", "--live", "--state", "failed"), "two filters"),
    (("keys", "add", "Bad Name"), "not a name"),
    (("keys", "add", "ann", "--role", "king"), "king"),
    (("keys", "revoke", "x"), "keys list"),
    (("watch", "none", "--out", "x"), "no folder"),
    (("watch", ".", "--out", "."), "another folder"),
)


def test_what_is_refused_is_one_line_and_2(
    api: Served, dualface: Dualface, video: MakeVideo
) -> None:
    video(1000)
    api.job("live")
    for arguments, says in REFUSED:
        said = dualface(*arguments)
        assert (said.code, said.out) == (2, ""), arguments
        assert says in said.err
        assert len(said.err.splitlines()) == 1
        assert said.err.startswith("dualface: ")


def test_no_service_is_3_and_says_where_it_was_looked_for(
    dualface: Dualface, monkeypatch: pytest.MonkeyPatch, video: MakeVideo
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("DUALFACE_API_URL", url)
    said = dualface("submit", video(10))
    assert (said.code, said.out) == (3, "")
    assert url in said.err
    monkeypatch.setenv("DUALFACE_API_URL", "")
    for arguments in (
        ("list",),
        ("submit", "talk.mp4"),
        ("wait", "a"),
        ("watch", ".", "--out", "x"),
    ):
        said = dualface(*arguments)
        assert (said.code, said.out) == (3, ""), arguments
        assert "No stack is up" in said.err
    monkeypatch.setenv("DUALFACE_REDIS_URL", "")
    assert dualface("keys", "list").code == 3


# --- following ------------------------------------------------------------------------------------


def test_the_end_of_a_job_is_the_exit_code(api: Served, dualface: Dualface) -> None:
    ledger = api.service.ledger
    finish(api, api.job("good"))
    ledger.fail(api.job("bad"), ErrorCode.TOO_DAMAGED, f"Broken {ESCAPE}.")
    ledger.cancel(api.job("gone"))
    assert [dualface("wait", job).code for job in ("good", "bad", "gone")] == [0, 1, 4]
    assert dualface("wait", "good", "gone", "bad").code == 1
    said = dualface("wait", "bad")
    assert "Broken" in said.err
    assert "\x1b" not in said.err
    assert "people found:" in dualface("wait", "good").out


def test_events_are_json_lines(api: Served, dualface: Dualface) -> None:
    finish(api, api.job("a"))
    said = dualface("wait", "a", "--json")
    assert [line["state"] for line in said.lines if line["event"] == "state"] == [
        "queued", "succeeded",
    ]  # fmt: skip
    assert {line["job"] for line in said.lines} == {"a"}
    assert all(line["id"] for line in said.lines)


# --- looking --------------------------------------------------------------------------------------


def test_jobs_are_shown_to_people_and_programs(api: Served, dualface: Dualface) -> None:
    finish(api, api.job("a"))
    api.job("b")
    assert [job["id"] for job in dualface("list", "--json").lines[0]] == ["b", "a"]
    assert [job["id"] for job in dualface("list", "--live", "--json").lines[0]] == ["b"]
    assert len(dualface("list", "--limit", 1, "--json").lines[0]) == 1
    assert dualface("list", "--state", "succeeded").out.split("\t")[:3] == [
        "a", "succeeded", "100%",
    ]  # fmt: skip
    assert dualface("get", "a", "--json").lines[0]["result"]["frames"] == 3
    assert "dark" in dualface("get", "a").out
    assert dualface("system", "--json").lines[0]["jobs"]["queued"] == 1
    assert "service" in dualface("system").out


def test_jobs_are_ended_and_begun_again_one_by_one(api: Served, dualface: Dualface) -> None:
    for job in ("a", "b"):
        api.job(job)
    said = dualface("cancel", "a", "none", "b", "--json")
    assert said.code == 2
    assert [line.get("state", "error") for line in said.lines] == [
        "cancelled", "error", "cancelled",
    ]  # fmt: skip
    assert live(api) == []
    api.service.store.write("jobs/a/source.mp4", [b"x"])
    api.service.ledger.cleaned("a")
    assert dualface("retry", "a").out.split() == ["a", "queued"]


def test_a_download_is_called_after_its_source_and_leads_to_no_other_folder(
    api: Served, dualface: Dualface, tmp_path: Path
) -> None:
    finish(api, api.job("a"))
    assert dualface("download", "a").out == "a-split.mp4\n"
    assert (tmp_path / "a-split.mp4").read_bytes() == b"result"
    told = dualface("download", "a", "-o", "x.mp4", "--json").lines[0]
    assert told == {"job": "a", "output": "x.mp4", "bytes": 6}


def test_tables_fit_narrow_terminals_and_hide_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Out(as_json=False)
    for width in (20, 40):
        out.console = Console(force_terminal=True, width=width, color_system=None, soft_wrap=True)
        table(out, ("job", "video"), [("0123456789abcdef", f"{ESCAPE}{'x' * 60}")])
        shown = capsys.readouterr().out
        assert ("…" in shown, len(shown.splitlines())) == (width == 40, 2)
        assert max(map(len, shown.splitlines())) <= 40 or width == 20
        assert "\x07" not in shown
        assert "0123456789abcdef" in shown
    assert plain("a\x1b\u202eb é") == "a\ufffd\ufffdb é"


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_is_shown_once_works_and_is_revoked(
    api: Served, dualface: Dualface, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = dualface(
        "keys", "add", "bob", "--role", "read",
        "--per-minute", 50, "--most-live", 7, "--most-bytes", 9000,
    )  # fmt: skip
    secret = said.out.strip()
    assert secret.startswith("df_")
    assert secret not in said.err
    made = dualface("keys", "add", "eve", "--json").lines[0]
    assert (made["roles"], made["secret"][:3]) == (["submit", "read"], "df_")
    listed = {key["owner"]: key for key in dualface("keys", "list", "--json").lines[0]}
    assert (listed["bob"]["most_live"], listed["bob"]["most_bytes"]) == (7, 9000)
    assert "9000" in dualface("keys", "list").out.split()
    assert "secret" not in json.dumps(listed)
    assert secret not in dualface("keys", "list").out
    monkeypatch.setenv("DUALFACE_API_KEY", secret)
    assert dualface("list").code == 0
    assert dualface("keys", "revoke", listed["bob"]["id"]).code == 0
    said = dualface("list")
    assert said.code == 2
    assert "DUALFACE_API_KEY" in said.err
    monkeypatch.setenv("DUALFACE_API_KEY", "df_ü")
    said = dualface("list")
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert "DUALFACE_API_KEY" in said.err
    assert api.service.keys.find(secret) is None


# --- shells and start -----------------------------------------------------------------------------


def test_shells_complete_the_ids_of_jobs_and_never_fail(
    api: Served, dualface: Dualface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.completing.LIMIT_S", 30.0)

    def completed(line: str) -> list[str]:
        monkeypatch.setenv("_DUALFACE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", "2")
        said = dualface()
        assert said.err == ""
        return said.out.split()

    for job in ("abc", "abd", "xyz"):
        api.job(job)
    for command in ("get", "wait", "cancel"):
        assert set(completed(f"dualface {command} ab")) == {"abc", "abd"}
    monkeypatch.setenv("DUALFACE_API_KEY", "df_wrong")
    assert completed("dualface get ") == []
    monkeypatch.setenv("DUALFACE_API_URL", f"http://127.0.0.1:{free_port()}")
    assert completed("dualface get ") == []


def test_the_command_line_imports_no_service_and_run_no_client() -> None:
    code = (
        "import sys, client.app, client.run, client.commands\n"
        "early = [m for m in sys.modules if m.startswith(('httpx', 'client.api'))]\n"
        "import client.remote, client.watch.command, client.keys\n"
        "late = [m for m in sys.modules if m.startswith(('services', 'fastapi', 'uvicorn'))]\n"
        "print(early, late)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert done.stdout.strip() == "[] []"
