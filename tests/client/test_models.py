"""`dualface models`, with small models; they are tried and timed by the service's own code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.lab import ask
from client.models import models_app
from client.models_add import Wishes, add_command, make_entry
from client.models_commands import bench_command, list_command, pull_command, remove_command
from services.infer.engines.onnx_cpu import OnnxCpuDetector
from services.infer.lab.bench import measure
from services.infer.lab.trial import try_out
from shared.errors import DualfaceError, ErrorCode, PermanentError
from shared.models import choose, draft, locate
from shared.models.catalogue import FAMILIES, Added
from shared.models.lab import TrialAnswer, TrialRequest
from shared.models.precision import Condition, Evaluated, EvaluateRequest, Verdict
from shared.settings import Settings
from tests.lab.test_report import evaluation
from tests.lab.test_report import row as row_of
from tests.models.graphs import bright_scrfd, bright_yolo, constant, scrfd_outputs, yolo_output
from tests.videos import VideoSpec, make_video
from tests.websites import Website, make_authority, website


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", model_folders=())


@pytest.fixture
def site(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Website]:
    """A server whose authority this process trusts."""
    authority = make_authority(tmp_path_factory.mktemp("tls"))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    monkeypatch.setenv("no_proxy", "*")
    with website(authority) as made:
        yield made


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of the service is done in this process: a process of its own takes a second to
    start. Tests without it show that nothing else is different."""

    def asked(module: str, request: Any, _kind: object, _patience_s: float | None) -> object:
        return {"trial": try_out, "bench": measure}[module.rpartition(".")[2]](request)

    monkeypatch.setattr("client.models_add.ask", asked)
    monkeypatch.setattr("client.models_commands.ask", asked)


def kept(settings: Settings) -> set[str]:
    folder = settings.cache_dir / "models"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def refusal(call: Callable[[], object]) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        call()
    assert caught.value.message.count("\n") == 0
    return caught.value


def listed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    capsys.readouterr()
    assert list_command(settings, as_json=True) == 0
    return {each["name"]: each for each in json.loads(capsys.readouterr().out)}


# --- add ------------------------------------------------------------------------------------------


def test_one_line_makes_a_file_a_detector_that_takes_the_size_it_takes(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = bright_yolo(tmp_path / "yolov8n-face.onnx", 96, 64)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    wishes = Wishes("mine", str(source), "yolov8-face", sha256=sha256.upper(), licence="AGPL-3.0")
    assert add_command(settings, wishes) == 0
    said = capsys.readouterr()
    assert sha256 in said.out
    assert "96x64 only" in said.out
    assert said.err == ""
    assert kept(settings) == {"mine.onnx", "mine.entry.json"}
    cache = settings.cache_dir / "models"
    entry = choose("mine", cache)
    assert entry.fixed_input == (96, 64)
    assert entry.origin == Added(source=str(source))
    assert OnnxCpuDetector(entry, locate("mine", cache)).name == "onnx-cpu:mine"
    mine = listed(settings, capsys)["mine"]
    facts = (mine["family"], mine["licence"], mine["sha256"], mine["here"], mine["auto"])
    assert facts == ("yolov8-face", "AGPL-3.0", sha256, True, False)
    assert remove_command(settings, "mine") == 0
    assert kept(settings) == set()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": "a/b"}, "can't be a model's name"),
        ({"name": "yunet_n"}, "taken by dualface"),
        ({"family": "yolov8"}, "yolov8-face, scrfd, rt-detr"),
        ({"source": "nowhere.onnx"}, "nowhere.onnx can't be read"),
        ({"source": "."}, "directory"),
        ({"source": "http://127.0.0.1/a.onnx"}, "no https:// address"),
        ({"source": "file:///etc/passwd"}, "no https:// address"),
        ({"source": "https://127.0.0.1:9/a.onnx"}, "could not be downloaded"),
        ({"sha256": "abc"}, "--sha256"),
        ({"sha256": "0" * 63 + "1"}, "another file than --sha256"),
        ({"fixed_input": "640"}, "--fixed-input"),
        ({"fixed_input": "8x8"}, "--fixed-input"),
        ({"family": "rt-detr", "fixed_input": "640x480"}, "square"),
        ({"long_side": 31}, "--long-side"),
        ({"channels": "YUV"}, "--channels"),
        ({"scale": "1/0"}, "--scale"),
        ({"scale": "-1"}, "--scale"),
        ({"mean": "1,2"}, "--mean"),
        ({"mean": "a"}, "--mean"),
        ({"score_threshold": 1.5}, "--score-threshold"),
        ({"sure_score": 0.0}, "--sure-score"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_tried_and_leaves_nothing(
    settings: Settings, tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    source = tmp_path / "file.onnx"
    source.write_bytes(b"never looked at")
    wishes = Wishes(**{"name": "mine", "source": str(source), "family": "scrfd", **changes})  # type: ignore[arg-type]
    assert word in refusal(lambda: add_command(settings, wishes)).message
    assert kept(settings) == set()


def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.onnx").write_bytes(b"x" * 2000)
    monkeypatch.setattr(draft, "MODEL_BYTES_MAX", 1000)
    wishes = Wishes("mine", str(tmp_path / "file.onnx"), "scrfd")
    assert refusal(lambda: add_command(settings, wishes)).code is ErrorCode.TOO_LARGE
    assert kept(settings) == set()


def test_a_damaged_file_is_one_sentence_and_leaves_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file.onnx").write_bytes(b"junk")
    wishes = Wishes("mine", str(tmp_path / "file.onnx"), "scrfd")
    error = refusal(lambda: add_command(settings, wishes))
    assert error.code is ErrorCode.MODEL_DAMAGED
    assert "no model that ONNX Runtime can load" in error.message
    assert kept(settings) == set()


@pytest.mark.usefixtures("here")
def test_a_model_that_does_not_fit_what_was_said_is_one_sentence_and_leaves_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "file.onnx"
    for family, asked, make, word in (
        ("rt-detr", None, lambda: bright_yolo(path, 64, 96), "64x96 only, which can't be used"),
        ("scrfd", None, lambda: bright_yolo(path, 64, 64), "two anchors per cell"),
        ("yolov8-face", "64x96", lambda: bright_yolo(path, 64, 64), "64x64 only, not 64x96"),
    ):
        make()
        wishes = Wishes("mine", str(path), family, fixed_input=asked)
        error = refusal(lambda wishes=wishes: add_command(settings, wishes))  # type: ignore[misc]
        assert error.code is ErrorCode.MODEL_DAMAGED
        assert word in error.message
        assert kept(settings) == set()


@pytest.mark.usefixtures("here")
def test_an_added_address_is_remembered_without_what_may_be_a_secret(
    settings: Settings, tmp_path: Path, site: Website
) -> None:
    source = bright_scrfd(tmp_path / "scrfd.onnx")
    site.scripts["/a.onnx?key=secret"] = lambda _, wire: wire.answer("200 OK", source.read_bytes())
    address = f"https://127.0.0.1:{site.port}/a.onnx"
    assert add_command(settings, Wishes("mine", f"{address}?key=secret", "scrfd")) == 0
    entry = choose("mine", settings.cache_dir / "models")
    assert entry.origin == Added(source=address)
    assert entry.fixed_input is None
    text = (settings.cache_dir / "models" / "mine.entry.json").read_text()
    assert "secret" not in text


@pytest.mark.usefixtures("here")
def test_a_scrfd_for_one_size_is_told_from_its_file(settings: Settings, tmp_path: Path) -> None:
    outputs = list(scrfd_outputs(64, 96).values())
    source = constant(tmp_path / "a.onnx", outputs, (1, 3, 96, 64))
    assert add_command(settings, Wishes("mine", str(source), "scrfd")) == 0
    assert choose("mine", settings.cache_dir / "models").fixed_input == (64, 96)


@pytest.mark.usefixtures("here")
def test_who_sees_faces_in_black_is_told_on(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = constant(tmp_path / "a.onnx", [yolo_output([(20, 20, 9, 9, 0.9)])], (1, 3, 64, 64))
    assert add_command(settings, Wishes("mine", str(source), "yolov8-face")) == 0
    assert "sees 1 faces in a black picture" in capsys.readouterr().err


def test_options_change_what_is_usual_in_the_family() -> None:
    plain = make_entry(Wishes("mine", "a.onnx", "scrfd"))
    assert {name: getattr(plain, name) for name in FAMILIES["scrfd"].model_dump()} == (
        FAMILIES["scrfd"].model_dump()
    )
    wishes = Wishes(
        *("mine", "a.onnx", "centerface"),
        fixed_input="640X480",
        long_side=320,
        channels="bgr",
        scale="1/64",
        mean="104, 117.5,123",
        score_threshold=0.3,
        sure_score=0.6,
    )
    entry = make_entry(wishes)
    assert entry.fixed_input == (640, 480)
    assert (entry.long_side_px, entry.second_long_side_px) == (320, 0)
    assert (entry.channels, entry.scale, entry.mean) == ("BGR", 1 / 64, (104, 117.5, 123))
    assert (entry.score_threshold, entry.sure_score) == (0.3, 0.6)
    assert make_entry(Wishes("mine", "a.onnx", "scrfd", mean="9")).mean == (9, 9, 9)


def test_a_trial_that_takes_too_long_is_ended_and_one_that_dies_is_told(tmp_path: Path) -> None:
    entry = make_entry(Wishes("mine", "a.onnx", "scrfd"))
    request = TrialRequest(entry=entry, path=tmp_path / "a.onnx")
    with pytest.raises(DualfaceError, match="did not end within") as caught:
        ask("services.infer.lab.trial", request, TrialAnswer, 0.01)
    assert caught.value.code is ErrorCode.STAGE_FAILED
    with pytest.raises(DualfaceError, match=r"ended with code 1 .*No module named"):
        ask("services.infer.lab.nothing", request, TrialAnswer, None)


# --- list, pull -----------------------------------------------------------------------------------


def test_a_damaged_entry_is_listed_with_what_is_wrong_and_hides_no_other(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = settings.cache_dir / "models"
    folder.mkdir(parents=True)
    (folder / "mine.entry.json").write_text("{")
    found = listed(settings, capsys)
    assert list(found) == ["yunet_n", "yunet_s", "centerface", "mine"]
    assert [name for name, each in found.items() if each["auto"]] == ["centerface"]
    assert "can't be read" in str(found["mine"]["problem"])
    assert list_command(settings, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split("\t") == ["centerface (auto)", "centerface", "MIT", "256, then 480", "",
                                    "not fetched"]  # fmt: skip
    assert str(folder / "mine.entry.json") in lines[3]
    other = settings.model_copy(update={"model_folders": (tmp_path,)})
    (tmp_path / "yunet_n_dynamic.onnx").write_bytes(b"another")
    assert "another file" in str(listed(other, capsys)["yunet_n"]["problem"])


def test_of_several_models_one_that_cannot_be_had_holds_up_no_other(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulled(name: str, folder: Path, _: object) -> Path:
        if name == "yunet_s":
            raise PermanentError(ErrorCode.MODEL_MISSING, f"{name} is out of reach")
        return folder / name

    monkeypatch.setattr("client.models_commands.pull", pulled)
    assert pull_command(settings, [], everything=True) == 1
    said = capsys.readouterr()
    assert [line.partition(":")[0] for line in said.out.splitlines()] == ["yunet_n", "centerface"]
    assert said.err == "dualface: yunet_s is out of reach\n"
    assert pull_command(settings, ["yunet_n", "yunet_n"], everything=False) == 0
    assert refusal(lambda: pull_command(settings, ["yunet_s"], everything=False))
    for names, everything in (([], False), (["yunet_n"], True)):
        error = refusal(lambda n=names, e=everything: pull_command(settings, n, everything=e))  # type: ignore[misc]
        assert error.code is ErrorCode.BAD_OPTION


def test_auto_is_pulled_as_the_model_it_means(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.models_commands.pull", lambda name, folder, _: folder / name)
    assert pull_command(settings, ["auto"], everything=False) == 0
    assert capsys.readouterr().out.startswith("centerface: ")


def test_an_evaluation_of_auto_is_shown_as_in_the_report_with_what_goes_on_deciding(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asked: list[EvaluateRequest] = []
    few = evaluation().model_copy(
        update={"by_condition": (row_of(Condition.LOW_LIGHT), row_of(Condition.NORMAL))}
    )

    def answer(_module: str, request: EvaluateRequest, *_: object) -> Evaluated:
        asked.append(request)
        return Evaluated(file=tmp_path, evaluation=few, former=evaluation(Verdict.ACCEPTABLE))

    monkeypatch.setattr("client.lab.ask", answer)
    monkeypatch.setattr("shared.models.pull", lambda *_: tmp_path)
    monkeypatch.setenv("DUALFACE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DUALFACE_MODEL_FOLDERS", "[]")
    told = CliRunner().invoke(models_app, ["evaluate", "auto", "--labels", "set.csv"])
    assert told.exit_code == 0, told.output
    assert asked[0].name == "centerface"
    conditions = [line.partition("\t")[0] for line in told.stdout.splitlines() if "\t" in line]
    assert conditions == ["normal", "low_light", "all"]
    assert "former evaluation, on 4: ACCEPTABLE goes on deciding" in told.stderr


# --- bench ----------------------------------------------------------------------------------------


@pytest.fixture
def two_models(settings: Settings, tmp_path: Path, here: None) -> None:  # noqa: ARG001
    """`one` takes 64x64, `two` any size, and 320 px are to be its first."""
    bright_yolo(tmp_path / "one.onnx", 64, 64)
    bright_scrfd(tmp_path / "two.onnx")
    assert add_command(settings, Wishes("one", str(tmp_path / "one.onnx"), "yolov8-face")) == 0
    wishes = Wishes("two", str(tmp_path / "two.onnx"), "scrfd", long_side=320)
    assert add_command(settings, wishes) == 0


@pytest.mark.usefixtures("two_models")
def test_models_are_timed_on_a_videos_frames_at_the_sizes_they_would_see(
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.models_commands.ask", ask)
    video = make_video(tmp_path / "video.mp4", VideoSpec(frames=12))
    capsys.readouterr()
    assert bench_command(settings, [], 10, video, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    one, two = found["rows"]
    width, height = found["frame"]
    assert found["frames"] == 10
    assert [(each["name"], each["engine"], each["look"]) for each in (one, two)] == [
        ("one", "onnx-cpu", "first"),
        ("two", "onnx-cpu", "first"),
    ]
    assert one["input"] == [64, 64]
    assert max(two["picture"]) == 320
    assert two["picture"][1] == round(height * 320 / width)
    assert all(side % 32 == 0 for side in two["input"])
    assert one["ratio"] == 1
    assert two["ratio"] == pytest.approx(two["median_ms"] / one["median_ms"])
    for row in (one, two):
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]


@pytest.mark.usefixtures("two_models")
def test_without_a_video_drawn_frames_are_looked_at_and_both_looks_are_told(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    path = settings.cache_dir / "models" / "two.entry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"second_long_side_px": 640}))
    capsys.readouterr()
    assert bench_command(settings, ["two", "one"], 2, None, as_json=False) == 0
    said = capsys.readouterr()
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert [row[:4] for row in rows] == [
        ["two", "onnx-cpu", "first", "320x192"],
        ["two", "onnx-cpu", "second", "640x384"],
        ["one", "onnx-cpu", "first", "64x64"],
    ]
    assert rows[0][-1] == "1.00"
    assert "2 drawn frames of 1920x1080" in said.err


@pytest.mark.usefixtures("two_models")
def test_what_is_no_video_is_told(settings: Settings, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all")
    error = refusal(lambda: bench_command(settings, ["one"], 1, bad, as_json=True))
    assert "bad.mp4" in error.message


def test_there_is_nothing_to_time_where_no_model_is(settings: Settings) -> None:
    error = refusal(lambda: bench_command(settings, [], 1, None, as_json=True))
    assert error.code is ErrorCode.MODEL_MISSING
    assert "models pull" in error.message


# --- the command line -----------------------------------------------------------------------------


def test_the_command_line_has_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALFACE_CACHE_DIR", str(tmp_path))
    runner = CliRunner()
    help_ = runner.invoke(models_app, ["--help"]).output
    for name in ("list", "pull", "add", "remove", "bench", "quantize", "evaluate"):
        assert f" {name} " in help_
    assert len(json.loads(runner.invoke(models_app, ["list", "--json"]).output)) == 3
    done = runner.invoke(models_app, ["add", "mine", "a.onnx", "--family", "yolo"])
    assert isinstance(done.exception, PermanentError)
    assert "no family" in done.exception.message
