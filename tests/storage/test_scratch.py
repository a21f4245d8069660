"""Facts about files on the local disk on their way to or from a store elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.storage.scratch import Scratch

HOLD = """
import sys, time
from pathlib import Path
from shared.storage.scratch import Scratch
with Scratch(Path(sys.argv[1])).folder() as folder:
    (folder / "large").write_bytes(b"1")
    print("ready", flush=True)
    time.sleep(3600)
"""


def test_what_a_killed_process_left_goes_and_what_others_use_stays(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "scratch")
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "scratch")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for _ in range(2)
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
        (tmp_path / "scratch" / "not ours").mkdir()
        (tmp_path / "scratch" / "elsewhere!1.2.abc").mkdir()
        with scratch.folder() as mine:
            holders[0].kill()
            holders[0].wait()
            assert scratch.clear() == 1
            assert mine.is_dir()
        left = {path.name.partition("!")[2].partition(".")[0] for path in mine.parent.iterdir()}
        assert left == {"", "1", str(holders[1].pid)}
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            if holder.stdout is not None:
                holder.stdout.close()


def test_what_is_put_into_a_folder_while_it_is_removed_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a download that nobody waits for any more: it looks only at its next bytes."""
    rmdir, left = os.rmdir, list(range(3))

    def removed(path: str, *, dir_fd: int | None = None) -> None:
        if left:
            (folder / str(left.pop())).write_bytes(b"late")
        rmdir(path, dir_fd=dir_fd)

    with Scratch(tmp_path).folder() as folder:
        monkeypatch.setattr(os, "rmdir", removed)
    assert left == []
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_clear_is_no_error(tmp_path: Path) -> None:
    assert Scratch(tmp_path / "none").clear() == 0
