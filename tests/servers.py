"""Real servers for tests: one of Redis's protocol, one of S3's."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.stack import free_port, start_server, stop_server
from shared.settings import Settings
from tests.files import files_below
from tests.waiting import wait_until

__all__ = ["S3Server", "free_port", "redis_server", "s3_server"]


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The URL of a fresh server whose files lie in `folder`."""
    logs = folder / f"logs-{secrets.token_hex(4)}"
    logs.mkdir()
    server, url = start_server(Settings(state_dir=folder), logs)
    try:
        yield url
    finally:
        stop_server(server)


@dataclass(frozen=True)
class S3Server:
    """A real S3 server; its buckets are folders below `root`. `settings` are the environment's
    names of what reaches it, lower case, without the prefix."""

    host: str
    port: int
    root: Path
    access_key: str
    secret_key: str
    secure: bool = False

    @property
    def endpoint(self) -> str:
        """For DUALFACE_S3_ENDPOINT."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}"

    def settings(self, bucket: str, prefix: str = "", port: int | None = None) -> dict[str, str]:
        """To a bucket that is made if it is not there; `port`: of a proxy in between."""
        scheme = "https" if self.secure else "http"
        if not self.secure and not (self.root / bucket).is_dir():
            from minio import Minio  # only where S3 is used

            # By the server, which remembers what there is.
            address = f"{self.host}:{self.port}"
            client = Minio(address, self.access_key, self.secret_key, secure=False)
            client.make_bucket(bucket)
        return {
            "store": f"s3://{bucket}/{prefix}".rstrip("/"),
            "s3_endpoint": f"{scheme}://{self.host}:{port or self.port}",
            "s3_access_key": self.access_key,
            "s3_secret_key": self.secret_key,
        }

    def objects(self, bucket: str) -> list[str]:
        """Keys of everything in the bucket, as the disk has it; unfinished ones too."""
        base = self.root / bucket
        return sorted(path.relative_to(base).as_posix() for path in files_below(base))


@contextmanager
def s3_server(folder: Path, *options: str) -> Iterator[S3Server]:
    """A fresh server; `options` of `rclone serve s3` beside ours. Another process may take the port
    in between, so one that ends at once is tried again on another."""
    root = folder / "buckets"
    root.mkdir()
    access, secret = secrets.token_hex(8), secrets.token_hex(16)
    for _ in range(5):
        port = free_port()
        process = _start_s3(folder, port, f'"{access},{secret}"', options)
        try:
            if _comes_up(process, port):
                yield S3Server("127.0.0.1", port, root, access, secret, "--cert" in options)
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError((folder / "s3.log").read_text())


def _start_s3(
    folder: Path, port: int, key: str, options: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    command = [
        str(Path(sys.executable).with_name("rclone")),
        *("serve", "s3", "--addr", f"127.0.0.1:{port}"),
        *("--vfs-cache-mode", "off", "--config", "/dev/null"),
        *("--log-level", "ERROR"),
        *options,
        str(folder / "buckets"),
    ]
    with (folder / "s3.log").open("ab") as log:
        # The key by the environment: it shows in no process list.
        environment = {"RCLONE_AUTH_KEY": key, "HOME": str(folder)}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _comes_up(process: subprocess.Popen[bytes], port: int) -> bool:
    """False when it ends instead."""
    wait_until(lambda: _listens(port) or process.poll() is not None, "it listens", 30)
    return process.poll() is None


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
