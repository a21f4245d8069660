"""`python -m shared.health`: 0 when the process behind `DUALFACE_HTTP_PORT` on this host is alive,
else 1 with the reasons; `python -m shared.health ready` asks whether it is ready."""

from __future__ import annotations

import json
import socket
import sys

from shared.health.port import VARIABLE, http_port

PATIENCE_S = 5.0


def main(arguments: list[str]) -> int:
    """The exit code."""
    path = "/readyz" if arguments == ["ready"] else "/healthz"
    try:
        port = http_port()
    except ValueError:
        print(f"{VARIABLE} is no number", file=sys.stderr)
        return 1
    if port == 0:
        print(f"{VARIABLE} is not set: nobody answers for the process", file=sys.stderr)
        return 1
    try:
        ok, body = ask(port, path)
        reasons = list(json.loads(body)["reasons"])
    except (OSError, ValueError, KeyError) as error:
        print(f"no answer on port {port}: {error}", file=sys.stderr)
        return 1
    for reason in reasons:
        print(reason, file=sys.stdout if ok else sys.stderr)
    return 0 if ok else 1


def ask(port: int, path: str) -> tuple[bool, bytes]:
    """Whether the answer is 200, and its body. A request by hand: http.client takes 30 ms to
    import. Raises OSError without an answer."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)
    return len(status) > 1 and status[1] == b"200", body


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
