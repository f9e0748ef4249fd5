"""Reads one reader's part of an epoch as record batches: blocks ahead, rows mixed, able to say where it is."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from roost import _epoch, _mix
from roost._ahead import in_order
from roost._epoch import Item, Itinerary
from roost.errors import InvalidRequestError
from roost.order import row_order

if TYPE_CHECKING:
    from roost.plan import Plan, Ticket

# A block's thread stops pulling when so many bytes of it wait to be taken.
_BUFFER_BYTES = 32 << 20
# Tickets of one block that are pulled at a time.
_TICKETS_AT_ONCE = 4
# Tickets asked for at a time; the first ones are few, so that reading begins soon.
_PAGE_TICKETS = 1024
_FIRST_TICKETS = 64


@dataclass(frozen=True)
class _Part:
    """Some rows of a block, in its order."""

    item: Item
    batch: pa.RecordBatch
    #: The row behind them, in the block's order, and whether the block ends there.
    row: int
    is_end: bool


class Batches(Iterator[pa.RecordBatch]):
    """The record batches of a plan, one after the other, for one reader.

    It can say where it is, and begin there again, also as another rank of another number of ranks:

        batches = plan.batches(batch_size=256)
        first = next(batches)
        state = batches.state_dict()              # some hundred bytes, JSON-able
        ...
        batches = plan.batches(batch_size=256, state=state)   # goes on behind `first`

    States of all ranks, in a list, are one state for any number of ranks: what nobody has read is read by somebody,
    once, in the same order within each block; blocks that were begun come first.

    It is an iterator for one thread. `close` ends its threads early; the garbage collector does it too.
    """

    def __init__(
        self, plan: Plan, batch_size: int | None = None, prefetch: int | None = None, state: Any = None
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise InvalidRequestError(f"batch_size is {batch_size}: it is a number of rows, at least 1")
        if prefetch is None:
            prefetch = 1 if plan.shuffle == "rows" else 2
        if prefetch < 0:
            raise InvalidRequestError(f"prefetch is {prefetch}: it is a number of blocks, 0 or more")
        self._plan = plan
        self._batch_size = batch_size
        self._prefetch = prefetch
        self._parts: Any = None
        self._restore(None if state is None else _epoch.one(state))

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> pa.RecordBatch:
        if self._parts is None:
            self._begin()
        batch = self._whole() if self._batch_size is None else self._sized(self._batch_size)
        if batch is None:
            self.close()
            raise StopIteration
        return batch

    def rows(self, convert: Callable[[pa.RecordBatch], Sequence[Any]]) -> Iterator[Any]:
        """The rows one by one, as `convert` makes them of batches. The state is behind the row given out last."""
        if self._parts is None:
            self._begin()
        while self._left() != 0 and self._pull():
            part = self._waiting.popleft()
            count = part.batch.num_rows
            first = part.row - count
            for number, row in enumerate(convert(part.batch), 1):
                if self._left() == 0:
                    return
                self._itinerary.advance(part.item, first + number, part.is_end and number == count, 1)
                yield row

    def state_dict(self) -> dict[str, Any]:
        """Where this reader is: behind the batch that was given out last."""
        return self._itinerary.state()

    def load_state_dict(self, state: Any) -> None:
        """Goes on where `state` was taken: by this reader's like, or by all ranks (a list of their states).

        Raises:
            InvalidRequestError: the state is of another plan, or not of all ranks.
            StalePlanError: objects changed since.
        """
        self._restore(_epoch.one(state))

    def close(self) -> None:
        """Ends the threads. The state stays."""
        if self._parts is not None:
            self._parts.close()
        self._parts = _nothing()
        self._waiting.clear()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _restore(self, state: dict[str, Any] | None) -> None:
        if self._parts is not None:
            self._parts.close()
        plan = self._plan
        self._itinerary = Itinerary(plan._facts, plan._window, plan.rank, plan.world_size, state)
        self._parts = None
        #: Parts, or what is left of them, that were pulled and not given out.
        self._waiting: deque[_Part] = deque()
        self._target: int | None = None

    def _begin(self) -> None:
        plan, itinerary = self._plan, self._itinerary
        if plan.even != "none":
            self._target = itinerary.target(plan._source.block_rows(), plan.even)
        repeat = plan.even == "repeat"
        if self._target is not None and itinerary.cursor.read >= self._target:
            self._parts = _nothing()
            return
        pages = _Pages(plan, itinerary.items(repeat))
        sources = (_Block(plan, item, pages, self._batch_size or 1) for item in itinerary.items(repeat))
        if self._prefetch == 0:
            self._parts = (part for source in sources for part in source())
        else:
            ahead = self._prefetch + 1
            # As many blocks as there are, so that no thread is begun for nothing.
            first = list(islice(itinerary.items(), ahead))
            self._parts = in_order(
                sources, workers=max(1, len(first)), window=ahead, buffer=_BUFFER_BYTES, size=_part_bytes
            )

    def _pull(self) -> bool:
        """Pulls the next part; whether there was one."""
        if self._waiting:
            return True
        part = next(self._parts, None)
        if part is not None:
            self._waiting.append(part)
        return part is not None

    def _take(self, rows: int) -> pa.RecordBatch:
        """At most so many rows of the part that waits, and the cursor behind them."""
        part = self._waiting.popleft()
        count = part.batch.num_rows
        if rows >= count:
            self._itinerary.advance(part.item, part.row, part.is_end, count)
            return part.batch
        self._waiting.append(_Part(part.item, part.batch.slice(rows), part.row, part.is_end))
        self._itinerary.advance(part.item, part.row - (count - rows), False, rows)
        return part.batch.slice(0, rows)

    def _left(self) -> int | None:
        return None if self._target is None else self._target - self._itinerary.cursor.read

    def _whole(self) -> pa.RecordBatch | None:
        left = self._left()
        if left == 0 or not self._pull():
            return None
        return self._take(self._waiting[0].batch.num_rows if left is None else left)

    def _sized(self, size: int) -> pa.RecordBatch | None:
        # The cursor moves only with what is given out: where pulling fails, what was taken so far is not lost.
        before, taken = self._itinerary.cursor, []
        rows = 0
        try:
            left = self._left()
            size = size if left is None else min(size, left)
            while rows < size and self._pull():
                taken.append(self._take(size - rows))
                rows += taken[-1].num_rows
        except BaseException:
            self._itinerary.cursor = before
            self.close()
            raise
        return _mix.joined(taken, self._plan.schema) if taken else None


def _part_bytes(part: _Part) -> int:
    return int(part.batch.get_total_buffer_size())


def _nothing() -> Iterator[_Part]:
    yield from ()


class _Pages:
    """The tickets of the blocks ahead, asked for some at a time; several threads take from it."""

    def __init__(self, plan: Plan, items: Iterator[Item]) -> None:
        self._plan = plan
        self._items = items
        self._lock = threading.Lock()
        self._known: dict[tuple[int, int], tuple[Ticket, ...]] = {}
        self._wanted = _FIRST_TICKETS

    def tickets(self, item: Item) -> tuple[Ticket, ...]:
        """The tickets of an item's block; each is asked for once."""
        key = (item.lap, item.place)
        with self._lock:
            while key not in self._known:
                count = max(1, self._wanted // self._plan.block)
                self._wanted = _PAGE_TICKETS
                ahead = list(islice(self._items, count))
                if not ahead:
                    # Pages and blocks go through the same items.
                    raise InvalidRequestError(f"block {item.block} is not in this reader's part of the plan")
                found = self._plan._source.blocks([one.block for one in ahead])
                self._known.update(((one.lap, one.place), tickets) for one, tickets in zip(ahead, found, strict=True))
            return self._known.pop(key)


class _Block:
    """Reads one block when called."""

    __slots__ = ("_item", "_multiple", "_pages", "_plan")

    def __init__(self, plan: Plan, item: Item, pages: _Pages, multiple: int) -> None:
        self._plan = plan
        self._item = item
        self._pages = pages
        self._multiple = multiple

    def __call__(self) -> Iterator[_Part]:
        item = self._item
        tickets = self._pages.tickets(item)
        rows = sum(ticket.num_rows for ticket in tickets)
        stop = rows if item.stop is None else min(item.stop, rows)
        batches = self._mixed(tickets, rows, stop) if self._plan.shuffle == "rows" else self._as_they_lie(tickets, stop)
        row = item.start
        for batch in batches:
            row += batch.num_rows
            yield _Part(item, batch, row, row == stop)

    def _as_they_lie(self, tickets: tuple[Ticket, ...], stop: int) -> Iterator[pa.RecordBatch]:
        at, start = 0, self._item.start
        for ticket in tickets:
            for batch in self._plan._client.read_batches(ticket):
                first, last = max(start - at, 0), min(batch.num_rows, stop - at)
                at += batch.num_rows
                if first < last:
                    yield batch if last - first == batch.num_rows else batch.slice(first, last - first)
                if at >= stop:
                    return

    def _mixed(self, tickets: tuple[Ticket, ...], rows: int, stop: int) -> Iterator[pa.RecordBatch]:
        read = self._plan._client.read_batches
        sources = [partial(read, ticket) for ticket in tickets]
        if len(sources) == 1:
            batches = list(sources[0]())
        else:
            batches = list(in_order(sources, workers=min(_TICKETS_AT_ONCE, len(sources))))
        order = row_order(rows, self._plan.seed, self._plan.epoch, self._item.block)
        return _mix.mixed(batches, self._plan.schema, order[self._item.start : stop], self._multiple)
