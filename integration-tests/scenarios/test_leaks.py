"""Ten thousand connections, opened and dropped in every way, leave nothing behind."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import flight

from harness import data, maps
from harness.doors import socket_of
from harness.maps import MapCall
from harness.node import Node, options

pytestmark = pytest.mark.timeout(150)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
TOGETHER = 50


def frame(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", 1) + body


def literal(name: str, value: str) -> bytes:
    """A header, spelled out."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def do_get(ticket: bytes, *, whole: bool) -> bytes:
    """DoGet as HTTP/2 frames, of which half the request is missing if it is not to be whole."""
    headers = b"".join(
        literal(*pair)
        for pair in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/arrow.flight.protocol.FlightService/DoGet"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        )
    )
    message = flight.Ticket(ticket).serialize()
    body = b"\0" + struct.pack(">I", len(message)) + message
    sent = frame(0, 1, body) if whole else frame(0, 0, body[: len(body) // 2])
    return PREFACE + frame(1, 4, headers) + sent


class Belongings:
    """What a process has."""

    def __init__(self, served: Node) -> None:
        directory = Path(f"/proc/{served.pid}")
        self.files = len(list((directory / "fd").iterdir()))
        self.maps = len((directory / "maps").read_text().splitlines())
        self.memory = served.rss_anon()
        metrics = served.metrics()
        self.open = (metrics["roost_maps_open"], metrics["roost_streams_active"])

    def __repr__(self) -> str:
        return f"{self.files} files, {self.maps} maps, {self.memory >> 10} KiB, {self.open} open"


def drop(served: Node, count: int, door: str, sent: bytes, answered: bool = False) -> None:
    """Connects so often, sends, and closes, some connections at a time; waits for the start of an answer if told to."""
    host, port = served.address.split(":")
    path = socket_of(served)

    def some(number: int) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(number):
                if door == "tcp":
                    opened = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
                else:
                    opened = stack.enter_context(maps.connect(path))
                opened.sendall(sent)
                if answered:
                    assert opened.recv(100)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(some, [TOGETHER] * (count // TOGETHER)))


@pytest.fixture
def served(node: Callable[..., Node]) -> Node:
    return node()


def test_connections_leave_nothing(served: Node, tmp_path: Path):
    path = data.wide(tmp_path / "wide.parquet", rows=60_000)
    url = path.as_uri()
    served.warm(url)
    (ticket,) = (ticket.ticket for ticket in served.tickets(url))
    request = maps.request(ticket)

    def all_ways(share: float) -> None:
        for count, door, sent, answered in (
            (2000, "tcp", b"", False),
            (1000, "tcp", PREFACE, False),
            (1000, "tcp", PREFACE[:10], False),
            (1000, "tcp", do_get(ticket, whole=False), False),
            (1000, "tcp", do_get(ticket, whole=True), True),
            (1000, "unix", b"", False),
            (500, "unix", PREFACE, False),
            (500, "unix", do_get(ticket, whole=True), True),
            (500, "unix", maps.MAGIC[:4], False),
            (500, "unix", request[: len(request) // 2], False),
            (500, "unix", request, False),
            (500, "unix", request + b"\0" * 3, True),
        ):
            drop(served, int(count * share), door, sent, answered)

    all_ways(0.1)
    served.get(served.tickets(url)[0])
    settled = Belongings(served)
    all_ways(1)

    def back() -> bool:
        now = Belongings(served)
        # Idle threads of the node's pool come and go, each with a few maps.
        return now.files <= settled.files + 4 and now.maps <= settled.maps + 60 and now.open == (0, 0)

    served.wait(back, f"all is as it was: {settled}", timeout=30)
    grown = served.rss_anon() - settled.memory
    assert grown < 24 << 20, f"{grown >> 20} MiB"
    assert served.get(served.tickets(url)[0]).num_rows == 60_000


HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from harness.maps import MapCall
calls = []
for number in range(25):
    call = MapCall(sys.argv[2], bytes.fromhex(sys.argv[3]), credits=number % 3)
    calls.append(call)
    # Some have their files, some not yet.
    if number % 2:
        call.reply()
print("ready", flush=True)
sys.stdin.read()
"""


def test_killed_clients_leave_nothing(served: Node, tmp_path: Path):
    path = data.wide(tmp_path / "wide.parquet", rows=60_000)
    url = path.as_uri()
    served.warm(url)
    (ticket,) = (ticket.ticket for ticket in served.tickets(url))
    with MapCall(socket_of(served), ticket, credits=1) as call:
        call.reply()
    settled = Belongings(served)
    root = str(Path(__file__).parents[1])
    for _ in range(3):
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", HOLDER, root, str(socket_of(served)), ticket.hex()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        try:
            for reader in readers:
                assert reader.stdout
                assert reader.stdout.readline() == b"ready\n"
            served.wait(lambda: Belongings(served).open[0] == 75, "all connections are known")
        finally:
            for reader in readers:
                reader.send_signal(signal.SIGKILL)
                reader.communicate()
    served.wait(lambda: Belongings(served).files <= settled.files + 2, f"files are closed: {settled}", timeout=30)
    served.wait(lambda: Belongings(served).open == (0, 0), "maps and streams have ended", timeout=30)
    served.evict(url)
    served.wait(lambda: served.stat().used_bytes == 0, "the space is free")


def test_cancelled_streams_leave_nothing(served: Node, tmp_path: Path):
    """Calls that end early on connections that stay."""
    path = data.wide(tmp_path / "wide.parquet", rows=200_000)
    served.warm(path.as_uri())
    (ticket,) = served.tickets(path.as_uri())
    lock = threading.Lock()
    clients = [served.connect() for _ in range(4)]

    def some(number: int) -> None:
        with lock:
            client = clients.pop()
        for _ in range(number):
            stream = client.do_get(ticket, options())
            stream.read_chunk()
            stream.cancel()
        with lock:
            clients.append(client)

    some(20)
    settled = Belongings(served)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(some, [100] * 4))
    served.wait(lambda: Belongings(served).open == (0, 0), "all have ended")
    now = Belongings(served)
    assert now.files <= settled.files + 4, (settled, now)
    assert now.maps <= settled.maps + 60, (settled, now)
    assert now.memory <= settled.memory + (24 << 20), (settled, now)
