"""A "face detector" that finds bright squares, and pictures of such squares.

Family centerface: each cell of 4x4 px whose red is above half is a face of just that cell. One
convolution before that one is there to be quantised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shared.models import ModelEntry
from shared.models.added import entry_path
from shared.models.catalogue import Added

SIDE = 64
"""Of pictures, px, and of the model's input."""

CELL = 4


def toy_model(opset: int = 11) -> bytes:
    """Its file. Nodes have no names, as those of CenterFace."""
    same = np.zeros((3, 3, 3, 3), np.float32)
    for channel in range(3):
        same[channel, channel, 1, 1] = 1 / 255
    mean = np.zeros((1, 3, CELL, CELL), np.float32)
    mean[0, 0] = 1 / CELL**2
    nodes = [
        helper.make_node("Conv", ["picture", "same", "bias"], ["inner"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["inner"], ["features"]),
        helper.make_node("Conv", ["features", "mean"], ["heat"], strides=[CELL, CELL]),
        helper.make_node("Conv", ["heat", "two"], ["size"]),
        helper.make_node("Conv", ["heat", "two"], ["offset"]),
        helper.make_node("Conv", ["heat", "ten"], ["marks"]),
    ]
    stored = {
        "same": same,
        "bias": np.zeros(3, np.float32),
        "mean": mean,
        "two": np.zeros((2, 1, 1, 1), np.float32),
        "ten": np.zeros((10, 1, 1, 1), np.float32),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [value("picture", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [
            value(name, TensorProto.FLOAT, ["batch", count, "h", "w"])
            for name, count in (("heat", 1), ("size", 2), ("offset", 2), ("marks", 10))
        ],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    data: bytes = model.SerializeToString()
    return data


def toy_entry(data: bytes) -> ModelEntry:
    """As `dualface models add` would write it."""
    return ModelEntry(
        name="toy",
        family="centerface",
        file="toy.onnx",
        sha256=hashlib.sha256(data).hexdigest(),
        origin=Added(source="a test"),
        licence="none",
        long_side_px=SIDE,
        channels="RGB",
        score_threshold=0.5,
        sure_score=0.5,
        nms_threshold=0.3,
    )


def install(cache: Path) -> ModelEntry:
    """The model in a folder of models."""
    data = toy_model()
    entry = toy_entry(data)
    cache.mkdir(parents=True, exist_ok=True)
    (cache / entry.file).write_bytes(data)
    entry_path(cache, entry.name).write_text(entry.model_dump_json())
    return entry


def draw(path: Path, cells: Sequence[tuple[int, int]], level: int = 235, ground: int = 20) -> None:
    """A picture file with squares at these cells (column, row)."""
    picture = np.full((SIDE, SIDE, 3), ground, np.uint8)
    for column, row in cells:
        x, y = CELL * column, CELL * row
        picture[y : y + CELL, x : x + CELL] = level
    cv2.imwrite(str(path), picture)


def draw_turned(path: Path) -> None:
    """A JPEG of 64x40 px whose EXIF data says that it is shown as one of 40x64."""
    _, coded = cv2.imencode(".jpg", np.full((40, SIDE, 3), 20, np.uint8))
    jpeg = coded.tobytes()
    # TIFF with one entry, 0x112 (orientation): one short, 6, a quarter turn
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    path.write_bytes(jpeg[:2] + segment + jpeg[2:])


def op_types(model: bytes) -> list[str]:
    """Of its nodes."""
    return [node.op_type for node in onnx.load_model_from_string(model).graph.node]
