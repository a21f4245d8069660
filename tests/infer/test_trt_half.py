"""Models in half precision: what becomes half, what stays, what can't be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.infer.engines.half import in_half
from shared.errors import EngineError
from tests.infer.test_onnx_cpu import brightness_model

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def model_of(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], outputs: tuple[str, ...] = ("y",)
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, FLOAT, ["a", "b", "c", "d"]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def ran(data: bytes, picture: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: picture})
    return found


def picture(dtype: type) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (2, 3, 8, 8)).astype(dtype)


def test_inputs_weights_and_outputs_are_half_and_the_results_close(tmp_path: Path) -> None:
    brightness_model(tmp_path / "m.onnx", channel=1)
    whole = (tmp_path / "m.onnx").read_bytes()
    half = in_half(whole)
    graph = onnx.load_model_from_string(half).graph
    values = (*graph.input, *graph.output)
    assert {value.type.tensor_type.elem_type for value in values} == {HALF}
    assert {weight.data_type for weight in graph.initializer} == {HALF}
    for one, two in zip(
        ran(whole, picture(np.float32)), ran(half, picture(np.float16)), strict=True
    ):
        np.testing.assert_allclose(one, two.astype(np.float32), atol=2e-3)


def test_half_takes_half_the_bytes_of_weights() -> None:
    weights = {"w": np.ones((64, 3, 8, 8), np.float32)}
    whole = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], weights)
    assert len(in_half(whole)) < 0.55 * len(whole)


@pytest.mark.parametrize("stored", [True, False])
def test_scales_of_a_resize_stay_float_though_others_use_the_same_constant(stored: bool) -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["big"], mode="nearest"),
        helper.make_node("ReduceSum", ["scales"], ["eight"], keepdims=0),
        helper.make_node("Add", ["big", "eight"], ["y"]),
    ]
    if not stored:
        constant = numpy_helper.from_array(scales)
        nodes.insert(0, helper.make_node("Constant", [], ["scales"], value=constant))
    whole = model_of(nodes, {"scales": scales} if stored else {})
    (one,), (two,) = ran(whole, picture(np.float32)), ran(in_half(whole), picture(np.float16))
    assert two.dtype == np.float16
    np.testing.assert_allclose(one, two, rtol=1e-3)


def test_casts_to_float_become_casts_to_half() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["sides"]),
        helper.make_node("Cast", ["sides"], ["numbers"], to=FLOAT),
        helper.make_node("ReduceMax", ["numbers"], ["most"], keepdims=0),
        helper.make_node("Mul", ["x", "most"], ["y"]),
    ]
    whole = model_of(nodes, {})
    (one,), (two,) = ran(whole, picture(np.float32)), ran(in_half(whole), picture(np.float16))
    np.testing.assert_allclose(one, two, rtol=1e-3)


def test_a_weight_beyond_half_precision_is_refused() -> None:
    whole = model_of([helper.make_node("Mul", ["x", "w"], ["y"])], {"w": np.float32([70000])})
    with pytest.raises(EngineError, match="70000 is beyond half precision") as caught:
        in_half(whole)
    assert not caught.value.able


def test_a_model_that_mixes_types_is_refused() -> None:
    nodes = [
        helper.make_node("RandomNormal", [], ["noise"], shape=[1], dtype=FLOAT),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    with pytest.raises(EngineError, match="can't be had in half precision"):
        in_half(model_of(nodes, {}))


@pytest.mark.parametrize("data", [b"", b"junk", b"\x08\x08"])
def test_what_is_no_model_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a valid ONNX model"):
        in_half(data)
