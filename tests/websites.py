"""Web servers that do exactly what a test says, byte by byte, with real TLS of an authority that
was made on the spot."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and a server's certificate of it for `*.site.test` and localhost."""

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Of a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_authority(folder: Path) -> Authority:
    """Keys and certificates in `folder`, by the `openssl` command."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl command to make certificates with")
    made = Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    ca_key = str(folder / "ca.key")
    new = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]
    new += ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    ca = ["-subj", "/CN=Authority of a test", "-keyout", ca_key, "-out", str(made.ca)]
    names = "subjectAltName=DNS:*.site.test,DNS:localhost,IP:127.0.0.1"
    server = ["-subj", "/CN=localhost", "-addext", names, "-CA", str(made.ca), "-CAkey", ca_key]
    server += ["-addext", "basicConstraints=CA:FALSE"]
    server += ["-keyout", str(made.key), "-out", str(made.certificate)]
    for rest in (ca, server):
        subprocess.run([*new, *rest], check=True, capture_output=True)
    return made


@dataclass(frozen=True)
class Asked:
    """A request's head; names of fields in lower case."""

    path: str
    fields: dict[str, str]


class Wire:
    """A server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, *pieces: str | bytes) -> None:
        """Send them, one write each."""
        for piece in pieces:
            self._socket.sendall(piece.encode() if isinstance(piece, str) else piece)

    def answer(self, status: str, body: bytes = b"", /, **fields: str) -> None:
        """A well-behaved answer; `_` in a field's name stands for `-`."""
        self.head(status, content_length=str(len(body)), **fields)
        self.send(body)

    def head(self, status: str, **fields: str) -> None:
        """An answer's head, with these fields only."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        self.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]))

    def receive(self, count: int) -> bytes:
        """So many bytes of the request's body; fewer when the client stops before."""
        body = b""
        while len(body) < count and (piece := self._socket.recv(count - len(body))):
            body += piece
        return body

    def hang(self, seconds: float | None = None) -> bool:
        """Do nothing until the client has gone; False when it is still there after `seconds`."""
        self._socket.settimeout(seconds)
        try:
            with suppress(ConnectionError, ssl.SSLError):
                while self._socket.recv(4096):
                    pass
        except TimeoutError:
            return False
        finally:
            self._socket.settimeout(None)
        return True

    def trickle(self, piece: bytes) -> None:
        """The same piece again and again, 50 a second, until the client has gone."""
        with suppress(OSError):
            while not self.hang(0.02):
                self.send(piece)


Script = Callable[[Asked, Wire], None]
"""What a server does with a request. When it returns, the connection is cut without a word."""


@dataclass
class Website:
    """A server on `address`. Requests for a path with no script are answered with 404."""

    address: str
    port: int = 0
    scripts: dict[str, Script] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    on_connect: Callable[[Wire], None] | None = None
    _open: set[socket.socket] = field(default_factory=set)
    """Second handles: the first changes hands when TLS begins on it."""

    def serve(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """Until the listener is closed."""
        threads = []
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                self.connections += 1
                handle = sock.dup()
                self._open.add(handle)
                thread = threading.Thread(target=self._talk, args=(sock, handle, context))
                thread.start()
                threads.append(thread)
        for sock in set(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def _talk(
        self, plain: socket.socket, handle: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        sock = plain
        try:
            if self.on_connect is not None:
                self.on_connect(Wire(plain))
            if context is not None:
                sock = context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False)
            asked = _read_head(sock)
            self.asked.append(asked)
            self.scripts.get(asked.path, _not_found)(asked, Wire(sock))
        except OSError:
            pass  # the client has gone
        finally:
            self._open.discard(handle)
            for each in (handle, plain, sock):
                each.close()


def _not_found(_: Asked, wire: Wire) -> None:
    wire.answer("404 Not Found")


def _read_head(sock: socket.socket) -> Asked:
    """Raises OSError when the client goes in the middle of it."""
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        piece = sock.recv(4096)
        if not piece:
            raise ConnectionError
        text += piece
    first, *lines = text.decode("latin-1").strip().split("\r\n")
    pairs = (line.split(": ", 1) for line in lines)
    return Asked(first.split(" ")[1], {name.lower(): value for name, value in pairs})


@contextmanager
def website(
    authority: Authority | None, address: str = "127.0.0.1", port: int = 0
) -> Iterator[Website]:
    """A server until the context ends; without an `authority` it speaks plain HTTP."""
    with socket.create_server((address, port)) as listener:
        site = Website(address, listener.getsockname()[1])
        context = None if authority is None else authority.context()
        thread = threading.Thread(target=site.serve, args=(listener, context))
        thread.start()
        try:
            yield site
        finally:
            # Closing alone does not wake who accepts.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
