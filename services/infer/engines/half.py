"""A copy of an ONNX model that calculates in half precision.

TensorRT 11 does what a model's types say (networks are strongly typed), so that is where precision
is chosen. Inputs and outputs become half, too: they are what is written and copied most.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from shared.errors import EngineError

_FLOAT = onnx.TensorProto.FLOAT
_HALF = onnx.TensorProto.FLOAT16

_STAY_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that ONNX wants as float whatever the picture is: region and scales."""

_FLOAT_IN_ANY_CASE = "__float"
_LARGEST = float(np.finfo(np.float16).max)

_NOT_VALID: tuple[type[Exception], ...] = (
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


def in_half(data: bytes) -> bytes:
    """The model in `data` (an ONNX file's bytes) with every float made half.

    Raises ValueError for what is no model, EngineError for a model that can't be had in half
    precision: its graph has graphs inside, is quantised, or mixes types.
    """
    try:
        # parses the bytes too, and raises ValueError for junk: loading it raises protobuf's own
        onnx.checker.check_model(data)
        model = onnx.load_model_from_string(data)
    except _NOT_VALID as error:
        raise ValueError("it is not a valid ONNX model") from error
    try:
        _convert(model.graph)
        onnx.checker.check_model(model, full_check=True)
    except _NOT_VALID as error:
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"The model can't be had in half precision ({reason}).") from error
    result: bytes = model.SerializeToString()
    return result


def _convert(graph: onnx.GraphProto) -> None:
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        raise ValueError("it is quantised")
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        raise ValueError("it has graphs within its graph")
    _keep_as_float(graph)
    for tensor in _constants(graph):
        _halve(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = _HALF
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == _FLOAT:
            value.type.tensor_type.elem_type = _HALF
    del graph.value_info[:]


def _keep_as_float(graph: onnx.GraphProto) -> None:
    """Give the inputs that stay float a constant of their own, which others don't use."""
    given = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            given[node.output[0]] = node.attribute[0].t
    added: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        for place in _STAY_FLOAT.get(node.op_type, ()):
            name = node.input[place] if place < len(node.input) else ""
            if name in given and given[name].data_type == _FLOAT:
                own = added.setdefault(name, onnx.TensorProto())
                own.CopyFrom(given[name])
                own.name = name + _FLOAT_IN_ANY_CASE
                node.input[place] = own.name
    graph.initializer.extend(added.values())


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    for tensor in graph.initializer:
        if not tensor.name.endswith(_FLOAT_IN_ANY_CASE):
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _halve(tensor: onnx.TensorProto) -> None:
    if tensor.data_type != _FLOAT:
        return
    values = numpy_helper.to_array(tensor)
    if np.any(np.abs(values) > _LARGEST):
        raise ValueError(f"a weight of {np.abs(values).max():g} is beyond half precision")
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
