"""`dualface doctor`: looks at everything in order, shows a table or writes a report."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from client.doctor import gpus, host, services
from client.doctor.detect import keep
from client.doctor.quick import driver_version, why_no_gpu
from client.doctor.report import Report, report_of, show
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.findings import Finding, State, not_here, ok, problem
from shared.gpu import Hardware, devices
from shared.settings import Settings

LIMIT_S = 20.0
"""Of a look at something that is no driver: a disk or server that hangs answers no sooner."""
AT_ONCE = 3
"""Most of it is waiting for processes of ours."""
T = TypeVar("T")
HANGS = "see what it waits for: a network disk, a server, a name that nobody resolves?"
NAMED = "correct what it names"


@dataclass(frozen=True)
class Look:
    """One look. Those that start processes have limits of their own: `limit_s` None."""

    name: str
    look: Callable[[], Iterable[Finding]]
    limit_s: float | None = LIMIT_S


def doctor_command(
    settings: Settings, *, quick: bool, as_json: bool, report_file: Path | None
) -> int:
    """0: all well, or only warnings. 1: problems. Raises PermanentError where the report can't be
    written."""
    errors = Console(stderr=True)
    with errors.status("Looking at this machine") as _:
        report = examined(settings, quick=quick)
    text = report.model_dump_json(indent=2)
    if report_file is not None:
        try:
            report_file.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise PermanentError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"The report {report_file} can't be written ({error.strerror}).",
            ) from error
    if as_json:
        print(text)
    else:
        show(report, Console())
    return 1 if report.state is State.PROBLEM else 0


def examined(settings: Settings, *, quick: bool) -> Report:
    """Look at everything. Blocks for seconds, quick for less than one."""
    began = time.monotonic()
    if quick:
        looks = at_once(settings, up=bool(services.url_of_stack(settings)))
        found = [each for look in looks for each in findings_of(look)]
        return report_of(found, None, time.monotonic() - began, quick=True)
    hardware, found = whole(settings)
    return report_of(found, hardware, time.monotonic() - began, quick=False)


def at_once(settings: Settings, *, up: bool = False) -> Sequence[Look]:
    """What takes no other process. `up`: our own stack runs."""
    return (
        Look("packages", host.python_and_packages),
        Look("settings", partial(host.settings_files, settings)),
        Look("cpu", host.cores),
        Look("memory", host.memory),
        Look("shared memory", partial(host.shared_memory, settings)),
        Look("disk", partial(host.disks, settings)),
        Look("driver", partial(loaded_driver, settings)),
        Look("gpu choice", partial(named_gpus, settings)),
        Look("models", partial(host.models, settings)),
        Look("ports", partial(host.ports, settings, up=up)),
        Look("clock", host.clock),
    )


def whole(settings: Settings) -> tuple[Hardware, list[Finding]]:
    """Everything, in the order of the table; several looks at a time. For the main thread."""
    up = services.url_of_stack(settings)
    with ExitStack() as ending:
        pool = _Pool(AT_ONCE)

        def begun(look: Look) -> Future[list[Finding]]:
            return pool.begin(partial(findings_of, look))

        asked = pool.begin(gpus.known_hardware)
        simple = {look.name: begun(look) for look in at_once(settings, up=bool(up))}
        simple["ffmpeg"] = begun(Look("ffmpeg", host.codecs))
        software = [
            begun(Look(module, partial(gpus.on_cpu, module), None)) for module in gpus.ON_CPU
        ]
        shared = [
            begun(_redis(settings, up, ending)),
            begun(Look("store", partial(services.store, settings))),
            begun(Look("store clock", partial(services.store_clock, settings))),
        ]
        hardware, trouble = asked.result()
        of_gpus = list(_on_gpus(settings, hardware, trouble, brief=bool(up)))
        first = ("packages", "settings", "cpu", "memory", "shared memory", "disk", "ffmpeg")
        last = ("models", "ports", "clock")
        found = [
            *(each for name in first for each in simple[name].result()),
            *(each for part in software for each in part.result()),
            *of_gpus,
            *(each for part in shared for each in part.result()),
            *(each for name in last for each in simple[name].result()),
        ]
    return hardware, found


class _Pool:
    """Threads that nobody waits for when the command is interrupted, unlike those of
    concurrent.futures; processes that they started end with this one."""

    def __init__(self, at_once: int) -> None:
        self._free = threading.Semaphore(at_once)

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Have it done; what it raises, the future's `result` raises."""
        future: Future[T] = Future()

        def run() -> None:
            with self._free:
                try:
                    future.set_result(work())
                except BaseException as error:  # noqa: BLE001 - handed on
                    future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


def _redis(settings: Settings, up: str, ending: ExitStack) -> Look:
    """The Redis that jobs use: that of the settings, of the stack that is up, else one like the one
    that a stack would start; it is stopped with `ending`."""
    try:
        url = settings.redis_url or up or ending.enter_context(services.own_redis(settings))
    except DualfaceError as error:
        found = problem("redis", error.message, services.SERVER_FIX)
        return Look("redis", lambda: [found])
    return Look("redis", partial(services.redis_and_queues, url))


def _on_gpus(
    settings: Settings, hardware: Hardware, trouble: Sequence[Finding], *, brief: bool
) -> Iterator[Finding]:
    """`brief`: a stack is up, which needs the sessions itself; then nothing is written down."""
    yield from trouble or gpus.driver(hardware, settings)
    yield from gpus.gpus(hardware, settings)
    yield from gpus.packages(hardware, settings)
    if hardware.gpus and brief:
        fix = "stop it (`dualface up`) to have sessions counted and auto_detected.yaml written"
        yield not_here("sessions", "not counted: the stack is up and may need them", fix)
    found = list(gpus.trials(settings, hardware, brief=brief))
    yield from found
    yield from gpus.session_limits(settings, found)
    if not brief and not trouble:
        yield from keep(settings, hardware, found)


def loaded_driver(settings: Settings) -> Iterator[Finding]:
    """Without asking it."""
    loaded = driver_version()
    if loaded:
        yield from gpus.driver(Hardware(driver=loaded), settings)
    else:
        yield not_here("driver", "no NVIDIA driver is loaded", gpus.INSTALL)


def named_gpus(settings: Settings) -> Iterator[Finding]:
    """Whether GPUs that were named can be there, without asking the driver; nothing where none
    was."""
    if isinstance(settings.gpu_devices, str):
        return
    if reason := why_no_gpu():
        try:
            devices(settings, Hardware(reason=reason))
        except PermanentError as error:
            yield problem("gpu choice", error.message, gpus.CHOICE_FIX)
            return
    names = ", ".join(settings.gpu_devices) or "none"
    yield ok("gpu choice", f"named: {names}; whether they are there is not asked here")


def findings_of(look: Look) -> list[Finding]:
    """What it found, or that it hangs or fails: the others are looked at all the same."""
    began = time.monotonic()
    if look.limit_s is None:
        return _looked(look)
    kept: list[Finding] = []
    thread = threading.Thread(target=lambda: kept.extend(_looked(look)), daemon=True)
    thread.start()
    thread.join(look.limit_s)
    if thread.is_alive():
        kept = [problem(look.name, f"did not end within {look.limit_s:g} s", HANGS)]
    took_s = round(time.monotonic() - began, 3)
    return [each if each.seconds else each.model_copy(update={"seconds": took_s}) for each in kept]


def _looked(look: Look) -> list[Finding]:
    try:
        return list(look.look())
    except DualfaceError as error:
        return [problem(look.name, error.message, NAMED)]
    except Exception as error:  # noqa: BLE001 - nothing that is looked at may end the others' looks
        why = f"this look itself failed ({type(error).__name__}: {error})"
        return [problem(look.name, why, "report it, with this line")]
