"""Each door gives what `pyarrow.parquet.read_table` gives, however fragments are compressed and wherever they lie."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import zoo
from harness.compare import assert_same
from harness.doors import DOORS, Door
from harness.node import Node

pytest.importorskip("roost", reason="the package of python-client is not installed")

CODECS = ("none", "lz4", "zstd")

# A column, or a few, of each of these cases.
KINDS = [
    *("bool", "int8", "uint64", "float16", "float64", "decimal128", "decimal256", "date32", "time64-us", "duration-ns"),
    *("string", "large_string", "string_view", "binary_view", "fixed_size_binary", "timestamp-us-UTC", "null"),
    *("dictionary", "dictionary-ordered", "dictionary-growing", "dictionary-of-numbers", "dictionary-in-list"),
    *("list", "list-of-lists", "list-of-structs", "large_list", "fixed_size_list", "list_view", "struct", "map"),
    *("map-of-lists", "extension-uuid", "extension-tensor"),
]


@pytest.fixture(params=DOORS.values(), ids=str)
def door(request: pytest.FixtureRequest) -> Door:
    return request.param


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def served(node: Callable[..., Node], codec: str) -> Node:
    return node("--compression", codec)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects, each of several row groups that are read as one, with all kinds of columns."""
    directory = tmp_path_factory.mktemp("kinds")
    columns = {}
    for name in KINDS:
        table = zoo.CASES[name].table()
        columns |= {f"{name} {column}": table[column] for column in table.column_names}
    table = pa.table(columns)
    for number, part in enumerate((table, table.slice(700))):
        pq.write_table(part, directory / f"{number}.parquet", row_group_size=zoo.GROUP)
    return directory


def large_part(number: int, rows: int = 160_000) -> pa.Table:
    """Several batches; text repeats, but not across objects."""
    rng = np.random.default_rng(number)
    words = pa.array([f"word {number} {i}" for i in range(3000)])
    codes = rng.integers(0, len(words), rows).astype(np.int32)
    lengths = rng.integers(0, 4, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    text = words.take(pa.array(codes))
    return pa.table(
        {
            "id": pa.array(np.arange(rows) + number * rows),
            "word": pa.DictionaryArray.from_arrays(codes, words),
            "text": text,
            "view": text.cast(pa.string_view()),
            "list": pa.ListArray.from_arrays(offsets, pa.array(rng.integers(0, 99, offsets[-1]).astype(np.int16))),
            "maybe": pa.array(rng.random(rows), mask=rng.random(rows) < 0.3),
            "level": pa.DictionaryArray.from_arrays(codes % 5, pa.array([f"level {number} {i}" for i in range(5)])),
        }
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects of two row groups, and small ones that one ticket has together."""
    directory = tmp_path_factory.mktemp("large")
    for number in range(2):
        pq.write_table(large_part(number), directory / f"{number}.parquet", row_group_size=130_000)
    for number in range(2, 5):
        pq.write_table(large_part(number, 900), directory / f"{number}.parquet", row_group_size=300)
    return directory


@pytest.fixture(scope="module")
def partitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Partitions by directories, where an object lacks a column and another has it elsewhere."""
    directory = tmp_path_factory.mktemp("partitions")
    for year in (2023, 2024):
        for region in ("eu", "us east"):
            table = large_part(year % 7 + len(region), 2000).select(["id", "text", "word", "list"])
            if (year, region) == (2024, "eu"):
                table = table.drop_columns(["text"])
            if (year, region) == (2024, "us east"):
                table = table.select(["list", "text", "word", "id"])
            place = directory / f"year={year}" / f"region={region}"
            place.mkdir(parents=True)
            pq.write_table(table, place / "0.parquet")
    return directory


def url_of(directory: Path) -> str:
    return directory.as_uri() + "/"


@pytest.mark.parametrize("name", ["kinds", "large"])
def test_cold_warm_and_restarted(served: Node, door: Door, name: str, request: pytest.FixtureRequest):
    directory = request.getfixturevalue(name)
    expected = pq.read_table(directory)
    # What is cold may be streamed while it is filled, or mapped once that is done.
    assert_same(door.read(served, url_of(directory)), expected)
    misses = served.stat().misses
    assert_same(door.read(served, url_of(directory)), expected)
    assert served.stat().misses == misses, "the second read was warm"
    served.restart().recovered()
    assert_same(door.read(served, url_of(directory)), expected)
    assert (served.stat().misses, served.stat().damaged) == (0, 0)


@pytest.mark.parametrize("name", ["kinds", "large"])
def test_columns_in_any_order(served: Node, door: Door, name: str, request: pytest.FixtureRequest):
    """Narrower reads of one wide fragment."""
    directory = request.getfixturevalue(name)
    expected = pq.read_table(directory)
    names = expected.schema.names
    served.warm(url_of(directory))
    misses = served.stat().misses
    for columns in (names[::-1], names[1::2], names[::-3], names[-1:], names[3:5], [names[4], names[0], names[2]]):
        assert_same(door.read(served, url_of(directory), columns), expected.select(columns))
    assert served.stat().misses == misses


def test_no_columns(served: Node, door: Door, large: Path):
    expected = pq.read_table(large)
    for _ in range(2):
        table = door.read(served, url_of(large), [])
        assert (table.num_rows, table.num_columns) == (expected.num_rows, 0)


@pytest.mark.parametrize("name", ["kinds", "large"])
def test_joined_fragments(served: Node, door: Door, name: str, request: pytest.FixtureRequest):
    """Columns that came one after the other lie in fragments of their own."""
    directory = request.getfixturevalue(name)
    expected = pq.read_table(directory)
    names = expected.schema.names
    for start in (4, 0, 2, 1, 3):
        columns = names[start::5][::-1]
        assert_same(door.read(served, url_of(directory), columns), expected.select(columns))
    misses = served.stat().misses
    for columns in (names, names[::-1], names[::2], names[:3]):
        assert_same(door.read(served, url_of(directory), columns), expected.select(columns))
    assert served.stat().misses == misses, "all columns were there"
    served.restart().recovered()
    assert_same(door.read(served, url_of(directory)), expected)


@pytest.mark.parametrize("name", ["kinds", "large"])
def test_fragments_of_several_codecs(node: Callable[..., Node], door: Door, name: str, request: pytest.FixtureRequest):
    """A node that was started again with another setting keeps what it has, and joins it with what is new."""
    directory = request.getfixturevalue(name)
    expected = pq.read_table(directory)
    names = expected.schema.names
    served = node("--compression", CODECS[0])
    assert_same(door.read(served, url_of(directory), names[::3]), expected.select(names[::3]))
    for other, start in zip(CODECS[1:], (1, 2), strict=True):
        served.restart("--capacity", "4GiB", "--min-free", "0", "--compression", other).recovered()
        columns = names[start::3]
        assert_same(door.read(served, url_of(directory), columns), expected.select(columns))
        both = names[::3] + columns
        assert_same(door.read(served, url_of(directory), both), expected.select(both))
    for columns in (names, names[::-1], names[1::4], names[:2]):
        assert_same(door.read(served, url_of(directory), columns), expected.select(columns))
    assert served.stat().damaged == 0


def test_the_first_rows(served: Node, door: Door, large: Path):
    """A limit cuts within batches, within row groups, and within tickets of several row groups."""
    columns = ["level", "id", "view"]
    expected = pq.read_table(large, columns=columns)
    # Cold, then warm.
    for limit in (1, 129_999, 130_001, 161_000, 320_100, 321_350, 129_999, 321_350):
        assert_same(door.read(served, url_of(large), columns, limit), expected.slice(0, limit))


def test_partitions_and_missing_columns(served: Node, door: Door, partitions: Path):
    expected = pq.read_table(partitions)
    for _ in range(2):
        assert_same(door.read(served, url_of(partitions)), expected)
    for columns in (["region", "text", "year"], ["word", "region"], ["year"], ["text"], ["list", "id"]):
        assert_same(door.read(served, url_of(partitions), columns), expected.select(columns))
    served.restart().recovered()
    assert_same(door.read(served, url_of(partitions)), expected)


def test_values_that_are_cast(served: Node, door: Door, tmp_path: Path):
    """What a map can't show is streamed by clients that map the rest."""
    directory = tmp_path / "casts"
    directory.mkdir()
    small = zoo.CASES["dictionary-int8"].table()["kind"]
    for number, kind in enumerate((pa.int64(), pa.int32(), pa.int64())):
        rows = range(number, number + len(small))
        table = pa.table({"a": pa.array(rows, kind), "b": [f"{number}"] * len(small), "kind": small})
        pq.write_table(table, directory / f"{number}.parquet")
    expected = pq.read_table(directory)
    for _ in range(2):
        assert_same(door.read(served, url_of(directory), mapped=False), expected)
    assert_same(door.read(served, url_of(directory), ["b"]), expected.select(["b"]))
