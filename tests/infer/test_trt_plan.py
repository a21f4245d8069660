"""What engines are built for, and what they are known by."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.infer.engines.looks import look_of
from services.infer.engines.trt_plan import (
    WASTE,
    WORKSPACE_MAX,
    WORKSPACE_MIN,
    Profile,
    Recipe,
    calls,
    fixed_sizes,
    profile_for,
    profiles_of,
    workspace_bytes,
)
from shared.media.layout import FrameLayout
from shared.models import ENTRIES, ModelEntry
from tests.infer.test_onnx_cpu import entry

GIB = 1 << 30


def recipe(**changes: object) -> Recipe:
    base = Recipe(
        model="yunet_n",
        model_sha256="a" * 64,
        precision="fp16",
        profiles=profiles_of(entry(second=128), (64, 128), 8),
        tensorrt="11.4.0.106",
        gpu="NVIDIA L4",
        compute=(8, 9),
    )
    return Recipe.model_validate({**base.model_dump(), **changes})


@given(st.sampled_from(ENTRIES), st.integers(16, 8192), st.integers(16, 8192), st.integers(1, 64))
def test_a_frame_of_any_shape_lies_within_the_profile_of_each_look(
    model: ModelEntry, width: int, height: int, batch: int
) -> None:
    sides = (model.long_side_px, model.second_long_side_px)
    profiles = profiles_of(model, sides, batch)
    for index, side in enumerate(sides):
        w, h = look_of(model, FrameLayout(width=width, height=height), side).padded
        assert profiles[index].takes((batch, 3, h, w))
        assert profiles[index].takes((1, 3, h, w))
        assert not profiles[index].takes((batch + 1, 3, h, w))


def test_a_profile_is_tuned_for_full_batches_of_wide_pictures() -> None:
    (first, second) = profiles_of(entry(second=480), (256, 480), 8)
    assert (first.least, first.usual, first.most) == (
        (1, 3, 32, 32),
        (8, 3, 160, 256),
        (8, 3, 256, 256),
    )
    assert second.usual == (8, 3, 288, 480)


def test_a_model_of_one_size_has_one_profile_of_that_size() -> None:
    fixed = entry().model_copy(update={"fixed_input": (640, 384)})
    (only,) = profiles_of(fixed, (640,), 4)
    assert (only.least, only.usual, only.most) == ((1, 3, 384, 640), (4, 3, 384, 640), only.usual)


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="none"):
        profiles_of(entry(), (64,), 0)


def test_the_smallest_profile_that_takes_a_shape_is_used() -> None:
    profiles = profiles_of(entry(second=480), (256, 480), 8)
    assert profile_for(profiles, (8, 3, 160, 256)) == 0
    assert profile_for(profiles, (1, 3, 288, 480)) == 1
    assert profile_for(profiles, (9, 3, 160, 256)) is None


def test_sizes_of_calls_are_powers_of_two_up_to_the_batch() -> None:
    assert fixed_sizes(1) == (1,)
    assert fixed_sizes(8) == (1, 2, 4, 8)
    assert fixed_sizes(11) == (1, 2, 4, 8, 11)


@given(st.integers(0, 200), st.integers(1, 64))
def test_all_pictures_go_through_in_calls_of_which_few_places_are_idle(
    count: int, batch: int
) -> None:
    sizes = fixed_sizes(batch)
    made = calls(count, sizes)
    assert sum(taken for taken, _ in made) == count
    for taken, size in made:
        assert size in sizes
        assert size - taken <= WASTE * size
    assert all(size == batch for _, size in made[: count // batch])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(7, ((7, 8),)), (5, ((4, 4), (1, 1))), (3, ((3, 4),)), (17, ((8, 8), (8, 8), (1, 1)))],
)
def test_what_a_batch_usually_has_takes_one_or_two_calls(
    count: int, expected: tuple[tuple[int, int], ...]
) -> None:
    assert calls(count, (1, 2, 4, 8)) == expected


def test_each_ingredient_changes_what_an_engine_is_known_by() -> None:
    others = [
        recipe(model="yunet_s"),
        recipe(model_sha256="b" * 64),
        recipe(precision="int8"),
        recipe(profiles=profiles_of(entry(), (64,), 8)),
        recipe(profiles=profiles_of(entry(second=128), (64, 128), 9)),
        recipe(profiles=profiles_of(entry(second=160), (64, 160), 8)),
        recipe(tensorrt="11.4.1.2"),
        recipe(gpu="NVIDIA L40"),
        recipe(compute=(8, 6)),
        recipe(builder=0),
    ]
    assert recipe().digest == recipe().digest
    for one, two in itertools.combinations([recipe(), *others], 2):
        assert one.digest != two.digest


def test_timings_are_shared_by_all_models_of_one_gpu_and_version() -> None:
    same = [recipe(model="yunet_s"), recipe(precision="int8"), recipe(model_sha256="b" * 64)]
    assert {each.timing_digest for each in same} == {recipe().timing_digest}
    for other in (recipe(tensorrt="11.5"), recipe(gpu="NVIDIA L40"), recipe(compute=(8, 6))):
        assert other.timing_digest != recipe().timing_digest


def test_a_recipe_survives_the_store() -> None:
    assert Recipe.model_validate_json(recipe().model_dump_json()) == recipe()


def test_scratch_memory_is_a_part_of_the_budget_within_bounds() -> None:
    assert workspace_bytes(2 * GIB) == GIB // 2
    assert workspace_bytes(64 * GIB) == WORKSPACE_MAX
    assert workspace_bytes(0) == WORKSPACE_MIN


def test_a_profile_takes_what_lies_between_its_bounds() -> None:
    profile = Profile(least=(1, 3, 32, 32), usual=(4, 3, 64, 64), most=(8, 3, 64, 96))
    assert profile.takes((8, 3, 64, 96))
    assert not profile.takes((8, 3, 96, 96))
    assert not profile.takes((0, 3, 64, 96))
