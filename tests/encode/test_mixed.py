"""Chunks of encoders that describe their video differently: after a change of engine in mid-job."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from services.encode.engines.pyav import PyAvEncoder
from services.encode.mux import mux
from shared.jobs import Codec, OutputPlan
from tests.browser import chromium
from tests.encode.pictures import LAYOUT, SIZE, numbered, output, source
from tests.videos import frame_number

PRESETS = {"a": "veryfast", "b": "ultrafast"}
"""CABAC and B-frames, and neither: other parameter sets, another reorder depth. In AV1 other tools,
as the sequence header says."""
FRAMES = 8

PLAY = """async () => {
  const video = document.createElement('video');
  video.muted = true;
  video.src = '/mixed.mp4';
  const next = name => new Promise((good, bad) => {
    video['on' + name] = good;
    video.onerror = () => bad(new Error(video.error.message));
    setTimeout(() => bad(new Error('no ' + name)), 60000);
  });
  await next('loadeddata');
  for (const part of [0.9, 0.4, 0.7, 0.1]) {
    video.currentTime = part * video.duration;
    await next('seeked');
  }
  video.currentTime = 0;
  await next('seeked');
  video.playbackRate = 4;
  await video.play();
  await next('ended');
  return video.currentTime;
}"""


def mixed(pattern: str, plan: OutputPlan, folder: Path) -> list[Path]:
    """A chunk of FRAMES frames for each letter, by that letter's encoder."""
    paths = []
    for number, letter in enumerate(pattern):
        first = number * FRAMES
        slot = numbered(FRAMES, first)
        frames = ((first + i, LAYOUT.planes(slot, i)) for i in range(FRAMES))
        its = plan.model_copy(update={"preset": PRESETS[letter]})
        paths.append(folder / f"{number:03d}.nut")
        PyAvEncoder().encode(frames, LAYOUT, its, paths[-1])
    return paths


@pytest.mark.parametrize("pattern", ["aabb", "bbaa", "abab", "abba"])
@pytest.mark.parametrize("codec", Codec)
def test_every_frame_is_there_in_order_whoever_encoded_it(
    tmp_path: Path, pattern: str, codec: Codec
) -> None:
    plan, result = output((1, 25), codec), tmp_path / "r.mp4"
    times = list(range(len(pattern) * FRAMES))
    mux(mixed(pattern, plan, tmp_path), None, source(plan), plan, "mp4", result, times)
    with av.open(result) as opened:
        shown = [frame_number(f.to_ndarray()[: SIZE[1]]) for f in opened.decode(video=0)]
    assert shown == times


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("codec", [Codec.H264, Codec.AV1])
def test_a_browser_plays_it_from_any_place(tmp_path: Path, codec: Codec) -> None:
    plan = output((1, 25), codec)
    chunks = mixed("aabbab", plan, tmp_path)
    mux(chunks, None, source(plan), plan, "mp4", tmp_path / "mixed.mp4")
    with served(tmp_path) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        assert page.evaluate(PLAY) > 0
