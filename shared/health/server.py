"""`/healthz`, `/readyz` and `/metrics` of one process, in threads of its own."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from shared.errors import ErrorCode, PermanentError
from shared.health.vitals import RedisWatch, Verdict, Vitals
from shared.logs import Log
from shared.metrics import render_metrics
from shared.settings import Settings

PATIENCE_S = 5.0
"""For a client to send its request, and to take the answer."""


class HealthServer:
    """Answers from `start` to `close`, whatever the process itself is at."""

    def __init__(self, settings: Settings, judge: Callable[[], Verdict]) -> None:
        """Binds the port. Raises PermanentError BAD_OPTION when somebody else has it."""
        self._settings = settings
        self._judge = judge
        self._rendering = threading.Lock()
        address = settings.http_host, settings.http_port
        try:
            self._server = _Server(address, self._handler())
        except OSError as error:
            raise PermanentError(
                ErrorCode.BAD_OPTION,
                f"DUALFACE_HTTP_PORT: {address[0]}:{address[1]} can't be had ({error.strerror}); "
                "each process of a host or pod needs one of its own.",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="health", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more; the port is free."""
        self._server.shutdown()
        self._server.server_close()

    def let_go(self) -> None:
        """In a fork: its thread is not here, and the port is the parent's."""
        self._server.socket.close()

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        if path == "/metrics":
            if not self._settings.metrics:
                return 404, "text/plain", b"DUALFACE_METRICS is off\n"
            with self._rendering:  # one at a time: it costs some 10 ms of CPU
                body, content_type = render_metrics(self._settings)
            return 200, content_type, body
        if path not in ("/healthz", "/readyz"):
            return 404, "text/plain", b"/healthz, /readyz, /metrics\n"
        verdict = self._judge()
        ok = verdict.alive if path == "/healthz" else verdict.alive and verdict.ready
        fields = {"alive": verdict.alive, "ready": verdict.ready, "reasons": verdict.reasons}
        return 200 if ok else 503, "application/json", json.dumps(fields).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            timeout = PATIENCE_S

            def do_GET(self) -> None:
                status, content_type, body = server.answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: it is asked every few seconds."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """A client that went away is none; anything else is one line of the log."""
        if isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            return
        log = Log()
        log.exception("a request for health or metrics failed")


def serve(settings: Settings, vitals: Vitals, watch: RedisWatch) -> HealthServer:
    """See `serve_health`."""
    server = HealthServer(settings, lambda: vitals.verdict(watch.sight()))
    watch.start()
    server.start()
    return server
