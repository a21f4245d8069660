"""A server that says what a test tells it to: answers that no server at hand gives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

XML = "application/xml"


@dataclass(frozen=True)
class Answer:
    """One answer to whatever is asked."""

    status: int = 200
    body: str = ""
    kind: str = XML
    headers: dict[str, str] = field(default_factory=dict)


def refusal(code: str, message: str = "No.") -> str:
    """An error in S3's words."""
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"


@contextmanager
def canned(answer: Callable[[str, str], Answer]) -> Iterator[str]:
    """The address of a server that answers (method, path with query) so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            made = answer(self.command, self.path)
            body = made.body.encode()
            self.send_response(made.status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            if made.kind:
                self.send_header("Content-Type", made.kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer  # noqa: N815 - http.server's

        def log_message(self, format: str, *args: object) -> None:
            """To nobody."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
