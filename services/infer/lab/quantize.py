"""INT8 and FP16 copies of models. `python -m services.infer.lab.quantize`, a `QuantizeRequest`.

INT8 is explicit: QuantizeLinear and DequantizeLinear stand in the graph, so that what is rounded
where does not depend on who runs it. Weights are int8, symmetric, with a scale per output channel;
activations int8, symmetric (zero point 0), a scale per tensor, as TensorRT wants both. Activations
are rounded where they enter a convolution, and nowhere else: TensorRT then fuses each convolution
with its activation. Biases stay FP32 (TensorRT reads no INT32 ones), and so do two kinds of
convolutions: the last before each output, as sizes of boxes are powers of what it says, and those
of one channel each (depthwise): few weights, little to gain, and without them the spread of
CenterFace's scores about those of FP32 falls from 0.029 to 0.011.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import onnx

from services.infer.engines.onnx_cpu import use_one_thread
from services.infer.engines.onnx_session import ORT_ERRORS
from services.infer.families import Array
from services.infer.lab.answering import answer
from services.infer.lab.calibrate import (
    RecordingDetector,
    choose,
    count_conditions,
    inputs_of,
    logged,
    look_through,
)
from shared.assets import folder_lock, sha256_of, write_atomically
from shared.errors import ErrorCode, PermanentError
from shared.models import entry_of, locate
from shared.models.added import entry_path
from shared.models.precision import (
    RECIPE,
    CalibrationLog,
    Progress,
    Quantized,
    QuantizeRequest,
    Variant,
    VariantReceipt,
    calibration_path,
    evaluation_path,
    find_variant,
    receipt_path,
    variant_path,
)
from shared.settings import Settings

OPSET = 13
"""The first with a scale per channel in DequantizeLinear; a model of a later one keeps its own."""

IR_VERSION = 8

CONVOLUTIONS = ("Conv", "ConvTranspose")

METHOD = "min-max"
"""Of ranges. Entropy gave the same on YuNet and CenterFace and took ten times as long, a percentile
(99.99) gave worse boxes and scores."""

# the tools take many graphs for granted, and end with whatever comes of it where one is different
_TOOL_ERRORS: tuple[type[Exception], ...] = (
    *ORT_ERRORS,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    ValueError,
    RuntimeError,
    LookupError,
    AssertionError,
    AttributeError,
    TypeError,
)


@dataclass(frozen=True)
class Int8:
    """A quantised model's bytes; its opset; names of the convolutions left in FP32."""

    data: bytes
    opset: int
    float_nodes: tuple[str, ...]


class _Reader:
    """What `quantize_static` takes inputs from: a `CalibrationDataReader`."""

    def __init__(self, name: str, inputs: Iterator[Array]) -> None:
        self._name = name
        self._inputs = inputs
        self.sizes: set[tuple[int, int]] = set()

    def get_next(self) -> dict[str, Array] | None:
        given = next(self._inputs, None)
        if given is None:
            return None
        self.sizes.add((given.shape[3], given.shape[2]))
        return {self._name: given}

    def __iter__(self) -> Iterator[dict[str, Array]]:
        while (given := self.get_next()) is not None:
            yield given


def to_int8(model: bytes, inputs: Iterator[Array]) -> tuple[Int8, tuple[tuple[int, int], ...]]:
    """The INT8 copy of an FP32 model, and the sizes (w, h) of the inputs it was calibrated on.

    The same model, inputs and versions give the same bytes. Raises PermanentError MODEL_DAMAGED
    for a model that can't be quantised, SOURCE_EMPTY without inputs.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="dualface-int8-") as folder, _quiet():
        named, prepared, done = (Path(folder, name) for name in ("named", "prepared", "done"))
        try:
            named.write_bytes(_with_names(model))
            # symbolic shapes would need SymPy, and are only of use to transformers
            quant_pre_process(named, prepared, skip_symbolic_shape=True)
            graph = onnx.load(prepared).graph
            kept = left_in_float(graph)
            reader = _Reader(graph.input[0].name, inputs)
            quantize_static(
                prepared,
                done,
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(CONVOLUTIONS),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(kept),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": list(CONVOLUTIONS),
                },
            )
            if not reader.sizes:
                raise PermanentError(ErrorCode.SOURCE_EMPTY, "There is no frame to calibrate on.")
            data = _tidy(done.read_bytes())
            made = Int8(data, _opset(onnx.load_model_from_string(data)), kept)
        except _TOOL_ERRORS as error:
            raise PermanentError(
                ErrorCode.MODEL_DAMAGED, f"The model can't be quantised ({_one_line(error)})."
            ) from error
    return made, tuple(sorted(reader.sizes))


def to_fp16(model: bytes) -> bytes:
    """A copy with FP16 weights and arithmetic, inputs and outputs stay FP32.

    On a CPU, ONNX Runtime mostly calculates in FP32 between casts that round to FP16, so its
    results are close to a GPU's and its speed says nothing. Raises PermanentError MODEL_DAMAGED.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        with _quiet():
            converted = convert_float_to_float16(
                onnx.load_model_from_string(_with_names(model)), keep_io_types=True
            )
        data: bytes = converted.SerializeToString(deterministic=True)
    except _TOOL_ERRORS as error:
        raise PermanentError(
            ErrorCode.MODEL_DAMAGED, f"The model can't be made FP16 ({_one_line(error)})."
        ) from error
    return data


def left_in_float(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Names of the convolutions that are not quantised, in the graph's order."""
    last = set(last_convolutions(graph))
    return tuple(node.name for node in graph.node if node.name in last or _is_depthwise(node))


def last_convolutions(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Names of the convolutions that nothing but the outputs lies behind, in the graph's order."""
    makers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = [value.name for value in graph.output]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in CONVOLUTIONS:
            found.add(node.name)
        else:
            waiting += node.input
    return tuple(node.name for node in graph.node if node.name in found)


def _is_depthwise(node: onnx.NodeProto) -> bool:
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    return node.op_type in CONVOLUTIONS and groups > 1


def store(cache: Path, name: str, precision: Variant, data: bytes, base_sha256: str) -> Path:
    """Put a copy and its receipt into the cache; the copy's path. An earlier evaluation of another
    copy is removed. Raises PermanentError NO_SPACE."""
    path = variant_path(cache, name, precision)
    digest = sha256(data).hexdigest()
    receipt = VariantReceipt(base_sha256=base_sha256, file_sha256=digest, recipe=RECIPE)
    with folder_lock(cache, path.name):
        if not path.is_file() or sha256_of(path) != digest:
            evaluation_path(cache, name, precision).unlink(missing_ok=True)
        write_atomically(path, data)
        text = receipt.model_dump_json(indent=2) + "\n"
        write_atomically(receipt_path(cache, name, precision), text.encode())
    return path


def ensure_fp16(name: str, settings: Settings) -> Path:
    """The FP16 copy, made where it is not there. Raises PermanentError as `locate`, `to_fp16`."""
    cache, folders = settings.cache_dir / "models", settings.model_folders
    found = find_variant(name, "fp16", cache, folders)
    if found is not None:
        return found
    base = locate(name, cache, folders)
    check_name(name, "fp16", cache)
    return store(cache, name, "fp16", to_fp16(base.read_bytes()), sha256_of(base))


def check_name(name: str, precision: Variant, cache: Path) -> None:
    """Raises PermanentError BAD_OPTION where a person added a model under the copy's name."""
    if entry_path(cache, f"{name}.{precision}").exists():
        raise PermanentError(
            ErrorCode.BAD_OPTION,
            f"The name {name}.{precision} is that of a model you added; remove it first "
            f"('dualface models remove {name}.{precision}').",
        )


def versions() -> dict[str, str]:
    """Of all that has a say in what comes out."""
    return {
        package: version(package)
        for package in ("dualface", "onnx", "onnxruntime", "numpy", "opencv-python-headless", "av")
    }


def tell(what: str) -> Callable[[int, int], None]:
    """Progress of one step, on standard error."""

    def line(done: int, of: int) -> None:
        print(Progress(what=what, done=done, of=of).model_dump_json(), file=sys.stderr, flush=True)

    return line


def quantize(request: QuantizeRequest) -> Quantized:
    """Do all of it; see `QuantizeRequest`."""
    use_one_thread()
    settings = Settings.load()
    cache, folders = settings.cache_dir / "models", settings.model_folders
    entry = entry_of(request.name, cache, folders)
    base = locate(request.name, cache, folders)
    check_name(request.name, "int8", cache)
    detector = RecordingDetector(entry, base)
    files = tuple(dict.fromkeys(request.frames))
    found = look_through(files, request.count, detector, tell("looking at frames"))
    chosen = choose(found, request.count, request.seed)
    inputs = inputs_of(chosen, request.count, files, detector, tell("calibrating"))
    made, sizes = to_int8(base.read_bytes(), inputs)
    base_sha256 = sha256_of(base)
    log = CalibrationLog(
        model=request.name,
        seed=request.seed,
        wanted=request.count,
        base_sha256=base_sha256,
        file_sha256=sha256(made.data).hexdigest(),
        method=METHOD,
        activations="int8, symmetric, per tensor",
        weights="int8, symmetric, per channel",
        per_channel=True,
        opset=made.opset,
        float_nodes=made.float_nodes,
        inputs=sizes,
        versions=versions(),
        found=count_conditions(found),
        frames=logged(chosen),
    )
    path = store(cache, request.name, "int8", made.data, base_sha256)
    text = log.model_dump_json(indent=2) + "\n"
    write_atomically(calibration_path(cache, request.name), text.encode())
    return Quantized(file=path, log=log)


def _with_names(model: bytes) -> bytes:
    """The model in OPSET at least, every node with a name: exceptions are made by name."""
    loaded = onnx.load_model_from_string(model)
    if _opset(loaded) < OPSET:
        loaded = onnx.version_converter.convert_version(loaded, OPSET)
    taken = {node.name for node in loaded.graph.node}
    for index, node in enumerate(loaded.graph.node):
        if not node.name:
            name = f"{node.op_type}_{index}"
            node.name = name if name not in taken else f"{name}_unnamed"
    data: bytes = loaded.SerializeToString(deterministic=True)
    return data


def _opset(model: onnx.ModelProto) -> int:
    versions = {each.domain or "ai.onnx": each.version for each in model.opset_import}
    return int(versions.get("ai.onnx", 1))


def _tidy(model: bytes) -> bytes:
    """Without notes of the tools, and claims on operator sets that no node is of; checked."""
    loaded = onnx.load_model_from_string(model)
    used = {node.domain for node in loaded.graph.node} | {""}
    kept = sorted(
        (each for each in loaded.opset_import if each.domain in used), key=lambda each: each.domain
    )
    kept = [onnx.helper.make_opsetid(each.domain, each.version) for each in kept]
    del loaded.opset_import[:]
    loaded.opset_import.extend(kept)
    del loaded.metadata_props[:]
    loaded.ir_version = max(IR_VERSION, loaded.ir_version)
    loaded.producer_name, loaded.producer_version = "dualface", str(RECIPE)
    initial = sorted(loaded.graph.initializer, key=lambda each: each.name)
    del loaded.graph.initializer[:]
    loaded.graph.initializer.extend(initial)
    values = sorted(loaded.graph.value_info, key=lambda each: each.name)
    del loaded.graph.value_info[:]
    loaded.graph.value_info.extend(values)
    onnx.checker.check_model(loaded)
    data: bytes = loaded.SerializeToString(deterministic=True)
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's tools print, and log advice; standard output is for the answer."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    sys.exit(answer(QuantizeRequest, quantize))
