from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from shared.errors import ErrorCode, PermanentError
from shared.models.convert import with_free_shapes


def fixed_model() -> bytes:
    """y = relu(conv(x)) for 2x3x8x8 only; its weights are inputs, an unused one is stored."""
    weights = np.full((1, 3, 2, 2), 0.5, np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["inner"], strides=[2, 2]),
            helper.make_node("Relu", ["inner"], ["y"]),
        ],
        "fixed",
        [
            value("x", TensorProto.FLOAT, [2, 3, 8, 8]),
            value("w", TensorProto.FLOAT, [1, 3, 2, 2]),
            value("unused", TensorProto.FLOAT, [1]),
        ],
        [value("y", TensorProto.FLOAT, [2, 1, 4, 4])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.zeros(1, np.float32), "unused"),
        ],
        value_info=[value("inner", TensorProto.FLOAT, [2, 1, 4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=4)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (3, 3, 4, 16), (2, 3, 32, 64)])
def test_the_copy_takes_any_batch_and_size(shape: tuple[int, int, int, int]) -> None:
    session = ort.InferenceSession(with_free_shapes(fixed_model()))
    (result,) = session.run(None, {"x": np.ones(shape, np.float32)})
    assert result.shape == (shape[0], 1, shape[2] // 2, shape[3] // 2)
    assert np.all(result == 6)


def test_the_copy_has_one_input_and_no_weights_that_nothing_uses() -> None:
    graph = onnx.load_model_from_string(with_free_shapes(fixed_model())).graph
    assert [value.name for value in graph.input] == ["x"]
    assert [weight.name for weight in graph.initializer] == ["w"]
    assert not graph.value_info


@pytest.mark.parametrize("data", [b"", b"junk", fixed_model()[:100]])
def test_data_that_is_no_model_is_a_permanent_error(data: bytes) -> None:
    with pytest.raises(PermanentError) as caught:
        with_free_shapes(data)
    assert caught.value.code is ErrorCode.MODEL_DAMAGED
