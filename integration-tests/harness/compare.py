"""Whether two tables are the same: schema with metadata, values, order."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.ipc


def decoded(kind: pa.DataType) -> pa.DataType:
    """The type without its dictionaries: two encodings of the same values are then comparable."""
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(decoded(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(decoded(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([kind.field(i).with_type(decoded(kind.field(i).type)) for i in range(kind.num_fields)])
    return kind


def assert_same(actual: pa.Table, expected: pa.Table) -> None:
    """Fails with what differs first. Dictionary columns compare by type and by decoded values."""
    assert_same_schema(actual.schema, expected.schema)
    assert actual.num_rows == expected.num_rows, f"{actual.num_rows} rows instead of {expected.num_rows}"
    for name, got, wanted in zip(expected.schema.names, actual.columns, expected.columns, strict=True):
        for chunk in got.chunks:
            chunk.validate(full=True)
        if not got.equals(wanted):
            plain = decoded(wanted.type)
            found = difference(got.cast(plain), wanted.cast(plain)) if plain != wanted.type else difference(got, wanted)
            assert not found, f"column {name!r}: {found}"


def through_ipc(schema: pa.Schema) -> pa.Schema:
    """The schema as any IPC transport leaves it: `read_table` names a map's entries after its column, which pyarrow's
    own IPC does not keep."""
    return pa.ipc.read_schema(schema.serialize())


def assert_same_schema(actual: pa.Schema, expected: pa.Schema) -> None:
    assert actual.names == expected.names
    for got, wanted in zip(actual, expected, strict=True):
        assert got.equals(through_ipc(pa.schema([wanted])).field(0), check_metadata=True), (
            f"column {wanted.name!r}: {got} {got.metadata} instead of {wanted} {wanted.metadata}"
        )
    assert actual.metadata == expected.metadata
    assert actual.equals(through_ipc(expected), check_metadata=True)


def difference(got: pa.ChunkedArray, wanted: pa.ChunkedArray) -> str:
    """The first row that differs, or nothing where all are equal one by one (NaN, which equals nothing, is itself)."""
    if got.equals(wanted):
        return ""
    for row, (a, b) in enumerate(zip(got.to_pylist(), wanted.to_pylist(), strict=True)):
        if a != b and not (a != a and b != b):
            return f"row {row} is {a!r:.200} instead of {b!r:.200}"
    return ""
