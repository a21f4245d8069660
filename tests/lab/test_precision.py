"""Which copy is used follows from files alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from services.infer.engines import Detectors
from services.infer.engines.onnx_cuda import OnnxCudaDetector
from services.infer.engines.onnx_session import CPU
from services.infer.lab.quantize import store, to_int8
from shared.assets import sha256_of
from shared.errors import ErrorCode, PermanentError
from shared.models.precision import (
    Device,
    Evaluation,
    Speed,
    Variant,
    Verdict,
    adopted_precision,
    evaluation_path,
    find_variant,
    locate_precision,
    variant_path,
)
from shared.runtime import Runtime
from shared.settings import Settings
from tests.lab.test_report import evaluation
from tests.lab.toys import install, toy_model

FAST = Speed(input=(64, 64), fp32_ms=2.0, variant_ms=1.0, runs=40)
SLOW = Speed(input=(64, 64), fp32_ms=1.0, variant_ms=2.0, runs=40)
Judge = Callable[..., Evaluation]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder with the toy model and an INT8 copy."""
    install(tmp_path)
    store(tmp_path, "toy", "int8", b"copy", sha256_of(tmp_path / "toy.onnx"))
    return tmp_path


@pytest.fixture
def judge(cache: Path) -> Judge:
    """Keeps an evaluation as `models evaluate` does."""

    def keep(
        verdict: Verdict,
        cpu: Speed | None = SLOW,
        precision: Variant = "int8",
        **changes: object,
    ) -> Evaluation:
        made = evaluation(verdict).model_copy(
            update={
                "precision": precision,
                "cpu": cpu,
                "base_sha256": sha256_of(cache / "toy.onnx"),
                "file_sha256": sha256_of(variant_path(cache, "toy", precision)),
                **changes,
            }
        )
        evaluation_path(cache, "toy", precision).write_text(made.model_dump_json())
        return made

    return keep


@pytest.mark.parametrize(
    ("verdict", "cpu", "device", "adopted"),
    [
        (Verdict.EXCELLENT, SLOW, "gpu", "int8"),
        (Verdict.ACCEPTABLE, SLOW, "gpu", "int8"),
        (Verdict.NOT_RECOMMENDED, FAST, "gpu", "fp16"),
        (Verdict.EXCELLENT, FAST, "cpu", "int8"),
        (Verdict.EXCELLENT, SLOW, "cpu", "fp32"),
        (Verdict.EXCELLENT, None, "cpu", "fp32"),
        (Verdict.NOT_RECOMMENDED, FAST, "cpu", "fp32"),
    ],
)
def test_auto_takes_int8_where_it_was_found_good_and_on_a_cpu_faster(
    cache: Path, judge: Judge, verdict: Verdict, cpu: Speed | None, device: Device, adopted: str
) -> None:
    judge(verdict, cpu)
    assert adopted_precision("toy", cache, device=device) == adopted


def test_without_an_evaluation_int8_is_not_taken(cache: Path) -> None:
    assert adopted_precision("toy", cache) == "fp16"
    assert adopted_precision("toy", cache, device="cpu") == "fp32"


@pytest.mark.parametrize("changed", ["base_sha256", "file_sha256"])
def test_an_evaluation_of_another_file_says_nothing(
    cache: Path, judge: Judge, changed: str
) -> None:
    judge(Verdict.EXCELLENT, **{changed: "f" * 64})
    assert adopted_precision("toy", cache) == "fp16"


@pytest.mark.parametrize("text", ["", "{}", '{"verdict": "EXCELLENT"}'])
def test_an_evaluation_that_cannot_be_read_says_nothing(cache: Path, text: str) -> None:
    evaluation_path(cache, "toy", "int8").write_text(text)
    assert adopted_precision("toy", cache) == "fp16"


def test_an_altered_copy_is_no_copy(cache: Path, judge: Judge) -> None:
    judge(Verdict.EXCELLENT)
    variant_path(cache, "toy", "int8").write_bytes(b"other")
    assert find_variant("toy", "int8", cache) is None
    assert adopted_precision("toy", cache) == "fp16"


def test_a_new_copy_voids_the_evaluation_of_the_old_one(cache: Path, judge: Judge) -> None:
    judge(Verdict.EXCELLENT)
    base = sha256_of(cache / "toy.onnx")
    store(cache, "toy", "int8", b"copy", base)
    assert adopted_precision("toy", cache) == "int8"
    store(cache, "toy", "int8", b"another", base)
    assert adopted_precision("toy", cache) == "fp16"
    assert not evaluation_path(cache, "toy", "int8").exists()


def test_fp16_found_bad_on_enough_faces_leaves_fp32(cache: Path, judge: Judge) -> None:
    store(cache, "toy", "fp16", b"half", sha256_of(cache / "toy.onnx"))
    judge(Verdict.NOT_RECOMMENDED, None, "fp16", enough_faces=False)
    assert adopted_precision("toy", cache) == "fp16"
    judge(Verdict.NOT_RECOMMENDED, None, "fp16", enough_faces=True)
    assert adopted_precision("toy", cache) == "fp32"


def test_a_named_precision_is_given_whatever_its_verdict(cache: Path, judge: Judge) -> None:
    judge(Verdict.NOT_RECOMMENDED)
    assert locate_precision("toy", "int8", cache) == (cache / "toy.int8.onnx", "int8")
    assert locate_precision("toy", "fp32", cache) == (cache / "toy.onnx", "fp32")
    assert locate_precision("toy", "auto", cache) == (cache / "toy.onnx", "fp32")
    assert locate_precision("toy", "fp16", cache, device="gpu") == (cache / "toy.onnx", "fp16")
    assert locate_precision("toy", "fp16", cache, device="cpu") == (cache / "toy.onnx", "fp32")


def test_a_named_int8_copy_that_is_missing_is_said_with_the_way_to_it(tmp_path: Path) -> None:
    install(tmp_path)
    with pytest.raises(PermanentError, match="run 'dualface models quantize toy") as caught:
        locate_precision("toy", "int8", tmp_path)
    assert caught.value.code is ErrorCode.MODEL_MISSING


@dataclass
class Worker:
    """What an engine of ONNX Runtime asks of a runtime."""

    settings: Settings
    device: Callable[[], Any] = lambda: None


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("fp32", "onnx-cpu:toy"),
        ("fp16", "onnx-cpu:toy"),
        ("auto", "onnx-cpu:toy"),
        ("int8", "onnx-cpu:toy.int8"),
    ],
)
def test_a_worker_on_a_cpu_looks_with_the_precision_of_its_settings_and_says_so(
    tmp_path: Path, wanted: str, name: str
) -> None:
    cache = tmp_path / "models"
    install(cache)
    copy, _ = to_int8(toy_model(), iter([np.full((1, 3, 64, 64), 255, np.float32)]))
    store(cache, "toy", "int8", copy.data, sha256_of(cache / "toy.onnx"))
    settings = Settings.model_validate({"cache_dir": tmp_path, "infer_precision": wanted})
    lazy = Detectors().of(cast(Runtime, Worker(settings)), "toy", "host")[0]
    assert lazy.get().name == name


@pytest.fixture
def on_gpu(
    doubles: None,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], str]:
    """What looks by ONNX Runtime on a GPU, by the precision of the settings: its own code, over its
    provider for the CPU and the memory of a double."""
    from shared.cuda.device import Device

    over_cpu = partial(OnnxCudaDetector, provider=CPU, place="cpu")
    monkeypatch.setattr("services.infer.engines.onnx_cuda.OnnxCudaDetector", over_cpu)
    device = Device()

    def name(wanted: str) -> str:
        settings = Settings.model_validate({"cache_dir": tmp_path, "infer_precision": wanted})
        made = cast(Runtime, Worker(settings, lambda: device))
        chain = Detectors().of(made, "toy", "device")
        (lazy,) = (each for each in chain if each.name == "onnx-cuda")
        return lazy.get().name

    return name


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("fp32", "onnx-cuda:toy"),
        ("fp16", "onnx-cuda:toy"),
        ("auto", "onnx-cuda:toy"),
        ("int8", "onnx-cuda:toy.int8"),
    ],
)
def test_onnx_runtime_on_a_gpu_looks_in_int8_where_that_is_named_and_says_so(
    on_gpu: Callable[[str], str], tmp_path: Path, wanted: str, name: str
) -> None:
    cache = tmp_path / "models"
    install(cache)
    copy, _ = to_int8(toy_model(), iter([np.full((1, 3, 64, 64), 255, np.float32)]))
    store(cache, "toy", "int8", copy.data, sha256_of(cache / "toy.onnx"))
    good = evaluation(Verdict.EXCELLENT).model_copy(
        update={
            "cpu": FAST,
            "base_sha256": sha256_of(cache / "toy.onnx"),
            "file_sha256": sha256_of(variant_path(cache, "toy", "int8")),
        }
    )
    evaluation_path(cache, "toy", "int8").write_text(good.model_dump_json())
    assert adopted_precision("toy", cache) == "int8", "what auto means to TensorRT"
    assert on_gpu(wanted) == name


def test_a_named_int8_copy_that_is_missing_is_missed_by_onnx_runtime_on_a_gpu_too(
    on_gpu: Callable[[str], str], tmp_path: Path
) -> None:
    install(tmp_path / "models")
    with pytest.raises(PermanentError) as caught:
        on_gpu("int8")
    assert caught.value.code is ErrorCode.MODEL_MISSING
