"""Unusual data sets: no rows, no row groups, no columns; objects whose schemas differ."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.compare import assert_same, assert_same_schema
from harness.node import Node, plan_info


@pytest.fixture
def served(node) -> Node:
    return node()


def put(directory: Path, *tables: pa.Table, **options) -> str:
    directory.mkdir(exist_ok=True)
    for number, table in enumerate(tables):
        pq.write_table(table, directory / f"{number}.parquet", **options)
    return directory.as_uri() + "/"


SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string()), ("list", pa.list_(pa.int8()))])


def test_no_rows(served: Node, tmp_path: Path):
    url = put(tmp_path / "d", SCHEMA.empty_table())
    assert_same(served.read(url), pq.read_table(tmp_path / "d"))
    info = served.info(url)
    assert info.total_records == 0
    assert_same_schema(info.schema, pq.read_table(tmp_path / "d").schema)


def test_no_row_groups(served: Node, tmp_path: Path):
    (tmp_path / "d").mkdir()
    pq.ParquetWriter(tmp_path / "d/0.parquet", SCHEMA).close()
    assert pq.ParquetFile(tmp_path / "d/0.parquet").num_row_groups == 0
    path = tmp_path / "d/0.parquet"
    assert_same(served.read(path.as_uri()), pq.read_table(path))


def test_empty_among_full(served: Node, tmp_path: Path):
    full = pa.table([[1, 2], ["a", None], [[1], []]], schema=SCHEMA)
    url = put(tmp_path / "d", SCHEMA.empty_table(), full, SCHEMA.empty_table(), full, SCHEMA.empty_table())
    for _ in range(2):
        assert_same(served.read(url), pq.read_table(tmp_path / "d"))


def test_row_groups_without_rows(served: Node, tmp_path: Path):
    full = pa.table([[1, 2], ["a", None], [[1], []]], schema=SCHEMA)
    path = tmp_path / "x.parquet"
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for table in (SCHEMA.empty_table(), full, SCHEMA.empty_table(), full):
            writer.write_table(table)
    for _ in range(2):
        assert_same(served.read(path.as_uri()), pq.read_table(path))


def test_no_columns_asked_for(served: Node, tmp_path: Path):
    url = put(tmp_path / "d", pa.table({"x": range(10)}), pa.table({"x": range(5)}))
    for _ in range(2):
        table = served.read(url, [])
        assert (table.num_rows, table.num_columns) == (15, 0)
    assert served.read(url, [], limit=12).num_rows == 12


def test_no_columns_there(served: Node, tmp_path: Path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [1, 2, 3]}).select([]), path)
    expected = pq.read_table(path)
    table = served.read(path.as_uri())
    assert (table.num_rows, table.num_columns) == (expected.num_rows, 0)


def test_one_row(served: Node, tmp_path: Path):
    url = put(tmp_path / "d", pa.table({"x": [1]}))
    assert_same(served.read(url), pq.read_table(tmp_path / "d"))


def test_many_columns(served: Node, tmp_path: Path):
    url = put(tmp_path / "d", pa.table({f"column {i}": [i, None] for i in range(2000)}))
    expected = pq.read_table(tmp_path / "d")
    for _ in range(2):
        assert_same(served.read(url), expected)
    assert_same(served.read(url, ["column 1999", "column 0"]), expected.select(["column 1999", "column 0"]))


def test_more_than_eight_fragments(served: Node, tmp_path: Path):
    """Columns that came one by one are merged at some time; the rows stay the same."""
    url = put(tmp_path / "d", pa.table({f"c{i}": range(i, i + 1000) for i in range(30)}))
    expected = pq.read_table(tmp_path / "d")
    for column in expected.schema.names:
        assert_same(served.read(url, [column]), expected.select([column]))
        assert served.stat().fragments <= 9
    assert_same(served.read(url), expected)
    served.restart().recovered()
    assert_same(served.read(url), expected)


def test_large_values(served: Node, tmp_path: Path):
    """Values far larger than a batch is meant to be."""
    url = put(tmp_path / "d", pa.table({"blob": [b"x" * (20 << 20), b"", None, b"y" * (9 << 20)], "id": range(4)}))
    for _ in range(2):
        assert_same(served.read(url), pq.read_table(tmp_path / "d"))


# Schemas that differ from object to object: the first object's schema holds, as pyarrow has it.


def test_columns_in_another_order(served: Node, tmp_path: Path):
    url = put(tmp_path / "d", pa.table({"a": [1], "b": ["x"]}), pa.table({"b": ["y"], "a": [2]}))
    for _ in range(2):
        assert_same(served.read(url), pq.read_table(tmp_path / "d"))


def test_a_missing_column_is_null(served: Node, tmp_path: Path):
    url = put(tmp_path / "d", pa.table({"a": [1], "b": ["x"]}), pa.table({"a": [2]}))
    for _ in range(2):
        assert_same(served.read(url), pq.read_table(tmp_path / "d"))
    assert_same(served.read(url, ["b"]), pq.read_table(tmp_path / "d", columns=["b"]))


def test_a_narrower_integer_is_widened(served: Node, tmp_path: Path):
    url = put(tmp_path / "d", pa.table({"a": pa.array([1], pa.int64())}), pa.table({"a": pa.array([2], pa.int32())}))
    for _ in range(2):
        assert_same(served.read(url), pq.read_table(tmp_path / "d"))


def test_types_that_don_t_go_together(served: Node, tmp_path: Path):
    """Rows, where every value can be converted; else an error that names the column and the object."""
    url = put(tmp_path / "d", pa.table({"a": [1]}), pa.table({"a": [[1, 2]]}))
    with pytest.raises(pa.ArrowException, match=r"(?s)\ba\b.*1\.parquet|1\.parquet.*\ba\b"):
        served.read(url)


def test_facts_of_an_empty_plan(served: Node, tmp_path: Path):
    url = put(tmp_path / "d", SCHEMA.empty_table())
    facts = plan_info(served.plan(url))
    assert (facts.rows, facts.objects) == (0, 1)
