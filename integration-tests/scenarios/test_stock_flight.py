"""What a client sees that has pyarrow.flight and nothing else."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

from harness import data
from harness.compare import assert_same, assert_same_schema
from harness.messages import pb
from harness.node import Node, position

ACTIONS = {"roost.warm", "roost.evict", "roost.pin", "roost.unpin", "roost.stat"}


@pytest.fixture
def served(node) -> Node:
    return node()


def test_read_by_path(served: Node, tpch: Path):
    path = tpch / "orders.parquet"
    client = flight.connect(f"grpc://{served.address}")
    info = client.get_flight_info(flight.FlightDescriptor.for_path(path.as_uri()))
    expected = pq.read_table(path)
    assert_same_schema(info.schema, expected.schema)
    assert info.total_records == expected.num_rows
    tables = []
    for endpoint in info.endpoints:
        # Where the endpoint says, which is what a client of several nodes does.
        for location in endpoint.locations[:1]:
            with flight.connect(location) as there:
                tables.append(there.do_get(endpoint.ticket).read_all())
    assert_same(pa.concat_tables(tables), expected)


def test_schema_by_path(served: Node, tpch: Path):
    path = tpch / "part.parquet"
    answer = served.flight.get_schema(flight.FlightDescriptor.for_path(path.as_uri()))
    assert_same_schema(answer.schema, pq.read_schema(path))


def test_endpoints_name_this_node(served: Node, images: Path):
    info = served.info(images.as_uri() + "/")
    assert len(info.endpoints) == 4
    for endpoint in info.endpoints:
        tcp, unix = (location.uri.decode() for location in endpoint.locations)
        assert tcp == f"grpc://{served.address}"
        assert Path(unix.removeprefix("grpc+unix://")).is_socket()


def test_list_actions(served: Node):
    actions = {action.type: action.description for action in served.flight.list_actions()}
    assert set(actions) >= ACTIONS
    assert all(actions.values()), "each says what it does"


def test_list_flights(served: Node, images: Path):
    assert list(served.flight.list_flights()) == []
    url = images.as_uri() + "/"
    served.read(url)
    (info,) = served.flight.list_flights()
    assert info.descriptor.path == [url.encode()]
    assert_same(served.read_plan(served.flight.get_flight_info(info.descriptor)), pq.read_table(images))


def test_batches_of_a_stream_tell_their_place(served: Node, tpch: Path):
    url = (tpch / "lineitem.parquet").as_uri()
    places = []
    for ticket in served.tickets(url):
        for chunk in served.flight.do_get(ticket):
            place = position(chunk)
            places.append((place.row_group, place.piece, place.batch))
    assert len(places) == len(set(places))
    assert places == sorted(places)


def test_a_stream_resumes_behind_a_batch(served: Node, tmp_path: Path):
    """No row twice, none lost."""
    path = data.wide(tmp_path / "wide.parquet", rows=400_000)
    (ticket,) = served.tickets(path.as_uri())
    chunks = list(served.flight.do_get(ticket))
    assert len(chunks) > 3
    for broke in (0, len(chunks) // 2, len(chunks) - 1):
        signed = pb.SignedTicket.FromString(ticket.ticket)
        signed.after.CopyFrom(position(chunks[broke]))
        rest = served.get(flight.Ticket(signed.SerializeToString()))
        batches = [chunk.data for chunk in chunks[broke + 1 :]]
        assert rest.equals(pa.Table.from_batches(batches, chunks[0].data.schema))


@pytest.mark.parametrize(
    ("descriptor", "error", "words"),
    [
        (flight.FlightDescriptor.for_path("nonsense"), pa.ArrowInvalid, "nonsense"),
        (flight.FlightDescriptor.for_path("ftp://host/file.parquet"), (pa.ArrowInvalid, NotImplementedError), "ftp"),
        (flight.FlightDescriptor.for_path("file:///no/such/file.parquet"), KeyError, "file:///no/such/file.parquet"),
        (flight.FlightDescriptor.for_path("a", "b"), pa.ArrowInvalid, None),
        (flight.FlightDescriptor.for_path(), pa.ArrowInvalid, None),
        (flight.FlightDescriptor.for_command(b""), pa.ArrowInvalid, None),
        (flight.FlightDescriptor.for_command(b"SELECT 1"), (pa.ArrowInvalid, NotImplementedError), None),
    ],
)
@pytest.mark.parametrize("call", ["get_flight_info", "get_schema"])
def test_what_cannot_be_planned(served: Node, descriptor, error, words: str | None, call: str):
    with pytest.raises(error, match=words):
        getattr(served.flight, call)(descriptor)


def test_what_is_not_offered(served: Node):
    with pytest.raises((NotImplementedError, pa.ArrowInvalid), match=r"roost\.nonsense"):
        list(served.flight.do_action(flight.Action("roost.nonsense", b"")))
    with pytest.raises((NotImplementedError, pa.ArrowException)):
        put(served, pa.table({"a": [1]}))
    with pytest.raises(pa.ArrowInvalid):
        list(served.flight.do_action(flight.Action("roost.warm", b"\xff\xff")))


def put(served: Node, table: pa.Table) -> None:
    writer, _ = served.flight.do_put(flight.FlightDescriptor.for_path("x"), table.schema)
    writer.write_table(table)
    writer.close()


def test_a_reader_that_leaves_frees_its_stream(served: Node, images: Path):
    (ticket, *_) = served.tickets(images.as_uri() + "/")
    stream = served.flight.do_get(ticket)
    stream.read_chunk()
    stream.cancel()
    served.wait(lambda: served.metrics()["roost_streams_active"] == 0, "the stream is closed")
