"""A service that gives links to parts, and a store behind them that breaks or refuses some."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PART_BYTES = 1000


@dataclass
class Store:
    """`sent`: bodies by path. `keys`: the key that came with requests to paths that begin so."""

    breaks: Mapping[str, int]
    refuses: str
    url: str = ""
    sent: dict[str, list[bytes]] = field(default_factory=dict)
    keys: dict[str, str | None] = field(default_factory=dict)


@contextmanager
def store_of_parts(breaks: Mapping[str, int] | None = None, refuses: str = "") -> Iterator[Store]:
    """For files of 3 parts. `breaks`: paths whose first so many requests get no answer."""
    store = Store(breaks or {}, refuses)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_PUT(self) -> None:
            tries = store.sent.setdefault(self.path, [])
            tries.append(self._body("/part"))
            if self.path == store.refuses:
                self._answer(403, {"code": "forbidden", "detail": "No."})
            elif len(tries) <= store.breaks.get(self.path, 0):
                self.close_connection = True
            else:
                self._answer(200, {})

        def do_POST(self) -> None:
            self._body("/v1")
            links = [f"{store.url}/part{number}" for number in (1, 2, 3)]
            more = {"content": "/c", "part_bytes": PART_BYTES, "parts": links}
            begins = self.path == "/v1/uploads"
            told = more if begins else {"size_bytes": 3 * PART_BYTES}
            self._answer(200, {"id": "u", "source": "upload:u", **told})

        def _body(self, kind: str) -> bytes:
            store.keys[kind] = self.headers["Authorization"]
            return self.rfile.read(int(self.headers["Content-Length"]))

        def _answer(self, status: int, document: object) -> None:
            text = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("ETag", f'"{self.path}"')
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
