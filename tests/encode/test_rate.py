"""Facts about bit rates: who decides, what comes out, and that chunks still join."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from services.encode.chunks import read_chunk
from services.encode.engines.pyav import PyAvEncoder
from services.encode.mux import mux
from services.encode.plan import QUALITY, RateControl, RateMode, encoder_options, rate_control
from shared.jobs import Codec, OutputPlan
from shared.media.layout import FrameLayout, Plane
from tests.encode.pictures import output, source

SIZE, RATE, FRAMES = (320, 176), 25, 32
LAYOUT = FrameLayout(width=SIZE[0], height=SIZE[1])
CHUNK_S = FRAMES / RATE
KBPS = 1000


def plan(codec: Codec) -> OutputPlan:
    return output(codec=codec).model_copy(update={"width": SIZE[0], "height": SIZE[1]})


def noisy(seed: int) -> Plane:
    """A slot's memory: a texture that drifts, under noise that nothing predicts."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (300, 500)).astype(np.float32), (0, 0), 3)
    texture = (texture - texture.min()) * (235 / np.ptp(texture))
    slot = np.full(FRAMES * LAYOUT.frame_bytes, 128, np.uint8)
    for index in range(FRAMES):
        part = texture[index : index + SIZE[1], 2 * index : 2 * index + SIZE[0]]
        noise = rng.normal(0, 6, part.shape)
        LAYOUT.planes(slot, index)[0][:] = np.clip(part + noise, 0, 255).astype(np.uint8)
    return slot


def chunks(
    folder: Path, codec: Codec, rate: RateControl, count: int = 3, threads: int = 1
) -> list[Path]:
    paths = []
    for number in range(count):
        slot, path = noisy(number), folder / f"{codec}-{rate.mode}-{number}.nut"
        first = number * FRAMES
        frames = [(512 * (first + at), LAYOUT.planes(slot, at)) for at in range(FRAMES)]
        PyAvEncoder(threads).encode(frames, LAYOUT, plan(codec), path, rate)
        paths.append(path)
    return paths


def kbps(paths: list[Path]) -> float:
    """Of the pictures alone."""
    sizes = [packet.size for path in paths for packet in read_chunk(path, 0).packets]
    return sum(sizes) * 8 / 1000 / (len(sizes) / RATE)


@pytest.mark.parametrize("codec", Codec)
def test_the_bit_rate_of_noisy_chunks_is_the_one_asked_for(tmp_path: Path, codec: Codec) -> None:
    constant = kbps(chunks(tmp_path, codec, rate_control(KBPS, CHUNK_S, 0, 3)))
    assert constant == pytest.approx(KBPS, rel=0.1)
    variable = kbps(chunks(tmp_path, codec, rate_control(KBPS, CHUNK_S, 3, 3), 2))
    assert variable == pytest.approx(0.7 * KBPS, rel=0.2)


@pytest.mark.parametrize("codec", Codec)
def test_chunks_of_one_rate_join_and_are_the_same_bytes_again(tmp_path: Path, codec: Codec) -> None:
    rate = rate_control(KBPS, CHUNK_S, 0, 3)
    paths = chunks(tmp_path, codec, rate, 2)
    before = [path.read_bytes() for path in paths]
    for threads in (1, 4):  # threads of an encoder wait for each other when they look at a rate
        again = chunks(tmp_path, codec, rate, 2, threads)
        assert [path.read_bytes() for path in again] == before
    made = mux(paths, None, source(plan(codec)), plan(codec), "mp4", tmp_path / "r.mp4")
    assert made.frames == 2 * FRAMES


def test_the_rate_is_lower_where_many_share_an_encoder() -> None:
    def modes(busy_from: int) -> list[str]:
        return [rate_control(KBPS, 1.0, busy, busy_from).mode.value for busy in range(5)]

    assert modes(3) == ["cbr", "cbr", "cbr", "vbr", "vbr"]
    assert modes(0) == ["cbr"] * 5
    assert rate_control(None, 1.0, 9, 3) == QUALITY
    busy = rate_control(KBPS, 1.0, 3, 3)
    assert (busy.mode, busy.kbps, busy.peak_kbps) == (RateMode.VBR, 700, KBPS)


@pytest.mark.parametrize("codec", Codec)
def test_with_a_bit_rate_the_quality_is_not_said_and_without_one_no_rate_is(codec: Codec) -> None:
    said = encoder_options(plan(codec), rate_control(KBPS, 1.0, 0, 0))
    assert "crf" not in said
    rate = "tbr=" if codec is Codec.AV1 else "bitrate="
    assert f"{rate}1000" in " ".join(said.values())
    assert rate not in " ".join(encoder_options(plan(codec)).values())
