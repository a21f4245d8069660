"""What differs between model families: how raw outputs become faces. One module per family.

All coordinates here are px of the model's input; arrays are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from services.infer.families.candidates import (
    CANDIDATES_MAX,
    FACES_MAX,
    Array,
    Candidates,
    Decode,
    common_scores,
    suppress,
    to_faces,
)
from services.infer.families.centerface import decode_centerface
from services.infer.families.rt_detr import decode_rt_detr
from services.infer.families.scrfd import decode_scrfd
from services.infer.families.yolov8_face import decode_yolov8_face
from services.infer.families.yunet import decode_yunet

__all__ = [
    "CANDIDATES_MAX",
    "DECODERS",
    "FACES_MAX",
    "Array",
    "Candidates",
    "Decode",
    "common_scores",
    "decode_centerface",
    "decode_rt_detr",
    "decode_scrfd",
    "decode_yolov8_face",
    "decode_yunet",
    "suppress",
    "to_faces",
]

DECODERS: Mapping[str, Decode] = MappingProxyType(
    {
        "centerface": decode_centerface,
        "yunet": decode_yunet,
        "yolov8-face": decode_yolov8_face,
        "scrfd": decode_scrfd,
        "rt-detr": decode_rt_detr,
    }
)
"""By `ModelEntry.family`."""
