"""One open file that a node handed over, mapped: who owns the memory, and that reading it does not stall others.

A page that is not in the page cache is read from the disk where it is first touched, with Python's lock held, and a
disk that fails there kills the process. So what is wanted of a cold file is read ahead by the kernel, without the lock,
and a failure is an error. A warm file is spared that: the kernel maps its pages faster as they are touched.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import pyarrow as pa

from roost._ipc_layout import BatchLayout, batch_layout, schema_message

_MADV_WILLNEED = 3
_MADV_POPULATE_READ = 22
_MAP_FAILED = ctypes.c_void_p(-1).value
# A file is taken for warm when a page of each of its parts of this size is.
_PROBE = 2 << 20
_FOOTER = 256 << 10
# The kernel begins to read no more than a few MiB at a call.
_WILLNEED = 2 << 20

# Maps alive. A set changes in one step; a count would need a lock, which no `__del__` may take.
_live: set[int] = set()

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class _Memory:
    """A mapped file. Arrow's buffers hold it, and it holds the connection: the node learns of its end.

    `mmap.mmap` would keep a descriptor for each map, of which a process has few, and unmap with Python's lock held.
    """

    def __init__(self, descriptor: int, size: int, connection: object) -> None:
        self.address = 0
        self.size = size
        self._connection = connection
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address is None or address == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, f"a file of {size} bytes can't be mapped: {os.strerror(code)}")
        self.address = address
        _live.add(address)

    # Bound here: at the interpreter's end the module may be gone first.
    def __del__(
        self, munmap: Callable[[int, int], int] = _libc.munmap, forget: Callable[[int], None] = _live.discard
    ) -> None:
        if self.address:
            # First: another thread may be given the same address at once.
            forget(self.address)
            munmap(self.address, self.size)


def live_maps() -> int:
    """How many files are mapped now."""
    return len(_live)


class MappedFile:
    """Columns of a complete Arrow IPC file. The descriptor stays the caller's, and is not needed any more.

    Args:
        descriptor: the file, open for reading.
        columns: positions in the file's schema of the columns wanted, in the order wanted.
        connection: kept while anything of the map is.

    Raises:
        OSError: the file can't be mapped, or its disk fails.
        LayoutError, pa.ArrowException: not an Arrow IPC file.
    """

    def __init__(self, descriptor: int, columns: tuple[int, ...], connection: object) -> None:
        size = os.fstat(descriptor).st_size
        if size == 0:
            raise OSError(errno.EINVAL, "an empty file was handed over")
        self._warm = _is_warm(descriptor, size)
        self._memory = _Memory(descriptor, size, connection)
        self._buffer = pa.foreign_buffer(self._memory.address, size, self._memory)
        if not self._warm:
            # The footer, which is read next; how long it is, is not known.
            self._populate([(max(0, size - _FOOTER), size)])
        self._reader = pa.ipc.open_file(self._buffer)
        if not self._warm and self.num_batches:
            # Dictionaries lie in front of the batches.
            self._populate([(0, self._layout(0).start)])
        self._schema: pa.Schema = self._reader.schema
        width = len(self._schema)
        if max(columns, default=-1) >= width:
            raise IndexError(f"column {max(columns)} is asked for of a file with {width}")
        self._columns = columns
        self._order: Sequence[int] | None = columns
        if columns == tuple(range(width)):
            self._order = None
        elif self.num_batches and self._layout(0).compressed:
            # Only these are to be decompressed. Else whole batches are read: pyarrow would copy to leave some out.
            kept = sorted(columns)
            options = pa.ipc.IpcReadOptions(included_fields=kept)
            self._reader = pa.ipc.open_file(self._buffer, options=options)
            self._order = [kept.index(column) for column in columns]

    @property
    def num_batches(self) -> int:
        """Batches in the file."""
        return self._reader.num_record_batches

    @property
    def schema_bytes(self) -> bytes:
        """The message of the schema of all that is in the file."""
        return schema_message(self._view)

    def batch(self, number: int) -> pa.RecordBatch:
        """The wanted columns of a batch, without a copy unless they are compressed.

        Raises:
            OSError: the disk fails.
            pa.ArrowException: the file is damaged.
        """
        if not self._warm:
            self._populate(self._layout(number).spans(self._schema, self._columns))
            if number + 1 < self.num_batches:
                self._read_ahead(self._layout(number + 1).spans(self._schema, self._columns))
        batch = self._reader.get_batch(number)
        return batch if self._order is None else batch.select(self._order)

    @cached_property
    def _view(self) -> memoryview:
        return memoryview(self._buffer)

    def _layout(self, number: int) -> BatchLayout:
        return batch_layout(self._view, number)

    def _populate(self, spans: Iterable[tuple[int, int]]) -> None:
        """Reads these bytes of the file into the map, unless the kernel is too old to be asked."""
        for start, end in spans:
            code = self._advise(start, end, _MADV_POPULATE_READ)
            if code not in (0, errno.EINVAL):
                raise OSError(code, f"bytes {start} to {end} of a mapped file can't be read: {os.strerror(code)}")

    def _read_ahead(self, spans: Iterable[tuple[int, int]]) -> None:
        """Has these bytes read from the disk, without waiting."""
        for start, end in spans:
            for at in range(start, end, _WILLNEED):
                self._advise(at, min(at + _WILLNEED, end), _MADV_WILLNEED)

    def _advise(self, start: int, end: int, advice: int) -> int:
        start -= start % mmap.PAGESIZE
        end = min(end, self._memory.size)
        if end <= start:
            return 0
        # Through ctypes, which lets go of Python's lock meanwhile.
        failed = _libc.madvise(self._memory.address + start, end - start, advice)
        return ctypes.get_errno() if failed else 0


def _is_warm(descriptor: int, size: int) -> bool:
    """Whether the file seems to be in the page cache: looks at a page here and there, and never waits for the disk."""
    byte = [bytearray(1)]
    try:
        for at in (*range(0, size, _PROBE), size - 1):
            os.preadv(descriptor, byte, at, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        # A file system that can't say. Where the disk fails, mapping shows it.
        pass
    return True
