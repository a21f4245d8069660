"""What is said of hardware that is not here, over a stand-in for pynvml."""

from __future__ import annotations

import json
import os

import pytest

from client.doctor.detect import keep
from client.doctor.gpus import driver, gpus, known_hardware, packages, trials
from shared.errors import PermanentError
from shared.findings import Finding, State
from shared.gpu import Hardware, devices, inventory
from shared.gpu.matrix import COMPUTE, DRIVER, unmet, version_of
from shared.gpu.nvml import Nvml
from shared.settings import Settings
from tests.conftest import PROJECT
from tests.doctor.doubles import SITE, path_with, pynvml_of

GPU = "GPU-00000000-0000-0000-0000-000000000000"
OTHER = "GPU-00000001-0000-0000-0000-000000000000"
SLICE = "MIG-00000000-0000-0000-0000-00000000000"
GIB = 1 << 30


@pytest.fixture(autouse=True)
def nothing_granted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor withheld, of GPUs that are made up."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def hardware_of(name: str) -> Hardware:
    with pynvml_of(name) as nvml:
        return inventory(nvml)


def chosen(**settings: object) -> Settings:
    return Settings.model_validate(settings)


def said(name: str) -> list[Finding]:
    hardware = hardware_of(name)
    return [*driver(hardware, chosen()), *gpus(hardware, chosen())]


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("no-driver", "driver not here"),
        ("none", "driver ok, gpus not here"),
        ("mismatch", "driver problem"),
        ("gtx1660", "driver ok, gpu ok, gpu choice ok"),
        ("rtx4090", "driver ok, gpu ok, gpu choice ok"),
        ("t4", "driver ok, gpu ok, gpu choice ok"),
        ("a100", "driver ok, gpu ok, gpu choice ok"),
        ("h100", "driver ok, gpu ok, gpu choice ok"),
        ("h100-mig", "driver ok, gpu ok, gpu choice ok"),
        ("two-gpus", "driver ok, gpu ok, gpu warning, gpu choice ok"),
        ("old-driver", "driver problem, gpu ok, gpu choice warning"),
        ("sick", "driver ok, gpu problem, gpu choice ok"),
    ],
)
def test_each_hardware_has_its_findings_and_what_is_not_well_a_fix(name: str, states: str) -> None:
    found = said(name)
    assert ", ".join(f"{each.check} {each.state.value}" for each in found) == states
    assert all(each.fix for each in found if each.state is not State.OK)


@pytest.mark.parametrize(
    ("name", "nvenc"),
    [("gtx1660", True), ("t4", True), ("a100", False), ("h100", False), ("h100-mig", False)],
)
def test_who_has_an_encoder_is_known_before_trying(name: str, nvenc: bool) -> None:
    assert [gpu.nvenc for gpu in hardware_of(name).gpus] == [nvenc]


def test_what_nvml_does_not_tell_is_none() -> None:
    (gpu,) = hardware_of("gtx1660").gpus
    assert (gpu.mig, gpu.ecc_errors, gpu.slices) == (None, None, ())
    assert (gpu.compute, gpu.memory_total_bytes) == ((7, 5), 6 * GIB)
    assert hardware_of("gtx1660").cuda == "13.0"


def test_slices_have_their_own_memory_and_engines() -> None:
    (gpu,) = hardware_of("h100-mig").gpus
    told = [(part.uuid, part.profile, part.memory_bytes, part.decoders) for part in gpu.slices]
    assert told == [(f"{SLICE}1", "1g.10gb", 10 * GIB, 1), (f"{SLICE}2", "3g.40gb", 40 * GIB, 3)]


@pytest.mark.parametrize(
    ("name", "wanted", "used"),
    [
        ("rtx4090", "auto", [GPU]),
        ("rtx4090", "none", []),
        ("two-gpus", "auto", [GPU]),  # the other one is too old
        ("two-gpus", [OTHER], [OTHER]),  # but who names it, gets it
        ("two-gpus", [OTHER, GPU, OTHER], [OTHER, GPU]),
        ("h100-mig", "auto", [f"{SLICE}1", f"{SLICE}2"]),
        ("h100-mig", [f"{SLICE}2"], [f"{SLICE}2"]),
        ("old-driver", "auto", []),
        ("no-driver", "auto", []),
    ],
)
def test_which_devices_are_used(name: str, wanted: object, used: list[str]) -> None:
    assert devices(chosen(gpu_devices=wanted), hardware_of(name)) == used


L4 = {"name": "NVIDIA L4", "compute": [8, 9], "memory": 24 * GIB}
TWO_L4 = json.dumps({"gpus": [L4, L4]})


@pytest.mark.parametrize(
    ("name", "visible", "used"),
    [
        (TWO_L4, None, [GPU, OTHER]),
        (TWO_L4, "1", [OTHER]),
        (TWO_L4, " 1 , 0", [GPU, OTHER]),
        (TWO_L4, "1,1", [OTHER]),
        (TWO_L4, OTHER, [OTHER]),
        (TWO_L4, "GPU-00000001", [OTHER]),
        (TWO_L4, "GPU-0000000", []),  # which of them?
        (TWO_L4, "GPU-", []),
        (TWO_L4, "0x1", []),
        (TWO_L4, "", []),
        (TWO_L4, "-1", []),
        (TWO_L4, "NoDevFiles", []),
        (TWO_L4, "1,-1,0", [OTHER]),
        (TWO_L4, "0,7,1", [GPU]),
        (TWO_L4, "0,,1", [GPU]),
        ("h100-mig", f"{SLICE}2", [f"{SLICE}2"]),
        ("h100-mig", "0", [f"{SLICE}1"]),
        ("h100-mig", GPU, [f"{SLICE}1"]),
        ("h100-mig", f"MIG-{GPU}/1/0", []),
        ("two-gpus", "1", []),  # the one that is too old
    ],
)
def test_gpus_that_were_not_granted_are_not_used(
    name: str, visible: str | None, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    hardware = hardware_of(name)
    assert devices(chosen(), hardware) == used
    first = hardware.gpus[0].slices[0].uuid if hardware.gpus[0].slices else GPU
    assert devices(chosen(gpu_devices=[first]), hardware) == [first], "who names it, gets it"


def test_who_grants_too_little_is_told_what_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    finding = list(gpus(hardware_of("rtx4090"), chosen()))[-1]
    assert (finding.check, finding.state) == ("gpu choice", State.WARNING)
    assert "CUDA_VISIBLE_DEVICES='-1'" in finding.text
    assert "CUDA_VISIBLE_DEVICES" in finding.fix


def test_a_missing_package_is_told_with_the_command_that_then_uses_the_gpu() -> None:
    (finding,) = driver(hardware_of("no-driver"), chosen())
    assert "`make setup GPU=1`, then `.venv-gpu/bin/dualface`" in finding.fix
    assert "$(if $(GPU),.venv-gpu,.venv)" in (PROJECT / "Makefile").read_text()
    for page in ("README.md", "docs/gpu.md"):
        assert ".venv-gpu/bin/dualface" in (PROJECT / page).read_text(), page


@pytest.mark.parametrize(
    ("name", "why"),
    [("h100-mig", "it is divided"), ("no-driver", "NVML Shared Library"), ("none", "shows no GPU")],
)
def test_a_named_device_that_is_not_there_is_an_error_that_says_why(name: str, why: str) -> None:
    with pytest.raises(PermanentError, match=why):
        devices(chosen(gpu_devices=[GPU]), hardware_of(name))


def test_a_choice_that_can_not_be_had_is_told_once_with_what_to_do() -> None:
    hardware = Hardware(reason="the package nvidia-ml-py is not installed")
    settings = chosen(gpu_devices=[GPU])
    (finding,) = gpus(hardware, settings)
    assert "gpu.devices (DUALFACE_GPU_DEVICES) names" in finding.text
    assert "`make setup GPU=1`" in finding.text
    assert list(keep(settings, hardware, [])) == [], "the folder of settings is not to blame"


@pytest.mark.parametrize(("name", "how"), [("crash", "SIGSEGV"), ("hang", "did not end within")])
def test_a_driver_that_takes_its_process_along_is_a_finding(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", path_with(SITE))
    monkeypatch.setenv("DOUBLE_HARDWARE", name)
    if name == "hang":
        monkeypatch.setattr("client.doctor.gpus.NVML_LIMIT_S", 1.0)
    hardware, (finding,) = known_hardware()
    assert (finding.check, finding.state) == ("driver", State.PROBLEM)
    assert how in finding.text
    assert hardware.gpus == ()


def test_nvml_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", path_with(SITE))
    monkeypatch.setenv("DOUBLE_HARDWARE", "two-gpus")
    hardware, trouble = known_hardware()
    assert (hardware, trouble) == (hardware_of("two-gpus"), [])


def test_an_own_machine_may_be_given_as_json() -> None:
    machine = {"gpus": [{"name": "NVIDIA L4", "compute": [8, 9], "memory": 24 * GIB}]}
    (gpu,) = hardware_of(json.dumps(machine)).gpus
    assert (gpu.name, gpu.nvenc) == ("NVIDIA L4", None)


def test_what_is_wrong_with_a_driver_is_no_problem_for_who_wants_no_gpu() -> None:
    spared = chosen(gpu_devices="none")
    for name in ("old-driver", "mismatch"):
        (finding,) = driver(hardware_of(name), spared)
        assert finding.state is State.WARNING


def test_packages_for_gpus_are_looked_for_only_where_there_is_a_gpu() -> None:
    assert list(packages(hardware_of("none"), chosen())) == []
    assert list(packages(hardware_of("t4"), chosen(gpu_devices="none"))) == []
    found = list(packages(hardware_of("t4"), chosen()))
    named = list(packages(hardware_of("t4"), chosen(gpu_devices=[GPU])))
    assert State.PROBLEM not in {each.state for each in found}
    assert {each.state for each in named} >= {State.PROBLEM}
    assert {each.check for each in found} >= {"package cupy-cuda13x", "package onnxruntime-gpu"}
    assert all("pip" in each.fix for each in found if each.state is not State.OK)


@pytest.mark.parametrize(
    ("driver_version", "parts"),
    [("580.65.06", 0), ("580.65.05", 1), ("595.10", 0), ("565.57.01", 2), ("470.256.02", 3)],
)
def test_an_old_driver_is_measured_against_what_each_part_needs(
    driver_version: str, parts: int
) -> None:
    lacking = unmet(DRIVER, version_of(driver_version))
    assert len(lacking) == parts
    assert all(need.source.startswith("https://") for need in lacking)


def test_the_oldest_gpus_that_will_do_are_those_of_turing() -> None:
    assert unmet(COMPUTE, (7, 5)) == []
    assert unmet(COMPUTE, (7, 0))
    assert DRIVER[0].text == "580.65.06"


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_a_real_gpu_passes_all_its_trials() -> None:
    if Nvml().module is None and os.environ.get("REQUIRE_GPU") != "1":
        pytest.skip("no NVIDIA driver here")
    hardware, trouble = known_hardware()
    assert trouble == []
    assert hardware.gpus
    found = list(trials(chosen(), hardware, brief=False))
    assert {"cuda.ipc", "decode.nvdec", "encode.nvenc"} <= {each.check for each in found}
    assert [each for each in found if each.state is State.PROBLEM] == []
