"""Streams that break: no row twice, none lost, and an end to trying."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from conftest import assert_same
from fake_node import FakeNode

import roost
import roost._wire
from roost import _nodes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nodes, "_DELAYS", (0.01, 0.01))


class Breaks:
    """Breaks the stream before each batch named, the first `times` times it comes by."""

    def __init__(self, *at: tuple[int, int], times: int = 1, error: Exception | None = None) -> None:
        self.at = set(at)
        self.times = times
        self.error = error or flight.FlightUnavailableError("going away")
        self.count: Counter[tuple[int, int]] = Counter()

    def __call__(self, ticket: int, batch: int) -> None:
        if (ticket, batch) in self.at and self.count[ticket, batch] < self.times:
            self.count[ticket, batch] += 1
            raise self.error


@pytest.mark.parametrize("at", [(0, 0), (0, 1), (0, 4), (3, 2)])
def test_resumes_where_it_broke(node: FakeNode, dataset: Path, at: tuple[int, int]) -> None:
    node.before_batch = Breaks(at, times=2)
    found = roost.connect(node.address, fallback=False).read_table(dataset)
    assert_same(found, pq.read_table(dataset))
    assert node.before_batch.count[at] == 2


def test_asks_to_start_behind_the_last_batch(node: FakeNode, dataset: Path) -> None:
    node.before_batch = Breaks((0, 3))
    client = roost.connect(node.address, fallback=False)
    client.read(client.plan(dataset).tickets[0])
    first, second = node.gets
    assert not first.HasField("after")
    assert (second.after.piece, second.after.batch, second.after.row_group) == (0, 2, 0)
    assert (second.mac, second.payload) == (first.mac, first.payload)


def test_every_batch_may_break(node: FakeNode, dataset: Path) -> None:
    # As often as one likes, as long as the stream gets on between two breaks.
    node.before_batch = Breaks(*((0, batch) for batch in range(5)))
    client = roost.connect(node.address, fallback=False)
    assert client.read(client.plan(dataset).tickets[0])["id"].to_pylist() == list(range(30))


def test_another_node_goes_on(node: FakeNode, dataset: Path) -> None:
    with FakeNode(node.objects) as other:
        node.before_batch = Breaks((0, 2), times=1000)
        client = roost.connect([node.address, other.address], fallback=False)
        assert client.read(client.plan(dataset).tickets[0])["id"].to_pylist() == list(range(30))
        assert [signed.after.batch for signed in other.gets] == [1]
        assert len(node.gets) == 1


def test_a_node_that_ignores_the_resumption_sends_no_row_twice(
    node: FakeNode, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = node.do_get

    def from_the_start(context: Any, ticket: flight.Ticket) -> Any:
        message = roost._wire.SignedTicket.FromString(ticket.ticket)
        message.ClearField("after")
        return served(context, flight.Ticket(message.SerializeToString()))

    monkeypatch.setattr(node, "do_get", from_the_start)
    node.before_batch = Breaks((0, 3))
    client = roost.connect(node.address, fallback=False)
    assert client.read(client.plan(dataset).tickets[0])["id"].to_pylist() == list(range(30))


def test_there_is_an_end_to_trying(node: FakeNode, dataset: Path) -> None:
    node.before_batch = Breaks((0, 2), times=1000)
    client = roost.connect(node.address, fallback=False)
    with pytest.raises(roost.UnavailableError, match=r"part-0.parquet#rg0: going away"):
        client.read(client.plan(dataset).tickets[0])
    assert len(node.gets) == 4


def test_the_origin_goes_on_where_no_node_does(node: FakeNode, dataset: Path) -> None:
    node.before_batch = Breaks((0, 2), (7, 0), times=1000)
    with pytest.warns(roost.DirectReadWarning, match="going away"):
        found = roost.connect(node.address).read_table(dataset)
    assert_same(found, pq.read_table(dataset))


@pytest.mark.parametrize("limit", [25, 40])
def test_the_origin_goes_on_with_the_plans_limit(node: FakeNode, dataset: Path, limit: int) -> None:
    node.before_batch = Breaks(*((ticket, 1) for ticket in range(3)), times=1000)
    with pytest.warns(roost.DirectReadWarning):
        found = roost.connect(node.address).read_table(dataset, ["text", "id"], limit)
    assert found["id"].to_pylist() == list(range(limit))
    assert found.column_names == ["text", "id"]


def test_a_node_that_dies_midway(node: FakeNode, dataset: Path) -> None:
    client = roost.connect(node.address)
    plan = client.plan(dataset)
    batches = plan.batches(prefetch=0)
    rows = next(batches)["id"].to_pylist()
    node.shutdown()
    with pytest.warns(roost.DirectReadWarning):
        left = list(batches)
    assert rows + [i for batch in left for i in batch["id"].to_pylist()] == list(range(600))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (flight.FlightInternalError("a defect"), roost.InternalError),
        (flight.FlightUnauthorizedError("not you"), roost.PermissionDeniedError),
    ],
)
def test_other_errors_are_not_tried_again_nor_hidden(
    node: FakeNode, dataset: Path, error: Exception, kind: type[roost.RoostError]
) -> None:
    node.before_batch = Breaks((1, 1), times=1000, error=error)
    with warnings.catch_warnings():
        warnings.simplefilter("error", roost.DirectReadWarning)
        client = roost.connect(node.address)
        with pytest.raises(kind, match=r"part-0\.parquet#rg1"):
            client.read_table(dataset)
    assert node.before_batch.count[1, 1] == 1


def test_batches_out_of_order_are_an_error(node: FakeNode, dataset: Path) -> None:
    node.tell_positions = False
    client = roost.connect(node.address)
    with pytest.raises(roost.InternalError, match="the order of the rows is not known"):
        client.read(client.plan(dataset).tickets[0])


def test_rows_that_stay_away_are_an_error(node: FakeNode, dataset: Path) -> None:
    node.drop_last_batch = True
    client = roost.connect(node.address)
    with pytest.raises(roost.InternalError, match="ended after 28 of 30 rows"):
        client.read(client.plan(dataset).tickets[0])


def test_rows_too_many_are_an_error(node: FakeNode, dataset: Path) -> None:
    client = roost.connect(node.address)
    ticket = client.plan(dataset, limit=10).tickets[0]
    larger = client.plan(dataset).tickets[0]
    forged = roost.Ticket(larger.signed, ticket.dataset, ticket.pieces, 10, 0, (), ticket.packed_schema)
    with pytest.raises(roost.InternalError, match="14 rows came where the ticket has 10"):
        client.read(forged)


def test_another_schema_than_planned_is_an_error(node: FakeNode, dataset: Path) -> None:
    client = roost.connect(node.address)
    ticket = client.plan(dataset).tickets[0]
    other = client.plan(dataset, ["id"]).tickets[0]
    forged = roost.Ticket(ticket.signed, ticket.dataset, ticket.pieces, 30, 0, (), other.packed_schema)
    with pytest.raises(roost.StalePlanError, match="another schema"):
        client.read(forged)
