"""Maps for clients on the node's host: what they hold, what they are refused, and what they never see."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import data, maps
from harness.compare import assert_same
from harness.doors import DOORS, Door, socket_of
from harness.maps import MapCall
from harness.messages import pb
from harness.node import Node, options

roost = pytest.importorskip("roost", reason="the package of python-client is not installed")

MAPPING = [door for door in DOORS.values() if door.maps]


def used(served: Node) -> int:
    return int(served.stat().used_bytes)


def mapped(served: Node) -> int:
    return int(served.metrics()["roost_maps_open"])


@pytest.fixture
def wide_set(node: Callable[..., Node], tmp_path: Path) -> tuple[Node, str, pa.Table]:
    path = data.wide(tmp_path / "wide.parquet", rows=50_000)
    served = node("--job-grace", "0s")
    served.warm(path.as_uri())
    return served, path.as_uri(), pq.read_table(path)


# Space


def test_evicted_files_take_space_until_they_are_let_go(wide_set):
    served, url, expected = wide_set
    full = used(served)
    (ticket,) = served.tickets(url)
    with MapCall(socket_of(served), ticket.ticket, credits=1) as call:
        assert call.reply()[0].WhichOneof("reply") == "header"
        _, files = call.reply()
        assert mapped(served) == 1
        assert served.evict(url).fragments == 1
        assert served.stat().fragments == 0
        assert used(served) == full, "the file is still there"
        (table,) = maps.read_files(files)
        assert table.num_rows == expected.num_rows
        assert used(served) == full, "the connection stands for the maps"
    served.wait(lambda: used(served) == 0, "the space is free")
    assert mapped(served) == 0


def test_a_table_holds_its_space(wide_set):
    """The Python client's tables are maps: they outlive eviction, and free the space when they go."""
    served, url, expected = wide_set
    full = used(served)
    client = roost.connect(f"grpc://{served.address}", maps=True, fallback=False)
    table = client.read_table(url)
    column = table["c03"]
    served.evict(url)
    del table
    assert used(served) == full, "a column of it is left"
    assert column.equals(expected["c03"])
    del column
    served.wait(lambda: used(served) == 0, "the space is free")


def test_a_killed_reader_frees_its_space(wide_set):
    served, url, _ = wide_set
    full = used(served)
    code = f"""
import roost, sys
table = roost.connect("grpc://{served.address}", maps=True, fallback=False).read_table({url!r})
print(table.num_rows, flush=True)
sys.stdin.read()
"""
    reader = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout
        assert reader.stdout.readline().strip() == "50000"
        served.evict(url)
        assert (used(served), mapped(served)) == (full, 1)
    finally:
        reader.kill()
        reader.communicate()
    served.wait(lambda: (used(served), mapped(served)) == (0, 0), "the space is free")


def test_eviction_while_fragments_are_opened(node: Callable[..., Node], tmp_path: Path):
    """A file that is opened in the moment in which it is evicted is not kept for ever."""
    directory = data.units(tmp_path / "units", 30, size=64 << 10)
    url = directory.as_uri() + "/"
    served = node("--job-grace", "0s")
    tickets = served.tickets(url)
    stop = threading.Event()

    def read() -> int:
        client, rows = served.connect(), 0
        while not stop.is_set():
            rows += sum(client.do_get(ticket, options()).read_all().num_rows for ticket in tickets)
        return rows

    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(read) for _ in range(4)]
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            served.evict(url)
        stop.set()
        assert all(read.result() > 0 for read in reads)

    def empty() -> bool:
        served.evict(url)
        gone = [line for line in Path(f"/proc/{served.pid}/maps").read_text().splitlines() if "(deleted)" in line]
        return used(served) == 0 and not [line for line in gone if ".arrow" in line]

    served.wait(empty, "no file is left that was evicted", timeout=20)


@pytest.mark.parametrize("maps_on", [True, False], ids=["maps", "streams"])
def test_eviction_between_two_batches(node: Callable[..., Node], tmp_path: Path, maps_on: bool):
    """What a reader has not come to yet is filled again; what it has stays what it was."""
    directory = data.units(tmp_path / "units", 12, size=64 << 10)
    data.wide(directory / "wide.parquet", rows=1_200_000, columns=4)
    url = directory.as_uri() + "/"
    served = node("--job-grace", "0s")
    served.warm(url)
    client = roost.connect(f"grpc://{served.address}", maps=maps_on, fallback=False)
    plan = client.plan(url)
    batches = []
    for ticket in plan.tickets:
        for batch in client.read_batches(ticket):
            batches.append(batch)
            served.evict(url)
    assert len(batches) > 13
    assert_same(pa.Table.from_batches(batches, plan.schema), pq.read_table(directory))
    del batches, batch
    served.evict(url)
    served.wait(lambda: (used(served), mapped(served)) == (0, 0), "the space is free")


def test_a_table_outlives_its_node_and_its_object(wide_set, tmp_path: Path):
    served, url, expected = wide_set
    client = roost.connect(f"grpc://{served.address}", maps=True, fallback=False)
    table = client.read_table(url)
    data.wide(tmp_path / "wide.parquet", rows=50_001)
    plan = client.plan(url, refresh=True)
    assert plan.to_table().num_rows == 50_001
    assert_same(table, expected)
    served.kill9()
    for file in served.files():
        file.unlink()
    assert_same(table, expected)


# Damage


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("place", [0.02, 0.47, 0.97])
@pytest.mark.parametrize("door", MAPPING, ids=str)
def test_damage_is_never_mapped(node: Callable[..., Node], tmp_path: Path, door: Door, codec: str, place: float):
    path = data.wide(tmp_path / "wide.parquet", rows=20_000)
    expected = pq.read_table(path)
    served = node("--compression", codec)
    served.warm(path.as_uri())
    served.terminate()
    file = max(served.files(), key=lambda file: file.stat().st_size)
    with file.open("r+b") as opened:
        at = int(file.stat().st_size * place)
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 0x10]))
    served.start().recovered()
    assert_same(door.read(served, path.as_uri()), expected)
    assert served.stat().damaged == 1
    assert_same(door.read(served, path.as_uri()), expected)


@pytest.mark.parametrize("door", MAPPING, ids=str)
@pytest.mark.parametrize("place", [0, 5, 12, 64, 200, -1, -8, -12, -100, -400, -2000])
def test_damage_at_the_ends(node: Callable[..., Node], tmp_path: Path, door: Door, place: int):
    """Some bytes there mean nothing, some only to those who map. Rows are right in any case."""
    path = data.wide(tmp_path / "wide.parquet", rows=2_000)
    expected = pq.read_table(path)
    served = node()
    served.warm(path.as_uri())
    served.terminate()
    file = max(served.files(), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[place] ^= 0x10
    file.write_bytes(content)
    served.start().recovered()
    assert_same(door.reader(served, path.as_uri(), None, 0), expected)
    assert_same(door.reader(served, path.as_uri(), ["c19", "c00"], 0), expected.select(["c19", "c00"]))


# Hostile clients


def test_what_is_no_request(wide_set):
    """The node closes such connections; it neither answers at length nor falls over."""
    served, url, expected = wide_set
    (ticket,) = served.tickets(url)
    for sent in (
        b"ROOSTMAP" + b"\xff" * 4,
        b"ROOSTMAP" + struct.pack("<I", 1 << 31) + bytes(1000),
        b"ROOSTMAP" + struct.pack("<I", 40) + b"\xff" * 40,
        b"ROOSTMOP" + bytes(100),
        b"RRRRRRRRRRRRRRRRRRRRRR",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 200,
        os.urandom(500),
    ):
        with maps.connect(socket_of(served)) as opened:
            opened.sendall(sent)
            answer = b""
            try:
                while part := opened.recv(4096):
                    answer += part
            except ConnectionError:
                pass
            assert len(answer) < 4096
    for forged in (b"", b"x", ticket.ticket[:-3], bytes(100)):
        with MapCall(socket_of(served), forged, credits=1) as call:
            reply, files = call.reply()
            assert (reply.WhichOneof("reply"), files) == ("error", [])
            assert reply.error.code in (3, 9), reply.error
            assert not reply.error.use_flight
    assert_same(DOORS["python-map"].read(served, url), expected)
    served.wait(lambda: mapped(served) == 0, "all are gone")


def test_a_request_byte_by_byte(wide_set):
    served, url, _ = wide_set
    (ticket,) = served.tickets(url)
    call = MapCall.__new__(MapCall)
    with maps.connect(socket_of(served)) as opened:
        call.socket = opened
        for byte in maps.request(ticket.ticket) + b"\0":
            opened.sendall(bytes([byte]))
        assert call.reply()[0].header.pieces == 1
        reply, files = call.reply()
        assert reply.piece.files == len(files) == 1
        maps.read_files(files)


def test_floods_and_silence(node: Callable[..., Node], tmp_path: Path):
    """Clients that ask for more than there is, that never read, or that never ask: each costs little, and the rest is
    served."""
    directory = data.units(tmp_path / "units", 200, size=16 << 10)
    url, expected = directory.as_uri() + "/", pq.read_table(directory)
    served = node()
    served.warm(url)
    ticket = max(served.tickets(url, job="one ticket"), key=lambda ticket: len(ticket.ticket)).ticket
    before = served.rss_anon()
    silent = [MapCall(socket_of(served), ticket) for _ in range(60)]
    greedy = [MapCall(socket_of(served), ticket, credits=100_000) for _ in range(60)]
    stop = threading.Event()

    def flood() -> None:
        with MapCall(socket_of(served), ticket) as call:
            call.socket.settimeout(0.2)
            while not stop.is_set():
                try:
                    call.socket.sendall(bytes(1 << 16))
                except (TimeoutError, ConnectionError):
                    return

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        served.wait(lambda: mapped(served) >= 120, "all are connected")
        started = time.monotonic()
        for door in ("tcp", "unix", "python-map"):
            assert_same(DOORS[door].reader(served, url, None, 0), expected)
        assert time.monotonic() - started < 30
        assert served.rss_anon() - before < 120 * (256 << 10) + (16 << 20), "each costs little"
    finally:
        stop.set()
        thread.join()
        for call in silent + greedy:
            call.close()
    served.wait(lambda: mapped(served) == 0, "all are gone")
    assert served.metrics()["roost_streams_active"] == 0


def test_maps_take_no_stream_s_place(node: Callable[..., Node], tmp_path: Path):
    """Clients that don't ask for the next row group have all the time they want; streams have limits of their own."""
    path = data.wide(tmp_path / "wide.parquet", rows=20_000)
    served = node("--max-streams", "2")
    served.warm(path.as_uri())
    (ticket,) = served.tickets(path.as_uri())
    calls = [MapCall(socket_of(served), ticket.ticket) for _ in range(5)]
    for call in calls:
        assert call.reply()[0].WhichOneof("reply") == "header"
    assert served.metrics()["roost_streams_active"] == 0
    assert_same(served.read(path.as_uri()), pq.read_table(path))
    for call in calls:
        call.close()


def test_more_maps_than_allowed(node: Callable[..., Node], tmp_path: Path):
    """The client is told to stream, and does."""
    path = data.wide(tmp_path / "wide.parquet", rows=20_000)
    expected = pq.read_table(path)
    served = node("--max-maps", "2")
    served.warm(path.as_uri())
    (ticket,) = served.tickets(path.as_uri())
    calls = [MapCall(socket_of(served), ticket.ticket, credits=1) for _ in range(2)]
    for call in calls:
        call.reply()
        maps.read_files(call.reply()[1])
    with MapCall(socket_of(served), ticket.ticket) as third:
        reply, _ = third.reply()
        assert (reply.error.code, reply.error.use_flight) == (8, True)
    for door in MAPPING:
        assert_same(door.read(served, path.as_uri(), mapped=False), expected)
    calls.pop().close()
    served.wait(lambda: mapped(served) == 1, "there is room again")
    assert_same(DOORS["python-map"].read(served, path.as_uri()), expected)
    calls.pop().close()


def test_a_map_resumes_behind_a_row_group(node: Callable[..., Node], tmp_path: Path):
    """And within one the client is told to stream."""
    directory = data.units(tmp_path / "units", 6, size=16 << 10)
    served = node()
    url = directory.as_uri() + "/"
    served.warm(url)
    (ticket,) = (e.ticket for e in served.info(url).endpoints[:1])
    pieces = len(pb.TicketPayload.FromString(pb.SignedTicket.FromString(ticket.ticket).payload).pieces)
    signed = pb.SignedTicket.FromString(ticket.ticket)
    signed.after.piece, signed.after.batch = 0, 0
    with MapCall(socket_of(served), signed.SerializeToString(), credits=pieces) as call:
        header = call.reply()[0].header
        assert (header.pieces, header.first) == (pieces, 1)
        for piece in range(1, pieces):
            reply, files = call.reply()
            assert reply.piece.piece == piece
            maps.read_files(files)
    signed.after.piece = pieces
    with MapCall(socket_of(served), signed.SerializeToString(), credits=1) as call:
        assert call.reply()[0].error.code == 3


# Constant eviction, refill, and readers that are killed

READER = """
import random, sys
from collections import deque
import pyarrow.parquet as pq
import roost

address, directory, units, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
paths = [f"{directory}/unit-{number:04}.parquet" for number in range(units)]
expected = [pq.read_table(path) for path in paths]
rng = random.Random(seed)
client = roost.connect(address, maps=True, fallback=False)
kept = deque(maxlen=6)
while True:
    number = rng.randrange(units)
    columns = rng.choice([None, ["c02"], ["c03", "c00"], ["c01", "c02", "c03"]])
    table = client.read_table("file://" + paths[number], columns=columns)
    kept.append((number, columns, table))
    for number, columns, table in kept:
        wanted = expected[number] if columns is None else expected[number].select(columns)
        if not table.equals(wanted):
            print(f"WRONG unit {number} columns {columns}", flush=True)
            sys.exit(3)
    statistics = client.statistics()
    print(statistics["mapped_tickets"], flush=True)
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_bits_are_right_under_eviction_refill_and_kill9(node: Callable[..., Node], tmp_path: Path, codec: str):
    """Readers compare what they hold again and again while its files are evicted and filled anew, and are killed."""
    units, seconds = 24, 12
    directory = data.units(tmp_path / "units", units, size=1 << 20)
    served = node("--capacity", "10MiB", "--job-grace", "0s", "--compression", codec)
    address = f"grpc://{served.address}"

    def begin(seed: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", READER, address, str(directory), str(units), str(seed)]
        out = (tmp_path / f"reader{seed}").open("w")
        with out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, text=True)

    def said(seed: int) -> list[str]:
        return (tmp_path / f"reader{seed}").read_text().split("\n")[:-1]

    readers = {seed: begin(seed) for seed in range(3)}
    rounds, killed, deadline = 0, 0, time.monotonic() + seconds
    try:
        while time.monotonic() < deadline or killed < 3:
            served.evict(directory.as_uri() + "/")
            seed = min(readers)
            reader = readers[seed]
            assert reader.poll() is None, said(seed)[-3:]
            if len(said(seed)) > 40:
                # It is in the middle of something.
                reader.send_signal(signal.SIGKILL)
                reader.wait()
                del readers[seed]
                killed += 1
                rounds += len(said(seed))
                readers[seed + 3] = begin(seed + 3)
            stat = served.stat()
            # Fills under way, and what readers hold: six tables each, of those that were evicted.
            assert stat.used_bytes < (10 << 20) + 4 * 9 * (2 << 20)
            time.sleep(0.05)
        for seed, reader in readers.items():
            assert reader.poll() is None, said(seed)[-3:]
            served.wait(lambda seed=seed: len(said(seed)) > 3, "each reader has read")
            assert int(said(seed)[-1]) > 0, "tickets were mapped"
    finally:
        for reader in readers.values():
            reader.kill()
            reader.wait()
    served.wait(lambda: mapped(served) == 0, "no map is left")
    served.wait(lambda: used(served) <= 10 << 20, "the space is free")
    stat = served.stat()
    assert stat.damaged == 0
    assert stat.misses > units, "what was evicted was filled again"
    assert rounds > 0
    assert served.metrics()["roost_mapped_rows_total"] > 0
    assert_same(served.read(directory.as_uri() + "/"), pq.read_table(directory))
