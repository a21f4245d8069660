"""`python -m services.infer.probe`: what can run detection models here.

`--gpu`: on the first visible GPU; else on the CPU. The protocol is that of `shared.findings`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from services.infer.engines.onnx_session import CPU, CUDA, open_session
from services.infer.engines.trt_api import listener, load
from shared.findings import Finding, Step, look, ok, problem
from shared.gpu.matrix import package

SOFTWARE_FIX = "the installation is broken: `make setup` renews it"
ONNX_FIX = package("onnxruntime-gpu").install
TENSORRT_FIX = (
    f"optional, detection is faster with it: {package('tensorrt').install}; see docs/tensorrt.md"
)
SIDE = 32


def main(arguments: Sequence[str]) -> int:
    """See above."""
    of_gpu = "--gpu" in arguments
    rest = [each for each in arguments if each not in ("--gpu", "--brief")]
    with TemporaryDirectory(prefix="dualface-probe-") as folder:
        model = Path(folder) / "model.onnx"
        if of_gpu:
            steps = [
                Step("infer.tensorrt", _tensorrt, TENSORRT_FIX),
                Step("infer.onnx-cuda", partial(_onnx, "infer.onnx-cuda", CUDA, model), ONNX_FIX),
            ]
        else:
            on_cpu = partial(_onnx, "infer.onnx-cpu", CPU, model)
            steps = [Step("infer.onnx-cpu", on_cpu, SOFTWARE_FIX)]
        return look(steps, rest)


def _tensorrt() -> Iterator[Finding]:
    """Whether its libraries load, and like the driver; an engine would take minutes to build."""
    trt = load()  # raises EngineError where it is not installed, or too old
    version = str(trt.__version__)
    if trt.Builder(listener(trt)) is None:
        yield problem("infer.tensorrt", f"TensorRT {version} does not start", TENSORRT_FIX)
        return
    yield ok("infer.tensorrt", f"TensorRT {version} starts", version=version)


def _onnx(check: str, provider: str, model: Path) -> Iterator[Finding]:
    """One convolution: it takes cuDNN, which is what is missing most often."""
    _write_model(model)
    session = open_session(model, 1, provider)
    picture = np.ones((1, 1, SIDE, SIDE), np.float32)
    (made,) = session.run(None, {"picture": picture})
    if made.shape != picture.shape or abs(float(made[0, 0, SIDE // 2, SIDE // 2]) - 9) > 0.01:
        yield problem(check, "ONNX Runtime computed something else", ONNX_FIX)
        return
    providers = list(session.get_providers())
    yield ok(check, f"ONNX Runtime runs a model by {provider}", providers=providers)


def _write_model(path: Path) -> None:
    # Half a second of importing.
    import onnx
    from onnx import TensorProto, helper

    shape = (1, 1, SIDE, SIDE)
    weights = helper.make_tensor("weights", TensorProto.FLOAT, (1, 1, 3, 3), [1.0] * 9)
    node = helper.make_node("Conv", ["picture", "weights"], ["made"], pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [node],
        "sum of nine",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("made", TensorProto.FLOAT, shape)],
        [weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(made, str(path))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
