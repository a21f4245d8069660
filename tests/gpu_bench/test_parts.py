"""Parts, figures and processes of the benchmark of GPUs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import run_parts
from benchmarks.gpu.about import DOUBLE, Gpu, look
from benchmarks.gpu.bench import FULL, Bench
from benchmarks.gpu.children import Crew, FailedError, alone
from benchmarks.gpu.rated import rating
from benchmarks.gpu.results import Machine, Outcome, Results, figure
from shared.cuda.device import Device
from shared.settings import Settings
from tests.gpu_bench.workers import adds, dies, says_no, sleeps

GPU = Gpu("NVIDIA H100 80GB HBM3", "GPU-1", (9, 0), 80 << 30)
PATIENCE_S = 60.0


def empty(rehearsal: bool = False) -> Results:
    machine = Machine(
        gpu=GPU.name,
        gpu_uuid=GPU.uuid,
        compute=GPU.compute,
        memory_bytes=GPU.total_bytes,
        busy_before=0.0,
        driver=None,
        cuda_of_driver=None,
        cores=2,
        processor="",
        memory_of_host_bytes=1,
        system="",
        python="",
        packages={"av": "18", "pytest": "9"},
        commit=None,
    )
    return Results(
        notice="",
        rehearsal=rehearsal,
        quick=False,
        date_utc=datetime.now(UTC),
        command="",
        machine=machine,
        parts=(),
    )


def on_h100(folder: Path) -> Bench:
    return Bench(Settings(), Settings(), GPU, FULL, folder, False)


def breaks(_: Bench) -> Outcome:
    raise RuntimeError("the GPU fell off the bus\nand more")


def works(_: Bench) -> Outcome:
    values = (figure("latency", "ms", [3, 1, 2], "of something", most=2),)
    return Outcome(line="2 ms", figures=values, notes=("a note",))


def test_a_part_that_fails_says_why_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"first": ("breaks", breaks), "second": ("works", works)}
    run_parts(on_h100(tmp_path), empty(), parts, tmp_path)
    written = Results.model_validate_json((tmp_path / "results.json").read_text())
    assert [part.state for part in written.parts] == ["failed", "measured"]
    assert written.parts[0].why == "the GPU fell off the bus"
    assert written.parts[1].figures == works(on_h100(tmp_path)).figures
    table = (tmp_path / "results.md").read_text()
    assert "failed: the GPU fell off the bus" in table
    assert "| latency | 2 ms | 1 to 3 | 3 | at most 2 (met) | of something |" in table
    assert "first: failed: the GPU fell off the bus" in capsys.readouterr().out


def test_files_are_written_after_each_part(tmp_path: Path) -> None:
    def looks(_: Bench) -> Outcome:
        before = Results.model_validate_json((tmp_path / "results.json").read_text())
        assert [part.name for part in before.parts] == ["first"]
        return works(_)

    parts = {"first": ("works", works), "second": ("looks", looks)}
    done = run_parts(on_h100(tmp_path), empty(), parts, tmp_path)
    assert [part.why for part in done.parts] == ["", ""]


def test_a_target_is_met_by_the_median() -> None:
    assert figure("x", "ms", [1, 2, 9], "", most=2).met is True
    assert figure("x", "ms", [1, 3, 3], "", most=2).met is False
    assert figure("x", "times", [7, 8, 9], "", least=8).met is True
    assert figure("x", "times", [7], "", least=8).met is False
    assert figure("x", "times", [7], "").met is None


def test_an_engines_rating_is_that_of_its_generation_and_unknown_where_nobody_published_any() -> (
    None
):
    hopper = rating("h264", (9, 0), "GPU-1")
    assert hopper is not None
    assert hopper.fps == 771
    assert "Turing" in hopper.how
    assert "not scaled" in hopper.how
    assert [hopper.of(decoders, 7) for decoders in (1, 4, 8)] == [771, 4 * 771, 7 * 771]
    assert hopper.of(8, None) == 771, "one engine, where nobody tells"
    assert rating("h264", (7, 0), "GPU-1") is None
    assert rating("mpeg2video", (9, 0), "GPU-1") is None


def test_what_a_process_can_not_do_is_told_in_its_words() -> None:
    with pytest.raises(FailedError, match="ValueError: no such device"):
        alone(says_no, "no such device", patience_s=PATIENCE_S)


def test_a_process_that_dies_or_hangs_is_a_failure_and_not_waited_for() -> None:
    with pytest.raises(FailedError, match="dies ended with code 7"):
        alone(dies, patience_s=PATIENCE_S)
    with pytest.raises(FailedError, match="sleeps did not answer"):
        alone(sleeps, patience_s=0.01)


def test_a_crew_is_talked_to_one_by_one() -> None:
    with Crew(adds, 2, 10) as crew:
        crew.ready()
        crew.tell(0, 1)
        crew.tell(1, 2)
        assert (crew.hear(1, PATIENCE_S), crew.hear(0, PATIENCE_S)) == (12, 11)
        crew.tell(0, None)
        assert crew.answer(0, PATIENCE_S) == -11


def test_work_is_timed_by_the_device_once_and_to_its_end(device: Device) -> None:
    source, target = device.empty((1 << 20,)), device.empty((1 << 20,))
    calls = []

    def work() -> None:
        calls.append(device.copy(source, target))

    assert device.timed(work) > 0
    assert len(calls) == 1
    with pytest.raises(ZeroDivisionError):
        device.timed(lambda: 1 // 0)
    assert device.timed(work) > 0, "the device can be used as before"


@pytest.mark.usefixtures("doubles")
def test_the_number_of_its_decoding_engines_is_a_fact_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DOUBLE_NVDEC_ENGINES", "7")
    settings = Settings(gpu_device="GPU-d0b1e0a1-5f3c-4e7d-9a2b-6c8d1e2f3a4b")
    with monkeypatch.context() as kept:  # what opening the device sets for the process
        kept.setenv("CUDA_VISIBLE_DEVICES", "")
        kept.setenv("CUDA_DEVICE_ORDER", "")
        kept.setenv("CUPY_CACHE_DIR", "")
        assert look(None, settings).nvdec_engines == 7
        kept.setenv("DOUBLE_HARDWARE", "h100-mig")
        part = settings.model_copy(update={"gpu_device": f"MIG-{'0' * 8}-0000-0000-0000-{2:012}"})
        assert look(None, part).nvdec_engines == 3, "of a slice NVML tells its own"


def test_the_double_is_known_by_its_name(device: Device, vendor: str) -> None:
    gpu = Gpu(device.name, device.uuid, device.compute, device.total_bytes)
    assert gpu.double == (vendor == "double")
    assert (device.name == DOUBLE) == gpu.double
