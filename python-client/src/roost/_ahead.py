"""Pulls several sources at a time and gives out their batches in order."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from roost.errors import UnsupportedError

# At the interpreter's end a thread that waits for a node is not waited for longer.
_LAST_SECONDS = 2.0

Source = Callable[[], Iterator[pa.RecordBatch]]


class _Slot:
    """What one source has given and nobody has taken yet."""

    def __init__(self) -> None:
        self.batches: deque[pa.RecordBatch] = deque()
        self.nbytes = 0
        self.error: BaseException | None = None
        self.done = False


class _Pull:
    """The state that the threads and the consumer share; every field is guarded by `changed`."""

    def __init__(self, sources: Sequence[Source], window: int | None, buffer: int | None) -> None:
        self.changed = threading.Condition()
        self.sources = sources
        self.slots = [_Slot() for _ in sources]
        self.window = len(sources) if window is None else window
        self.buffer = buffer
        self.started = 0
        self.taking = 0
        self.stopped = False
        self.threads: list[threading.Thread] = []

    def stop(self) -> None:
        # At the interpreter's end the lock may never come free again, but then `_stop_all` has been here.
        if not self.stopped:
            with self.changed:
                self.stopped = True
                self.changed.notify_all()

    def orphan(self) -> None:
        """In a forked child, where the threads are not, and the lock may be held by one of them for ever."""
        self.stopped = True
        self.changed = threading.Condition()

    def work(self) -> None:
        """A thread's work: pull one source after the other, until none is left."""
        while (index := self._next()) is not None:
            slot = self.slots[index]
            try:
                batches = self.sources[index]()
                try:
                    for batch in batches:
                        if not self._put(slot, batch):
                            return
                finally:
                    # Ends the stream at the node now, not when the garbage is collected.
                    if hasattr(batches, "close"):
                        batches.close()
            except BaseException as error:
                slot.error = error
            with self.changed:
                slot.done = True
                self.changed.notify_all()

    def _next(self) -> int | None:
        with self.changed:
            self.changed.wait_for(
                lambda: self.stopped or self.started == len(self.sources) or self.started < self.taking + self.window
            )
            if self.stopped or self.started == len(self.sources):
                return None
            self.started += 1
            return self.started - 1

    def _put(self, slot: _Slot, batch: pa.RecordBatch) -> bool:
        with self.changed:
            if self.buffer is not None:
                limit = self.buffer
                self.changed.wait_for(lambda: self.stopped or slot.nbytes < limit)
            if self.stopped:
                return False
            slot.batches.append(batch)
            slot.nbytes += _size(batch)
            self.changed.notify_all()
            return True

    def take(self, index: int) -> pa.RecordBatch | None:
        """The next batch of a source; None at its end."""
        slot = self.slots[index]
        with self.changed:
            if self.taking != index:
                self.taking = index
                self.changed.notify_all()
            self.changed.wait_for(lambda: slot.batches or slot.done or self.stopped)
            if slot.batches:
                batch = slot.batches.popleft()
                slot.nbytes -= _size(batch)
                self.changed.notify_all()
                return batch
            if slot.error is not None:
                raise slot.error
            if not slot.done:
                raise UnsupportedError("these batches were begun before the process was forked: begin anew here")
            return None


def _size(batch: pa.RecordBatch) -> int:
    # Of wide batches, `nbytes` takes fifty times as long.
    return batch.get_total_buffer_size()


# The threads are daemons, so that a generator nobody finished cannot keep the interpreter from ending; here they are
# told to stop before it ends: a thread that is cut off keeps the locks it holds.
_running: weakref.WeakSet[_Pull] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    pulls = list(_running)
    for pull in pulls:
        pull.stop()
    give_up_at = time.monotonic() + _LAST_SECONDS
    for pull in pulls:
        for thread in pull.threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))


def _orphan_all() -> None:
    for pull in list(_running):
        pull.orphan()
    _running.clear()


os.register_at_fork(after_in_child=_orphan_all)


def in_order(
    sources: Sequence[Source], *, workers: int, window: int | None = None, buffer: int | None = None
) -> Iterator[pa.RecordBatch]:
    """The batches of all `sources`, one source after the other, while `workers` threads pull.

    Args:
        sources: functions that begin to read.
        workers: how many sources are pulled at a time.
        window: how many sources are pulled, or wait pulled, at most; None: no limit.
        buffer: bytes that one source may be ahead before its thread waits; None: no limit.

    An error of a source is raised in its place. Closing the iterator stops the threads.
    """
    pull = _Pull(sources, window, buffer)
    _running.add(pull)
    pull.threads = [
        threading.Thread(target=pull.work, name=f"roost-pull-{number}", daemon=True)
        for number in range(min(workers, len(sources)))
    ]
    try:
        for thread in pull.threads:
            thread.start()
        for index in range(len(sources)):
            while (batch := pull.take(index)) is not None:
                yield batch
    finally:
        pull.stop()
        _running.discard(pull)
