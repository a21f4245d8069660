"""A proxy in front of any TCP server that goes bad when told to, and well again."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from client.stack import free_port

Mode = Literal["pass", "refuse", "hang", "error", "cut", "slow"]

BLOCK_BYTES = 64 << 10
LOOK_EVERY_S = 0.05
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


@dataclass(frozen=True)
class Fault:
    """What the proxy does.

    `pass`: nothing. `refuse`: nobody listens. `hang`: connections are accepted, and all are silent.
    `error`: every request is answered by 503 (the client speaks HTTP). `cut`: a connection ends
    after `after_bytes` of answers. `slow`: so many `bytes_per_s` of answers. `times`: after so many
    `error`s or `cut`s all is well again; 0: never.
    """

    mode: Mode = "pass"
    after_bytes: int = 0
    bytes_per_s: int = BLOCK_BYTES
    times: int = 0


class Proxy:
    """Listens on a loopback port of its own. `struck`: how often the fault was felt by somebody
    since it was set: connections that met it; `requests` of errors."""

    def __init__(self, host: str, port: int) -> None:
        """In front of the server at `host` and `port`."""
        self._target = (host, port)
        self._changed = threading.Condition()
        self._fault = Fault()
        self._round = 0
        self._ended = False
        # None that a client may be given for its own end while nobody listens.
        self.port = free_port()
        self._listener: socket.socket | None = self._listen(self.port)
        self.struck = 0
        self._threads = [threading.Thread(target=self._accept, name="proxy", daemon=True)]
        self._threads[0].start()

    def set(self, fault: Fault) -> None:
        """From now on. Connections that there are end, but for a `hang`, which takes them along."""
        with self._changed:
            self._fault, self.struck = fault, 0
            self._round += 1
            if fault.mode == "refuse":
                self._close_listener()
            elif self._listener is None:
                self._listener = self._listen(self.port)
            self._changed.notify_all()

    def close(self) -> None:
        """End all connections; nobody listens any more."""
        with self._changed:
            self._ended = True
            self._round += 1
            self._close_listener()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(10)

    # --- listening --------------------------------------------------------------------------------

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for _ in range(50):
            # Somebody else may be looking just now whether it is free.
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                break
            time.sleep(LOOK_EVERY_S)
        else:
            listener.bind(("127.0.0.1", port))
        listener.listen(128)
        listener.settimeout(LOOK_EVERY_S)
        return listener

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        while not self._ended:
            with self._changed:
                while self._listener is None and not self._ended:
                    self._changed.wait()
                listener = self._listener
            if listener is None:
                return
            try:
                client, _ = listener.accept()
            except OSError:
                continue  # nobody came, or the listener was closed
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()

    # --- one connection ---------------------------------------------------------------------------

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            with self._changed:
                fault, began = self._fault, self._round
            if fault.mode == "refuse":
                return
            if fault.mode == "hang":
                self._strike(fault)
                self._until_changed(began)
            elif fault.mode == "error":
                self._answer_errors(client, fault, began)
            else:
                with socket.create_connection(self._target, 10) as server:
                    self._carry(client, server, fault, began)

    def _carry(
        self, client: socket.socket, server: socket.socket, fault: Fault, began: int
    ) -> None:
        """Bytes in both directions, until one side ends or the fault changes."""
        answered = 0
        while True:
            ready, _, _ = select.select([client, server], [], [], LOOK_EVERY_S)
            if self._round != began:
                with self._changed:
                    hangs, now = self._fault.mode == "hang", self._round
                if hangs:
                    self._strike(self._fault)
                    self._until_changed(now)
                return
            for source in ready:
                data = source.recv(BLOCK_BYTES)
                if not data:
                    return
                if source is client:
                    server.sendall(data)
                    continue
                if fault.mode == "cut" and answered + len(data) > fault.after_bytes:
                    client.sendall(data[: fault.after_bytes - answered])
                    self._strike(fault)
                    return
                client.sendall(data)
                answered += len(data)
                if fault.mode == "slow":
                    with self._changed:
                        self._changed.wait(len(data) / fault.bytes_per_s)

    def _answer_errors(self, client: socket.socket, fault: Fault, began: int) -> None:
        client.settimeout(LOOK_EVERY_S)
        rest = b""
        while self._round == began:
            try:
                data = client.recv(BLOCK_BYTES)
            except TimeoutError:
                continue
            if not data:
                return
            rest += data
            head, end, body = rest.partition(b"\r\n\r\n")
            if not end:
                continue
            length = _length_of(head)
            if len(body) < length:
                continue
            rest = body[length:]
            text = b"" if head.startswith(b"HEAD ") else SLOW_DOWN
            client.sendall(
                b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\n"
                b"Content-Length: %d\r\n\r\n" % len(SLOW_DOWN) + text
            )
            self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        with self._changed:
            if self._fault is fault:
                self.struck += 1
                if fault.times and self.struck >= fault.times:
                    self._fault = Fault()
                    self._round += 1
                self._changed.notify_all()

    def _until_changed(self, began: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._round != began)


def _length_of(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


@contextmanager
def proxy_to(host: str, port: int) -> Iterator[Proxy]:
    """A proxy in front of a server, closed at the end."""
    proxy = Proxy(host, port)
    try:
        yield proxy
    finally:
        proxy.close()
