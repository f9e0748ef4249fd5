"""The fall-back over HTTP: range requests, and servers that misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_same, rich_table
from test_nodes import closed_address

import roost
from roost import _http_file, _nodes

pytestmark = pytest.mark.filterwarnings("ignore::roost.DirectReadWarning")


class Origin(ThreadingHTTPServer):
    """Serves bytes by path, with ranges and entity tags, and counts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.etag = '"1"'
        self.ranges = True
        self.fail_next = 0
        self.cut_next = 0
        self.requests: list[str | None] = []
        self.table = pa.table({})

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Origin

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        body = self.server.objects.get(self.path)
        if self.server.fail_next:
            self.server.fail_next -= 1
            self.send_error(503)
            return
        if body is None:
            self.send_error(403 if self.path == "/secret" else 404)
            return
        if self.server.ranges and wanted:
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            if first >= len(body):
                self.send_error(416)
                return
            part = body[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(body)}")
        else:
            part = body
            self.send_response(200)
        self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.server.cut_next:
            self.server.cut_next -= 1
            part = part[: len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        sink = pa.BufferOutputStream()
        pq.write_table(rich_table(), sink, row_group_size=50)
        server.objects["/data/x.parquet?sig=a*b"] = server.objects["/data/x.parquet"] = sink.getvalue().to_pybytes()
        server.table = pq.read_table(pa.BufferReader(sink.getvalue()))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> roost.Client:
    monkeypatch.setattr(_nodes, "_DELAYS_WITH_FALLBACK", (0.01,))
    return roost.connect(closed_address())


@pytest.mark.parametrize("path", ["/data/x.parquet", "/data/x.parquet?sig=a*b"])
def test_reads(origin: Origin, client: roost.Client, path: str) -> None:
    assert_same(client.read_table(origin.url(path)), origin.table)
    assert_same(client.read_table(origin.url(path), ["kind", "id"]), origin.table.select(["kind", "id"]))
    assert all(origin.requests), "only ranges were asked for"


@pytest.mark.parametrize("fault", ["fail_next", "cut_next"])
def test_tries_again(origin: Origin, client: roost.Client, fault: str) -> None:
    plan = client.plan(origin.url("/data/x.parquet"))
    setattr(origin, fault, 1)
    assert_same(plan.to_table(), origin.table)


def test_errors(origin: Origin, client: roost.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(roost.NotFoundError, match="/none"):
        client.plan(origin.url("/none"))
    with pytest.raises(roost.PermissionDeniedError, match="/secret"):
        client.plan(origin.url("/secret"))
    with pytest.raises(roost.UnsupportedError, match="name one object"):
        client.plan(origin.url("/data/*.parquet"))
    with pytest.raises(roost.UnsupportedError, match="name one object"):
        client.plan(origin.url("/data/"))
    monkeypatch.setattr(_http_file, "_ATTEMPTS", 1)
    origin.fail_next = 1
    with pytest.raises(roost.UnavailableError, match="503"):
        client.plan(origin.url("/data/x.parquet"))
    origin.objects["/empty"] = b""
    with pytest.raises(roost.CorruptDataError, match="/empty"):
        client.plan(origin.url("/empty"))
    origin.ranges = False
    with pytest.raises(roost.UnsupportedError, match="Parquet needs ranges"):
        client.plan(origin.url("/data/x.parquet"))


def test_an_object_that_changes_under_the_reader_is_an_error(origin: Origin) -> None:
    file = _http_file.HttpFile(_http_file.head(origin.url("/data/x.parquet")))
    assert file.read(4) == b"PAR1"
    assert file.seek(-4, 2) == file.size() - 4
    assert file.read() == b"PAR1"
    assert file.read() == b""
    origin.etag = '"2"'
    file.seek(0)
    with pytest.raises(roost.StalePlanError, match=r"x\.parquet changed"):
        file.read(4)
