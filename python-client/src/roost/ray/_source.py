"""The `ray.data.Datasource` whose read tasks pull tickets into blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from roost.ray._counts import counted
from roost.ray._orders import Order, Reader, groups
from roost.ray._request import Request

# Rows that wait are given to Ray when they take so many bytes: Ray gathers them to blocks of its own size.
_BLOCK_BYTES = 32 << 20
# Ray counts the rows of blocks without columns by a column of this name, which it shows to nobody.
_ROWS_ONLY = "__bsp_stub"

Select = Callable[[Order], bool]


class RoostDatasource(Datasource):  # type: ignore[misc]
    """Reads a request's rows; made by `roost.ray.read_parquet`.

    Ray asks for tasks when the data set is made, and again for each epoch, in one process or another: that is cheap,
    has no effect, and gives the same tasks for the same epoch.
    """

    def __init__(self, request: Request, select: Select | None = None) -> None:
        """`select`: only these orders are read."""
        super().__init__()
        self._request = request
        self._select = select
        self._projection_map: dict[str, str] | None = None

    def get_name(self) -> str:
        """How the read is called in progress bars and statistics."""
        return "Roost"

    def estimate_inmemory_data_size(self) -> int | None:
        """Decoded bytes of all that is read."""
        return sum(order.nbytes for order in self._orders(0))

    def supports_projection_pushdown(self) -> bool:
        """`select_columns` decides what is read."""
        return True

    def get_current_projection(self) -> list[str] | None:
        """What is read, as older versions of Ray ask it."""
        return self._get_data_columns()

    def get_projection_map(self) -> dict[str, str] | None:
        """What is read, as newer versions ask it."""
        return self._projection_map

    def _get_data_columns(self) -> list[str] | None:
        return None if self._projection_map is None else list(self._projection_map)

    def apply_projection(self, projection: Mapping[str, str] | Sequence[str] | None, *_: Any) -> RoostDatasource:
        """The same rows, of fewer columns."""
        if projection is None:
            return self
        known = self._projection_map
        names = [name for name in projection if known is None or name in known]
        clone = RoostDatasource(self._request.of_columns(names), self._select)
        clone._projection_map = {name: name for name in names}
        return clone

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """The tasks of the next epoch: consecutive orders of about the same size each."""
        epoch = self._request.epoch_of(data_context)
        found = self._orders(epoch)
        if not found:
            return []
        reader = Reader.of(self._request.plans(epoch)[0])
        return [
            _task(reader, tuple(found[start:stop]), per_task_row_limit)
            for start, stop in groups([order.nbytes for order in found], max(1, parallelism))
        ]

    def _orders(self, epoch: int) -> list[Order]:
        found = self._request.orders(self._request.epoch or epoch)
        return found if self._select is None else [order for order in found if self._select(order)]


class _Task(ReadTask):  # type: ignore[misc]
    """A read task that pickles its schema but once, with the tickets."""

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        read = self.read_fn
        return _task, (read.reader, read.orders, self.per_task_row_limit)


def _task(reader: Reader, orders: tuple[Order, ...], row_limit: int | None) -> _Task:
    rows = sum(order.num_rows for order in orders)
    metadata = BlockMetadata(
        num_rows=rows if row_limit is None else min(rows, row_limit),
        size_bytes=sum(order.nbytes for order in orders),
        input_files=tuple(dict.fromkeys(url for order in orders for url in order.urls)),
        exec_stats=None,
    )
    return _Task(_Read(reader, orders), metadata, schema=_shown(reader.schema.schema), per_task_row_limit=row_limit)


class _Read:
    """Reads some orders. A task that is tried again reads the same rows."""

    __slots__ = ("__name__", "orders", "reader")

    def __init__(self, reader: Reader, orders: tuple[Order, ...]) -> None:
        self.reader, self.orders = reader, orders
        # Ray names what is too large by it.
        self.__name__ = "roost"

    def __call__(self) -> Iterator[pa.Table]:
        schema = self.reader.schema.schema
        waiting: list[pa.RecordBatch] = []
        nbytes = 0
        given = False
        with counted(self.reader.client):
            for order in self.orders:
                for batch in self.reader.batches(order):
                    waiting.append(batch)
                    nbytes += batch.get_total_buffer_size()
                    if nbytes >= _BLOCK_BYTES:
                        yield _block(waiting, schema)
                        waiting, nbytes, given = [], 0, True
            if waiting or not given:
                yield _block(waiting, schema)


def _block(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    table = pa.Table.from_batches(batches, schema=schema)
    if len(schema):
        return table
    return table.append_column(_ROWS_ONLY, pa.nulls(table.num_rows))


def _shown(schema: pa.Schema) -> pa.Schema:
    return schema if len(schema) else pa.schema([(_ROWS_ONLY, pa.null())])
