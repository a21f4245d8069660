"""What the images are built from: the Dockerfile, the wheel, the lock files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECT

DOCKERFILE = PROJECT / "deploy/docker/Dockerfile"
LOCKS = [
    "requirements-runtime.lock",
    "deploy/docker/requirements-gpu.lock",
    "deploy/docker/requirements-build.lock",
]
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)


def pins(path: str) -> dict[str, str]:
    """What a lock file installs, by name."""
    return dict(PIN.findall((PROJECT / path).read_text()))


def names(requirements: list[str]) -> set[str]:
    found = {re.split(r"[<>=\[; ]", each, maxsplit=1)[0] for each in requirements}
    return {name.lower().replace("_", "-") for name in found}


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_whatever_asks_for_packages_while_images_are_built_asks_where_the_builder_says() -> None:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    steps = [line for line in text.splitlines() if line.startswith("RUN ")]
    asking = [step for step in steps if re.search(r"pip (install|wheel)|models pull", step)]
    assert len(asking) >= 6
    for step in asking:
        told = "--mount=type=secret,id=pip,target=/etc/pip.conf" in step
        assert told or "--no-index" in step, step


def test_what_the_dockerfile_copies_reaches_the_builder_and_nothing_secret_does() -> None:
    lines = (PROJECT / ".dockerignore").read_text().split("\n")
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert all((PROJECT / source).exists() for source in copied)


@pytest.mark.parametrize("lock", LOCKS)
def test_images_have_the_versions_that_were_tested(lock: str) -> None:
    tested, installed = pins("requirements.lock"), pins(lock)
    known = {name: version for name, version in installed.items() if name in tested}
    assert known == {name: tested[name] for name in known}
    assert "://" not in (PROJECT / lock).read_text()


def test_the_runtime_lock_holds_what_is_needed_and_no_tool_for_development() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    installed = pins("requirements-runtime.lock").keys()
    assert names(project["dependencies"]) <= installed
    assert not names(project["optional-dependencies"]["dev"]) & installed
    gpu = pins("deploy/docker/requirements-gpu.lock").keys()
    assert names(project["optional-dependencies"]["gpu"]) <= gpu
    # Both hold the same modules.
    text = (PROJECT / "deploy/docker/requirements-gpu.lock").read_text()
    assert re.search(r"^onnxruntime==\S+ ; sys_platform == 'none'", text, re.MULTILINE)


def test_the_wheel_holds_whatever_the_processes_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--no-cache-dir"]
    subprocess.run([*command, "--wheel-dir", tmp_path, PROJECT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for package in ("client", "services", "shared"):
        there = {
            path.relative_to(PROJECT).as_posix()
            for path in (PROJECT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert there <= inside
    kinds = {Path(name).suffix for name in inside}
    assert {".lua", ".html", ".css", ".js", ".svg"} <= kinds
    assert not {name for name in inside if name.startswith("tests/")}
    (entry,) = (name for name in inside if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert "dualface = client.cli:main" in archive.read(entry).decode()
