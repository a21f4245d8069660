"""Figures of many processes, some of which die, in one folder. No process here ever asks nicely."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.metrics import Meter
from shared.metrics.book import FOLDED, FileBook, _alone, fold, render
from shared.metrics.catalogue import (
    FRAMES,
    JOBS,
    LEASES_IN_USE,
    METRICS,
    QUEUE_MESSAGES,
    STAGE_BATCH,
)
from tests.processes import run_forked
from tests.waiting import wait_until

FORK = multiprocessing.get_context("fork")


def start(work: Callable[..., None], *args: object) -> multiprocessing.process.BaseProcess:
    """Run `work` in a process of its own: this one never opens a book."""
    process = FORK.Process(target=run_forked, args=(work, *args))
    process.start()
    return process


def ended(work: Callable[..., None], *args: object) -> int | None:
    process = start(work, *args)
    process.join(30)
    return process.exitcode


def meter_of(folder: Path) -> Meter:
    return Meter("encode", FileBook(folder))


def frames(folder: Path) -> float:
    """What all have counted together."""
    found = re.search(r'^dualface_frames_total\{stage="encode"\} (.+)$', said(folder), re.M)
    return float(found[1]) if found else 0.0


def said(folder: Path) -> str:
    return render(folder)[0].decode()


def count_and_die(folder: Path, amount: float) -> None:
    meter = meter_of(folder)
    meter.count(FRAMES, amount, stage="encode")
    meter.observe(STAGE_BATCH, 0.2, stage="encode")
    meter.set(JOBS, 5, state="running")
    os.kill(os.getpid(), signal.SIGKILL)


def count_and_stay(folder: Path, amount: float) -> None:
    meter = meter_of(folder)
    meter.count(FRAMES, amount, stage="encode")
    meter.set(JOBS, 7, state="running")
    signal.pause()


def test_what_the_dead_and_the_living_counted_is_added_up(tmp_path: Path) -> None:
    living = [start(count_and_stay, tmp_path, 10) for _ in range(2)]
    try:
        for _ in range(3):
            assert ended(count_and_die, tmp_path, 1) == -signal.SIGKILL
        wait_until(lambda: frames(tmp_path) == 23, "all are told of")
        assert 'dualface_stage_batch_seconds_count{stage="encode"} 3.0' in said(tmp_path)
    finally:
        for process in living:
            process.kill()
            process.join()
    assert frames(tmp_path) == 23


def test_a_gauge_goes_with_its_process_and_a_counter_stays(tmp_path: Path) -> None:
    process = start(count_and_stay, tmp_path, 10)
    wait_until(lambda: 'dualface_jobs{state="running"} 7.0' in said(tmp_path), "the gauge shows")
    process.kill()
    process.join()
    assert "dualface_jobs" not in said(tmp_path)
    assert frames(tmp_path) == 10


def look_while_one_begins(folder: Path, step: int) -> None:
    """After the `step`-th look at the folder, the first that counts there begins."""
    looks = itertools.count()

    def begins(real: Callable[..., object]) -> Callable[..., object]:
        def act(*args: object) -> object:
            found = real(*args)
            if next(looks) == step:
                meter_of(folder).count(FRAMES, 10, stage="encode")
            return found

        return act

    glob = Path.glob
    Path.glob = begins(lambda *args: list(glob(*args)))  # type: ignore[method-assign,assignment]
    os.listdir = begins(os.listdir)  # type: ignore[assignment]
    render(folder)
    if next(looks) <= step:
        os._exit(3)
    os._exit(0 if frames(folder) == 10 else 1)


def test_a_process_may_begin_while_another_looks(tmp_path: Path) -> None:
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        code = ended(look_while_one_begins, folder, step)
        if code == 3:
            break
        assert code == 0
    assert step > 1


def set_and_forget(folder: Path) -> None:
    meter = meter_of(folder)
    for arena in ("gone", "there"):
        meter.set(LEASES_IN_USE, 3, kind="decoded", arena=arena)
        meter.set(QUEUE_MESSAGES, 3, queue=f"encode.{arena}")
    meter.forget(LEASES_IN_USE, kind="decoded", arena="gone")
    for arena in ("gone", "there"):
        meter.forget(QUEUE_MESSAGES, queue=f"encode.{arena}")
    first = said(folder)
    meter.set(QUEUE_MESSAGES, 4, queue="encode.gone")
    (folder / "said").write_text(first + said(folder))


def test_a_gauge_that_was_forgotten_is_not_told_until_it_is_set_again(tmp_path: Path) -> None:
    assert ended(set_and_forget, tmp_path) == 0
    told = (tmp_path / "said").read_text()
    assert re.findall(r'arena="(\w+)"', told) == ["there", "there"]
    assert re.findall(r"^dualface_queue_messages.*", told, re.M) == [
        'dualface_queue_messages{queue="encode.gone"} 4.0'
    ]
    assert "NaN" not in told


def test_a_worker_that_dies_again_and_again_does_not_fill_the_folder(tmp_path: Path) -> None:
    sizes = []
    for _ in range(12):
        ended(count_and_die, tmp_path, 1)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        # Names of processes have as many digits as the kernel has come to.
        names = sum(len(path.read_text()) for path in files if path.name == FOLDED)
        sizes.append((len(files), sum(path.stat().st_size for path in files) - names))
    assert sizes[-1] == sizes[2]
    assert frames(tmp_path) == 12


def fork_and_count(folder: Path) -> None:
    meter = meter_of(folder)
    meter.count(FRAMES, 100, stage="encode")
    for _ in range(3):
        if os.fork() == 0:
            meter.count(FRAMES, 1, stage="encode")
            os._exit(0)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    meter.count(FRAMES, 100, stage="encode")


def test_forks_count_into_files_of_their_own(tmp_path: Path) -> None:
    assert ended(fork_and_count, tmp_path) == 0
    assert frames(tmp_path) == 203


def die_and_fold(folder: Path, rounds: int) -> None:
    for _ in range(rounds):
        ended(count_and_die, folder, 1)
        fold(folder)


def test_a_reader_never_sees_a_counter_go_back_while_others_fold(tmp_path: Path) -> None:
    ended(count_and_die, tmp_path, 1)
    busy = start(die_and_fold, tmp_path, 12)
    seen = [0.0]
    while busy.exitcode is None:
        seen.append(frames(tmp_path))
        assert seen[-1] >= seen[-2]
    assert frames(tmp_path) == 13


def fold_and_die_at(folder: Path, step: int) -> None:
    """Die instead of the `step`-th change of the folder."""
    steps = itertools.count()

    def dies(real: Callable[..., object]) -> Callable[..., object]:
        def act(*args: object, **options: object) -> object:
            if next(steps) == step:
                os._exit(3)
            return real(*args, **options)

        return act

    for name in ("mkdir", "write_text", "rename", "unlink"):
        setattr(Path, name, dies(getattr(Path, name)))
    shutil.rmtree = dies(shutil.rmtree)  # type: ignore[assignment]
    fold(folder)
    os._exit(0)


def test_whoever_folds_may_die_at_any_step(tmp_path: Path) -> None:
    """And another process before anybody folds again."""
    for step in itertools.count():
        folder = tmp_path / str(step)
        other = start(count_and_stay, folder, 10)
        try:
            wait_until(lambda folder=folder: frames(folder) == 10, "it counts")  # type: ignore[misc]
            for _ in range(2):
                ended(count_and_die, folder, 2)  # the second one takes in the first
            code = ended(fold_and_die_at, folder, step)
        finally:
            other.kill()
            other.join()
        assert frames(folder) == 14
        assert frames(folder) == 14
        if code == 0:
            break
    assert step > 8


def fork_while_it_folds(folder: Path) -> None:
    with _alone(folder) as first:
        child = os.fork()
        if child == 0:
            signal.pause()
    with _alone(folder) as second:
        pass
    os.kill(child, signal.SIGKILL)
    os._exit(0 if first and second else 1)


def test_a_child_that_was_forked_while_its_parent_folded_keeps_nobody_from_it(
    tmp_path: Path,
) -> None:
    assert ended(fork_while_it_folds, tmp_path) == 0


def count_without_space(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    from shared.metrics import open_meter
    from shared.settings import Settings

    meter = open_meter(Settings(metrics_dir=folder), "encode")
    meter.count(FRAMES, 1, stage="encode")
    os._exit(0 if not meter.on else 1)


def test_a_full_disk_ends_the_counting_and_not_the_process(tmp_path: Path) -> None:
    assert ended(count_without_space, tmp_path) == 0
    assert frames(tmp_path) == 0


def count_everything(folder: Path) -> None:
    meter = meter_of(folder)
    do = {"counter": meter.count, "gauge": meter.set, "histogram": meter.observe}
    for metric in METRICS:
        for labels in itertools.product(*(label.values or ("one",) for label in metric.labels)):
            do[metric.kind](metric, 1, **dict(zip(metric.label_names, labels, strict=True)))
    # Asked for while the process lives: gauges, too.
    (folder / "said").write_bytes(render(folder)[0])


def test_everything_that_is_exported_is_in_the_list_and_reads_well(tmp_path: Path) -> None:
    assert ended(count_everything, tmp_path) == 0
    families = list(text_string_to_metric_families((tmp_path / "said").read_text()))
    listed = {metric.name.removesuffix("_total"): metric for metric in METRICS}
    assert {family.name for family in families} == set(listed)
    for family in families:
        metric = listed[family.name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.label_names)


def test_nobody_counts_and_nothing_is_said(tmp_path: Path) -> None:
    assert render(tmp_path / "nowhere")[0] == b""


@pytest.mark.parametrize("content", [b"", b"\xff" * 100])
def test_a_dead_processs_file_that_is_spoilt_loses_its_own_figures_only(
    tmp_path: Path, content: bytes
) -> None:
    ended(count_and_die, tmp_path, 1)
    for path in tmp_path.glob("counter_*.db"):
        path.write_bytes(content)
    ended(count_and_die, tmp_path, 2)
    assert frames(tmp_path) == 2
