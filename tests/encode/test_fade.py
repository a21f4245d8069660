"""What is shown instead of frames that could not be made."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from services.encode.engines.base import ChunkEncoder
from services.encode.engines.pyav import PyAvEncoder
from services.encode.fade import ALL, DeviceMixer, HostMixer, Still, faded
from services.encode.plan import fade
from services.encode.stage import encode_batch, replace_batch
from shared.cuda.device import Device
from shared.cuda.memory import Staging
from shared.jobs import Codec
from shared.ledger import Neighbours
from shared.media.layout import FrameLayout, PixelFormat, Plane
from shared.messages import ReplaceMessage
from shared.names import chunk_key
from shared.redisdb import Connection
from tests.encode.jobs import Bench, bench
from tests.encode.pictures import LAYOUT
from tests.videos import frame_number

CHAIN: list[ChunkEncoder] = [PyAvEncoder()]
TICK = Fraction(1, 25)


# --- how much of the next picture ----------------------------------------


def test_the_next_picture_comes_in_over_the_last_quarter_of_a_second() -> None:
    weights = fade(range(10, 20), before=9, after=20, tick=TICK, whole=100)
    assert weights == (0, 0, 0, 0, 4, 20, 36, 52, 68, 84)


def test_a_short_gap_is_faded_over_as_a_whole() -> None:
    assert fade((10, 11, 12), before=9, after=13, tick=TICK, whole=100) == (25, 50, 75)


def test_times_that_are_not_even_count_as_they_are() -> None:
    assert fade((0, 20, 24), before=-5, after=25, tick=Fraction(1, 100), whole=100) == (0, 80, 96)


# --- mixing ----------------------------------------


def noise(seed: int, size: int) -> Plane:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def exact(first: Plane, second: Plane, weight: int) -> list[int]:
    return [
        int(Fraction(int(a) * (ALL - weight) + int(b) * weight, ALL) + Fraction(1, 2))
        for a, b in zip(first, second, strict=True)
    ]


@pytest.mark.parametrize("weight", [0, 1, 100, 128, 255, 256])
def test_a_mix_is_rounded_to_the_nearest(weight: int) -> None:
    first, second = noise(1, 1000), noise(2, 1000)
    first[:3], second[:3] = 255, (255, 0, 254)
    canvas = np.zeros_like(first)
    HostMixer().mix(first, second, weight, canvas)
    assert canvas.tolist() == exact(first, second, weight)


@pytest.mark.parametrize("weight", [0, 1, 77, 128, 256])
@pytest.mark.parametrize("size", [1, 255, 256, 12345])
def test_a_gpu_mixes_the_same_to_the_bit(device: Device, size: int, weight: int) -> None:
    first, second, expected, got = (noise(seed, size) for seed in range(4))
    HostMixer().mix(first, second, weight, expected)
    mixer = DeviceMixer(device)
    canvas = mixer.blank(size)
    mixer.mix(mixer.put(first), mixer.put(second), weight, canvas)
    device.download(canvas, got)
    np.testing.assert_array_equal(got, expected)


def test_frames_lie_where_the_mixer_works(device: Device) -> None:
    layout = FrameLayout(width=64, height=48, format=PixelFormat.NV12)
    pictures = noise(1, layout.frame_bytes), noise(2, layout.frame_bytes)
    still = Still(*pictures, (0, 128, ALL))
    here = [
        (pts, [plane.copy() for plane in planes])
        for pts, planes in faded(HostMixer(), still, layout, (5, 6, 9))
    ]
    down = Staging(device).down
    there = [
        (pts, [plane.copy() for plane in down(planes)])
        for pts, planes in faded(DeviceMixer(device), still, layout, (5, 6, 9))
    ]
    assert [pts for pts, _ in here] == [5, 6, 9]
    for (pts, planes), (same, others) in zip(here, there, strict=True):
        assert pts == same
        for plane, other in zip(planes, others, strict=True):
            np.testing.assert_array_equal(plane, other)
    for plane, whole in zip(here[2][1], layout.planes(pictures[1]), strict=True):
        np.testing.assert_array_equal(plane, whole)


# --- whole chunks ----------------------------------------


@pytest.fixture
def made(redis: Connection, tmp_path: Path) -> Iterator[Bench]:
    with bench(redis, tmp_path) as it:
        yield it


def lumas(made: Bench, batch: int) -> list[np.ndarray]:
    """The frames of a chunk."""
    store = made.runtime.store
    with store.local(chunk_key("j", 0, batch)) as path, av.open(path) as chunk:
        return [frame.to_ndarray()[: LAYOUT.height] for frame in chunk.decode(video=0)]


def numbers(made: Bench, batch: int) -> list[int]:
    return [frame_number(np.asarray(luma, np.uint8)) for luma in lumas(made, batch)]


def neighbours(made: Bench, message: ReplaceMessage) -> Neighbours | None:
    return made.runtime.ledger.neighbours(message)


@pytest.mark.parametrize("codec", Codec)
def test_frames_that_were_given_up_show_the_one_before(made: Bench, codec: Codec) -> None:
    made.begin(codec=codec)
    encode_batch(made.runtime, made.composed(0, 5), CHAIN)
    given_up = made.given_up(1, 3)
    encode_batch(made.runtime, made.composed(2, 4), CHAIN)
    replace_batch(made.runtime, given_up, CHAIN)
    assert numbers(made, 1) == [4, 4, 4]


def test_they_wait_for_what_they_stand_between(made: Bench) -> None:
    made.begin()
    given_up = made.given_up(1, 3)
    first, last = made.composed(0, 4), made.composed(2, 4)
    encode_batch(made.runtime, first, CHAIN)
    replace_batch(made.runtime, given_up, CHAIN)
    assert neighbours(made, given_up) is None
    assert made.runtime.ledger.replaced("j", unmade=True) == [given_up]
    encode_batch(made.runtime, last, CHAIN)
    assert neighbours(made, given_up) is not None
    replace_batch(made.runtime, given_up, CHAIN)
    assert made.runtime.ledger.replaced("j", unmade=True) == []


def test_just_before_the_next_picture_they_fade_into_it_and_again_the_same(made: Bench) -> None:
    made.begin()
    encode_batch(made.runtime, made.composed(0, 4), CHAIN)
    given_up = made.given_up(1, 10, first=190)
    encode_batch(made.runtime, made.composed(2, 4), CHAIN)
    replace_batch(made.runtime, given_up, CHAIN)
    before, after = lumas(made, 0)[-1].astype(int), lumas(made, 2)[0].astype(int)
    shown = lumas(made, 1)
    for frame, weight in zip(shown, (0, 0, 0, 0, 0.04, 0.2, 0.36, 0.52, 0.68, 0.84), strict=True):
        off = np.abs(frame - (before + weight * (after - before)))
        assert off.mean() < 6  # of 255, by two encodings
    made.runtime.redis.hdel("df:job:j:chunks", "0:1")
    replace_batch(made.runtime, given_up, CHAIN)
    for frame, again in zip(shown, lumas(made, 1), strict=True):
        np.testing.assert_array_equal(frame, again)


def test_at_the_end_of_a_video_there_is_nothing_to_fade_into(made: Bench) -> None:
    made.begin()
    encode_batch(made.runtime, made.composed(0, 4), CHAIN)
    given_up = made.given_up(1, 3, first=4)
    assert neighbours(made, given_up) is None  # there may be more
    made.decoded(2)
    replace_batch(made.runtime, given_up, CHAIN)
    assert numbers(made, 1) == [3, 3, 3]


def test_at_its_beginning_the_next_good_picture_is_shown(made: Bench) -> None:
    made.begin()
    first, second = made.given_up(0, 3), made.given_up(1, 3)
    encode_batch(made.runtime, made.composed(2, 4), CHAIN)
    assert neighbours(made, second) is None  # it shows what the first one shows
    replace_batch(made.runtime, first, CHAIN)
    replace_batch(made.runtime, second, CHAIN)
    assert numbers(made, 0) == numbers(made, 1) == [200] * 3


def test_of_a_video_that_nobody_can_make_there_is_grey(made: Bench) -> None:
    made.begin()
    given_up = made.given_up(0, 3)
    made.decoded(1)
    replace_batch(made.runtime, given_up, CHAIN)
    assert all(np.abs(luma.astype(int) - 128).max() < 3 for luma in lumas(made, 0))


def test_only_the_last_of_several_fades(made: Bench) -> None:
    made.begin()
    encode_batch(made.runtime, made.composed(0, 4), CHAIN)
    batches = made.given_up(1, 3, first=194), made.given_up(2, 3, first=197)
    encode_batch(made.runtime, made.composed(3, 4), CHAIN)
    for each in batches:
        replace_batch(made.runtime, each, CHAIN)
    far = [neighbours(made, each) for each in batches]
    assert [None if each is None else each.near for each in far] == [False, True]
    assert numbers(made, 1) == [3] * 3
