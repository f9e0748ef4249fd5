"""PURE: where the parts of an Arrow IPC file lie, as far as pyarrow does not tell.

That is the place of buffers, and whether they are compressed. The tables are those of Arrow's `File.fbs` and
`Message.fbs`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as types

_MAGIC = b"ARROW1"
_CONTINUATION = 0xFFFFFFFF
# Slots of the tables' fields.
_FOOTER_BATCHES = 3
_MESSAGE_HEADER = 2
_BATCH_BUFFERS, _BATCH_COMPRESSION, _BATCH_VARIADIC = 2, 3, 4
# Bytes between two buffers that are read with them.
_GAP = 128 << 10


class LayoutError(ValueError):
    """Not an Arrow IPC file, or not one that this module can read."""


@dataclass(frozen=True)
class BatchLayout:
    """A record batch in its file."""

    #: Where the message begins, where its body begins, and where that ends.
    start: int
    body: int
    end: int
    compressed: bool
    #: Offset in the body and length of each buffer, one after the other.
    buffers: memoryview
    #: How many data buffers each array of a view type has.
    variadic: tuple[int, ...]

    def spans(self, schema: pa.Schema, columns: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Start and end in the file of the bytes that these columns need; what lies close together comes as one."""
        firsts = self._first_buffers(schema)
        if firsts is None:
            yield self.start, self.end
            return
        start, end = self.start, self.body
        for column in sorted(columns):
            for buffer in range(firsts[column], firsts[column + 1]):
                offset, length = self.buffers[2 * buffer], self.buffers[2 * buffer + 1]
                if length <= 0:
                    continue
                if self.body + offset > end + _GAP:
                    yield start, end
                    start = self.body + offset
                end = max(end, self.body + offset + length)
        yield start, min(end, self.end)

    def _first_buffers(self, schema: pa.Schema) -> list[int] | None:
        """For each column its first buffer, then the number of all; None where a type is not known here."""
        firsts = [0]
        views = iter(self.variadic)
        for field in schema:
            count = _count(field.type, views)
            if count is None:
                return None
            firsts.append(firsts[-1] + count)
        return firsts if 2 * firsts[-1] == len(self.buffers) else None


def schema_message(file: memoryview) -> bytes:
    """The message of the file's schema."""
    start = 8
    try:
        mark, length = struct.unpack_from("<II", file, start)
    except struct.error as error:
        raise LayoutError("not an Arrow IPC file: it is too short") from error
    return bytes(file[start : start + 8 + length if mark == _CONTINUATION else start + 4 + mark])


def batch_layout(file: memoryview, number: int) -> BatchLayout:
    """The layout of one batch of the file.

    Raises:
        LayoutError: the bytes do not make sense.
    """
    try:
        return _batch_layout(file, number)
    except (struct.error, IndexError, ValueError, TypeError) as error:
        raise LayoutError(f"not an Arrow IPC file: {error}") from error


def _batch_layout(file: memoryview, number: int) -> BatchLayout:
    if bytes(file[-len(_MAGIC) :]) != _MAGIC:
        raise LayoutError("not an Arrow IPC file: it does not end as one")
    (footer_length,) = struct.unpack_from("<i", file, len(file) - 10)
    footer = _root(file, len(file) - 10 - footer_length)
    blocks, count = _vector(file, _field(file, footer, _FOOTER_BATCHES))
    if not 0 <= number < count:
        raise LayoutError(f"the file has {count} batches, there is none with number {number}")
    start, metadata_length, body_length = struct.unpack_from("<qi4xq", file, blocks + 24 * number)
    (mark,) = struct.unpack_from("<I", file, start)
    message = _root(file, start + (8 if mark == _CONTINUATION else 4))
    header = _field(file, message, _MESSAGE_HEADER)
    batch = header + _unsigned(file, header)
    buffers, count = _vector(file, _field(file, batch, _BATCH_BUFFERS))
    variadic, views = _vector(file, _field(file, batch, _BATCH_VARIADIC))
    body = start + metadata_length
    return BatchLayout(
        start=start,
        body=body,
        end=body + body_length,
        compressed=_field(file, batch, _BATCH_COMPRESSION) != 0,
        buffers=file[buffers : buffers + 16 * count].cast("q"),
        variadic=struct.unpack_from(f"<{views}q", file, variadic),
    )


def _unsigned(file: memoryview, at: int) -> int:
    number: int = struct.unpack_from("<I", file, at)[0]
    return number


def _root(file: memoryview, at: int) -> int:
    return at + _unsigned(file, at)


def _field(file: memoryview, table: int, slot: int) -> int:
    """Where a field of a table lies; 0: it is not set."""
    vtable = table - struct.unpack_from("<i", file, table)[0]
    (size,) = struct.unpack_from("<H", file, vtable)
    if 4 + 2 * slot >= size:
        return 0
    (offset,) = struct.unpack_from("<H", file, vtable + 4 + 2 * slot)
    return table + offset if offset else 0


def _vector(file: memoryview, field: int) -> tuple[int, int]:
    """Where a vector's elements begin, and their number."""
    if field == 0:
        return 0, 0
    vector = field + _unsigned(file, field)
    return vector + 4, _unsigned(file, vector)


def _count(type: pa.DataType, views: Iterator[int]) -> int | None:
    """Buffers of a column of this type; takes the numbers of its view arrays from `views`."""
    if isinstance(type, pa.BaseExtensionType):
        return _count(type.storage_type, views)
    if types.is_null(type):
        return 0
    if types.is_dictionary(type) or types.is_primitive(type) or types.is_decimal(type):
        return 2
    if types.is_fixed_size_binary(type):
        return 2
    if types.is_string(type) or types.is_binary(type) or types.is_large_string(type) or types.is_large_binary(type):
        return 3
    if types.is_string_view(type) or types.is_binary_view(type):
        return 2 + next(views, 0)
    if types.is_list(type) or types.is_large_list(type) or types.is_map(type):
        own = 2
    elif types.is_list_view(type) or types.is_large_list_view(type):
        own = 3
    elif types.is_struct(type) or types.is_fixed_size_list(type):
        own = 1
    else:
        return None
    for child in range(type.num_fields):
        count = _count(type.field(child).type, views)
        if count is None:
            return None
        own += count
    return own
