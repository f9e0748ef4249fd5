"""Where the parts of Arrow IPC files lie: what is said of a column's bytes is what pyarrow finds there."""

from __future__ import annotations

import decimal
from typing import Any

import pyarrow as pa
import pytest
from conftest import rich_table

from roost._ipc_layout import LayoutError, batch_layout, schema_message

ROWS = 20_000
LONG = "long enough to lie out of line"


def column(type: pa.DataType, values: list[Any]) -> pa.Array:
    return pa.array([None if i % 11 == 0 else values[i % len(values)] for i in range(ROWS)], type)


TYPES: dict[str, pa.Array] = {
    "int": column(pa.int64(), [1, 2]),
    "bool": column(pa.bool_(), [True, False]),
    "decimal": column(pa.decimal128(9, 1), [decimal.Decimal("1.5")]),
    "decimal256": column(pa.decimal256(60, 1), [decimal.Decimal("1.5")]),
    "text": column(pa.string(), ["a", "bc"]),
    "large": column(pa.large_binary(), [b"a", b"bc"]),
    "fixed": column(pa.binary(3), [b"abc"]),
    "view": column(pa.string_view(), [LONG, "short", LONG * 2]),
    "views": column(pa.list_(pa.binary_view()), [[LONG.encode()], [b"x", LONG.encode()]]),
    "list": column(pa.list_(pa.int32()), [[1], [2, 3]]),
    "fixed list": column(pa.list_(pa.float32(), 2), [[1.0, 2.0]]),
    "list view": column(pa.list_view(pa.int32()), [[1], [2, 3]]),
    "map": column(pa.map_(pa.string(), pa.int8()), [[("k", 1)], []]),
    "struct": column(pa.struct([("a", pa.string()), ("b", pa.list_(pa.int8()))]), [{"a": "x", "b": [1]}]),
    "null": pa.nulls(ROWS),
    "timestamp": column(pa.timestamp("ns"), [1, 2]),
    "dictionary": column(pa.string(), ["p", "q"]).dictionary_encode(),
    "interval": column(pa.month_day_nano_interval(), [(1, 2, 3)]),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), column(pa.binary(16), [b"x" * 16]))
    if hasattr(pa, "uuid")
    else column(pa.binary(16), [b"x" * 16]),
}


def written(table: pa.Table, **options: Any) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=ROWS // 2)
    return sink.getvalue()


@pytest.mark.parametrize("name", TYPES)
def test_a_columns_buffers_lie_in_its_spans(name: str) -> None:
    # Other columns on both sides, wide enough to be left out.
    wide = pa.array(range(ROWS), pa.int64())
    order = ["before", "view", name + " ", "after", "views"]
    table = pa.table([wide, TYPES["view"], TYPES[name], wide, TYPES["views"]], names=order)
    buffer = written(table)
    file = memoryview(buffer)
    reader = pa.ipc.open_file(buffer)
    for number in range(reader.num_record_batches):
        layout = batch_layout(file, number)
        assert not layout.compressed
        spans = list(layout.spans(reader.schema, [2]))
        for found in reader.get_batch(number).column(2).buffers():
            if found is None or found.size == 0:
                continue
            start = found.address - buffer.address
            assert any(low <= start and start + found.size <= high for low, high in spans), (start, found.size, spans)
        # Neither of the wide columns, but for what lies close by.
        assert sum(high - low for low, high in spans) < layout.end - layout.start - ROWS // 2 * 8


def test_types_that_are_not_known_need_all() -> None:
    values = pa.UnionArray.from_dense(
        pa.array([0] * ROWS, pa.int8()), pa.array(range(ROWS), pa.int32()), [TYPES["int"]]
    )
    buffer = written(pa.table({"a": TYPES["int"], "union": values}))
    layout = batch_layout(memoryview(buffer), 0)
    schema = pa.ipc.open_file(buffer).schema
    assert list(layout.spans(schema, [0])) == [(layout.start, layout.end)]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed(compression: str) -> None:
    layout = batch_layout(memoryview(written(rich_table(), compression=compression)), 0)
    assert layout.compressed


def test_all_columns_are_one_span() -> None:
    buffer = written(rich_table())
    schema = pa.ipc.open_file(buffer).schema
    layout = batch_layout(memoryview(buffer), 0)
    ((start, end),) = layout.spans(schema, range(len(schema)))
    assert start == layout.start
    assert layout.end - 64 < end <= layout.end


def test_the_schemas_message() -> None:
    message = schema_message(memoryview(written(rich_table())))
    assert pa.ipc.read_schema(pa.py_buffer(message)).equals(rich_table().schema, check_metadata=True)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 50, 400])
def test_damaged_files_are_refused(size: int) -> None:
    whole = written(rich_table()).to_pybytes()
    for data in (whole[:size], whole[:size] + b"ARROW1", whole[-size:], b"\xff" * size + whole[-10:]):
        if len(data) < len(whole):
            with pytest.raises(LayoutError):
                batch_layout(memoryview(data), 0)
    with pytest.raises(LayoutError):
        batch_layout(memoryview(whole), 99)
