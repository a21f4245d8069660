"""The report of an evaluation: one HTML file without scripts or anything from elsewhere; no I/O."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from services.infer.lab.examples import Box, Example
from services.infer.lab.verdict import ACCEPTABLE, EXCELLENT, counted
from shared.models.precision import (
    SHOWN,
    WORTH_IT,
    CalibrationLog,
    Condition,
    Evaluation,
    Points,
    Rates,
    Row,
    Verdict,
)


def render(
    evaluation: Evaluation,
    examples: Sequence[Example],
    calibration: CalibrationLog | None,
    former: Evaluation | None = None,
) -> str:
    """The whole page. `former`: as in `Evaluated`."""
    title = f"{evaluation.model} in {evaluation.precision.upper()}"
    parts = [
        _head(title),
        _masthead(evaluation, title),
        _verdict(evaluation, former),
        _gauges(evaluation),
        _tiles(evaluation),
        _by_condition(evaluation),
        _examples(evaluation, examples),
        _calibration(calibration),
        _facts(evaluation),
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


_STYLE = """
:root{color-scheme:light dark;--bg:#f5f6f8;--card:#fff;--ink:#171a21;--soft:#5b6372;--line:#e3e6eb;
--fp32:#2f6fde;--copy:#d9760a;--label:#fff;--good:#12805c;--fair:#8a6500;--bad:#b3261e;
--good-bg:#e2f4ec;--fair-bg:#fdf1d0;--bad-bg:#fbe6e4}
@media (prefers-color-scheme:dark){:root{--bg:#101218;--card:#191c24;--ink:#e9ecf2;--soft:#9aa3b3;
--line:#2b303b;--fp32:#79a8ff;--copy:#ffb057;--good:#5fd3a6;--fair:#ecc45c;--bad:#ff8f86;
--good-bg:#12302a;--fair-bg:#352c12;--bad-bg:#3b1d1c}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,
"Segoe UI",Roboto,"Noto Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1040px;margin:0 auto;padding:40px 24px 64px;display:grid;gap:20px;
grid-template-columns:minmax(0,1fr)}
h1{font-size:30px;line-height:1.15;margin:2px 0 6px;letter-spacing:-.02em}
h2{font-size:17px;margin:0 0 14px;letter-spacing:-.005em}
p{margin:0}.soft{color:var(--soft)}.small{font-size:13px}
.eyebrow{font-size:12px;font-weight:600;letter-spacing:.08em;text-transform:uppercase;
color:var(--soft)}
section,.tile{background:var(--card);border:1px solid var(--line);border-radius:14px}
section{padding:24px}
.verdict{display:flex;gap:20px;align-items:flex-start;border-width:0}
.verdict svg{flex:none;width:52px;height:52px}
.verdict strong{display:block;font-size:24px;line-height:1.2;letter-spacing:-.01em}
.verdict ul{margin:8px 0 0;padding:0;list-style:none;display:grid;gap:4px}
.good{background:var(--good-bg)}.good strong,.good svg{color:var(--good)}
.fair{background:var(--fair-bg)}.fair strong,.fair svg{color:var(--fair)}
.bad{background:var(--bad-bg)}.bad strong,.bad svg{color:var(--bad)}
.two{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:20px}
.gauge svg{display:block;width:100%;height:auto;margin-top:10px;overflow:visible}
.gauge .big{font-size:28px;font-weight:650;letter-spacing:-.02em}
.tiles{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:14px}
.tile{padding:16px 18px}.tile .name{font-size:13px;color:var(--soft)}
.tile .value{font-size:21px;font-weight:640;letter-spacing:-.01em;margin-top:2px}
.tile .value small{font-size:14px;font-weight:500;color:var(--soft)}
.scroll{overflow-x:auto;margin:0 -24px;padding:0 24px}
table{border-collapse:collapse;width:100%;min-width:720px;font-size:14.5px}
th,td{padding:9px 7px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-size:12.5px;font-weight:600;color:var(--soft);vertical-align:bottom}
th:first-child,td:first-child{text-align:left;padding-left:0}
th:last-child,td:last-child{padding-right:0}
tr:last-child td{border-bottom:0}tr.all td{font-weight:640}
td .pair{display:inline-grid;grid-template-columns:auto 40px;gap:0 7px;align-items:center}
td svg{width:40px;height:22px;display:block}
.fp32{color:var(--fp32)}.copy{color:var(--copy)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(136px,1fr));gap:16px}
figure{margin:0}figure svg{width:100%;height:auto;border-radius:10px;display:block;
background:#808080}
figcaption{font-size:13px;line-height:1.4;margin-top:8px;overflow-wrap:anywhere}
figcaption b{display:block}
.legend{display:flex;gap:18px;flex-wrap:wrap;margin:-6px 0 16px;font-size:13px;color:var(--soft)}
.legend i{display:inline-block;width:14px;height:10px;border:2px solid;border-radius:3px;
margin-right:6px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:6px 24px;margin:0;font-size:13.5px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.bars{display:grid;grid-template-columns:max-content 1fr max-content;gap:6px 14px;
align-items:center;font-size:13.5px;margin-top:14px}
.bars span{height:10px;border-radius:5px;background:var(--line);overflow:hidden;display:block}
.bars span i{display:block;height:100%;background:var(--copy);border-radius:5px}
@media (max-width:760px){.two{grid-template-columns:minmax(0,1fr)}
.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
main{padding:24px 14px 48px}.tile .value{font-size:17px}}
@media print{body{background:#fff}section,.tile,figure{break-inside:avoid}}
"""

_NOTHING, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"

_CONDITIONS = {
    Condition.NORMAL: "Normal",
    Condition.LOW_LIGHT: "Low light",
    Condition.BACKLIGHT: "Backlight",
    Condition.OCCLUSION: "Occlusion",
    Condition.PROFILE: "Profile",
    Condition.MOTION_BLUR: "Blur",
}

_WORDS = {
    Verdict.EXCELLENT: ("good", "M14 27l8 8 16-18"),
    Verdict.ACCEPTABLE: ("fair", "M14 27l8 8 16-18"),
    Verdict.NOT_RECOMMENDED: ("bad", "M17 17l18 18M35 17L17 35"),
}


def _head(title: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
    )


def _masthead(evaluation: Evaluation, title: str) -> str:
    overall = evaluation.overall
    ignored = f", {evaluation.ignored_faces} more ignored" if evaluation.ignored_faces else ""
    return (
        '<header><p class="eyebrow">dualface · precision check</p>'
        f"<h1>{escape(title)}</h1>"
        f'<p class="soft">{counted(overall.faces, "labelled face")}{ignored} in '
        f"{counted(evaluation.pictures, 'picture')} of {escape(evaluation.labels)} · "
        f"{escape(evaluation.made)}</p></header>"
    )


def _verdict(evaluation: Evaluation, former: Evaluation | None) -> str:
    tone, path = _WORDS[evaluation.verdict]
    lines = (*evaluation.reasons, _consequence(evaluation, former))
    reasons = "".join(f"<li>{escape(line)}</li>" for line in lines)
    word = evaluation.verdict.value.replace("_", " ")
    return (
        f'<section class="verdict {tone}"><svg viewBox="0 0 52 52" fill="none" '
        'stroke="currentColor" stroke-width="4" stroke-linecap="round" stroke-linejoin="round" '
        f'aria-hidden="true"><circle cx="26" cy="26" r="23" stroke-width="3"/><path d="{path}"/>'
        f"</svg><div><strong>{escape(word)}</strong><ul>{reasons}</ul></div></section>"
    )


def _consequence(evaluation: Evaluation, former: Evaluation | None) -> str:
    copy = evaluation.precision.upper()
    if former is not None:
        word = former.verdict.value.replace("_", " ")
        return (
            f"The evaluation of {former.made} on {counted(former.overall.faces, 'face')} says "
            f"{word}; it goes on deciding."
        )
    if evaluation.verdict is Verdict.NOT_RECOMMENDED:
        return f"So the automatic choice does not take {copy}."
    if evaluation.cpu is None:
        return f"So the automatic choice may take {copy} on a GPU."
    if evaluation.cpu.ratio >= WORTH_IT:
        return (
            f"So the automatic choice takes {copy}, on a GPU and on this CPU, where it is faster."
        )
    return f"So the automatic choice takes {copy} on a GPU, not on this CPU, where it is slower."


def _gauges(evaluation: Evaluation) -> str:
    overall = evaluation.overall
    copy = evaluation.precision.upper()
    loss = _gauge(
        "Precision loss",
        f"The larger of the losses of {copy} in precision and in average precision.",
        overall.precision_loss,
        (EXCELLENT.precision_loss, ACCEPTABLE.precision_loss),
        None,
    )
    rise = _gauge(
        "Miss-rate rise",
        f"Labelled faces that {copy} misses beyond those that FP32 misses. Thin line: 95 % "
        "interval.",
        overall.miss_rate_rise,
        (EXCELLENT.miss_rate_rise, ACCEPTABLE.miss_rate_rise),
        overall.miss_rate_rise_95,
    )
    return f'<div class="two">{loss}{rise}</div>'


def _gauge(
    name: str,
    about: str,
    value: Points | None,
    limits: tuple[Points, Points],
    interval: tuple[Points, Points] | None,
) -> str:
    shown = _NOTHING if value is None else _points(value)
    return (
        f'<section class="gauge"><p class="eyebrow">{name}</p>'
        f'<p><span class="big">{shown}</span> <span class="soft">points</span></p>'
        f"{_scale(name, value, limits, interval)}"
        f'<p class="soft small">{about}</p></section>'
    )


def _scale(
    name: str,
    value: Points | None,
    limits: tuple[Points, Points],
    interval: tuple[Points, Points] | None,
) -> str:
    """Zones of the three verdicts on a line, from one limit below zero to one beyond the last."""
    low, high = -limits[1], 2 * limits[1]

    def at(points: Points) -> float:
        return 440 * (min(max(points, low), high) - low) / (high - low)

    zones = [
        (low, limits[0], "--good"),
        (limits[0], limits[1], "--fair"),
        (limits[1], high, "--bad"),
    ]
    bars = "".join(
        f'<rect x="{at(a):.1f}" y="16" width="{at(b) - at(a) - 2:.1f}" height="12" rx="3" '
        f'fill="var({colour})" opacity=".32"/>'
        for a, b, colour in zones
    )
    ticks = "".join(
        f'<text x="{at(each):.1f}" y="45" text-anchor="middle" font-size="11.5" '
        f'fill="var(--soft)">{each:g}</text>'
        for each in (0.0, *limits)
    )
    marks = ""
    if interval is not None:
        start, end = at(interval[0]), at(interval[1])
        marks += (
            f'<line x1="{start:.1f}" x2="{end:.1f}" y1="9" y2="9" stroke="var(--ink)" '
            'stroke-width="1.5" opacity=".55"/>'
        )
        for edge, points in ((start, interval[0]), (end, interval[1])):
            if low < points < high:  # where it goes on, there is no end to draw
                marks += (
                    f'<line x1="{edge:.1f}" x2="{edge:.1f}" y1="5.5" y2="12.5" '
                    'stroke="var(--ink)" stroke-width="1.5" opacity=".55"/>'
                )
    if value is not None:
        x = at(value)
        marks += (
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="32" stroke="var(--ink)" '
            'stroke-width="3" stroke-linecap="round"/>'
        )
    return (
        f'<svg viewBox="-6 0 452 50" role="img" aria-label="{escape(name)}: limits '
        f'{limits[0]:g} and {limits[1]:g} points">{bars}{ticks}{marks}</svg>'
    )


def _tiles(evaluation: Evaluation) -> str:
    row, copy = evaluation.overall, evaluation.precision.upper()
    tiles = [
        _tile("Precision", copy, row.fp32.precision, row.variant.precision),
        _tile("Miss rate", copy, row.fp32.miss_rate, row.variant.miss_rate),
        _tile("Average precision", copy, row.fp32.average_precision, row.variant.average_precision),
        _plain_tile(
            "Faces lost · gained", f"{row.lost} · {row.gained}", f"by {copy}, of {row.faces}"
        ),
        _plain_tile("Change of score", _signed(row.score_change), "mean, of faces both found"),
        _plain_tile("Overlap of boxes", _decimal(row.box_iou), "mean IoU, FP32 with " + copy),
        _plain_tile(
            "Overlap with labels",
            f"{_decimal(row.fp32_iou)} → {_decimal(row.variant_iou)}",
            "mean IoU",
        ),
    ]
    if evaluation.cpu is not None:
        cpu = evaluation.cpu
        tiles.append(
            _plain_tile(
                "Speed on this CPU",
                f"{cpu.ratio:.2f} times",
                f"{cpu.fp32_ms:.1f} → {cpu.variant_ms:.1f} ms",
            )
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(name: str, copy: str, before: float | None, after: float | None) -> str:
    return (
        f'<div class="tile"><p class="name">{name}</p><p class="value">'
        f'<span class="fp32">{_percent(before)}</span> <small>→</small> '
        f'<span class="copy">{_percent(after)}</span></p>'
        f'<p class="soft small">FP32 → {copy}</p></div>'
    )


def _plain_tile(name: str, value: str, about: str) -> str:
    return (
        f'<div class="tile"><p class="name">{name}</p><p class="value">{escape(value)}</p>'
        f'<p class="soft small">{escape(about)}</p></div>'
    )


def _by_condition(evaluation: Evaluation) -> str:
    copy = evaluation.precision.upper()
    order = list(SHOWN)
    rows = sorted(
        evaluation.by_condition,
        key=lambda row: len(order) if row.condition == "all" else order.index(row.condition),
    )
    body = "".join(_table_row(row) for row in (*rows, evaluation.overall))
    return (
        "<section><h2>By condition</h2>"
        f'<p class="legend"><span><i class="fp32"></i>FP32</span>'
        f'<span><i class="copy"></i>{copy}</span><span>Conditions are those of the labels, else '
        "measured; a face has one.</span></p>"
        '<div class="scroll"><table><thead><tr><th>Condition</th><th>Faces</th><th>Missed, of all'
        "</th><th>Precision</th><th>Average precision</th><th>Lost · gained</th>"
        f"<th>Boxes, IoU</th></tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _table_row(row: Row) -> str:
    name = "All" if row.condition == "all" else _CONDITIONS[row.condition]
    start = '<tr class="all">' if row.condition == "all" else "<tr>"
    return (
        f"{start}<td>{name}</td><td>{row.faces}</td>"
        f"<td>{_pair(row, 'miss_rate')}</td><td>{_pair(row, 'precision')}</td>"
        f"<td>{_pair(row, 'average_precision')}</td>"
        f"<td>{row.lost} · {row.gained}</td><td>{_decimal(row.box_iou)}</td></tr>"
    )


def _pair(row: Row, name: str) -> str:
    before, after = _rate(row.fp32, name), _rate(row.variant, name)
    bars = "".join(
        f'<rect x="0" y="{y}" width="{max(1.5, 40 * value):.1f}" height="7" rx="2" '
        f'fill="var({colour})"/>'
        for y, value, colour in ((3, before, "--fp32"), (12, after, "--copy"))
        if value is not None
    )
    text = f"{_percent(before)} → {_percent(after)}"
    return (
        f'<span class="pair"><span>{text}</span><svg viewBox="0 0 40 22" aria-hidden="true">'
        f'<rect x="0" y="3" width="40" height="16" rx="3" fill="var(--line)" opacity=".6"/>'
        f"{bars}</svg></span>"
    )


def _rate(rates: Rates, name: str) -> float | None:
    value: float | None = getattr(rates, name)
    return value


_TITLES = {
    "lost": "Missed by {copy}",
    "new": "Wrong, by {copy} only",
    "gained": "Found by {copy} only",
    "gone": "Wrong, by FP32 only",
    "closest": "Found by both",
}


def _examples(evaluation: Evaluation, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    copy = evaluation.precision.upper()
    same = all(example.kind == "closest" for example in examples)
    title = "No face was lost or gained: the largest changes of score" if same else "Differences"
    figures = "".join(_figure(example, copy) for example in examples)
    return (
        f"<section><h2>{title}</h2>"
        '<p class="legend"><span><i style="border-style:dashed"></i>label</span>'
        f'<span><i class="fp32"></i>FP32</span><span><i class="copy"></i>{copy}</span></p>'
        f'<div class="grid">{figures}</div></section>'
    )


def _figure(example: Example, copy: str) -> str:
    picture = b64encode(example.jpeg).decode()
    boxes = (
        _drawn(example.label, "#fff", "3 3", 1.3)
        + _drawn(example.base, "#5b9bff", "", 2.6)
        + _drawn(example.variant, "#ff9d2e", "", 1.3)
    )
    scores = ", ".join(
        f"{name} {score:.2f}"
        for name, score in (("FP32", example.base_score), (copy, example.variant_score))
        if score is not None
    )
    title = _TITLES[example.kind].format(copy=copy)
    return (
        f'<figure><svg viewBox="0 0 100 100" role="img" aria-label="{escape(title)}">'
        f'<image href="data:image/jpeg;base64,{picture}" width="100" height="100"/>{boxes}</svg>'
        f'<figcaption><b>{escape(title)}</b>{escape(scores)}<br><span class="soft">'
        f"{escape(example.name)}</span></figcaption></figure>"
    )


def _drawn(box: Box | None, colour: str, dashes: str, wide: float) -> str:
    if box is None:
        return ""
    x, y, w, h = (100 * share for share in box)
    place = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="1.5" fill="none"'
    # a dark line beneath it shows it on any picture
    return (
        f'<rect {place} stroke="#000" stroke-opacity=".4" stroke-width="{wide + 1:g}"/>'
        f'<rect {place} stroke="{colour}" stroke-width="{wide:g}" stroke-dasharray="{dashes}"/>'
    )


def _calibration(log: CalibrationLog | None) -> str:
    if log is None:
        return ""
    taken = {
        condition: sum(frame.condition is condition for frame in log.frames) for condition in SHOWN
    }
    most = max(taken.values(), default=0) or 1
    bars = "".join(
        f'{_CONDITIONS[condition]}<span><i style="width:{100 * count / most:.0f}%"></i></span>'
        f"<b>{count} of {log.found.get(condition, 0)}</b>"
        for condition, count in taken.items()
    )
    files = len({frame.file_sha256 for frame in log.frames})
    return (
        "<section><h2>Calibrated on</h2>"
        f'<p class="soft">{counted(len(log.frames), "frame")} of {counted(files, "file")}, '
        f"seed {log.seed}; activations "
        f"{escape(log.activations)}; weights {escape(log.weights)}; ranges by "
        f"{escape(log.method)}.</p>"
        f'<div class="bars">{bars}</div></section>'
    )


def _facts(evaluation: Evaluation) -> str:
    facts = [
        ("Verdicts", f"EXCELLENT up to {EXCELLENT.precision_loss:g} and "
         f"{EXCELLENT.miss_rate_rise:g} points, ACCEPTABLE up to {ACCEPTABLE.precision_loss:g} and "
         f"{ACCEPTABLE.miss_rate_rise:g} (precision loss, miss-rate rise); with fewer than "
         f"{ACCEPTABLE.faces_min} labelled faces always NOT RECOMMENDED"),
        ("Right is", "a detection that overlaps a labelled face by an IoU of at least 0.5, each "
         "face once"),
        ("Threshold", f"{evaluation.score_threshold:g} on the model's own scale; average precision "
         "looks below it too"),
        ("FP32 model", f"SHA-256 {evaluation.base_sha256}"),
        (f"{evaluation.precision.upper()} model", f"SHA-256 {evaluation.file_sha256}"),
        ("Labels", f"SHA-256 {evaluation.labels_sha256}"),
        ("Made with", ", ".join(f"{name} {each}" for name, each in evaluation.versions.items())),
    ]  # fmt: skip
    if evaluation.cpu is not None:
        w, h = evaluation.cpu.input
        facts.insert(3, ("Speed", f"median of {evaluation.cpu.runs} runs at {w}x{h}, one thread"))
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return f"<section><h2>How it was measured</h2><dl>{rows}</dl></section>"


def _percent(share: float | None) -> str:
    return _NOTHING if share is None else f"{100 * share:.1f} %"


def _decimal(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:+.3f}".replace("-", _MINUS)


def _points(value: Points) -> str:
    text = f"{value:+.2f}".replace("-", _MINUS)
    return "0.00" if text[1:] == "0.00" else text
