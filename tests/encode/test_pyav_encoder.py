"""Chunks of libx264, libx265 and libsvtav1."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from services.encode.chunks import read_chunk
from services.encode.engines.pyav import PyAvEncoder
from shared.errors import ErrorCode, PermanentError, TemporaryError
from shared.jobs import Codec, ColorTags, Ratio
from shared.media.layout import FrameLayout, Plane
from tests.encode.pictures import LAYOUT, NV12, SIZE, encode, numbered, output
from tests.videos import frame_number

TIMES: list[tuple[Ratio, list[int]]] = [
    ((1, 90000), [45990 + 3003 * i for i in range(12)]),
    ((1, 100), [0, 8, 16, 24, 40]),
    ((1001, 30000), list(range(9))),
    ((1, 1000), [-67, -33, 0, 33, 400, 401]),
    ((19667, 519168), [7]),
    ((1, 1_000_000), [10**12, 10**12 + 33333]),
]


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize(("time_base", "pts"), TIMES)
def test_a_chunk_keeps_every_time_exactly(
    tmp_path: Path, codec: Codec, time_base: Ratio, pts: list[int]
) -> None:
    info = encode(pts, output(time_base, codec), tmp_path / "c.nut")
    chunk = read_chunk(tmp_path / "c.nut", 0)
    assert sorted(chunk.pts) == pts
    assert (info.frames, info.first_pts, info.last_pts) == (len(pts), pts[0], pts[-1])
    assert chunk.packets[0].is_keyframe
    assert chunk.pts[0] == pts[0]


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("layout", [LAYOUT, NV12])
def test_a_chunk_decodes_by_itself_to_the_frames_given(
    tmp_path: Path, codec: Codec, layout: FrameLayout
) -> None:
    encode([0, 1, 2, 3, 4], output((1, 25), codec), tmp_path / "c.nut", first=300, layout=layout)
    with av.open(tmp_path / "c.nut") as opened:
        numbers = [frame_number(frame.to_ndarray()[: SIZE[1]]) for frame in opened.decode(video=0)]
    assert numbers == [300, 301, 302, 303, 304]


@pytest.mark.parametrize("codec", Codec)
def test_the_same_frames_give_the_same_bytes_whatever_was_encoded_before(
    tmp_path: Path, codec: Codec
) -> None:
    plan = output(codec=codec)
    encode([0, 512, 1024], plan, tmp_path / "a.nut", first=7)
    encode([0, 90, 91, 92], plan, tmp_path / "b.nut", first=900)
    encode([0, 512, 1024], plan, tmp_path / "c.nut", first=7)
    assert (tmp_path / "a.nut").read_bytes() == (tmp_path / "c.nut").read_bytes()


def moving(seed: int, count: int, layout: FrameLayout) -> Plane:
    """A slot's memory with `count` frames of a texture that drifts and flickers a little."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (400, 600)).astype(np.float32), (0, 0), 3)
    texture = (texture - texture.min()) * (235 / np.ptp(texture))
    slot = np.full(count * layout.frame_bytes, 128, np.uint8)
    for index in range(count):
        x, y = 2 * index, 40 + round(30 * np.sin(index / 5))
        part = texture[y : y + layout.height, x : x + layout.width]
        noise = rng.normal(0, 4, part.shape)
        layout.planes(slot, index)[0][:] = np.clip(part + noise, 0, 255).astype(np.uint8)
    return slot


def test_chunks_of_any_width_do_not_depend_on_those_encoded_before(tmp_path: Path) -> None:
    """With 20 macroblocks in a row: a multiple of 16 hides what vector code reads beyond it."""
    layout = FrameLayout(width=320, height=180)
    plan = output().model_copy(update={"width": 320, "height": 180})
    slots = {seed: moving(seed, 30, layout) for seed in (1, 2, 3)}
    made: dict[int, set[bytes]] = {}
    for seed in (1, 2, 3, 3, 2, 1):
        frames = [(512 * i, layout.planes(slots[seed], i)) for i in range(30)]
        PyAvEncoder().encode(frames, layout, plan, tmp_path / "c.nut")
        made.setdefault(seed, set()).add((tmp_path / "c.nut").read_bytes())
    assert [len(different) for different in made.values()] == [1, 1, 1]


@pytest.mark.parametrize("codec", Codec)
def test_all_chunks_of_a_plan_share_one_header(tmp_path: Path, codec: Codec) -> None:
    plan = output(codec=codec)
    spans = [[0, 512, 1024], [5], list(range(9, 40)), [100, 9000, 9001]]
    infos = [encode(pts, plan, tmp_path / "c.nut", first=pts[0]) for pts in spans]
    assert len({info.header_sha256 for info in infos}) == 1


def test_planes_that_are_not_aligned_or_read_only_encode_the_same(tmp_path: Path) -> None:
    plan, slot = output(), numbered(4)
    shifted = np.empty(slot.size + 3, np.uint8)[3:]
    shifted[:] = slot
    locked = slot.copy()
    locked.flags.writeable = False
    written = []
    for index, memory in enumerate((slot, shifted, locked)):
        path = tmp_path / f"{index}.nut"
        frames = ((at, LAYOUT.planes(memory, at)) for at in range(4))
        PyAvEncoder().encode(frames, LAYOUT, plan, path)
        written.append(path.read_bytes())
    assert len(set(written)) == 1


@pytest.mark.parametrize("codec", Codec)
def test_memory_may_be_reused_as_soon_as_the_next_frame_is_asked_for(
    tmp_path: Path, codec: Codec
) -> None:
    plan = output((1, 25), codec)
    encode(list(range(12)), plan, tmp_path / "kept.nut", threads=2)
    slot = numbered(12)
    one = np.empty(LAYOUT.frame_bytes, np.uint8)

    def reusing_one_place() -> object:
        for index in range(12):
            one[:] = slot[index * LAYOUT.frame_bytes : (index + 1) * LAYOUT.frame_bytes]
            yield index, LAYOUT.planes(one)

    PyAvEncoder(2).encode(reusing_one_place(), LAYOUT, plan, tmp_path / "reused.nut")  # type: ignore[arg-type]
    assert (tmp_path / "kept.nut").read_bytes() == (tmp_path / "reused.nut").read_bytes()


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("full_range", [True, False])
def test_color_tags_arrive_in_the_chunk(tmp_path: Path, codec: Codec, full_range: bool) -> None:
    color = ColorTags(primaries=9, transfer=16, matrix=9, full_range=full_range)
    encode([0], output(codec=codec, color=color), tmp_path / "c.nut")
    with av.open(tmp_path / "c.nut") as opened:
        frame = next(opened.decode(video=0))
    tags = frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range
    assert tags == (9, 16, 9, 2 if full_range else 1)


def test_no_frames_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        PyAvEncoder().encode([], LAYOUT, output(), tmp_path / "c.nut")
    assert caught.value.code is ErrorCode.SOURCE_EMPTY
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_than_planned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="64x64"):
        PyAvEncoder().encode([], FrameLayout(width=64, height=64), output(), tmp_path / "c.nut")


def test_times_that_do_not_increase_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="do not increase"):
        encode([5, 5], output(), tmp_path / "c.nut")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        encode([0], output(), tmp_path / "nowhere" / "c.nut")
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE


@pytest.mark.parametrize("kept", [0, 10, 400, -300, -1])
def test_a_chunk_cut_anywhere_is_known_by_its_number(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "c.nut"
    encode(list(range(20)), output(), path)
    whole = path.read_bytes()
    # the last bytes are NUT's index, without which all frames are still there
    path.write_bytes(whole[: kept if kept >= 0 else len(whole) * 2 // 3 + kept])
    with pytest.raises(TemporaryError, match=r"Chunk 17 \(c\.nut\)"):
        read_chunk(path, 17)


def test_a_chunk_with_a_flipped_bit_is_known(tmp_path: Path) -> None:
    path = tmp_path / "c.nut"
    encode(list(range(20)), output(), path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(TemporaryError, match="Chunk 3"):
        read_chunk(path, 3)


def test_a_missing_chunk_is_known_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match=r"Chunk 4 .* is missing"):
        read_chunk(tmp_path / "none.nut", 4)
