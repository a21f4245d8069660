"""How a copy of a model compares with the model: `python -m services.infer.lab.evaluate`, an
`EvaluateRequest`. Faces are looked for as a worker does, at both of the entry's sizes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from services.infer.engines.looks import PEOPLE
from services.infer.engines.onnx_cpu import OnnxCpuDetector, use_one_thread
from services.infer.engines.onnx_session import open_session
from services.infer.families import common_scores
from services.infer.lab.answering import answer
from services.infer.lab.calibrate import Picture, luma_of, planes_of, read_image
from services.infer.lab.conditions import measure
from services.infer.lab.examples import Examples
from services.infer.lab.labels import LabelledFace, LabelledPicture, read_labels
from services.infer.lab.metrics import Judged, Seen, compare, match
from services.infer.lab.placing import check_place, write_report
from services.infer.lab.quantize import ensure_fp16, tell, versions
from services.infer.lab.report import render
from services.infer.lab.verdict import judge
from services.infer.plan import input_size
from shared.assets import sha256_of, write_atomically
from shared.errors import ErrorCode, PermanentError
from shared.faces import Face
from shared.models import ModelEntry, entry_of, locate
from shared.models.precision import (
    CalibrationLog,
    Condition,
    Evaluated,
    EvaluateRequest,
    Evaluation,
    Speed,
    calibration_path,
    evaluation_path,
    locate_precision,
    read_evaluation,
)
from shared.settings import Settings

LOWEST_SCORE = 0.05
"""Detections down to here make the curve under which average precision is the area."""

SPEED_RUNS = 40
"""Of each model, in turns: some seconds, and a median that a busy moment does not move."""

SPEED_FRAME = (1920, 1080)
"""What the model's input is made from when it is timed, px."""


class Looker:
    """One model, asked for faces of single pictures down to LOWEST_SCORE."""

    def __init__(self, entry: ModelEntry, path: Path, threshold: float) -> None:
        """`threshold` decides about the second look, on the scale of `Face.score`."""
        low = entry.model_copy(update={"score_threshold": min(LOWEST_SCORE, entry.score_threshold)})
        sides = [entry.long_side_px]
        if entry.fixed_input is None and entry.second_long_side_px > entry.long_side_px:
            sides.append(entry.second_long_side_px)
        self._looks = [
            OnnxCpuDetector(low, path, long_side_px=side, second_long_side_px=0) for side in sides
        ]
        self._threshold = threshold

    def faces(self, picture: Picture) -> tuple[Face, ...]:
        """Best score first; by the rule of `looks.one_by_one` for a single frame."""
        planes, layout = planes_of(picture)
        best: tuple[Face, ...] = ()
        for look in self._looks:
            (faces,) = look.detect([planes], layout)
            if look is self._looks[0] or self._count(faces) > self._count(best):
                best = faces
            if self._count(best) >= PEOPLE:
                break
        return best

    def _count(self, faces: Sequence[Face]) -> int:
        return sum(face.score >= self._threshold for face in faces)


@dataclass
class Outcome:
    """What became of a whole set."""

    judged: list[Judged] = field(default_factory=list)
    ignored: int = 0


def own_threshold(entry: ModelEntry) -> float:
    """The model's own threshold on the scale of `Face.score`."""
    score = np.array([entry.score_threshold], dtype=np.float32)
    return float(common_scores(score, entry.sure_score)[0])


def evaluate(request: EvaluateRequest) -> Evaluated:
    """Do all of it; see `EvaluateRequest`."""
    use_one_thread()
    settings = Settings.load()
    cache, folders = settings.cache_dir / "models", settings.model_folders
    entry = entry_of(request.name, cache, folders)
    base = locate(request.name, cache, folders)
    pictures = read_labels(request.labels, request.images)
    if request.report is not None:
        inputs = (request.labels, base, *(each.file for each in pictures))
        check_place(request.report, inputs, cache)
    if request.precision == "fp16":
        variant = ensure_fp16(request.name, settings)
    else:
        variant, _ = locate_precision(request.name, request.precision, cache, folders)
    threshold = own_threshold(entry)
    models = (Looker(entry, base, threshold), Looker(entry, variant, threshold))
    examples = Examples(threshold, request.precision)
    outcome = judge_pictures(pictures, *models, examples, tell("looking for faces"))
    evaluation = _evaluation(request, entry, (base, variant), outcome, threshold)
    path = evaluation_path(cache, request.name, request.precision)
    former = None if evaluation.enough_faces else _better_founded(evaluation, settings)
    if former is None:
        write_atomically(path, (evaluation.model_dump_json(indent=2) + "\n").encode())
    if request.report is not None:
        log = _calibration(cache, evaluation)
        write_report(request.report, render(evaluation, examples.chosen(), log, former))
    return Evaluated(file=path, evaluation=evaluation, former=former)


def judge_pictures(
    pictures: Sequence[LabelledPicture],
    base: Looker,
    variant: Looker,
    examples: Examples,
    on_picture: Callable[[int, int], None],
) -> Outcome:
    """Both models on every picture of a set.

    Raises PermanentError: SOURCE_UNREADABLE for a picture that is none, BAD_OPTION for a label
    outside its picture.
    """
    outcome = Outcome()
    for number, each in enumerate(pictures):
        on_picture(number, len(pictures))
        picture = read_image(each.file, labelled=True)
        _check_inside(each, picture)
        found = (base.faces(picture), variant.faces(picture))
        judged = judge_picture(each, picture, *found)
        examples.look(each, picture, judged)
        outcome.judged.append(judged)
        outcome.ignored += sum(face.ignored for face in each.faces)
    on_picture(len(pictures), len(pictures))
    return outcome


def judge_picture(
    labelled: LabelledPicture, picture: Picture, base: Sequence[Face], variant: Sequence[Face]
) -> Judged:
    """What both models saw, matched; conditions named by the set, else measured."""
    luma = luma_of(picture)
    matches = [match(labelled.faces, faces) for faces in (base, variant)]
    # A label has no eyes to tell where it looks: FP32's say so, the same for whatever copy.
    points = {
        label: face
        for face, (label, _, _) in zip(base, matches[0], strict=True)
        if label is not None
    }
    boxes = [(face.x, face.y, face.w, face.h) for face in labelled.faces]

    def named(index: int, face: LabelledFace) -> Condition:
        known = face.condition or labelled.condition
        if known is not None:
            return known
        marks = points[index].landmarks if index in points else ()
        return measure(luma, boxes[index], marks, boxes[:index] + boxes[index + 1 :]).condition

    conditions = tuple(
        None if face.ignored else named(index, face) for index, face in enumerate(labelled.faces)
    )

    def seen(faces: Sequence[Face], matched: list[tuple[int | None, bool, float]]) -> list[Seen]:
        found = []
        for face, (label, ignored, overlap) in zip(faces, matched, strict=True):
            condition = conditions[label] if label is not None else labelled.condition
            if condition is None:
                box = (face.x, face.y, face.w, face.h)
                condition = measure(luma, box, face.landmarks, ()).condition
            found.append(Seen(face, label, ignored, overlap, condition))
        return found

    return Judged(conditions, tuple(seen(base, matches[0])), tuple(seen(variant, matches[1])))


def time_both(entry: ModelEntry, base: Path, variant: Path) -> Speed:
    """Medians of single runs on this CPU with one thread, in turns."""
    size = entry.fixed_input or input_size(*SPEED_FRAME, entry.long_side_px, entry.side_multiple)
    noise = np.random.default_rng(1).random((1, 3, size[1], size[0]), dtype=np.float32)
    picture = noise * 255 * np.float32(entry.scale)
    sessions = [open_session(path, 1) for path in (base, variant)]
    taken: list[list[float]] = [[], []]
    for run in range(SPEED_RUNS + 2):
        for session, times in zip(sessions, taken, strict=True):
            name = session.get_inputs()[0].name
            began = time.perf_counter()
            session.run(None, {name: picture})
            if run >= 2:  # memory is allocated in the first ones
                times.append(1000 * (time.perf_counter() - began))
    return Speed(
        input=size,
        fp32_ms=statistics.median(taken[0]),
        variant_ms=statistics.median(taken[1]),
        runs=SPEED_RUNS,
    )


def _evaluation(
    request: EvaluateRequest,
    entry: ModelEntry,
    files: tuple[Path, Path],
    outcome: Outcome,
    threshold: float,
) -> Evaluation:
    overall = compare(outcome.judged, threshold, None)
    rows = [compare(outcome.judged, threshold, condition) for condition in Condition]
    judgement = judge(overall)
    tell("timing")(0, 1)
    return Evaluation(
        model=entry.name,
        precision=request.precision,
        verdict=judgement.verdict,
        measured=judgement.measured,
        enough_faces=judgement.enough_faces,
        face_weighs=100 / overall.faces if overall.faces else None,
        reasons=judgement.reasons,
        score_threshold=entry.score_threshold,
        base_sha256=sha256_of(files[0]),
        file_sha256=sha256_of(files[1]),
        labels=request.labels.name,
        labels_sha256=sha256_of(request.labels),
        pictures=len(outcome.judged),
        ignored_faces=outcome.ignored,
        overall=overall,
        by_condition=tuple(row for row in rows if row.faces or row.fp32.extra or row.variant.extra),
        cpu=time_both(entry, *files) if request.precision == "int8" else None,
        versions=versions(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check_inside(labelled: LabelledPicture, picture: Picture) -> None:
    height, width = picture.shape[:2]
    for face in labelled.faces:
        x, y = face.x + face.w / 2, face.y + face.h / 2
        if not face.ignored and not (0 <= x < width and 0 <= y < height):
            raise PermanentError(
                ErrorCode.BAD_OPTION,
                f"The label at {face.x:g}, {face.y:g} ({face.w:g}x{face.h:g}) lies outside the "
                f"picture {labelled.name}, which has {width}x{height} px; are these its labels?",
            )


def _calibration(cache: Path, evaluation: Evaluation) -> CalibrationLog | None:
    if evaluation.precision != "int8":
        return None
    try:
        log = CalibrationLog.read_kept(calibration_path(cache, evaluation.model).read_text())
    except (OSError, ValueError):
        return None
    return log if log.file_sha256 == evaluation.file_sha256 else None


def _better_founded(evaluation: Evaluation, settings: Settings) -> Evaluation | None:
    """What was found out before about the same two files, on enough faces."""
    cache = settings.cache_dir / "models"
    former = read_evaluation(evaluation.model, evaluation.precision, cache, settings.model_folders)
    return former if former is not None and former.enough_faces else None


if __name__ == "__main__":
    sys.exit(answer(EvaluateRequest, evaluate))
