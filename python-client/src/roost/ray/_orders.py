"""A plan as orders, each of which is read whole, and orders as the tasks of a stage."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import pyarrow as pa

from roost import _mix
from roost._ahead import in_order
from roost.order import row_order
from roost.plan import PackedSchema

if TYPE_CHECKING:
    from roost.client import Client
    from roost.plan import Plan, Ticket

# Tickets of one order that are pulled at a time.
_TICKETS_AT_ONCE = 4


@dataclass(frozen=True)
class Order:
    """The tickets of one block: its rows are given out together, mixed where the plan says so."""

    tickets: tuple[Ticket, ...]

    @property
    def _whole(self) -> int:
        return sum(ticket.num_rows for ticket in self.tickets)

    @property
    def bounds(self) -> tuple[int, int]:
        """Of the block's rows, in its order, those that are the plan's."""
        first = self.tickets[0]
        return first.from_row, self._whole if first.until_row is None else min(first.until_row, self._whole)

    @property
    def num_rows(self) -> int:
        """Rows that are given out."""
        start, stop = self.bounds
        return stop - start

    @property
    def nbytes(self) -> int:
        """Decoded bytes of them, estimated."""
        return sum(ticket.nbytes for ticket in self.tickets) * self.num_rows // max(self._whole, 1)

    @property
    def urls(self) -> list[str]:
        """The objects that are read."""
        return list(dict.fromkeys(piece.url for ticket in self.tickets for piece in ticket.pieces))

    def to_bytes(self) -> bytes:
        """All of it but the schema, which the orders of a plan share."""
        bare = PackedSchema(pa.schema([]))
        return pickle.dumps(tuple(replace(ticket, packed_schema=bare) for ticket in self.tickets))

    @classmethod
    def from_bytes(cls, content: bytes, schema: PackedSchema) -> Order:
        """The inverse of `to_bytes`."""
        return cls(tuple(replace(ticket, packed_schema=schema) for ticket in pickle.loads(content)))


@dataclass(frozen=True)
class Reader:
    """What the orders of a plan need to be read, beside themselves."""

    client: Client
    schema: PackedSchema
    shuffle: str
    seed: int
    epoch: int

    @classmethod
    def of(cls, plan: Plan) -> Reader:
        """The reader of a plan's orders."""
        return cls(plan._client, plan._schema, plan.shuffle, plan.seed, plan.epoch)

    def to_bytes(self) -> bytes:
        """Pickles it."""
        return pickle.dumps(self)

    @staticmethod
    def from_bytes(content: bytes) -> Reader:
        """The inverse of `to_bytes`, with a client that has counted nothing yet."""
        reader = _loaded(content)
        return replace(reader, client=copy(reader.client))

    def batches(self, order: Order) -> Iterator[pa.RecordBatch]:
        """The rows of an order."""
        if self.shuffle != "rows":
            yield from self._as_they_lie(order)
            return
        sources = [partial(self.client.read_batches, ticket) for ticket in order.tickets]
        batches = list(in_order(sources, workers=min(_TICKETS_AT_ONCE, len(sources))))
        start, stop = order.bounds
        rows = sum(batch.num_rows for batch in batches)
        places = row_order(rows, self.seed, self.epoch, order.tickets[0].block)
        yield from _mix.mixed(batches, self.schema.schema, places[start:stop])

    def _as_they_lie(self, order: Order) -> Iterator[pa.RecordBatch]:
        start, stop = order.bounds
        at = 0
        for ticket in order.tickets:
            for batch in self.client.read_batches(ticket):
                first, last = max(start - at, 0), min(batch.num_rows, stop - at)
                at += batch.num_rows
                if first < last:
                    yield batch if last - first == batch.num_rows else batch.slice(first, last - first)
                if at >= stop:
                    return

    def table(self, order: Order) -> pa.Table:
        """The rows of an order, as one table."""
        return pa.Table.from_batches(list(self.batches(order)), schema=self.schema.schema)


@lru_cache(maxsize=8)
def _loaded(content: bytes) -> Reader:
    reader: Reader = pickle.loads(content)
    return reader


def orders(tickets: Sequence[Ticket]) -> list[Order]:
    """The orders of a plan's tickets, in its order."""
    found, at = [], 0
    while at < len(tickets):
        found.append(Order(tuple(tickets[at : at + tickets[at].members])))
        at += tickets[at].members
    return found


def groups(weights: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Cuts a sequence into at most `count` parts of about the same weight: `[(start, stop), ...]`, none of them empty.

    >>> groups([1, 1, 1, 1], 2)
    [(0, 2), (2, 4)]
    >>> groups([9, 1, 1, 1], 2)
    [(0, 1), (1, 4)]
    >>> groups([5], 3), groups([], 3)
    ([(0, 1)], [])
    """
    cuts, start = [], 0
    left = sum(weights)
    for part in range(min(count, len(weights)), 0, -1):
        share, stop, taken = left / part, start, 0
        # Leaves at least one for each of the others; takes what brings it nearer to its share.
        while stop <= len(weights) - part and (stop == start or taken + weights[stop] / 2 <= share):
            taken += weights[stop]
            stop += 1
        if part == 1:
            stop = len(weights)
        cuts.append((start, stop))
        start, left = stop, left - taken
    return cuts
