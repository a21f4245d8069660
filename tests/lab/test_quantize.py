"""A small network built here, quantised for real; then the development models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from services.infer.families import Array
from services.infer.lab.quantize import OPSET, last_convolutions, to_fp16, to_int8
from shared.errors import ErrorCode, PermanentError
from tests.lab.toys import SIDE, op_types, toy_model


def inputs(seed: int = 1, count: int = 4) -> Iterator[Array]:
    """Of two sizes, 0 to 255."""
    chance = np.random.default_rng(seed)
    for index in range(count):
        shape = (1, 3, SIDE, SIDE if index % 2 else SIDE // 2)
        yield chance.integers(0, 256, shape).astype(np.float32)


@pytest.fixture(scope="module")
def made() -> onnx.ModelProto:
    copy, sizes = to_int8(toy_model(), inputs())
    assert sizes == ((SIDE // 2, SIDE), (SIDE, SIDE))
    return onnx.load_model_from_string(copy.data)


def nodes_of(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def test_rounding_is_explicit_in_the_graph(made: onnx.ModelProto) -> None:
    assert len(nodes_of(made, "QuantizeLinear")) == 1
    assert len(nodes_of(made, "DequantizeLinear")) == 2
    inner = next(node for node in nodes_of(made, "Conv") if node.output[0] == "inner")
    makers = {name: node for node in made.graph.node for name in node.output}
    assert [makers[name].op_type for name in inner.input[:2]] == ["DequantizeLinear"] * 2
    assert inner.input[2] in stored(made), "the bias stays in FP32"


def test_weights_and_activations_are_int8_around_zero(made: onnx.ModelProto) -> None:
    values = stored(made)
    for node in (*nodes_of(made, "QuantizeLinear"), *nodes_of(made, "DequantizeLinear")):
        zero = values[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()


def test_weights_have_a_scale_per_channel_activations_one(made: onnx.ModelProto) -> None:
    values = stored(made)
    (activation,) = nodes_of(made, "QuantizeLinear")
    assert values[activation.input[1]].shape == ()
    assert values[activation.input[1]] == pytest.approx(255 / 127, rel=0.02)
    (weights,) = [n for n in nodes_of(made, "DequantizeLinear") if n.input[0] in values]
    assert values[weights.input[1]].shape == (3,)
    assert values[weights.input[0]].dtype == np.int8


def test_only_the_standard_operators_of_one_opset_are_used(made: onnx.ModelProto) -> None:
    assert [(each.domain, each.version) for each in made.opset_import] == [("", OPSET)]
    assert {node.domain for node in made.graph.node} == {""}


def test_a_model_of_a_later_opset_keeps_it() -> None:
    assert to_int8(toy_model(opset=17), inputs())[0].opset == 17


def test_inputs_and_outputs_stay_as_they_were(made: onnx.ModelProto) -> None:
    model = onnx.load_model_from_string(toy_model())
    for kind in ("input", "output"):
        before, after = (
            [(each.name, each.type.tensor_type.elem_type) for each in getattr(graph, kind)]
            for graph in (model.graph, made.graph)
        )
        assert after == before


def test_what_it_says_differs_by_no_more_than_a_step(made: onnx.ModelProto) -> None:
    (picture,) = inputs(seed=9, count=1)
    before, after = (
        ort.InferenceSession(data).run(None, {"picture": picture})
        for data in (toy_model(), made.SerializeToString())
    )
    for one, other in zip(before, after, strict=True):
        assert np.abs(one - other).max() <= 1 / 127


def test_the_same_model_and_inputs_give_the_same_bytes_in_another_process() -> None:
    script = (
        "from hashlib import sha256; from tests.lab.test_quantize import *\n"
        "print(sha256(to_int8(toy_model(), inputs())[0].data).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True
    )
    here = sha256(to_int8(toy_model(), inputs())[0].data).hexdigest()
    assert done.stdout.strip() == here
    darker = ((each / 2).astype(np.float32) for each in inputs())
    assert sha256(to_int8(toy_model(), darker)[0].data).hexdigest() != here


def test_what_makes_boxes_of_features_stays_in_fp32() -> None:
    graph = onnx.load_model_from_string(toy_model()).graph
    for index, node in enumerate(graph.node):
        node.name = f"n{index}"
    names = {node.output[0]: node.name for node in graph.node}
    heads = last_convolutions(graph)
    assert set(heads) == {names[each] for each in ("heat", "size", "offset", "marks")}


def test_convolutions_of_one_channel_each_stay_in_fp32() -> None:
    model = onnx.load_model_from_string(toy_model())
    first = model.graph.node[0]
    first.attribute.append(onnx.helper.make_attribute("group", 3))
    (same,) = [each for each in model.graph.initializer if each.name == "same"]
    weights = numpy_helper.to_array(same)[range(3), range(3)][:, np.newaxis]
    same.CopyFrom(numpy_helper.from_array(weights.copy(), "same"))
    copy, _ = to_int8(model.SerializeToString(), inputs())
    assert "QuantizeLinear" not in op_types(copy.data)
    assert "Conv_0" in copy.float_nodes


def test_no_frame_at_all_is_an_error() -> None:
    with pytest.raises(PermanentError) as caught:
        to_int8(toy_model(), iter(()))
    assert caught.value.code in (ErrorCode.SOURCE_EMPTY, ErrorCode.MODEL_DAMAGED)


def test_a_model_that_does_not_take_the_pictures_is_an_error() -> None:
    with pytest.raises(PermanentError) as caught:
        to_int8(toy_model(), iter([np.zeros((1, 1, 8, 8), np.float32)]))
    assert caught.value.code is ErrorCode.MODEL_DAMAGED
    assert "\n" not in caught.value.message


def test_fp16_has_the_same_inputs_and_nearly_the_same_outputs() -> None:
    data = to_fp16(toy_model())
    assert "Cast" in op_types(data)
    (picture,) = inputs(seed=9, count=1)
    before, after = (
        ort.InferenceSession(each).run(None, {"picture": picture})[0]
        for each in (toy_model(), data)
    )
    assert after.dtype == np.float32
    assert np.abs(before - after).max() < 2e-3
