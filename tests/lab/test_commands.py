"""`dualface models quantize` and `evaluate`, as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from services.infer.engines.onnx_cpu import OnnxCpuDetector
from services.infer.lab.calibrate import planes_of, read_image
from services.infer.lab.evaluate import evaluate
from services.infer.lab.quantize import quantize
from shared.errors import ErrorCode, PermanentError
from shared.models import entry_of, pull
from shared.models.added import entry_path
from shared.models.precision import (
    CalibrationLog,
    Condition,
    EvaluateRequest,
    Evaluation,
    Quantized,
    QuantizeRequest,
    Verdict,
    locate_precision,
    read_evaluation,
)
from tests.conftest import MODELS
from tests.lab.toys import draw, draw_turned, install, toy_entry, toy_model

Run = Callable[..., subprocess.CompletedProcess[str]]
CELLS = [(2, 2), (8, 5), (12, 12)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command, with a cache of its own that has the toy model."""
    install(tmp_path / "cache" / "models")
    env = os.environ | {"DUALFACE_CACHE_DIR": str(tmp_path / "cache")}
    env |= {"DUALFACE_STATE_DIR": str(tmp_path / "state"), "COLUMNS": "200"}

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "client.cli", "models", *map(str, arguments)],
            env=env, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    return call


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two pictures, five faces, of which the model can't find one: there is nothing."""
    draw(tmp_path / "a.png", CELLS)
    draw(tmp_path / "dark.png", [(4, 4)], level=10, ground=0)
    lines = [f"a.png,{4 * x},{4 * y},4,4," for x, y in CELLS]
    lines += ["dark.png,16,16,4,4,low_light", "dark.png,40,40,4,4,low_light"]
    path = tmp_path / "set.csv"
    path.write_text("\n".join(["file,x,y,w,h,condition", *lines]) + "\n")
    return path


def test_from_pictures_to_a_verdict(run: Run, labels: Path, tmp_path: Path) -> None:
    pictures = [tmp_path / "a.png", tmp_path / "dark.png"]
    done = run("quantize", "toy", "--frames", *pictures, "--count", "2", "--json")
    assert done.returncode == 0, done.stderr
    quantized = Quantized.model_validate_json(done.stdout)
    models = tmp_path / "cache" / "models"
    assert quantized.file == models / "toy.int8.onnx"
    log = CalibrationLog.model_validate_json((models / "toy.int8.calibration.json").read_text())
    assert log == quantized.log
    # the toy's points all fall together, as the eyes of a face seen from the side do
    assert [(frame.file, frame.condition) for frame in log.frames] == [
        ("dark.png", Condition.LOW_LIGHT),
        ("a.png", Condition.PROFILE),
    ]

    report = tmp_path / "reports" / "out.html"
    done = run("evaluate", "toy", "--labels", labels, "--report", report, "--json")
    assert done.returncode == 0, done.stderr
    found = Evaluation.model_validate(json.loads(done.stdout))
    assert (models / "toy.int8.evaluation.json").is_file()
    assert found.overall.faces == 5
    assert (found.overall.fp32.found, found.overall.variant.found) == (3, 3)
    assert found.measured is Verdict.EXCELLENT
    assert found.verdict is Verdict.NOT_RECOMMENDED
    assert not found.enough_faces
    faces = {row.condition: (row.faces, row.fp32.missed) for row in found.by_condition}
    assert faces == {Condition.LOW_LIGHT: (2, 2), Condition.PROFILE: (3, 0)}
    assert "NOT RECOMMENDED" in report.read_text()
    assert [path.name for path in report.parent.iterdir()] == ["out.html"]

    entry = toy_entry(toy_model())
    path, precision = locate_precision("toy", "int8", models)
    planes, layout = planes_of(read_image(tmp_path / "a.png"))
    (seen,) = OnnxCpuDetector(entry, path).detect([planes], layout)
    assert precision == "int8"
    assert {(face.x, face.y) for face in seen} == {(4 * x, 4 * y) for x, y in CELLS}


def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", CELLS)
    far = tmp_path / "far.csv"
    far.write_text("file,x,y,w,h\na.png,100,100,4,4\n")
    done = run("evaluate", "toy", "--labels", far, "--precision", "fp16")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr == (
        "dualface: The label at 100, 100 (4x4) lies outside the picture a.png, which has 64x64 px; "
        "are these its labels?\n"
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of this process, with the toy model."""
    install(tmp_path / "cache" / "models")
    monkeypatch.setenv("DUALFACE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DUALFACE_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "cache" / "models"


def test_fp16_needs_no_calibration(cache: Path, labels: Path) -> None:
    found = evaluate(EvaluateRequest(name="toy", precision="fp16", labels=labels)).evaluation
    assert (found.overall.fp32.found, found.overall.variant.found) == (3, 3)
    assert found.cpu is None
    assert (cache / "toy.fp16.onnx").is_file()


@pytest.mark.usefixtures("cache")
def test_boxes_are_of_the_picture_as_it_is_stored(tmp_path: Path) -> None:
    draw_turned(tmp_path / "a.jpg")
    (tmp_path / "set.csv").write_text("file,x,y,w,h\na.jpg,52,8,4,4\n")  # outside 40x64
    request = EvaluateRequest(name="toy", precision="fp16", labels=tmp_path / "set.csv")
    assert evaluate(request).evaluation.overall.faces == 1


@pytest.mark.usefixtures("cache")
def test_int8_without_a_copy_says_how_to_make_one(labels: Path) -> None:
    with pytest.raises(PermanentError, match="run 'dualface models quantize toy"):
        evaluate(EvaluateRequest(name="toy", labels=labels))


@pytest.mark.usefixtures("cache")
def test_a_file_that_is_not_there_is_said_before_any_is_decoded(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", CELLS)
    frames = (tmp_path / "a.png", tmp_path / "none.mp4")
    with pytest.raises(PermanentError, match=r"none\.mp4 does not exist"):
        quantize(QuantizeRequest(name="toy", frames=frames))


@pytest.mark.usefixtures("cache")
def test_a_folder_of_frames_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"is a folder; name its files: .*/\*\.jpg"):
        quantize(QuantizeRequest(name="toy", frames=(tmp_path,)))


@pytest.mark.parametrize("report", ["file/out.html", "folder"])
def test_a_report_that_cannot_be_written_is_said_before_any_work(
    cache: Path, labels: Path, tmp_path: Path, report: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    request = EvaluateRequest(name="toy", precision="fp16", labels=labels, report=tmp_path / report)
    with pytest.raises(PermanentError, match="can't be written") as caught:
        evaluate(request)
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE
    assert not (cache / "toy.fp16.onnx").exists()


@pytest.mark.parametrize(
    "report", ["set.csv", "link.html", "a.png", "cache/models/toy.onnx", "cache/models/new.html"]
)
def test_a_report_replaces_nothing_that_is_evaluated(
    cache: Path, labels: Path, tmp_path: Path, report: str
) -> None:
    (tmp_path / "link.html").symlink_to(labels)
    before = {path: path.read_bytes() for path in (labels, tmp_path / "a.png", cache / "toy.onnx")}
    request = EvaluateRequest(name="toy", precision="fp16", labels=labels, report=tmp_path / report)
    with pytest.raises(PermanentError, match=r"would replace|among the models") as caught:
        evaluate(request)
    assert caught.value.code is ErrorCode.BAD_OPTION
    assert all(path.read_bytes() == data for path, data in before.items())
    assert not (cache / "toy.fp16.onnx").exists()


def test_too_few_faces_do_not_replace_an_evaluation_on_enough(
    cache: Path, labels: Path, tmp_path: Path
) -> None:
    report = tmp_path / "out.html"
    request = EvaluateRequest(name="toy", precision="fp16", labels=labels, report=report)
    first = evaluate(request)
    assert first.former is None
    assert evaluate(request).former is None, "one on as few is no better"
    sound = first.evaluation.model_copy(
        update={"enough_faces": True, "verdict": Verdict.ACCEPTABLE}
    )
    first.file.write_text(sound.model_dump_json())
    again = evaluate(request)
    assert again.former == sound
    assert not again.evaluation.enough_faces
    assert read_evaluation("toy", "fp16", cache) == sound
    assert "ACCEPTABLE; it goes on deciding" in report.read_text()
    other = sound.model_copy(update={"file_sha256": "0" * 64})
    first.file.write_text(other.model_dump_json())
    assert evaluate(request).former is None, "it was of another copy"


def test_a_copy_is_not_written_over_a_model_that_somebody_added(
    cache: Path, tmp_path: Path
) -> None:
    draw(tmp_path / "a.png", CELLS)
    entry_path(cache, "toy.int8").write_text("{}")
    with pytest.raises(PermanentError, match=r"models remove toy\.int8"):
        quantize(QuantizeRequest(name="toy", frames=(tmp_path / "a.png",)))


@pytest.mark.footage
@pytest.mark.parametrize("name", ["yunet_n", "centerface"])
def test_a_development_model_in_int8_finds_what_fp32_finds_in_real_pictures(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    known = Path.home() / ".cache" / "dualface" / "models"
    try:
        pull(name, known, [MODELS])
    except PermanentError as error:
        if error.code is not ErrorCode.MODEL_MISSING:
            raise
        pytest.skip(f"the model {name} can't be had: {error}")
    models = tmp_path / "cache" / "models"
    models.mkdir(parents=True)
    for path in known.glob(f"{entry_of(name).file}*"):
        (models / path.name).symlink_to(path)
    monkeypatch.setenv("DUALFACE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("DUALFACE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DUALFACE_MODEL_FOLDERS", json.dumps([str(MODELS)]))
    frames = (
        footage / "faces/intel-head-pose-face-detection-female-and-male.gif",
        footage / "images/pyfeat-multi_face.jpg",
        footage / "images/pyfeat-single_face.jpg",
    )
    made = quantize(QuantizeRequest(name=name, frames=frames, count=12))
    assert len(made.log.frames) == 12
    labels = footage / "images/dlib/training.xml"
    row = evaluate(EvaluateRequest(name=name, labels=labels)).evaluation.overall
    assert row.faces == 18
    assert row.fp32.found >= 16
    assert row.variant.found >= row.fp32.found - 1
    assert row.box_iou is not None
    assert row.box_iou > 0.85
