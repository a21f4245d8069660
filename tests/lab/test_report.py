from __future__ import annotations

from html.parser import HTMLParser

import pytest

from services.infer.lab.examples import Example
from services.infer.lab.report import render
from shared.models.precision import (
    CalibrationFrame,
    CalibrationLog,
    Condition,
    Evaluation,
    Rates,
    Row,
    Speed,
    Verdict,
)

EVIL = "<script>alert('&\"')</script>"
HASH = "0" * 64


class Page(HTMLParser):
    """Tags with their attributes, and the text between them; fails where tags do not nest."""

    VOID = frozenset({"meta", "br", "image", "rect", "line", "circle", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def row(condition: Condition | None, *, empty: bool = False) -> Row:
    share = None if empty else 0.25
    rates = Rates(
        found=3, missed=1, extra=1, precision=share, miss_rate=share, average_precision=share
    )
    return Row(
        condition=condition or "all",
        faces=0 if empty else 4,
        fp32=rates,
        variant=rates,
        lost=1,
        gained=0,
        precision_loss=None if empty else 1.2,
        miss_rate_rise=None if empty else 7.0,
        miss_rate_rise_95=None if empty else (-2.0, 16.0),
        score_change=share,
        box_iou=share,
        fp32_iou=share,
        variant_iou=share,
    )


def evaluation(verdict: Verdict = Verdict.NOT_RECOMMENDED, *, empty: bool = False) -> Evaluation:
    return Evaluation(
        model="toy",
        precision="int8",
        verdict=verdict,
        measured=verdict,
        enough_faces=False,
        face_weighs=25.0,
        reasons=(EVIL,),
        score_threshold=0.5,
        base_sha256=HASH,
        file_sha256=HASH,
        labels=EVIL,
        labels_sha256=HASH,
        pictures=2,
        ignored_faces=1,
        overall=row(None, empty=empty),
        by_condition=(row(Condition.NORMAL), row(Condition.PROFILE)),
        cpu=Speed(input=(64, 64), fp32_ms=1.0, variant_ms=2.0, runs=40),
        versions={"onnx": EVIL},
        made="2026-11-21T18:00:00+00:00",
    )


def example(kind: str = "lost") -> Example:
    box = (0.1, 0.2, 0.3, 0.4)
    return Example(kind, EVIL, b"\xff\xd8jpeg", box, box, None, 0.9, None)


@pytest.fixture
def log() -> CalibrationLog:
    frame = CalibrationFrame(
        file=EVIL, file_sha256=HASH, time_s=1.0, condition=Condition.NORMAL, pixels_sha256=HASH
    )
    return CalibrationLog(
        model="toy", seed=1, wanted=1, base_sha256=HASH, file_sha256=HASH, method=EVIL,
        activations="int8", weights="int8", per_channel=True, opset=13, float_nodes=(),
        inputs=((64, 64),), versions={}, found={Condition.NORMAL: 3}, frames=(frame,),
    )  # fmt: skip


def test_whatever_others_wrote_is_text_in_the_report(log: CalibrationLog) -> None:
    page = Page(render(evaluation(), [example()], log))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert page.text.count(EVIL) >= 4
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_report_fetches_nothing(log: CalibrationLog) -> None:
    text = render(evaluation(), [example()], log)
    page = Page(text)
    links = [a for _, at in page.tags for n, a in at.items() if n in ("href", "src", "action")]
    assert links
    assert all(link is not None and link.startswith("data:image/jpeg;base64,") for link in links)
    assert "url(" not in text
    assert "@import" not in text


def test_the_verdict_comes_before_all_numbers() -> None:
    text = Page(render(evaluation(Verdict.ACCEPTABLE), [], None)).text
    assert text.index("ACCEPTABLE") < text.index("Precision loss") < text.index("By condition")


def test_where_a_former_evaluation_goes_on_deciding_the_report_says_so() -> None:
    text = Page(render(evaluation(), [], None, evaluation(Verdict.ACCEPTABLE))).text
    assert "on 4 faces says ACCEPTABLE; it goes on deciding" in text
    assert "does not take INT8" not in text


def test_what_was_not_measured_is_a_dash_and_no_error() -> None:
    text = Page(render(evaluation(empty=True), [], None)).text
    assert "\N{EN DASH}" in text
    assert "None" not in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("kind", "title"),
    [("lost", "Missed by INT8"), ("new", "Wrong, by INT8 only"), ("closest", "Found by both")],
)
def test_examples_say_what_they_show(kind: str, title: str) -> None:
    assert title in Page(render(evaluation(), [example(kind)], None)).text


def test_an_evaluation_survives_its_json() -> None:
    made = evaluation()
    assert Evaluation.model_validate_json(made.model_dump_json()) == made
    assert Evaluation.read_kept(made.model_dump_json()) == made
