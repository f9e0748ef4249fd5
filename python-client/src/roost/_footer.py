"""PURE: how many bytes row groups have when they are decoded, estimated from the footer as a node does it.

The page "Order" of Roost's documentation has the rules. pyarrow does not show the size statistics of column chunks, so
they are read from the footer's Thrift bytes.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pyarrow as pa

# Thrift's compact protocol: types of fields.
_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 11, 12


def decoded_bytes(metadata: Any, schema: pa.Schema) -> list[list[int]]:
    """Of each row group, and in it each leaf column, the decoded bytes.

    `schema`: the file's columns as Arrow types.
    """
    leaves = [leaf for field in schema for leaf in _leaves(field.type)]
    texts = _text_bytes(metadata) if any(_width(leaf) is None for leaf in leaves) else {}
    found = []
    for ordinal in range(metadata.num_row_groups):
        group = metadata.row_group(ordinal)
        sizes = []
        for number in range(group.num_columns):
            chunk = group.column(number)
            values = max(chunk.num_values, 0)
            leaf = leaves[number] if number < len(leaves) else None
            width = None if leaf is None else _width(leaf)
            if width is not None:
                data = values * width // 8
            else:
                text = texts.get((ordinal, number))
                if text is None:
                    text = _unmeasured(metadata, number, chunk, values)
                data = values * _offset(leaf) + text
            sizes.append(data + values // 8)
        found.append(sizes)
    return found


def _leaves(kind: pa.DataType) -> list[pa.DataType]:
    """The types that Parquet's leaf columns are read as, in order."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _leaves(kind.storage_type)
    if types.is_struct(kind):
        return [leaf for at in range(kind.num_fields) for leaf in _leaves(kind.field(at).type)]
    if types.is_map(kind):
        return _leaves(kind.key_type) + _leaves(kind.item_type)
    if (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    ):
        return _leaves(kind.value_type)
    return [kind]


def _width(kind: pa.DataType) -> int | None:
    """Bits a value; None where that depends on the value."""
    if pa.types.is_null(kind):
        return 0
    if pa.types.is_dictionary(kind):
        return 32
    try:
        return kind.bit_width
    except ValueError:
        return None


def _offset(kind: pa.DataType | None) -> int:
    """Bytes a value next to its text."""
    if kind is None:
        return 4
    types = pa.types
    if types.is_large_string(kind) or types.is_large_binary(kind):
        return 8
    return 16 if types.is_string_view(kind) or types.is_binary_view(kind) else 4


def _unmeasured(metadata: Any, number: int, chunk: Any, values: int) -> int:
    if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
        return values * max(int(metadata.schema.column(number).length), 0)
    return max(int(chunk.total_uncompressed_size), 0)


# --- Thrift -----------------------------------------------------------------------------------------------------------


def _text_bytes(metadata: Any) -> dict[tuple[int, int], int]:
    """By row group and leaf column, the bytes of text where the writer left them."""
    out = BytesIO()
    metadata.write_metadata_file(out)
    raw = out.getvalue()
    reader = _Reader(raw[-8 - int.from_bytes(raw[-8:-4], "little") : -8])
    try:
        return reader.file()
    except IndexError:
        # Not what was expected: nothing is known, as of writers that leave nothing.
        return {}


class _Reader:
    """Reads the one number that is wanted, and skips the rest."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def file(self) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}
        for field, kind in self._fields():
            if (field, kind) != (4, _LIST):
                self._skip(kind)
                continue
            for group in range(self._list()[0]):
                for inner, inner_kind in self._fields():
                    if (inner, inner_kind) != (1, _LIST):
                        self._skip(inner_kind)
                        continue
                    for column in range(self._list()[0]):
                        size = self._column()
                        if size is not None:
                            found[group, column] = size
        return found

    def _column(self) -> int | None:
        """`meta_data.size_statistics.unencoded_byte_array_data_bytes` of a ColumnChunk."""
        return self._nested([3, 16, 1])

    def _nested(self, path: list[int]) -> int | None:
        found = None
        for field, kind in self._fields():
            if field == path[0] and kind == (_STRUCT if len(path) > 1 else _I64):
                found = self._nested(path[1:]) if len(path) > 1 else self._zigzag()
            else:
                self._skip(kind)
        return found

    def _fields(self) -> Any:
        last = 0
        while (head := self._byte()) != 0:
            delta, kind = head >> 4, head & 15
            last = last + delta if delta else self._zigzag()
            yield last, kind

    def _list(self) -> tuple[int, int]:
        head = self._byte()
        count = head >> 4
        return (self._varint() if count == 15 else count), head & 15

    def _byte(self) -> int:
        value = self._data[self._at]
        self._at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int, in_list: bool = False) -> None:
        if kind in (_TRUE, _FALSE):
            # As a field its type is its value.
            self._at += in_list
        elif kind == _BYTE:
            self._at += 1
        elif kind < _DOUBLE:
            self._varint()
        elif kind == _DOUBLE:
            self._at += 8
        elif kind == _BINARY:
            length = self._varint()
            self._at += length
        elif kind in (_LIST, _SET):
            count, of = self._list()
            for _ in range(count):
                self._skip(of, in_list=True)
        elif kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._skip(kinds >> 4, in_list=True)
                self._skip(kinds & 15, in_list=True)
        else:
            for _, inner in self._fields():
                self._skip(inner)
