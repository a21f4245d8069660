"""Compiling a model with TensorRT. Minutes; the device is busy meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from services.infer.engines.batches import damaged
from services.infer.engines.trt_api import failed, listener, pacemaker
from services.infer.engines.trt_cache import Built
from services.infer.engines.trt_plan import Profile, Recipe, Shape
from shared.errors import EngineError
from shared.models import ModelEntry

_FREE = -1
"""A side of a shape that is not fixed."""


def build(
    trt: Any,
    entry: ModelEntry,
    path: Path,
    recipe: Recipe,
    workspace_bytes: int,
    timing: bytes,
    on_step: Callable[[], None],
) -> Built:
    """Compile the ONNX file of `entry` in `path` as `recipe` says, with at most so much scratch
    memory.

    `timing`: measurements of earlier times, b"" for none. What `on_step` raises ends it and passes.
    Raises PermanentError MODEL_DAMAGED for what is no model, EngineError for one that TensorRT (or
    half precision) can't do, OutOfMemoryError.
    """
    told = listener(trt)
    builder = _made(lambda: trt.Builder(told), told, "starting its builder")
    # ignored by version 11, where there is no other kind
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    _parse(trt, network, entry, _prepared(entry, path, recipe), told)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    with suppress(AttributeError):  # newer than the oldest version, and only saves memory
        feature = trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10
        config.set_preview_feature(feature, True)
    monitor = pacemaker(trt, on_step)
    config.progress_monitor = monitor
    timings = _timing_cache(config, timing)
    _set_profiles(builder, network, config, recipe, told)
    plan = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if plan is None:
        raise failed(told, f"compiling {recipe.model}")
    outputs = tuple(network.get_output(index).name for index in range(network.num_outputs))
    return Built(
        plan=bytes(plan),
        outputs=outputs,
        timing=b"" if timings is None else bytes(timings.serialize()),
        log="\n".join([f"recipe: {recipe.model_dump_json()}", *told.lines, ""]),
    )


def _made(make: Callable[[], Any], told: Any, what: str) -> Any:
    """What a constructor makes: TensorRT's raise TypeError for want of a device or its library."""
    try:
        return make()
    except (TypeError, RuntimeError) as error:
        raise failed(told, what) from error


def _prepared(entry: ModelEntry, path: Path, recipe: Recipe) -> bytes:
    """The ONNX file's bytes in the recipe's precision; a quantised one has it already."""
    data = path.read_bytes()
    if recipe.precision != "fp16":
        return data
    # importing onnx takes half a second: only who compiles pays it
    from services.infer.engines.half import in_half

    try:
        return in_half(data)
    except ValueError as error:
        raise damaged(entry, str(error)) from error


def _parse(trt: Any, network: Any, entry: ModelEntry, model: bytes, told: Any) -> None:
    parser = trt.OnnxParser(network, told)
    if parser.parse(model):
        return
    flaws = [parser.get_error(index) for index in range(parser.num_errors)]
    if any(flaw.code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED for flaw in flaws):
        raise damaged(entry, "its file is no ONNX model, TensorRT finds")
    # one sentence with all of them, as the model's author needs it
    lines = dict.fromkeys(
        f"{flaw.node_operator() or 'the graph'} {flaw.node_name()}: {flaw.desc()}".strip()
        for flaw in flaws
    )
    reasons = " ".join("; ".join(lines).split())
    raise EngineError(f"TensorRT can't do this model ({reasons[:1000] or 'it does not say why'}).")


def _timing_cache(config: Any, timing: bytes) -> Any:
    """The config's timing cache: the kept one, or a new one where that is of another GPU or
    version; None where there can be none."""
    for data in dict.fromkeys((timing, b"")):
        timings = config.create_timing_cache(data)
        if timings is not None and config.set_timing_cache(timings, False):
            return timings
    return None


def _set_profiles(builder: Any, network: Any, config: Any, recipe: Recipe, told: Any) -> None:
    if network.num_inputs != 1:
        raise EngineError(f"TensorRT finds {network.num_inputs} inputs, not one picture.")
    tensor = network.get_input(0)
    given = tuple(tensor.shape)
    for each in dict.fromkeys(within(profile, given) for profile in recipe.profiles):
        range_ = builder.create_optimization_profile()
        range_.set_shape(tensor.name, each.least, each.usual, each.most)
        if config.add_optimization_profile(range_) < 0:
            raise failed(told, f"at a profile of {each.most} for an input {given}")


def within(profile: Profile, given: tuple[int, ...]) -> Profile:
    """The profile for an input some of whose sides are fixed (of batch one, say): those are as
    given. Raises EngineError for an input of another kind, or fixed to another picture size."""
    if len(given) != len(profile.most):
        raise EngineError(f"TensorRT finds an input of shape {given}, not of a picture.")

    def fixed(shape: Shape) -> Shape:
        sides = [side if own == _FREE else own for side, own in zip(shape, given, strict=True)]
        return (sides[0], sides[1], sides[2], sides[3])

    return Profile(least=fixed(profile.least), usual=fixed(profile.usual), most=fixed(profile.most))
