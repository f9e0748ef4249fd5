"""Pulls several sources at a time and gives out their batches in order."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Generic, TypeVar

from roost.errors import UnsupportedError

# At the interpreter's end a thread that waits for a node is not waited for longer.
_LAST_SECONDS = 2.0

T = TypeVar("T")
Source = Callable[[], Iterator[T]]


def _size(batch: Any) -> int:
    # Of wide batches, `nbytes` takes fifty times as long.
    return int(batch.get_total_buffer_size())


class _Slot(Generic[T]):
    """What one source has given and nobody has taken yet."""

    def __init__(self) -> None:
        self.batches: deque[T] = deque()
        self.nbytes = 0
        self.error: BaseException | None = None
        self.done = False


class _Pull(Generic[T]):
    """The state that the threads and the consumer share; every field is guarded by `changed`."""

    def __init__(
        self,
        sources: Iterable[Source[T]],
        window: int | None,
        buffer: int | None,
        size: Callable[[T], int] = _size,
    ) -> None:
        self.changed = threading.Condition()
        self.sources = iter(sources)
        #: Of the sources that were begun and not taken whole.
        self.slots: deque[_Slot[T]] = deque()
        self.window = window
        self.buffer = buffer
        self.size = size
        self.ended = False
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
        while (begun := self._next()) is not None:
            source, slot = begun
            try:
                batches = source()
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

    def _next(self) -> tuple[Source[T], _Slot[T]] | None:
        with self.changed:
            self.changed.wait_for(
                lambda: self.stopped or self.ended or self.window is None or len(self.slots) < self.window
            )
            if self.stopped or self.ended:
                return None
            slot: _Slot[T] = _Slot()
            try:
                source = next(self.sources)
            except StopIteration:
                self.ended = True
                self.changed.notify_all()
                return None
            except BaseException as error:
                slot.error, slot.done, self.ended = error, True, True
                self.slots.append(slot)
                self.changed.notify_all()
                return None
            self.slots.append(slot)
            return source, slot

    def _put(self, slot: _Slot[T], batch: T) -> bool:
        size = self.size(batch)
        with self.changed:
            if self.buffer is not None:
                limit = self.buffer
                self.changed.wait_for(lambda: self.stopped or slot.nbytes < limit)
            if self.stopped:
                return False
            slot.batches.append(batch)
            slot.nbytes += size
            self.changed.notify_all()
            return True

    def take(self) -> T | None:
        """The next batch; None behind the last one of the last source."""
        with self.changed:
            while True:
                self.changed.wait_for(self._is_ready)
                if not self.slots:
                    if self.ended:
                        return None
                    raise UnsupportedError(_FORKED)
                slot = self.slots[0]
                if slot.batches:
                    batch = slot.batches.popleft()
                    slot.nbytes -= self.size(batch)
                    self.changed.notify_all()
                    return batch
                if slot.error is not None:
                    raise slot.error
                if not slot.done:
                    raise UnsupportedError(_FORKED)
                self.slots.popleft()
                self.changed.notify_all()

    def _is_ready(self) -> bool:
        if self.slots:
            return bool(self.slots[0].batches) or self.slots[0].done or self.stopped
        return self.ended or self.stopped


_FORKED = "these batches were begun before the process was forked: begin anew here"


# The threads are daemons, so that a generator nobody finished cannot keep the interpreter from ending; here they are
# told to stop before it ends: a thread that is cut off keeps the locks it holds.
_running: weakref.WeakSet[_Pull[Any]] = weakref.WeakSet()


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
    sources: Iterable[Source[T]],
    *,
    workers: int,
    window: int | None = None,
    buffer: int | None = None,
    size: Callable[[T], int] = _size,
) -> Iterator[T]:
    """The batches of all `sources`, one source after the other, while `workers` threads pull.

    Args:
        sources: functions that begin to read. Those of an iterator are asked for when a thread has room for one, by
            that thread, one thread at a time; it should answer at once.
        workers: how many sources are pulled at a time.
        window: how many sources are pulled, or wait pulled, at most; None: no limit.
        buffer: bytes that one source may be ahead before its thread waits; None: no limit.
        size: bytes of a batch.

    An error of a source is raised in its place. Closing the iterator stops the threads.
    """
    if isinstance(sources, Sized):
        workers = min(workers, len(sources))
        if not workers:
            return
    pull = _Pull(sources, window, buffer, size)
    _running.add(pull)
    pull.threads = [
        threading.Thread(target=pull.work, name=f"roost-pull-{number}", daemon=True) for number in range(workers)
    ]
    try:
        for thread in pull.threads:
            thread.start()
        while (batch := pull.take()) is not None:
            yield batch
    finally:
        pull.stop()
        _running.discard(pull)
