"""Maps beside Flight: they are used without being asked for, and whatever goes wrong with them, Flight goes on."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_same, rich_table
from fake_map_node import URL, Answer, Host, MapPiece, Served, constant, ipc_file, null, open_files, stored, whole_file
from fake_node import FakeNode

import roost
from roost import _map, _map_file, _wire
from roost.plan import Ticket


@pytest.fixture
def served(node: FakeNode, tmp_path: Path) -> Iterator[Served]:
    directory = tmp_path / "fragments"
    directory.mkdir()
    both = Served(node, directory)
    with both.maps:
        yield both


def test_every_way_of_reading_maps(served: Served, dataset: Path) -> None:
    client = roost.connect(served.flight.address, fallback=False)
    expected = pq.read_table(dataset)
    plan = client.plan(dataset)
    assert plan.tickets[0].locations == (served.flight.address, served.maps.address)
    assert_same(client.read_table(dataset), expected)
    assert_same(pa.Table.from_batches(plan.batches()), expected)
    assert_same(pa.Table.from_batches(plan.batches(prefetch=0)), expected)
    assert_same(pickle.loads(pickle.dumps(plan)).to_table(), expected)
    assert_same(client.read_table(dataset, ["text", "id"], 40), expected.select(["text", "id"]).slice(0, 40))
    assert client.statistics() == {"mapped_tickets": 3 * 21 + 2, "streamed_tickets": 0, "direct_tickets": 0}
    assert served.flight.gets == []


def test_maps_are_switched_off(served: Served, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = roost.connect(served.flight.address, fallback=False, maps=False)
    assert client.read_table(dataset).num_rows == 600
    assert pickle.loads(pickle.dumps(client)).read_table(dataset).num_rows == 600
    monkeypatch.setenv("ROOST_MAPS", "0")
    client = roost.connect(served.flight.address, fallback=False)
    assert client.read_table(dataset).num_rows == 600
    assert client.statistics()["mapped_tickets"] == 0
    assert served.maps.seen.empty()
    client = roost.connect(served.flight.address, fallback=False, maps=True)
    assert client.read_table(dataset).num_rows == 600
    assert client.statistics()["mapped_tickets"] == 21


def test_a_socket_on_another_host_is_not_looked_for(node: FakeNode, dataset: Path, tmp_path: Path) -> None:
    node.locations = [f"grpc+unix://{tmp_path}/nothing.sock", node.address]
    client = roost.connect(node.address, fallback=False)
    assert client.read_table(dataset).num_rows == 600
    assert client.statistics() == {"mapped_tickets": 0, "streamed_tickets": 21, "direct_tickets": 0}


def test_nobody_listens_on_the_socket(served: Served, dataset: Path) -> None:
    served.maps.stop()
    client = roost.connect(served.flight.address, fallback=False)
    assert_same(client.read_table(dataset), pq.read_table(dataset))
    assert client.statistics() == {"mapped_tickets": 0, "streamed_tickets": 21, "direct_tickets": 0}
    assert _map.is_left_alone(str(served.maps.path))


def refused(code: int = 8, **more: Any) -> Any:
    return _wire.MapError(code=code, message="not now", **more)


def test_refused_tickets_are_streamed(served: Served, dataset: Path) -> None:
    served.change = lambda number, answer: refused(use_flight=True) if number % 2 else answer
    client = roost.connect(served.flight.address, fallback=False)
    assert_same(client.read_table(dataset), pq.read_table(dataset))
    assert client.statistics() == {"mapped_tickets": 11, "streamed_tickets": 10, "direct_tickets": 0}
    assert not any(signed.HasField("after") for signed in served.flight.gets)


def corrupted(path: Path, change: Callable[[bytes], bytes]) -> Path:
    # A new file: the old one may be mapped.
    found = path.with_suffix(".bad")
    found.write_bytes(change(path.read_bytes()))
    return found


WRONG: dict[str, Callable[[MapPiece], MapPiece | Exception | Any]] = {
    "an error": lambda piece: refused(5),
    "an end": lambda piece: ConnectionError(),
    "nonsense": lambda piece: MapPiece(1, 1, [], raw=b"\x04\x00\x00\x00\xff\xff\xff\xff"),
    "a frame that is too long": lambda piece: MapPiece(1, 1, [], raw=b"\xff\xff\xff\xff"),
    "no frame": lambda piece: MapPiece(1, 1, [], raw=b"\x00\x00\x00\x00"),
    "a header": lambda piece: MapPiece(1, 1, [], raw=struct.pack("<I", 2) + b"\x0a\x00"),
    "another piece": lambda piece: replaced(piece, number=7),
    "other rows": lambda piece: replaced(piece, rows=piece.rows + 1),
    "fewer files": lambda piece: replaced(piece, announced=2),
    "more files": lambda piece: replaced(piece, announced=0),
    "a file that is not there": lambda piece: replaced(piece, columns=[stored(1, 0), *piece.columns[1:]]),
    "a column that is not there": lambda piece: replaced(piece, columns=[stored(0, 99), *piece.columns[1:]]),
    "a column nowhere": lambda piece: replaced(piece, columns=[_wire.MappedColumn(), *piece.columns[1:]]),
    "fewer columns": lambda piece: replaced(piece, columns=piece.columns[1:]),
    "columns of other types": lambda piece: replaced(piece, columns=piece.columns[::-1]),
    "a constant of another type": lambda piece: replaced(
        piece, columns=[constant(pa.array(["x"])), *piece.columns[1:]]
    ),
    "a constant of nothing": lambda piece: replaced(
        piece, columns=[constant(pa.array([], pa.int64())), *piece.columns[1:]]
    ),
    "no batches": lambda piece: replaced(piece, batches=0, files=[], columns=[null()] * len(piece.columns)),
    "other batches": lambda piece: replaced(piece, batches=piece.batches + 1),
    "an empty file": lambda piece: replaced(piece, files=[corrupted(piece.files[0], lambda data: b"")]),
    "no Arrow file": lambda piece: replaced(piece, files=[corrupted(piece.files[0], lambda data: b"x" * 5000)]),
    "half a file": lambda piece: replaced(
        piece, files=[corrupted(piece.files[0], lambda data: data[: len(data) // 2])]
    ),
    "fewer rows than announced": lambda piece: replaced(piece, files=[shorter(piece.files[0])]),
}


def replaced(piece: MapPiece, **changes: Any) -> MapPiece:
    for name, value in changes.items():
        setattr(piece, name, value)
    return piece


def shorter(path: Path) -> Path:
    table = pa.ipc.open_file(path).read_all()
    batches = table.to_batches()
    found = path.with_suffix(".short")
    with pa.ipc.new_file(found, table.schema) as writer:
        for batch in (*batches[:-1], batches[-1].slice(1)):
            writer.write_batch(batch)
    return found


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
@pytest.mark.parametrize("wrong", WRONG)
def test_flight_takes_over(
    served: Served, dataset: Path, wrong: str, cold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cold:
        monkeypatch.setattr(_map_file, "_is_warm", lambda descriptor, size: False)

    def change(number: int, answer: Answer) -> Answer:
        if number == 1:
            answer.pieces = [WRONG[wrong](answer.pieces[0])]
        return answer

    served.change = change
    client = roost.connect(served.flight.address, fallback=False)
    plan = client.plan(dataset)
    found = pa.concat_tables([client.read(ticket) for ticket in plan.tickets[:3]])
    assert_same(found, pq.read_table(dataset).slice(0, 90))
    assert len(served.flight.gets) >= 1
    # A damaged file may show only at a batch behind some good ones.
    assert client.statistics()["mapped_tickets"] >= 1
    del found
    assert len(_map._connected) == 0
    assert not any(".arrow" in name or ".bad" in name or ".short" in name for name in open_files())


def test_flight_goes_on_behind_the_last_batch(served: Served, dataset: Path) -> None:
    def change(number: int, answer: Answer) -> Answer:
        answer.pieces = [replaced(answer.pieces[0], files=[shorter(answer.pieces[0].files[0])])]
        return answer

    served.change = change
    client = roost.connect(served.flight.address, fallback=False)
    assert_same(client.read(client.plan(dataset).tickets[0]), pq.read_table(dataset).slice(0, 30))
    (signed,) = served.flight.gets
    # The last of five batches lacks a row: it is not given out.
    assert (signed.after.piece, signed.after.batch, signed.after.row_group) == (0, 3, 0)
    assert client.statistics() == {"mapped_tickets": 1, "streamed_tickets": 1, "direct_tickets": 0}


def test_the_origin_goes_on_behind_the_last_batch(served: Served, dataset: Path) -> None:
    client = roost.connect(served.flight.address)
    ticket = client.plan(dataset).tickets[0]

    def change(number: int, answer: Answer) -> Answer:
        answer.pieces = [replaced(answer.pieces[0], files=[shorter(answer.pieces[0].files[0])])]
        return answer

    served.change = change
    served.flight.shutdown()
    with pytest.warns(roost.DirectReadWarning):
        assert_same(client.read(ticket), pq.read_table(dataset).slice(0, 30))
    assert client.statistics() == {"mapped_tickets": 1, "streamed_tickets": 0, "direct_tickets": 1}


def test_another_schema_is_flights_to_tell(served: Served, dataset: Path) -> None:
    client = roost.connect(served.flight.address)
    ticket = client.plan(dataset).tickets[0]
    other = client.plan(dataset, ["id"]).tickets[0]
    forged = Ticket(ticket.signed, URL, ticket.pieces, 30, 0, ticket.locations, other.packed_schema)
    with pytest.raises(roost.StalePlanError, match="another schema"):
        client.read(forged)


def test_a_node_that_says_nothing(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        monkeypatch.setattr(_map, "_ANSWER_SECONDS", 1)
        with pytest.raises(_map.Unmapped, match="no answer for 1 seconds"):
            next(_map.read(host.ticket(pa.schema([]), MapPiece(1, 1, [])), str(tmp_path / "s")))
        # It may be busy.
        assert not _map.is_left_alone(str(tmp_path / "s"))


def test_a_socket_that_failed_is_left_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.node.stop()
    ticket = host.ticket(pa.schema([]), MapPiece(1, 1, []))
    path = str(host.node.path)
    with pytest.raises(_map.Unmapped, match="takes no connection"):
        next(_map.read(ticket, path))
    assert _map.is_left_alone(path)
    now = _map.time.monotonic()
    monkeypatch.setattr(_map.time, "monotonic", lambda: now + 6)
    assert not _map.is_left_alone(path)


# --- another user -----------------------------------------------------------------------------------------------------


def _as_nobody(packed: bytes, queue: Any) -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    client, ticket = pickle.loads(packed)
    table = client.read(ticket)
    queue.put((client.statistics(), table["id"].to_pylist()))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("may", [True, False])
def test_another_user(host: Host, tmp_path: Path, may: bool) -> None:
    """The files stay closed to others; who may use the socket is handed them all the same."""
    path = ipc_file(tmp_path / "a.arrow", rich_table(100), 10)
    path.chmod(0o600)
    os.chmod(host.node.path.parent, 0o755)
    os.chmod(host.node.path, 0o666 if may else 0o600)
    ticket = host.ticket(rich_table().schema, whole_file(path))
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    # Without the fall-back it would ask for long whether a node comes up.
    client = roost.connect("grpc://127.0.0.1:1")
    child = context.Process(target=_as_nobody, args=(pickle.dumps((client, ticket)), queue))
    child.start()
    child.join(60)
    if may:
        statistics, values = queue.get(timeout=10)
        assert statistics["mapped_tickets"] == 1
        assert values == list(range(100))
    else:
        assert child.exitcode == 1
        assert host.node.seen.empty()
