"""An HTTP origin that counts: it logs every request, and can be told to be slow, to break, or to wait.

It answers out of a `backend`: `Forward` hands the request to another HTTP server (SeaweedFS) as it came, so that an S3
signature over the Host header still holds when the client signed for this origin's address; `Directory` serves files.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import socketserver
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol

CHUNK = 1 << 18
FOOTER = 1 << 20
"""The longest read from the end of an object that still counts as reading its footer."""


@dataclass
class Exchange:
    """One request and what was answered."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0
    """Bytes of the body that were sent."""
    start: int = 0
    end: int = 0
    size: int = 0
    """The bytes of the object that the answer holds, `start` up to before `end`, of `size`."""

    @property
    def reads_object(self) -> bool:
        """Whether bytes of an object were answered: no listing, no HEAD, no error."""
        return self.method == "GET" and self.status in (200, 206) and "list-type" not in self.query

    @property
    def reads_footer(self) -> bool:
        """Whether the answer is the tail of a larger object, as read to find its footer."""
        return self.reads_object and self.end == self.size and self.start > 0 and self.end - self.start <= FOOTER

    @property
    def reads_data(self) -> bool:
        return self.reads_object and not self.reads_footer


Match = Callable[[Exchange], bool]


def data_request(exchange: Exchange) -> bool:
    """For faults, which are chosen before the answer is known: a ranged GET that is not a suffix."""
    wanted = exchange.headers.get("range", "")
    return exchange.method == "GET" and wanted.startswith("bytes=") and not wanted.startswith("bytes=-")


def object_request(exchange: Exchange) -> bool:
    """For faults: any GET of an object."""
    return exchange.method == "GET" and "list-type" not in exchange.query


@dataclass
class Fault:
    """What to do to the next `times` requests that match: answer `status`, or cut the body after `cut` bytes."""

    match: Match
    times: int = 1
    status: int | None = None
    cut: int | None = None
    gate: Gate | None = None
    hits: int = 0


@dataclass
class Gate:
    """Holds requests back until it is opened."""

    opened: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def pass_through(self) -> None:
        self.arrived.release()
        self.opened.wait(timeout=120)

    def wait_for_arrivals(self, count: int = 1, timeout: float = 60) -> None:
        for number in range(count):
            if not self.arrived.acquire(timeout=timeout):
                raise AssertionError(f"only {number} of {count} requests came within {timeout} s")

    def open(self) -> None:
        self.opened.set()


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: Iterator[bytes]
    length: int | None
    """None where the length isn't known: then the body goes in chunks."""


class Backend(Protocol):
    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answer: ...


class Forward:
    """Hands requests to the HTTP server at `host:port`, headers and all. One connection for each thread."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.local = threading.local()

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answer:
        for attempt in (1, 2):
            connection = getattr(self.local, "connection", None)
            reused = connection is not None
            if connection is None:
                connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
                self.local.connection = connection
            try:
                connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    if name.lower() not in ("connection", "expect"):
                        connection.putheader(name, value)
                connection.endheaders(body or None)
                response = connection.getresponse()
                break
            except (OSError, http.client.HTTPException):
                connection.close()
                self.local.connection = None
                # The server may close an idle connection just as it is used again.
                if not reused or attempt == 2:
                    raise
        passed = [(n, v) for n, v in response.getheaders() if n.lower() not in ("connection", "transfer-encoding")]
        length = response.getheader("content-length")
        return Answer(response.status, passed, self.body(response), None if length is None else int(length))

    def body(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := response.read(CHUNK):
                yield chunk
        finally:
            # An answer that wasn't read to its end leaves the connection unusable.
            if not response.isclosed():
                self.local.connection.close()
                self.local.connection = None


class Origin:
    """The server. Use it as a context manager."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.changed = threading.Condition()
        self.exchanges: list[Exchange] = []
        self.faults: list[Fault] = []
        self.pace: Callable[[Exchange], None] | None = None
        self.server = Server(self)
        self.host, self.port = "127.0.0.1", self.server.server_address[1]
        self.url = f"http://{self.host}:{self.port}"

    def __enter__(self) -> Origin:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        self.server.shutdown()
        self.server.server_close()

    # What was asked

    def mark(self) -> int:
        with self.changed:
            return len(self.exchanges)

    def since(self, mark: int = 0) -> list[Exchange]:
        """Requests that were begun after `mark`."""
        with self.changed:
            return self.exchanges[mark:]

    def data_since(self, mark: int = 0) -> list[Exchange]:
        return [e for e in self.since(mark) if e.reads_data]

    def wait_for(self, match: Match, count: int = 1, mark: int = 0, timeout: float = 60) -> None:
        """Waits until `count` answers after `mark` match."""
        with self.changed:
            done = self.changed.wait_for(lambda: sum(map(match, self.exchanges[mark:])) >= count, timeout)
        if not done:
            raise AssertionError(f"the origin did not see {count} such requests within {timeout} s: {self.since(mark)}")

    # What goes wrong

    def fault(self, match: Match, times: int = 1, status: int | None = None, cut: int | None = None) -> Fault:
        fault = Fault(match, times, status, cut)
        self.faults.append(fault)
        return fault

    @contextlib.contextmanager
    def holding(self, match: Match, times: int = 1 << 30) -> Iterator[Gate]:
        """Requests that match wait until the gate is opened, or the block left."""
        gate = Gate()
        fault = Fault(match, times, gate=gate)
        self.faults.append(fault)
        try:
            yield gate
        finally:
            self.faults.remove(fault)
            gate.open()

    def heal(self) -> None:
        """Ends all faults."""
        faults, self.faults = self.faults, []
        for fault in faults:
            if fault.gate:
                fault.gate.open()

    # Called by the handler

    def begin(self, exchange: Exchange) -> Fault | None:
        with self.changed:
            self.exchanges.append(exchange)
            for fault in self.faults:
                if fault.hits < fault.times and fault.match(exchange):
                    fault.hits += 1
                    return fault
        return None

    def changed_now(self) -> None:
        with self.changed:
            self.changed.notify_all()


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    block_on_close = False

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle of an answer is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    error_content_type = "text/plain"
    error_message_format = "%(message)s"

    def handle_one(self) -> None:
        origin = self.server.origin
        path, _, query = self.path.partition("?")
        exchange = Exchange(
            method=self.command,
            path=urllib.parse.unquote(path),
            query=query,
            headers={name.lower(): value for name, value in self.headers.items()},
        )
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = origin.begin(exchange)
        if fault and fault.gate:
            fault.gate.pass_through()
        if fault and fault.status:
            answer = Answer(fault.status, [], iter([b"out of order"]), len(b"out of order"))
        else:
            answer = origin.backend.answer(self.command, self.path, self.headers, body)
        try:
            self.send(exchange, answer, fault.cut if fault else None)
        finally:
            closer = getattr(answer.body, "close", None)
            if closer:
                closer()
            origin.changed_now()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = handle_one

    def send(self, exchange: Exchange, answer: Answer, cut: int | None) -> None:
        exchange.start, exchange.end, exchange.size = span(answer)
        exchange.status = answer.status
        bodiless = self.command == "HEAD" or answer.status in (204, 304)
        chunked = answer.length is None and not bodiless
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() != "content-length":
                self.send_header(name, value)
        if answer.length is not None:
            self.send_header("Content-Length", str(answer.length))
        elif chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if bodiless:
            for _ in answer.body:
                pass
            return
        for chunk in answer.body:
            if cut is not None and exchange.sent + len(chunk) > cut:
                self.wfile.write(chunk[: cut - exchange.sent])
                exchange.sent = cut
                self.reset()
                return
            if self.server.origin.pace:
                self.server.origin.pace(exchange)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            exchange.sent += len(chunk)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def reset(self) -> None:
        """Ends the connection as a crash would, with a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


def span(answer: Answer) -> tuple[int, int, int]:
    """The bytes of the object that an answer holds: start, end, size."""
    for name, value in answer.headers:
        if name.lower() == "content-range" and answer.status == 206:
            positions, _, size = value.removeprefix("bytes ").partition("/")
            first, _, last = positions.partition("-")
            return int(first), int(last) + 1, int(size)
    length = answer.length or 0
    return 0, length, length


def doubled(exchanges: list[Exchange]) -> dict[str, list[tuple[int, int]]]:
    """The ranges of each object that were sent more than once."""
    result: dict[str, list[tuple[int, int]]] = {}
    by_path: dict[str, list[tuple[int, int]]] = {}
    for exchange in exchanges:
        if exchange.reads_object:
            by_path.setdefault(exchange.path, []).append((exchange.start, exchange.start + exchange.sent))
    for path, spans in by_path.items():
        reached = 0
        for start, end in sorted(spans):
            if start < reached and end > start:
                result.setdefault(path, []).append((start, min(end, reached)))
            reached = max(reached, end)
    return result


def covered(exchanges: list[Exchange], path: str) -> list[tuple[int, int]]:
    """The ranges of an object that were sent, joined, in order."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted((e.start, e.end) for e in exchanges if e.reads_object and e.path == path):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
