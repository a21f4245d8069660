"""Small ONNX models whose answer is known: what a family's real model would give, without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]
Dim = int | str

ANY_SIZE: tuple[Dim, ...] = (1, 3, "height", "width")
CELL = 8
"""Px, of `bright_yolo`."""


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, Sequence[Dim]],
    stored: Mapping[str, Array],
    takes: Sequence[Dim] = ANY_SIZE,
) -> Path:
    """A model of these nodes whose one input is `picture`."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("picture", TensorProto.FLOAT, list(takes))],
        [value(name, TensorProto.FLOAT, list(shape)) for name, shape in outputs.items()],
        [numpy_helper.from_array(data, name) for name, data in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def constant(path: Path, outputs: Sequence[Array], takes: Sequence[Dim] = ANY_SIZE) -> Path:
    """Gives these outputs, in this order, whatever it sees."""
    stored = {f"stored{i}": each for i, each in enumerate(outputs)}
    nodes = [helper.make_node("Identity", [f"stored{i}"], [f"out{i}"]) for i in range(len(outputs))]
    shapes = {f"out{i}": each.shape for i, each in enumerate(outputs)}
    return save(path, nodes, shapes, stored, takes)


def bright_yolo(path: Path, width: int, height: int, *, zero: float = 0.0) -> Path:
    """A yolov8-face without landmarks for one size: a face in every cell of 8x8 px, as sure as the
    cell's first channel is bright on average, where `zero` is what it calls dark and 1 bright."""
    columns, rows = width // CELL, height // CELL
    cells = np.arange(rows * columns)
    sides = np.full(cells.size, CELL)
    boxes = np.stack(
        ((cells % columns + 0.5) * CELL, (cells // columns + 0.5) * CELL, sides, sides)
    )
    weights = np.zeros((1, 3, CELL, CELL), np.float32)
    weights[0, 0] = 1 / CELL**2 / (1 - zero)
    nodes = [
        helper.make_node("Conv", ["picture", "weights", "bias"], ["grid"], strides=[CELL, CELL]),
        helper.make_node("Reshape", ["grid", "shape"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["found"], axis=1),
    ]
    stored = {
        "weights": weights,
        "bias": np.array([-zero / (1 - zero)], np.float32),
        "boxes": boxes[np.newaxis].astype(np.float32),
        "shape": np.array([1, 1, cells.size], np.int64),
    }
    return save(path, nodes, {"found": (1, 5, cells.size)}, stored, (1, 3, height, width))


def bright_scrfd(path: Path) -> Path:
    """A scrfd without landmarks for any size: the first anchor of a cell is as sure as the cell's
    first channel, as given to it, is bright; its box is the cell. The second one never is."""
    nodes, stored = [], {}
    for s in (8, 16, 32):
        bright = np.zeros((2, 3, s, s), np.float32)
        bright[0, 0] = 1 / s**2
        stored[f"bright{s}"], stored[f"never{s}"] = bright, np.zeros((8, 3, s, s), np.float32)
        for kind, weights, bias in (("score", "bright", "zeros"), ("box", "never", "cell")):
            nodes += [
                helper.make_node(
                    "Conv", ["picture", f"{weights}{s}", bias], [f"{kind}{s}a"], strides=[s, s]
                ),
                helper.make_node("Transpose", [f"{kind}{s}a"], [f"{kind}{s}b"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{kind}{s}b", f"shape_{kind}"], [f"{kind}{s}"]),
            ]
    stored |= {
        "zeros": np.zeros(2, np.float32),
        "cell": np.array([0, 0, 1, 1] * 2, np.float32),
        "shape_score": np.array([1, -1, 1], np.int64),
        "shape_box": np.array([1, -1, 4], np.int64),
    }
    outputs: dict[str, Sequence[Dim]] = {
        f"{kind}{s}": (1, f"anchors{s}", values)
        for s in (16, 8, 32)
        for kind, values in (("box", 4), ("score", 1))
    }
    return save(path, nodes, outputs, stored)


def yolo_output(
    faces: Sequence[tuple[float, ...]], *, values: int = 20, candidates: int = 84
) -> Array:
    """(1, values, candidates): these, the rest zero. A face: cx, cy, w, h, score, x1, y1, ..."""
    output = np.zeros((1, values, candidates), np.float32)
    for index, (*box, score) in enumerate(face[:5] for face in faces):
        output[0, :5, index] = (*box, score)
        if values > 5:
            points = np.array(faces[index][5:] or [0.0] * 10).reshape(5, 2)
            extra = np.full((5, (values - 5) // 5 - 2), 0.5)  # visibility
            output[0, 5:, index] = np.hstack((points, extra)).reshape(-1)
    return output


def scrfd_outputs(
    width: int, height: int, *, points: bool = True, batch: bool = True
) -> dict[tuple[str, int], Array]:
    """All zero: no face anywhere. By kind ("score", "box", "points") and stride, as exported."""
    kinds = {"score": 1, "box": 4} | ({"points": 10} if points else {})
    return {
        (kind, stride): np.zeros(
            (*([1] if batch else []), 2 * (width // stride) * (height // stride), values),
            np.float32,
        )
        for kind, values in kinds.items()
        for stride in (8, 16, 32)
    }
