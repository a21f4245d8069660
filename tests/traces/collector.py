"""A collector that takes traces as real ones do (OTLP over HTTP), and keeps them for the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


@dataclass(frozen=True)
class Seen:
    """A span as it arrived; `facts` without the prefix `dualface.`, times in ns since 1970."""

    service: str
    name: str
    trace: str
    span: str
    parent: str
    start_ns: int
    end_ns: int
    failed: bool
    facts: dict[str, str | int]
    events: tuple[str, ...]


@dataclass
class Collector:
    """While `gate` is not set, whoever sends waits for the answer; `answer` is its HTTP status."""

    address: str = ""
    answer: int = 200
    gate: threading.Event = field(default_factory=threading.Event)
    spans: list[Seen] = field(default_factory=list)
    requests: int = 0

    def take(self, body: bytes) -> None:
        """Keep the spans of one request."""
        self.requests += 1
        self.gate.wait(30)
        if self.answer != 200:
            return
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = str(_facts(resource.resource.attributes)["service.name"])
            for scope in resource.scope_spans:
                self.spans += [
                    Seen(
                        service,
                        each.name,
                        each.trace_id.hex(),
                        each.span_id.hex(),
                        each.parent_span_id.hex(),
                        each.start_time_unix_nano,
                        each.end_time_unix_nano,
                        each.status.code == 2,
                        _facts(each.attributes),
                        tuple(event.name for event in each.events),
                    )
                    for each in scope.spans
                ]

    def named(self, name: str) -> list[Seen]:
        """Spans of one kind, in the order of their starts."""
        found = [span for span in self.spans if span.name == name]
        return sorted(found, key=lambda span: span.start_ns)


@contextmanager
def collector() -> Iterator[Collector]:
    """One that serves on a free port until the end of the block."""
    made = Collector()
    made.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            made.take(body)
            self.send_response(made.answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.address = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    try:
        yield made
    finally:
        made.gate.set()
        server.shutdown()
        serving.join()
        server.server_close()


def _facts(attributes: list[KeyValue]) -> dict[str, str | int]:
    return {
        each.key.removeprefix("dualface."): each.value.string_value or each.value.int_value
        for each in attributes
    }
