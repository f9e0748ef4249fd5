"""A data set whose rows are tickets: Ray shards and moves some hundred bytes for what its consumer then maps."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from roost._ahead import in_order
from roost.errors import InvalidRequestError
from roost.ray._counts import counted
from roost.ray._orders import Order, Reader, groups
from roost.ray._request import Request
from roost.ray._source import Select

# Where a data set's schema tells what its tickets are of.
MARK = b"roost.request"
# A task that takes more than 1 MiB has Ray warn; a ticket takes about a kilobyte.
_ROWS_A_TASK = 512

_FIELDS = [
    pa.field("ticket", pa.binary()),
    # What a ticket shares with the others, schema and client among it: once a block.
    pa.field("reader", pa.dictionary(pa.int32(), pa.binary())),
    pa.field("url", pa.string()),
    pa.field("row_group", pa.int32()),
    pa.field("rows", pa.int64()),
    pa.field("bytes", pa.int64()),
]


class TicketDatasource(Datasource):  # type: ignore[misc]
    """Gives a request's tickets as rows; made by `roost.ray.tickets`."""

    def __init__(self, request: Request, select: Select | None = None) -> None:
        """`select`: only these orders."""
        super().__init__()
        self._request = request
        self._select = select
        plan = request.plans(request.epoch or 0)[0]
        # The order is drawn anew in each reader, over the same objects.
        identity = plan._facts.layout, plan._facts.snapshot
        self._schema = pa.schema(_FIELDS, metadata={MARK: pickle.dumps((request, identity))})

    def get_name(self) -> str:
        """How the read is called in progress bars and statistics."""
        return "RoostTickets"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of the tickets themselves."""
        return 1024 * len(self._orders(0))

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """The tasks of the next epoch: consecutive tickets for about the same amount of data each."""
        epoch = self._request.epoch_of(data_context)
        found = self._orders(epoch)
        if not found:
            return []
        reader = Reader.of(self._request.plans(epoch)[0]).to_bytes()
        count = max(1, parallelism, -(-len(found) // _ROWS_A_TASK))
        return [
            self._task(found[start:stop], reader, per_task_row_limit)
            for start, stop in groups([order.nbytes for order in found], count)
        ]

    def _task(self, orders: Sequence[Order], reader: bytes, row_limit: int | None) -> ReadTask:
        table = _rows(orders, reader).cast(self._schema)
        rows = table.num_rows if row_limit is None else min(table.num_rows, row_limit)
        metadata = BlockMetadata(num_rows=rows, size_bytes=table.nbytes, input_files=None, exec_stats=None)
        return _Task(partial(_give, table), metadata, schema=self._schema, per_task_row_limit=row_limit)

    def _orders(self, epoch: int) -> list[Order]:
        found = self._request.orders(self._request.epoch or epoch)
        return found if self._select is None else [order for order in found if self._select(order)]


class _Task(ReadTask):  # type: ignore[misc]
    """A read task that does not send its schema, of which the workers need nothing."""

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        return _Task, (self.read_fn, self.metadata, None, self.per_task_row_limit)


def _give(table: pa.Table) -> list[pa.Table]:
    return [table]


def _rows(orders: Sequence[Order], reader: bytes) -> pa.Table:
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * len(orders), pa.int32()), pa.array([reader], pa.binary()))
    first = [order.tickets[0].pieces[0] for order in orders]
    return pa.table(
        {
            "ticket": [order.to_bytes() for order in orders],
            "reader": shared,
            "url": [piece.url for piece in first],
            "row_group": pa.array([piece.row_group for piece in first], pa.int32()),
            "rows": [order.num_rows for order in orders],
            "bytes": [order.nbytes for order in orders],
        }
    )


def fetch(
    rows: pa.Table | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Any,
    columns: Sequence[str] | None = None,
    *,
    prefetch: int = 1,
) -> Iterator[pa.Table]:
    """The data of rows of a data set of tickets: one table for each, in their order.

    It is a generator, made for `map_batches`; what it yields lies in the node's files where a node is on the host, and
    no byte was copied.

        tickets.map_batches(roost.ray.fetch)                    # the data itself, through Ray's object store
        tickets.map_batches(lambda rows: map(embed, roost.ray.fetch(rows)))    # only what comes of it

    Args:
        rows: a batch of such a data set, in any of Ray's formats; or one row of it; or a list of rows.
        columns: of those that the tickets have. It saves nothing to read: choose in `roost.ray.tickets`.
        prefetch: how many tables are read ahead by threads. 0: none.

    Raises:
        InvalidRequestError: not rows of a data set of tickets.
        StalePlanError: an object changed since the plan was made.
        RoostError: a node's answer, or the origin's.
    """
    tickets, readers = _columns(rows)
    known = {content: Reader.from_bytes(content) for content in dict.fromkeys(readers)}
    todo = []
    for ticket, content in zip(tickets, readers, strict=True):
        reader = known[content]
        todo.append((reader, Order.from_bytes(ticket, reader.schema)))
    yield from _fetched(todo, list(known.values()), columns, prefetch)


def _fetched(
    todo: Sequence[tuple[Reader, Order]], readers: Sequence[Reader], columns: Sequence[str] | None, prefetch: int
) -> Iterator[pa.Table]:
    if not readers:
        return
    # Of one client or several: what they counted is told in the end.
    with counted(readers[0].client):
        sources = [partial(_one, reader, order, columns) for reader, order in todo]
        if prefetch == 0:
            for source in sources:
                yield from source()
        else:
            window = prefetch + 1
            yield from in_order(iter(sources), workers=min(prefetch, len(sources)), window=window, size=_table_bytes)


def _one(reader: Reader, order: Order, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    table = reader.table(order)
    yield table if columns is None else table.select(list(columns))


def _table_bytes(table: pa.Table) -> int:
    return int(table.get_total_buffer_size())


def _columns(rows: Any) -> tuple[list[bytes], list[bytes]]:
    names = ("ticket", "reader")
    found: list[list[bytes]] = []
    try:
        for name in names:
            if isinstance(rows, Sequence):
                found.append([row[name] for row in rows])
            else:
                found.append(_values(rows[name]))
    except (KeyError, TypeError) as error:
        raise InvalidRequestError(
            f"{type(rows).__name__} is no batch of tickets: fetch takes rows of roost.ray.tickets(...), with their"
            f" columns {' and '.join(map(repr, names))} ({error!r})"
        ) from error
    return found[0], found[1]


def _values(column: Any) -> list[bytes]:
    """A column of a batch, or the value of a row."""
    if isinstance(column, bytes):
        return [column]
    listed = column.to_pylist() if hasattr(column, "to_pylist") else column
    return [bytes(value) for value in listed]
