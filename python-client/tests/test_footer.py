"""What is read from footers: against what was written."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import rich_table

from roost import _footer


def metadata(table: pa.Table, **options: Any) -> Any:
    out = BytesIO()
    pq.write_table(table, out, **options)
    return pq.ParquetFile(BytesIO(out.getvalue())).metadata


def test_text_is_measured_as_the_writer_did() -> None:
    text = [None if i % 11 == 0 else "x" * (i % 37) for i in range(1000)]
    table = pa.table({"n": range(1000), "s": text, "l": [[t, "yy"] for t in text]})
    found = _footer._text_bytes(metadata(table, row_group_size=300))
    if not found:
        pytest.skip("this pyarrow leaves no size statistics")
    for group in range(4):
        own = text[300 * group : 300 * (group + 1)]
        expected = sum(len(t) for t in own if t is not None)
        assert found[group, 1] == expected
        assert found[group, 2] == expected + 2 * len(own)
        assert (group, 0) not in found


def test_fixed_widths_need_no_statistics() -> None:
    table = pa.table({"a": pa.array(range(100), pa.int16()), "b": [True] * 100, "c": pa.nulls(100)})
    assert _footer.decoded_bytes(metadata(table), table.schema) == [[200 + 12, 12 + 12, 0 + 12]]


def test_leaves_are_those_of_parquet() -> None:
    table = rich_table(50)
    meta = metadata(table)
    leaves = [leaf for field in table.schema for leaf in _footer._leaves(field.type)]
    assert len(leaves) == meta.num_columns
    assert len(_footer.decoded_bytes(meta, table.schema)[0]) == meta.num_columns
