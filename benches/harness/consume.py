"""The consumer that every reader of a comparison ends in: it copies each byte of each record batch once.

A reader that maps or slices would look fast if nobody looked at its bytes. Only the part of a buffer that a batch
refers to is copied, so a batch that is a slice costs what it is worth.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def _fixed(array: pa.Array, buffer: pa.Buffer, bits: int) -> np.ndarray:
    start, end = array.offset * bits, (array.offset + len(array)) * bits
    return np.frombuffer(buffer, np.uint8)[start // 8 : -(-end // 8)]


def _offsets(array: pa.Array, buffer: pa.Buffer, wide: bool) -> np.ndarray:
    return np.frombuffer(buffer, np.int64 if wide else np.int32)[array.offset : array.offset + len(array) + 1]


def pieces(array: pa.Array) -> Iterator[np.ndarray]:
    """The bytes that `array` refers to, as views on its buffers."""
    kind, buffers = array.type, array.buffers()
    if len(array) == 0 or pa.types.is_null(kind):
        return
    if isinstance(array, pa.ExtensionArray):
        yield from pieces(array.storage)
        return
    if buffers[0] is not None:
        yield _fixed(array, buffers[0], 1)
    if pa.types.is_dictionary(kind):
        yield from pieces(array.indices)
        yield from pieces(array.dictionary)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from pieces(array.field(i))
    elif pa.types.is_fixed_size_list(kind):
        yield from pieces(array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        offsets = _offsets(array, buffers[1], pa.types.is_large_list(kind))
        yield offsets.view(np.uint8)
        values = (
            pa.StructArray.from_arrays([array.keys, array.items], ["k", "v"]) if pa.types.is_map(kind) else array.values
        )
        yield from pieces(values.slice(offsets[0], offsets[-1] - offsets[0]))
    elif pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = _fixed(array, buffers[1], 128)
        yield views
        yield from _viewed(views.view(np.int32).reshape(-1, 4), [np.frombuffer(data, np.uint8) for data in buffers[2:]])
    elif (
        pa.types.is_binary(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_large_string(kind)
    ):
        offsets = _offsets(array, buffers[1], pa.types.is_large_binary(kind) or pa.types.is_large_string(kind))
        yield offsets.view(np.uint8)
        if buffers[2] is not None:
            yield np.frombuffer(buffers[2], np.uint8)[offsets[0] : offsets[-1]]
    else:
        yield _fixed(array, buffers[1], kind.bit_width)


def _viewed(views: np.ndarray, buffers: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The parts of the buffers that the views refer to: those of a slice may be a small part."""
    if int(views[:, 0].sum(dtype=np.int64)) > 0.9 * sum(buffer.nbytes for buffer in buffers):
        yield from buffers
        return
    # Shorter values lie in the view itself.
    far = views[:, 0] > 12
    lengths, _, numbers, starts = views[far].T
    for number, buffer in enumerate(buffers):
        own = numbers == number
        if own.any():
            yield buffer[starts[own].min() : (starts[own] + lengths[own]).max()]


class Consumer:
    """Copies batches into memory of its own, which it reuses: one for each thread."""

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self._into = np.empty(1 << 20, np.uint8)

    def take(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        for column in batch.columns:
            for piece in pieces(column):
                size = piece.nbytes
                if size > self._into.nbytes:
                    self._into = np.empty(max(size, 2 * self._into.nbytes), np.uint8)
                np.copyto(self._into[:size], piece)
                self.bytes += size


class Checksum:
    """A sum over rows that does not depend on their order, nor on how they are cut into batches.

    Integers and decimals are summed, text and binary values by their CRC: two readers agree only if they saw the same
    values.
    """

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns
        self.rows = 0
        self.sums = dict.fromkeys(columns, 0)

    def take(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        for name in self.columns:
            self.sums[name] += _sum(batch.column(name))

    def merge(self, other: Checksum) -> None:
        self.rows += other.rows
        for name in self.columns:
            self.sums[name] += other.sums[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checksum) and (self.rows, self.sums) == (other.rows, other.sums)

    __hash__ = None  # type: ignore[assignment]


def _sum(column: pa.Array) -> int:
    if pa.types.is_integer(column.type):
        return int(pc.sum(column.cast(pa.int64())).as_py() or 0)
    if pa.types.is_decimal(column.type):
        return int((pc.sum(column.cast(pa.decimal128(38, column.type.scale))).as_py() or 0) * 10**column.type.scale)
    values = column.cast(pa.large_string() if pa.types.is_string_view(column.type) else pa.large_binary()).drop_null()
    offsets = _offsets(values, values.buffers()[1], wide=True).tolist()
    content = memoryview(values.buffers()[2] or b"")
    return sum(zlib.crc32(content[start:end]) for start, end in itertools.pairwise(offsets))
