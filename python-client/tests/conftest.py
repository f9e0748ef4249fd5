from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_map_node import Host
from fake_node import FakeNode

from roost import _direct, _map, _nodes

ROWS = 200
ROW_GROUP = 30


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process remembers is forgotten between tests."""
    monkeypatch.setattr(_direct, "_warned", False)
    monkeypatch.setattr(_nodes, "_connections", _nodes._Connections())
    monkeypatch.setattr(_map, "_left_alone", {})
    monkeypatch.delenv("ROOST_NODE", raising=False)
    monkeypatch.delenv("ROOST_MAPS", raising=False)
    _direct._fragments.clear()


def rich_table(rows: int = ROWS, start: int = 0) -> pa.Table:
    """Columns of the kinds that go wrong first."""
    numbers = range(start, start + rows)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "text": pa.array([None if i % 7 == 0 else f"row {i}" for i in numbers]),
            "kind": pa.array([f"k{i % 5}" for i in numbers]).dictionary_encode(),
            "price": pa.array([decimal.Decimal(i).scaleb(-2) for i in numbers], pa.decimal128(12, 2)),
            "seen": pa.array(
                [datetime.datetime(2024, 1, 1) + datetime.timedelta(seconds=i) for i in numbers],
                pa.timestamp("us", tz="UTC"),
            ),
            "nested": pa.array(
                [{"a": i, "b": [{"c": float(j)} for j in range(i % 3)]} if i % 4 else None for i in numbers],
                pa.struct([("a", pa.int32()), ("b", pa.list_(pa.struct([("c", pa.float64())])))]),
            ),
            "a.dotted name": pa.array(numbers, pa.int32()),
        }
    ).replace_schema_metadata({"owner": "tests"})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A directory of three objects with several row groups each."""
    directory = tmp_path / "data"
    directory.mkdir()
    for number in range(3):
        table = rich_table(start=number * ROWS)
        pq.write_table(table, directory / f"part-{number}.parquet", row_group_size=ROW_GROUP)
    return directory


@pytest.fixture
def plain_dataset(dataset: Path) -> Path:
    """The same without dictionaries, which pyarrow's Python server cannot stream."""
    for path in dataset.iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["kind"]), path, row_group_size=ROW_GROUP)
    return dataset


@pytest.fixture
def node(plain_dataset: Path) -> Iterator[FakeNode]:
    with FakeNode(sorted(plain_dataset.iterdir())) as fake:
        yield fake


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    # Nobody waits for a node that is not there.
    monkeypatch.setattr(_nodes, "_DELAYS", (0.01,))
    host = Host()
    with host.node:
        yield host


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    assert found.schema.equals(expected.schema, check_metadata=True), f"{found.schema}\n!=\n{expected.schema}"
    assert found.num_rows == expected.num_rows
    found.validate(full=True)
    for name in expected.column_names:
        assert found[name].to_pylist() == expected[name].to_pylist(), name
