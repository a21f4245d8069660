"""Makes a copy of an ONNX model that takes any batch size and any picture size."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from shared.errors import ErrorCode, PermanentError

_NOT_VALID: tuple[type[Exception], ...] = (
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


def with_free_shapes(data: bytes) -> bytes:
    """The model in `data` (an ONNX file's bytes) with free batch, height and width.

    Weights are also taken off the list of graph inputs: while they are listed a caller could
    replace them, so ONNX Runtime may not fold constants or pack weights, which costs a factor of
    2.7 in time with CenterFace. Shapes noted for inner values are dropped as they no longer hold.
    Raises PermanentError(MODEL_DAMAGED) for data that is no valid model with one picture input.
    """
    try:
        # parses the bytes too, and raises ValueError for junk: loading it raises protobuf's own
        onnx.checker.check_model(data)
        model = onnx.load_model_from_string(data)
        _free(model.graph)
        onnx.checker.check_model(model, full_check=True)
    except _NOT_VALID as error:
        raise _damaged("it is not a valid ONNX model") from error
    result: bytes = model.SerializeToString()
    return result


def _free(graph: onnx.GraphProto) -> None:
    stored = {weight.name for weight in graph.initializer}
    used = {name for node in graph.node for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in used]
    pictures = [value for value in graph.input if value.name not in stored]
    if len(pictures) != 1 or len(pictures[0].type.tensor_type.shape.dim) != 4:
        raise _damaged("it does not take one picture in NCHW layout")
    _set_dims(pictures[0], ("batch", 3, "height", "width"))
    for value in graph.output:
        _set_dims(value, ("batch", None, "rows", "columns"))
    _replace(graph.input, pictures)
    _replace(graph.initializer, weights)
    del graph.value_info[:]


def _replace(field: list[onnx.ValueInfoProto], kept: Sequence[onnx.ValueInfoProto]) -> None:
    del field[:]
    field.extend(kept)


def _set_dims(value: onnx.ValueInfoProto, dims: Sequence[int | str | None]) -> None:
    """Set each dimension to a number or a name; None keeps what is there."""
    for field, dim in zip(value.type.tensor_type.shape.dim, dims, strict=True):
        if isinstance(dim, int):
            field.dim_value = dim
        elif dim is not None:
            field.dim_param = dim


def _damaged(why: str) -> PermanentError:
    return PermanentError(
        ErrorCode.MODEL_DAMAGED, f"the model file can't be used: {why}; fetch it again"
    )
