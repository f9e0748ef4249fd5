"""One small Parquet file for each kind of column: types, encodings, writers' options.

`CASES` maps a name to what is written; `write` makes the file. What `pyarrow.parquet.read_table` makes of the file is
the truth that a node is compared with, whatever was put in.
"""

from __future__ import annotations

import datetime as dt
import decimal
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 2500
GROUP = 1000


@dataclass
class Case:
    table: Callable[[], pa.Table]
    options: dict[str, Any] = field(default_factory=dict)


def values(make: Callable[[random.Random, int], Any], nulls: bool = True) -> list[Any]:
    rng = random.Random(11)
    return [None if nulls and rng.random() < 0.15 else make(rng, i) for i in range(ROWS)]


def column(kind: pa.DataType, make: Callable[[random.Random, int], Any], **options: Any) -> Case:
    """A table of a column with nulls, one without, and one of nulls alone."""

    def table() -> pa.Table:
        schema = pa.schema(
            [pa.field("some", kind), pa.field("all", kind, nullable=False), pa.field("none", kind)],
        )
        arrays = [
            pa.array(values(make), kind),
            pa.array(values(make, nulls=False), kind),
            pa.array([None] * ROWS, kind),
        ]
        return pa.table(arrays, schema=schema)

    return Case(table, options)


def word(rng: random.Random, _: int) -> str:
    return "".join(rng.choice("abcdefghij äöü€𝄞") for _ in range(rng.randrange(0, 20)))


def blob(rng: random.Random, _: int) -> bytes:
    return rng.randbytes(rng.randrange(0, 40))


def whole(bits: int, signed: bool) -> Callable[[random.Random, int], int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return lambda rng, i: (low, high, 0)[i % 3] if i % 50 < 3 else rng.randint(low, high)


def number(rng: random.Random, i: int) -> float:
    return (0.0, -0.0, float("inf"), float("-inf"))[i % 4] if i % 97 < 4 else rng.uniform(-1e6, 1e6)


def exact(precision: int, scale: int) -> Callable[[random.Random, int], decimal.Decimal]:
    context = decimal.Context(prec=100)
    return lambda rng, _: context.scaleb(decimal.Decimal(rng.randint(-(10**precision) + 1, 10**precision - 1)), -scale)


def day(rng: random.Random, _: int) -> dt.date:
    return dt.date(1, 1, 1) + dt.timedelta(days=rng.randrange(0, 3_600_000))


def ticks(low: int, high: int) -> Callable[[random.Random, int], int]:
    return lambda rng, _: rng.randint(low, high)


def integers(kind: pa.DataType, low: int, high: int, **options: Any) -> Case:
    """For types that Python's own cannot hold: built from their integers."""
    storage = pa.int32() if kind.bit_width == 32 else pa.int64()

    def table() -> pa.Table:
        some = pa.array(values(ticks(low, high)), storage).cast(kind)
        every = pa.array(values(ticks(low, high), nulls=False), storage).cast(kind)
        return pa.table({"some": some, "all": every})

    return Case(table, options)


def listing(make: Callable[[random.Random, int], Any], longest: int = 5) -> Callable[[random.Random, int], list[Any]]:
    return lambda rng, i: [None if rng.random() < 0.1 else make(rng, i) for _ in range(rng.randrange(0, longest))]


def record(rng: random.Random, i: int) -> dict[str, Any]:
    return {"id": i, "name": None if i % 5 == 0 else word(rng, i), "tags": listing(word)(rng, i)}


RECORD = pa.struct([("id", pa.int32()), ("name", pa.string()), ("tags", pa.list_(pa.string()))])


def pairs(rng: random.Random, i: int) -> list[tuple[str, float | None]]:
    return [(f"k{n}", None if n == 2 else number(rng, i)) for n in range(rng.randrange(0, 4))]


def mixed() -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "word": pa.array(values(word)),
            "price": pa.array(values(exact(15, 2)), pa.decimal128(15, 2)),
            "when": pa.array(values(ticks(0, 2**50)), pa.int64()).cast(pa.timestamp("us", "UTC")),
            "kind": pa.array([f"kind {i % 7}" for i in range(ROWS)]).dictionary_encode(),
            "list": pa.array(values(listing(lambda r, i: i)), pa.list_(pa.int32())),
        }
    )


def growing_dictionary() -> pa.Table:
    """Each row group has words of its own, so that the pages' dictionaries differ."""
    text = pa.array([f"group {i // GROUP} word {i % 50}" for i in range(ROWS)]).dictionary_encode()
    return pa.table({"text": text, "plain": text.cast(pa.string())})


def small_index(index: pa.DataType, ordered: bool = False) -> Callable[[], pa.Table]:
    def table() -> pa.Table:
        codes = pa.array(values(lambda rng, _: rng.randrange(0, 5)), index)
        return pa.table(
            {"kind": pa.DictionaryArray.from_arrays(codes, ["red", "green", "blue", "", "ünï"], ordered=ordered)}
        )

    return table


def number_dictionary() -> pa.Table:
    codes = pa.array(values(lambda rng, _: rng.randrange(0, 3)), pa.int16())
    return pa.table({"level": pa.DictionaryArray.from_arrays(codes, pa.array([10, 20, 40], pa.int64()))})


def nested_dictionary() -> pa.Table:
    kind = pa.list_(pa.dictionary(pa.int32(), pa.string()))
    return pa.table({"tags": pa.array(values(listing(lambda r, i: f"tag {r.randrange(9)}")), kind)})


def described() -> pa.Table:
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), metadata={"unit": "pieces", "PARQUET:field_id": "7"}),
            pa.field("text", pa.string(), metadata={"lang": "de"}),
        ],
        metadata={"made by": "hand", "pandas": '{"columns": []}'},
    )
    return pa.table([pa.array(range(ROWS)), pa.array(values(word))], schema=schema)


def same_names() -> pa.Table:
    return pa.table(
        {
            "a.b": pa.array(range(ROWS)),
            "a": pa.array([{"b": i} for i in range(ROWS)]),
            "ünï code": pa.array(range(ROWS)),
            "": pa.array(range(ROWS)),
            "A": pa.array(range(ROWS)),
        }
    )


WHOLE = {f"{'' if s else 'u'}int{b}": (b, s) for b in (8, 16, 32, 64) for s in (True, False)}
DECIMALS = {
    "decimal32": pa.decimal32(9, 2),
    "decimal64": pa.decimal64(18, 4),
    "decimal128-small": pa.decimal128(5, 2),
    "decimal128": pa.decimal128(38, 10),
    "decimal256": pa.decimal256(60, 20),
}
TIMESTAMPS = {
    f"timestamp-{unit}{'-' + zone.replace('/', '-') if zone else ''}": (unit, zone)
    for unit in ("s", "ms", "us", "ns")
    for zone in (None, "UTC", "Europe/Berlin", "+02:00")
}
SECONDS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

CASES: dict[str, Case] = {
    "bool": column(pa.bool_(), lambda rng, _: rng.random() < 0.5),
    **{name: column(getattr(pa, name)(), whole(*size)) for name, size in WHOLE.items()},
    "float16": column(pa.float16(), lambda rng, i: rng.uniform(-1000, 1000)),
    "float32": column(pa.float32(), number),
    "float64": column(pa.float64(), number),
    "nan": column(pa.float64(), lambda rng, i: float("nan") if i % 3 else 1.0),
    "string": column(pa.string(), word),
    "large_string": column(pa.large_string(), word),
    "string_view": column(pa.string_view(), word),
    "binary": column(pa.binary(), blob),
    "large_binary": column(pa.large_binary(), blob),
    "binary_view": column(pa.binary_view(), blob),
    "fixed_size_binary": column(pa.binary(7), lambda rng, _: rng.randbytes(7)),
    "null": Case(lambda: pa.table({"nothing": pa.nulls(ROWS), "id": pa.array(range(ROWS))})),
    **{name: column(kind, exact(kind.precision, kind.scale)) for name, kind in DECIMALS.items()},
    "decimal-as-integer": column(pa.decimal128(9, 2), exact(9, 2), store_decimal_as_integer=True),
    "date32": column(pa.date32(), day),
    "date64": column(pa.date64(), day),
    "time32-s": integers(pa.time32("s"), 0, 86_399),
    "time32-ms": integers(pa.time32("ms"), 0, 86_399_999),
    "time64-us": integers(pa.time64("us"), 0, 86_399_999_999),
    "time64-ns": integers(pa.time64("ns"), 0, 86_399_999_999_999),
    **{
        name: integers(pa.timestamp(unit, zone), -(10**9) * SECONDS[unit], 4 * 10**9 * SECONDS[unit])
        for name, (unit, zone) in TIMESTAMPS.items()
    },
    "timestamp-int96": integers(pa.timestamp("ns"), -(10**18), 4 * 10**18, use_deprecated_int96_timestamps=True),
    "timestamp-int96-foreign": integers(
        pa.timestamp("ns"), -(10**18), 4 * 10**18, use_deprecated_int96_timestamps=True, store_schema=False
    ),
    **{f"duration-{unit}": integers(pa.duration(unit), -(10**15), 10**15) for unit in ("s", "ms", "us", "ns")},
    "dictionary": Case(small_index(pa.int32())),
    "dictionary-int8": Case(small_index(pa.int8())),
    "dictionary-uint16": Case(small_index(pa.uint16())),
    "dictionary-int64": Case(small_index(pa.int64())),
    "dictionary-ordered": Case(small_index(pa.int32(), ordered=True)),
    "dictionary-growing": Case(growing_dictionary),
    "dictionary-of-numbers": Case(number_dictionary),
    "dictionary-in-list": Case(nested_dictionary),
    "list": column(pa.list_(pa.int32()), listing(lambda rng, i: i)),
    "list-of-strings": column(pa.list_(pa.string()), listing(word)),
    "list-of-lists": column(pa.list_(pa.list_(pa.float32())), listing(listing(lambda rng, i: float(i)))),
    "large_list": column(pa.large_list(pa.int64()), listing(lambda rng, i: i)),
    "fixed_size_list": column(pa.list_(pa.float32(), 3), lambda rng, i: [i, None, i / 2]),
    "list_view": column(pa.list_view(pa.int32()), listing(lambda rng, i: i)),
    "list-of-structs": column(pa.list_(RECORD), listing(record, 3)),
    "list-item-name": column(pa.list_(pa.field("entry", pa.int8(), nullable=False)), lambda rng, i: [1, i % 5]),
    "struct": column(RECORD, record),
    "struct-in-struct": column(
        pa.struct([("inner", RECORD), ("flag", pa.bool_())]), lambda rng, i: {"inner": record(rng, i), "flag": None}
    ),
    "map": column(pa.map_(pa.string(), pa.float64()), pairs),
    "map-of-lists": column(
        pa.map_(pa.int32(), pa.list_(pa.string())), lambda rng, i: [(n, listing(word)(rng, i)) for n in range(i % 3)]
    ),
    "extension-uuid": column(pa.uuid(), lambda rng, _: uuid.UUID(bytes=rng.randbytes(16)).bytes),
    "extension-json": column(pa.json_(pa.string()), lambda rng, i: f'{{"i": {i}}}'),
    "extension-tensor": Case(
        lambda: pa.table(
            {
                "tensor": pa.ExtensionArray.from_storage(
                    pa.fixed_shape_tensor(pa.float32(), [2, 2]),
                    pa.array([[float(i)] * 4 for i in range(ROWS)], pa.list_(pa.float32(), 4)),
                )
            }
        )
    ),
    "metadata": Case(described),
    "column-names": Case(same_names),
    "mixed": Case(mixed),
    "foreign": Case(mixed, {"store_schema": False}),
    "foreign-nested": Case(
        lambda: pa.table(
            {"r": pa.array(values(record), RECORD), "m": pa.array(values(pairs), pa.map_(pa.string(), pa.float64()))}
        ),
        {"store_schema": False},
    ),
    "page-v2": Case(mixed, {"data_page_version": "2.0"}),
    "format-1.0": Case(mixed, {"version": "1.0"}),
    "page-checksums": Case(mixed, {"write_page_checksum": True}),
    "page-index": Case(mixed, {"write_page_index": True, "data_page_size": 1000}),
    "small-pages": Case(mixed, {"data_page_size": 200, "write_batch_size": 16}),
    "no-dictionary": Case(mixed, {"use_dictionary": False}),
    "dictionary-overflow": Case(mixed, {"dictionary_pagesize_limit": 500}),
    "no-statistics": Case(mixed, {"write_statistics": False}),
    "old-lists": Case(mixed, {"use_compliant_nested_type": False}),
    "bloom-free-delta": Case(
        mixed,
        {
            "use_dictionary": False,
            "column_encoding": {
                "id": "DELTA_BINARY_PACKED",
                "word": "DELTA_BYTE_ARRAY",
                "price": "BYTE_STREAM_SPLIT",
                "when": "DELTA_BINARY_PACKED",
            },
        },
    ),
    "delta-length": Case(mixed, {"use_dictionary": False, "column_encoding": {"word": "DELTA_LENGTH_BYTE_ARRAY"}}),
    "byte-stream-split": column(pa.float32(), number, use_dictionary=False, use_byte_stream_split=True),
    "rle-bool": column(
        pa.bool_(),
        lambda rng, i: i % 100 < 50,
        use_dictionary=False,
        column_encoding={"some": "RLE", "all": "RLE", "none": "RLE"},
    ),
    **{
        f"codec-{codec}": Case(mixed, {"compression": codec})
        for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
    },
}


def write(case: Case, path: Path) -> Path:
    pq.write_table(case.table(), path, **{"row_group_size": GROUP, **case.options})
    return path
