"""DoGet is answered in front of the gRPC server's own code: callers must not be able to tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

from harness import data
from harness.compare import assert_same
from harness.messages import pb
from harness.node import Node, options
from harness.origin import Origin

SERVICE = "/arrow.flight.protocol.FlightService/"
# Both take one message and answer with many; the second one is served by tonic.
METHODS = ("DoGet", "DoAction")
FLAT = 16 << 20
"""What idle and hostile readers may cost, all together."""


@pytest.fixture(params=["tcp", "unix"])
def channel(served: Node, request: pytest.FixtureRequest) -> Iterator[grpc.Channel]:
    target = served.address
    settings: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    if request.param == "unix":
        (socket,) = served.cache_dirs[0].rglob("roost.sock")
        target = f"unix:{socket}"
        settings.append(("grpc.default_authority", "localhost"))
    with grpc.insecure_channel(target, options=[*settings, ("grpc.max_send_message_length", -1)]) as opened:
        yield opened


@pytest.fixture
def served(node: Callable[..., Node]) -> Node:
    return node()


def raw(channel: grpc.Channel, method: str) -> grpc.UnaryStreamMultiCallable:
    """A call whose messages are bytes."""
    return channel.unary_stream(SERVICE + method, request_serializer=bytes, response_deserializer=bytes)


def ticket_message(ticket: bytes) -> bytes:
    """The message of `Flight.proto`."""
    return flight.Ticket(ticket).serialize()


def failure(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        list(call())
    return caught.value.code(), caught.value.details()


def count(served: Node, method: str, code: int) -> float:
    return served.metrics().get(f'roost_request_seconds_count{{code="{code}",method="{method}"}}', 0.0)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("garbage", grpc.StatusCode.INTERNAL),
        ("too large", grpc.StatusCode.OUT_OF_RANGE),
        ("compressed", grpc.StatusCode.UNIMPLEMENTED),
        ("nothing", grpc.StatusCode.INTERNAL),
    ],
)
def test_requests_that_are_none(served: Node, channel: grpc.Channel, name: str, code: grpc.StatusCode):
    """The same answer as from a call that tonic serves: code and words."""
    answers, calls = set(), {}
    for method in METHODS:
        call = raw(channel, method)
        before = count(served, method, code.value[0])
        match name:
            case "garbage":
                found = failure(lambda call=call: call(b"\x0a\xff\xff", timeout=30))
            case "too large":
                found = failure(lambda call=call: call(b"\x12\x80\x80\x80\x10" + bytes(32 << 20), timeout=30))
            case "compressed":
                found = failure(lambda call=call: call(bytes(5000), timeout=30, compression=grpc.Compression.Gzip))
            case _:
                several = channel.stream_stream(SERVICE + method, request_serializer=bytes, response_deserializer=bytes)
                found = failure(lambda several=several: several(iter(()), timeout=30))
        assert found[0] == code, (method, found)
        # What is wrong is said of the method's own message.
        answers.add((found[0], found[1].replace("Action.r#type", "Ticket.ticket")))
        calls[method] = before + 1
    assert len(answers) == 1, answers
    served.wait(lambda: {m: count(served, m, code.value[0]) for m in METHODS} == calls, "both are counted")


def test_only_the_first_message_counts(served: Node, channel: grpc.Channel, tpch: Path):
    (ticket,) = served.tickets((tpch / "region.parquet").as_uri())
    several = channel.stream_stream(SERVICE + "DoGet", request_serializer=bytes, response_deserializer=bytes)
    answers = list(several(iter((ticket_message(ticket.ticket), b"")), timeout=30))
    assert len(answers) == 2, "the schema and a batch"


def test_tickets_that_are_refused(served: Node, channel: grpc.Channel, tmp_path: Path):
    path = data.wide(tmp_path / "x.parquet", rows=1000, columns=2)
    (ticket,) = served.tickets(path.as_uri())
    call = raw(channel, "DoGet")

    def refused(bytes_: bytes) -> tuple[grpc.StatusCode, str]:
        return failure(lambda: call(ticket_message(bytes_), timeout=30))

    code, words = refused(b"nonsense")
    assert (code, "GetFlightInfo" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    forged = pb.SignedTicket.FromString(ticket.ticket)
    forged.mac = bytes(16)
    code, words = refused(forged.SerializeToString())
    assert (code, "signature" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    stranger = pb.SignedTicket.FromString(ticket.ticket)
    stranger.key_id ^= 1
    assert refused(stranger.SerializeToString())[0] == grpc.StatusCode.FAILED_PRECONDITION
    behind = pb.SignedTicket.FromString(ticket.ticket)
    behind.after.piece = 7
    assert refused(behind.SerializeToString())[0] == grpc.StatusCode.INVALID_ARGUMENT
    behind.after.piece, behind.after.batch = 0, 1000
    assert refused(behind.SerializeToString())[0] == grpc.StatusCode.INVALID_ARGUMENT
    # Changed since it was planned.
    data.wide(path, rows=1001, columns=2)
    code, words = refused(ticket.ticket)
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert path.name in words
    path.unlink()
    code, words = refused(ticket.ticket)
    assert code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)
    assert path.name in words


def test_each_call_is_counted_by_its_code(served: Node, channel: grpc.Channel, tpch: Path):
    (ticket,) = served.tickets((tpch / "nation.parquet").as_uri())
    call = raw(channel, "DoGet")
    for _ in range(3):
        list(call(ticket_message(ticket.ticket), timeout=30))
    for _ in range(2):
        failure(lambda: call(ticket_message(b"x"), timeout=30))
    served.wait(lambda: count(served, "DoGet", 0) == 3, "calls that went well")
    served.wait(lambda: count(served, "DoGet", 3) == 2, "calls that were refused")
    assert served.metrics()['roost_errors_total{kind="invalid"}'] == 2


def test_deadlines_and_cancellation(node, bucket, origin: Origin, wide: Path, channel_of):
    """While the origin keeps silent: the caller is told in time, its place is free, and the call is counted."""
    bucket.put("wide.parquet", wide)
    served = node(origin=origin)
    (ticket,) = served.tickets(bucket.url("wide.parquet"))
    with channel_of(served) as channel, origin.holding(lambda request: request.reads_data or request.method == "GET"):
        call = raw(channel, "DoGet")
        started = time.monotonic()
        assert failure(lambda: call(ticket_message(ticket.ticket), timeout=0.5))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < 20
        stream = call(ticket_message(ticket.ticket), timeout=60)
        served.wait(lambda: served.metrics()["roost_streams_active"] == 1, "the second call has a place")
        stream.cancel()
        served.wait(lambda: served.metrics()["roost_streams_active"] == 0, "places are free")
        served.wait(lambda: count(served, "DoGet", 1) == 2, "both calls ended as cancelled")
    assert_same(served.read(bucket.url("wide.parquet")), pq.read_table(wide))


@pytest.fixture
def channel_of() -> Callable[[Node], grpc.Channel]:
    return lambda served: grpc.insecure_channel(served.address)


def test_more_streams_than_allowed(node: Callable[..., Node], tmp_path: Path):
    """One more is refused, over every door; when one leaves there is room again."""
    path = data.wide(tmp_path / "wide.parquet", rows=1_000_000)
    served = node("--max-streams", "3")
    served.warm(path.as_uri())
    (ticket,) = served.tickets(path.as_uri())
    idle = [served.connect().do_get(ticket, options()) for _ in range(3)]
    for stream in idle:
        stream.read_chunk()
    with grpc.insecure_channel(served.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        call = raw(channel, "DoGet")
        code, words = failure(lambda: call(ticket_message(ticket.ticket), timeout=30))
        assert (code, "--max-streams" in words) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        served.wait(lambda: count(served, "DoGet", 8) == 1, "it is counted")
        idle[0].cancel()
        served.wait(lambda: served.metrics()["roost_streams_active"] == 2, "a place is free")
        assert len(list(call(ticket_message(ticket.ticket), timeout=30))) > 1
    for stream in idle[1:]:
        stream.cancel()


@pytest.mark.parametrize("door", ["tcp", "unix"])
@pytest.mark.parametrize("flags", [("--compression", "none"), ("--compression", "zstd")], ids=["none", "zstd"])
def test_readers_that_do_not_read(node: Callable[..., Node], tmp_path: Path, door: str, flags: tuple[str, ...]):
    """50 streams that nobody takes from cost next to nothing: what waits to be sent lies in the page cache."""
    path = data.wide(tmp_path / "wide.parquet", rows=400_000)
    served = node(*flags)
    served.warm(path.as_uri())
    served.restart(*served.flags).recovered()
    (ticket,) = served.tickets(path.as_uri())
    target, settings = served.address, [("grpc.use_local_subchannel_pool", 1)]
    if door == "unix":
        (socket,) = served.cache_dirs[0].rglob("roost.sock")
        target, settings = f"unix:{socket}", [*settings, ("grpc.default_authority", "localhost")]
    served.get(ticket)
    before = served.rss_anon()
    channels = [grpc.insecure_channel(target, options=[*settings, ("stalled", i)]) for i in range(50)]
    streams = [raw(channel, "DoGet")(ticket_message(ticket.ticket), timeout=120) for channel in channels]
    try:
        served.wait(lambda: served.metrics()["roost_streams_active"] == 50, "all have begun")
        with ThreadPoolExecutor(4) as pool:
            tables = list(pool.map(lambda _: served.get(ticket, served.connect()), range(8)))
        assert all(table.num_rows == 400_000 for table in tables)
        grown = served.rss_anon() - before
        assert grown < 50 * (1 << 20) + FLAT, f"{grown >> 20} MiB"
    finally:
        for stream in streams:
            stream.cancel()
        for channel in channels:
            channel.close()
    served.wait(lambda: served.metrics()["roost_streams_active"] == 0, "all have ended")
