"""Whole runs on a GPU, or on the doubles of the vendors' packages: all of our own code, processes,
arenas over IPC and kernels; only what lies below is a double."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import pytest

from shared.metrics.book import render
from shared.settings import Settings
from tests.doubles import device_env
from tests.doubles.cuda_on_cpu import missing
from tests.system.runs import DEADLINE_S, Home, home_in
from tests.system.verify import verify
from tests.videos import CLOSED_GOP_X264, make_video
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

UUID = "0" * 32
"""Of the first GPU of the NVML double."""
FRAMES = 40
SIZE = (320, 180)
VIDEO = replace(CLOSED_GOP_X264, tinted=True, size=SIZE, frames=FRAMES, audio="aac")


@dataclass
class GpuHome(Home):
    """A home whose machine has a GPU."""

    double: dict[str, str] | None = None
    """Of the doubles; None: the real thing."""

    def environment(self) -> dict[str, str]:
        """See Home."""
        mine = super().environment()
        if self.double is None:
            return mine
        return mine | device_env(DOUBLE_UUID=UUID, **self.double)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("gpu") / "clip.mp4", VIDEO)


PROBE = """
from client.gpus import look, suited
from shared.settings import Settings
settings = Settings.load()
suited(settings, look(settings))
"""


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all homes of the same hardware: what is probed once, before the tests."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("configs")
    for hardware in ("rtx4090", "h100"):
        more = {"DUALFACE_CONFIG_DIR": str(folder / hardware), "DOUBLE_HARDWARE": hardware}
        env = device_env(DOUBLE_UUID=UUID, **more)
        subprocess.run([sys.executable, "-c", PROBE], env=env, check=True, capture_output=True)
    return folder


def usual(root: Path) -> dict[str, str]:
    return {
        "metrics_dir": str(root / "metrics"),
        "arena_mib": "64",
        "max_concurrent_streams": "1",
    }


@contextmanager
def home_of(root: Path, configs: Path) -> Iterator[Home]:
    with home_in(root, **usual(root), config_dir=str(configs / "none")) as made:
        yield made


PATIENCE = ("heartbeat_s", "dead_after_s", "unclaimed_after_s", "stall_s", "health_patience_s")
"""Settings that other tests shorten."""


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Home]:
    """With the real GPU of this machine, which is probed by the first command, and the patience
    that users get: it has to do for what takes long the first time, too: contexts, compiled
    kernels, libraries of a gigabyte."""
    patience = {name: str(Settings.model_fields[name].default) for name in PATIENCE}
    with home_in(tmp_path, **usual(tmp_path), **patience) as made:
        yield GpuHome(made.root, made.shm, made.settings)


@pytest.fixture
def home(tmp_path: Path, configs: Path) -> Iterator[Home]:
    with home_of(tmp_path, configs) as made:
        yield made


@dataclass
class Calm:
    """A run on a GPU that nothing disturbed."""

    engines: dict[str, str]
    copied: dict[tuple[str, str], int]
    frames: np.ndarray


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory, configs: Path, video: Path) -> Calm:
    with home_of(tmp_path_factory.mktemp("calm"), configs) as home:
        said, result = run(on(home, "rtx4090"), video)
        return Calm(engines(said), copied(home), frames(result))


def on(home: Home, hardware: str, **double: str) -> GpuHome:
    configs = Path(home.settings["DUALFACE_CONFIG_DIR"]).parent
    settings = {**home.settings, "DUALFACE_CONFIG_DIR": str(configs / hardware)}
    return GpuHome(home.root, home.shm, settings, {"DOUBLE_HARDWARE": hardware, **double})


def engines(said: str) -> dict[str, str]:
    """Stage -> engine, of the last report printed."""
    line = re.findall(r"engines: +(.*)", said)[-1]
    return dict(each.split(" ", 1) for each in line.split(", "))


def copied(home: Home) -> dict[tuple[str, str], int]:
    """(stage, direction) -> bytes copied between host and device."""
    text = render(home.root / "metrics")[0].decode()
    rows = re.findall(r"^dualface_copied_bytes_total\{(.*)\} (\S+)", text, re.M)
    found: dict[tuple[str, str], int] = {}
    for labels, value in rows:
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        key = label["stage"], label["direction"]
        found[key] = found.get(key, 0) + int(float(value))
    return {key: value for key, value in found.items() if value}


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as opened:
        return np.stack([f.to_ndarray(format="yuv420p") for f in opened.decode(video=0)])


def run(home: Home, video: Path, deadline_s: float = DEADLINE_S) -> tuple[str, Path]:
    ended = home.start("run", video, "--output", "out.mp4").wait(deadline_s)
    assert ended.code == 0, ended.said
    result = home.results / "out.mp4"
    verdict = verify(video, result)
    assert verdict.problems == ()
    assert home.leftovers() == []
    return ended.said, result


def test_frames_stay_on_the_gpu_from_decode_to_encode(home: Home, video: Path, calm: Calm) -> None:
    assert calm.engines["decode"] == "nvdec"
    assert calm.engines["infer"].startswith("tensorrt")
    assert calm.engines["compose"] == "cuda"
    assert calm.engines["encode"] == "nvenc-h264"
    assert not [each for each in calm.copied if each[0] in ("decode", "compose")], calm.copied
    _, expected = run(home, video)
    # Two encoders' rounding on top of the two renderers'.
    assert np.abs(calm.frames.astype(int) - frames(expected)).mean() < 3


def test_a_gpu_without_nvenc_costs_one_copy_of_the_composed_frames(home: Home, video: Path) -> None:
    said, result = run(on(home, "h100", DOUBLE_NO_NVENC="1"), video)
    assert engines(said)["encode"] == "pyav-libx264"
    with av.open(str(result)) as opened:
        stream = opened.streams.video[0]
        frame_bytes = stream.width * stream.height * 3 // 2
    moved = copied(home)
    assert moved.keys() & {("encode", "device_to_host")} == {("encode", "device_to_host")}
    # Of each batch's first frame there is a thumbnail, too.
    batches = -(-FRAMES // 8)
    assert moved["encode", "device_to_host"] == (FRAMES + batches) * frame_bytes
    assert not [each for each in moved if each[0] in ("decode", "compose")], moved
    # That is how this GPU is, and nothing to be alarmed by.
    text = render(home.root / "metrics")[0].decode()
    counted = re.findall(r'engine_fallbacks_total\{reason="(\w+)",stage="encode"\} (.+)', text)
    assert {"sessions", "failed"} <= {reason for reason, _ in counted}
    assert not [each for each in counted if each[0] in ("sessions", "failed") and float(each[1])]


def test_a_context_that_breaks_ends_one_process_and_costs_no_frame(
    home: Home, video: Path, tmp_path: Path
) -> None:
    fault = tmp_path / "faults"
    fault.write_text("illegal=3")
    said, _ = run(on(home, "rtx4090", DOUBLE_FAULTS_FILE=str(fault)), video)
    assert not fault.exists(), "it struck"
    assert f"{FRAMES}/{FRAMES}" in said


def test_an_encoder_that_breaks_in_mid_job_costs_speed_and_no_frame(
    home: Home, video: Path, tmp_path: Path
) -> None:
    fault = tmp_path / "faults"
    fault.write_text("nvenc=13")  # ten are the trial's
    run(on(home, "rtx4090", DOUBLE_FAULTS_FILE=str(fault)), video)
    assert not fault.exists(), "it struck"
    text = render(home.root / "metrics")[0].decode()
    assert re.search(r'engine_fallbacks_total\{reason="failed",stage="encode"\} 1\.0', text)


def test_frames_that_no_encoder_survives_are_drawn_on_the_gpu_from_those_around_them(
    home: Home, video: Path, calm: Calm
) -> None:
    fault = {"stage": "encode", "item": "0:1", "kind": "error", "at": 2, "times": 99}
    there = on(home, "rtx4090")
    more = {"attempts": "1", "replaced_share": "0.5", "drills": json.dumps([fault])}
    settings = {f"DUALFACE_{name.upper()}": value for name, value in more.items()}
    said, result = run(replace(there, settings={**there.settings, **settings}), video)
    assert "8 from 0.32 s to 0.60 s" in said
    assert engines(said)["encode"] == "nvenc-h264"
    shown = frames(result)
    assert np.array_equal(shown[:8], calm.frames[:8])
    assert np.array_equal(shown[16:], calm.frames[16:])
    assert np.abs(shown[8].astype(int) - shown[7]).mean() < 2
    # The two pictures between which it fades, and nothing else.
    assert copied(home)["encode", "host_to_device"] == 2 * shown[0].size


def test_an_arena_owner_that_dies_takes_its_frames_along_and_they_are_made_again(
    home: Home, video: Path, calm: Calm
) -> None:
    # So that it is still in the middle of it when the owner is killed.
    slow = {"DUALFACE_DRILLS": '[{"stage": "encode", "kind": "slow", "pause_s": 0.1}]'}
    there = on(home, "rtx4090")
    running = replace(there, settings={**there.settings, **slow}).start(
        "run", video, "--output", "out.mp4"
    )
    wait_until(lambda: there.chunks(), "it is in the middle of it", 60)
    there.worker("arena").kill()
    ended = running.wait()
    assert ended.code == 0, ended.said
    assert np.array_equal(frames(home.results / "out.mp4"), calm.frames)


def test_a_gpu_whose_driver_fails_leaves_the_work_to_the_cpu(home: Home, video: Path) -> None:
    said, _ = run(on(home, "rtx4090", DOUBLE_GPUS="0"), video)
    assert engines(said) == engines(said) | {"decode": "pyav", "compose": "opencv"}
    assert copied(home) == {}


def test_real_hardware_is_given_the_patience_that_users_get(
    real: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in real.environment().items():
        monkeypatch.setenv(name, value)
    given, usual_ = Settings(), Settings.model_construct()
    assert {name: getattr(given, name) for name in PATIENCE} == {
        name: getattr(usual_, name) for name in PATIENCE
    }


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_frames_stay_on_the_real_gpu(real: Home, video: Path) -> None:
    if os.environ.get("REQUIRE_GPU") != "1":
        pytest.skip("REQUIRE_GPU=1 was not set")
    said, _ = run(real, video, 500)
    served = engines(said)
    assert served["decode"] == "nvdec"
    assert served["compose"] == "cuda"
    assert not [each for each in copied(real) if each[0] in ("decode", "compose")]
