"""Connections to hosts that somebody else named: only to addresses that are allowed.

A host's name is resolved once, every address is looked at, and the connection goes to an address
that was looked at: what the name leads to a moment later does not matter. All waiting is done in
short slices with a call of `tick` in between, so that whoever waits can say that he lives, and can
be told to stop, by an exception from `tick`.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import certifi
import httpcore

from shared.errors import ErrorCode, PermanentError
from shared.logs import Log
from shared.references import Network, is_public

SLICE_S = 0.2
MOST_ADDRESSES = 8
"""Of one name that are tried one after the other."""

Resolve = Callable[[str, int], Sequence[str]]
"""The IP addresses of a host's name; the port is only for the resolver's database of services.
Blocks; raises OSError."""

T = TypeVar("T")
Option = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


def resolve(host: str, port: int) -> Sequence[str]:
    """By the system's resolver."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def trusting(ca: Path | None) -> ssl.SSLContext:
    """For clients: trusts the public authorities, and those in the file `ca`.

    Raises PermanentError BAD_OPTION when it can't be read.
    """
    context = ssl.create_default_context(cafile=certifi.where())
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise PermanentError(
                ErrorCode.BAD_OPTION, f"{ca} (DUALFACE_SOURCE_CA) can't be read as certificates."
            ) from error
    return context


class Dialer(httpcore.NetworkBackend):
    """Connects to what `is_public` allows, and to `networks`."""

    def __init__(
        self,
        networks: Iterable[Network],
        tick: Callable[[], None],
        resolver: Resolve = resolve,
    ) -> None:
        self._networks = tuple(networks)
        self._tick = tick
        self._resolve = resolver

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - of the interface
        socket_options: Iterable[Option] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """`timeout` is for the name, and again for each address.

        Raises httpcore.ConnectError and ConnectTimeout, and PermanentError SOURCE_FORBIDDEN when an
        address of the host is not allowed: also when another one is.
        """
        addresses = self._addresses(host, port, timeout)
        failure: Exception = httpcore.ConnectError("it has no address")
        for address in addresses[:MOST_ADDRESSES]:
            try:
                return self._connect(address, port, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def connect_unix_socket(
        self,
        path: str,  # noqa: ARG002 - of the interface
        timeout: float | None = None,  # noqa: ARG002
        socket_options: Iterable[Option] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """Never."""
        raise httpcore.ConnectError("sockets of this machine are not connected to")

    def _addresses(self, host: str, port: int, timeout: float | None) -> Sequence[str]:
        addresses = self._resolved(host, port, timeout)
        for address in addresses:
            if not is_public(address, self._networks):
                # Who gave the name need not learn what it means in here.
                Log().warning("host refused: not a public address", host=host, address=address)
                raise PermanentError(
                    ErrorCode.SOURCE_FORBIDDEN,
                    f"The host {host} is not at an address of the public internet, nor in one of "
                    "DUALFACE_SOURCE_NETWORKS.",
                )
        return addresses

    def _resolved(self, host: str, port: int, timeout: float | None) -> Sequence[str]:
        """In a thread, as the system's resolver can't be interrupted; it ends by itself."""
        found: list[Sequence[str]] = []

        def look_up() -> None:
            try:
                found.append(self._resolve(host, port))
            except (OSError, UnicodeError):
                found.append(())

        thread = threading.Thread(target=look_up, name="resolve", daemon=True)
        thread.start()
        deadline = _deadline(timeout)
        while thread.is_alive() and time.monotonic() < deadline:
            self._tick()
            thread.join(SLICE_S)
        if not found:
            raise httpcore.ConnectTimeout("its name could not be resolved in time")
        if not found[0]:
            raise httpcore.ConnectError("its name could not be resolved")
        return found[0]

    def _connect(self, address: str, port: int, timeout: float | None) -> _Stream:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        stream = _Stream(made, self._tick)
        try:
            made.setblocking(False)
            stream.connect((address, port), timeout)
        except BaseException:  # the socket would stay open
            stream.close()
            raise
        return stream


class _Stream(httpcore.NetworkStream):
    """A socket that does not block, waited for in slices."""

    def __init__(self, sock: socket.socket, tick: Callable[[], None]) -> None:
        self._socket = sock
        self._tick = tick

    def connect(self, address: tuple[str, int], timeout: float | None) -> None:
        """Raises httpcore.ConnectTimeout or ConnectError."""

        def finish() -> None:
            # Asked again until it says that the connection is there.
            code = self._socket.connect_ex(address)
            if code in (errno.EINPROGRESS, errno.EALREADY):
                raise BlockingIOError
            if code not in (0, errno.EISCONN):
                raise OSError(code, "")

        self._until(finish, timeout, select.POLLOUT, "connect")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """b"" at the end. Raises httpcore.ReadTimeout or ReadError; the latter also when an
        encrypted stream is cut off without its closing mark."""
        return self._until(lambda: self._socket.recv(max_bytes), timeout, select.POLLIN, "read")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """All of it. Raises httpcore.WriteTimeout or WriteError."""
        rest = memoryview(buffer)
        while rest:
            send = partial(self._socket.send, rest)
            rest = rest[self._until(send, timeout, select.POLLOUT, "write") :]

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Raises httpcore.ConnectTimeout or ConnectError; PermanentError SOURCE_UNREACHABLE when
        the certificate is not the host's, or of nobody whom `ssl_context` trusts."""
        try:
            wrapped = ssl_context.wrap_socket(
                self._socket,
                server_hostname=server_hostname,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
        except (OSError, ValueError) as error:
            self.close()
            raise httpcore.ConnectError("it broke the connection off") from error
        stream = _Stream(wrapped, self._tick)
        try:
            stream._until(wrapped.do_handshake, timeout, select.POLLIN, "connect")
        except ssl.SSLCertVerificationError as error:
            stream.close()
            why = error.verify_message.rstrip(".")
            raise PermanentError(
                ErrorCode.SOURCE_UNREACHABLE,
                f"The certificate of {server_hostname} is not accepted ({why}).",
            ) from error
        except BaseException:  # the socket would stay open
            stream.close()
            raise
        return stream

    def close(self) -> None:
        """Without a word: what else comes is not wanted."""
        self._socket.close()

    def get_extra_info(self, info: str) -> object:
        """The TLS layer, as `ssl_object`; nothing else."""
        if info == "ssl_object" and isinstance(self._socket, ssl.SSLSocket):
            return self._socket
        return None

    def _until(self, action: Callable[[], T], timeout: float | None, event: int, what: str) -> T:
        """`action` as soon as the socket allows it; `event`: what to wait for unless TLS says."""
        late, broken = _ERRORS[what]
        deadline = _deadline(timeout)
        while True:
            self._tick()
            wanted = event
            try:
                return action()
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except ssl.SSLWantWriteError:
                wanted = select.POLLOUT
            except BlockingIOError:
                pass
            except ssl.SSLCertVerificationError:
                raise
            except OSError as error:
                raise broken("it broke the connection off") from error
            if time.monotonic() > deadline:
                raise late(f"it did not get on for {timeout:g} s")
            poll = select.poll()
            poll.register(self._socket, wanted)
            poll.poll(SLICE_S * 1000)


_ERRORS: dict[str, tuple[type[Exception], type[Exception]]] = {
    "connect": (httpcore.ConnectTimeout, httpcore.ConnectError),
    "read": (httpcore.ReadTimeout, httpcore.ReadError),
    "write": (httpcore.WriteTimeout, httpcore.WriteError),
}


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout
