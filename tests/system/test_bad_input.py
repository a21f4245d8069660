"""What can't work is said in one clear sentence, and nothing is left behind."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.system.runs import Ended, Home, home_in
from tests.videos import (
    VideoSpec,
    make_encrypted,
    make_sound_only,
    make_text,
    make_video,
    numbered_frame,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(200)

CLIP = VideoSpec(size=(320, 180), frames=50, audio="aac")
REFUSED = 2


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_in(tmp_path) as made:
        yield made


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_video(tmp_path / "clip.mp4", CLIP)


def sentences(done: Ended) -> list[str]:
    """What it said on standard error; each line must be one sentence for people."""
    lines = done.err.splitlines()
    assert all(line.startswith("dualface: ") for line in lines), done.err
    return [line.removeprefix("dualface: ") for line in lines]


def _missing(_: Path) -> None:
    return


def _image(path: Path) -> None:
    picture = path.with_suffix(".png")
    numbered_frame(1, (64, 32)).save(picture)
    picture.rename(path)


def _zero_bytes(path: Path) -> None:
    path.touch()


def _truncated(path: Path) -> None:
    data = make_video(path, CLIP).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _encrypted(path: Path) -> None:
    make_encrypted(path, CLIP)


def _huge_header(path: Path) -> None:
    """The Matroska header (PixelWidth B0, PixelHeight BA) says 32000x32000; FFV1 has no other."""
    spec = VideoSpec(codec="ffv1", size=(320, 720), frames=3, bframes=0, container="matroska")
    data = make_video(path, spec).read_bytes()
    for name, size in ((b"\xb0\x82", 320), (b"\xba\x82", 720)):
        assert name + size.to_bytes(2, "big") in data
        data = data.replace(name + size.to_bytes(2, "big"), name + (32000).to_bytes(2, "big"), 1)
    path.write_bytes(data)


def _folder(path: Path) -> None:
    path.mkdir()


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (_missing, "There is no file missing.mp4"),
    "text": (make_text, "is a text file, not a video"),
    "image": (_image, "is an image (PNG), not a video"),
    "sound": (make_sound_only, "has sound but no moving picture"),
    "zero": (_zero_bytes, "is empty (0 bytes)"),
    "truncated": (_truncated, "was cut off"),
    "encrypted": (_encrypted, "is encrypted (DRM)"),
    "huge": (_huge_header, "pixels"),
    "folder": (_folder, "is not a file"),
}


def test_each_bad_source_is_refused_with_its_own_sentence(home: Home, tmp_path: Path) -> None:
    sources = [tmp_path / f"{name}.mp4" for name in BAD]
    for path in sources:
        BAD[path.stem][0](path)
    done = home.run("run", *sources)
    assert done.code == REFUSED
    said = sentences(done)
    assert len(said) == len(BAD), done.err
    for sentence, (_, words) in zip(said, BAD.values(), strict=True):
        assert words in sentence
    assert not home.state.exists()
    assert list(home.results.iterdir()) == []


def test_a_bad_source_does_not_keep_the_good_ones_from_their_results(
    home: Home, clip: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.mp4"
    make_text(text)
    done = home.run("run", text, clip, "--out", "results")
    assert done.code == 1
    assert sentences(done) == ["text.mp4 is a text file, not a video."]
    assert [path.name for path in (home.results / "results").iterdir()] == ["clip-split.mp4"]
    assert home.leftovers() == []


def _damage(path: Path) -> Path:
    """Noise in the middle; the start and the index stay."""
    data = bytearray(path.read_bytes())
    start, end = len(data) * 5 // 10, len(data) * 6 // 10
    noise = np.random.default_rng(1).integers(0, 256, end - start, np.uint8)
    data[start:end] = noise.tobytes()
    path.write_bytes(data)
    return path


def test_what_a_damaged_source_has_lost_is_said_in_its_result(home: Home, tmp_path: Path) -> None:
    spec = VideoSpec(size=(320, 180), frames=100, audio="aac")
    sources = [
        _damage(make_video(tmp_path / f"damaged-{kind}.{kind}", spec)) for kind in ("mp4", "mkv")
    ]
    cut = make_video(
        tmp_path / "cut.mp4", replace(spec, container_options={"movflags": "+faststart"})
    )
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    done = home.run("run", *sources, cut, "--out", ".")
    assert done.code == 0, done.said
    in_mp4, in_mkv, at_end = done.out.split("damaged-mp4-split.mp4\n")[1].split("-split.mp4\n")
    assert "could not be decoded" in in_mp4 or "concealed damage" in in_mp4
    assert "parts of it may be damaged" in in_mkv
    assert "its end may be missing" in at_end
    assert home.leftovers() == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-o", "no-folder/x.mp4"), "The output folder no-folder can't be written"),
        (("-o", "x.avi"), "must end in .mp4 or .mov"),
        (("--size", "wide"), "'wide' is not WIDTHxHEIGHT"),
        (("--size", "321x181"), "odd side"),
        (("--detector", "nobody"), "there is no detector 'nobody'"),
        (("--preset", "warp"), "no preset 'warp'"),
        (("--fps-limit", "0"), "--fps-limit"),
        (("-o", "x.mp4", "--out", "y"), "--output names one file"),
    ],
)
def test_an_impossible_wish_is_refused_before_anything_starts(
    home: Home, clip: Path, args: tuple[str, ...], words: str
) -> None:
    done = home.run("run", clip, *args, "--dry-run")
    assert done.code == REFUSED
    (said,) = sentences(done)
    assert words in said
    assert not home.state.exists()


def test_the_source_itself_is_no_output(home: Home, clip: Path) -> None:
    before = clip.read_bytes()
    done = home.run("run", clip, "-o", clip)
    assert done.code == REFUSED
    assert "is the source itself" in done.err
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"arena_mib": "1000000"}, "make"),
        ({"arena_mib": "much"}, "DUALFACE_ARENA_MIB"),
        ({"shm_dir": "/nowhere"}, "There is no folder /nowhere"),
        ({"state_dir": "/proc/no"}, "The state folder /proc/no can't be written"),
        ({"redis_url": "redis://127.0.0.1:1/0"}, "does not answer"),
        ({"redis_url": "nonsense"}, "DUALFACE_REDIS_URL"),
    ],
)
def test_an_impossible_surrounding_is_said_in_one_sentence(
    tmp_path: Path, clip: Path, variables: dict[str, str], words: str
) -> None:
    with home_in(tmp_path, **variables) as home:
        done = home.run("run", clip, "-o", "x.mp4")
        assert done.code == REFUSED
        (said,) = sentences(done)
        assert words in said
        assert home.leftovers() == []
        assert list(home.results.iterdir()) == []


def test_two_runs_do_not_share_a_state_folder(home: Home, clip: Path) -> None:
    first = home.start("run", clip, "-o", "first.mp4")
    wait_until(
        lambda: (home.state / "logs" / "encode.log").exists() or first.process.poll() is not None,
        "the first run has begun",
    )
    # However slow the second is to start, the first is not through by then.
    first.process.send_signal(signal.SIGSTOP)
    second = home.run("run", clip, "-o", "second.mp4")
    first.process.send_signal(signal.SIGCONT)
    assert second.code == REFUSED
    assert "Another dualface uses the state folder" in second.err
    assert first.wait().code == 0
    assert home.leftovers() == []


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A tmpfs of `size`; the test is skipped where nobody may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small file system can't be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("size", ["12k", "64k"], ids=["before the job", "within the job"])
def test_a_full_disk_under_the_state_folder_ends_the_run_with_a_sentence(
    tmp_path: Path, clip: Path, size: str
) -> None:
    with (
        small_disk(tmp_path / "disk", size) as disk,
        home_in(tmp_path, state_dir=str(disk / "state")) as home,
    ):
        done = home.run("run", clip, "-o", "x.mp4")
        assert done.code == 1
        warned, said = sentences(done)
        assert "Only 0 MiB are free" in warned
        assert "is full; free some space" in said
        assert list((disk / "state").glob("store/jobs/*")) == []
        assert list(home.shm.iterdir()) == []
        assert list(home.results.iterdir()) == []


def test_a_full_disk_under_the_result_ends_the_run_with_a_sentence(
    tmp_path: Path, clip: Path
) -> None:
    with small_disk(tmp_path / "disk", "8k") as disk, home_in(tmp_path) as home:
        done = home.run("run", clip, "-o", disk / "x.mp4")
        assert done.code == 1
        (said,) = sentences(done)
        assert "can't be written" in said
        assert "No space left on device" in said
        assert list(disk.iterdir()) == []
        assert home.leftovers() == []


def test_a_small_shared_memory_folder_is_said_when_starting(tmp_path: Path, clip: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "8m") as disk,
        home_in(tmp_path, shm_dir=str(disk)) as home,
    ):
        done = home.run("run", clip, "-o", "x.mp4")
        assert done.code == REFUSED
        (said,) = sentences(done)
        assert "8 MiB free" in said
        assert "DUALFACE_ARENA_MIB" in said
        assert home.leftovers() == []


def test_a_model_that_can_t_be_fetched_is_said(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with home_in(tmp_path, cache_dir=str(tmp_path / "cache")) as home:
        done = home.run("run", clip, "-o", "x.mp4")
        assert done.code == REFUSED
        (said,) = sentences(done)
        assert "could not be fetched" in said
        assert home.leftovers() == []


def test_names_that_look_like_markup_or_are_no_text_are_just_names(
    home: Home, tmp_path: Path
) -> None:
    spec = VideoSpec(size=(128, 72), frames=3)
    made = make_video(tmp_path / "plain.mp4", spec)
    markup = tmp_path / "[b]a[nob].mp4"
    markup.write_bytes(made.read_bytes())
    strange = Path(str(tmp_path) + "/\udcff.mp4")
    strange.write_bytes(made.read_bytes())
    done = home.run("run", markup, strange, "--out", ".")
    assert done.code == 0, done.said
    assert "[b]a[nob]-split.mp4" in done.out
    assert "\\udcff-split.mp4" in done.out
    assert home.leftovers() == []


def test_a_dry_run_touches_nothing(home: Home, clip: Path) -> None:
    done = home.run("run", clip, "--out", "new/folder", "--dry-run")
    assert done.code == 0, done.said
    assert "50 frames" in done.out
    assert not home.state.exists()
    assert list(home.results.iterdir()) == []
    assert list(home.shm.iterdir()) == []
