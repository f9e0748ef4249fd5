"""Hive partition columns (`.../year=2024/kind=a/part.parquet`), by the rule nodes follow.

They are dictionaries with int32 indices: of int32 where every value of the key is an integer, else of strings. They
stand behind the objects' own columns; a key that is also a column is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"[+-]?[0-9]+")


def pairs(base: str, url: str) -> list[tuple[str, str | None]]:
    """The `key=value` directories between a data set's base and an object, in order.

    >>> pairs("s3://b/t/", "s3://b/t/year=2024/kind=__HIVE_DEFAULT_PARTITION__/p.parquet")
    [('year', '2024'), ('kind', None)]
    """
    if not base or not url.startswith(base):
        return []
    found: list[tuple[str, str | None]] = []
    for segment in url[len(base) :].split("/")[:-1]:
        # URLs are percent-encoded once, hive encodes values once more.
        key, separator, value = unquote(segment).partition("=")
        if separator and key:
            found.append((unquote(key), None if value == _NULL else unquote(value)))
    return found


def fields(base: str, urls: Iterable[str]) -> list[pa.Field[Any]]:
    """Partition fields over all objects of a data set."""
    integer: dict[str, bool] = {}
    for url in urls:
        for key, value in pairs(base, url):
            integer[key] = integer.get(key, True) and (value is None or _is_int32(value))
    return [
        pa.field(key, pa.dictionary(pa.int32(), pa.int32() if is_integer else pa.string()))
        for key, is_integer in integer.items()
    ]


def column(base: str, url: str, field: pa.Field[Any], rows: int) -> pa.Array[Any] | None:
    """A partition column of `rows` rows for one object; None where the object's path has no such key."""
    values_by_key = dict(reversed(pairs(base, url)))
    if field.name not in values_by_key or not pa.types.is_dictionary(field.type):
        return None
    value = values_by_key[field.name]
    if value is None:
        return pa.nulls(rows, field.type)
    values = pa.array([value], pa.string()).cast(field.type.value_type)
    indices = pa.repeat(pa.scalar(0, field.type.index_type), rows)
    return pa.DictionaryArray.from_arrays(indices, values)


def _is_int32(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None and -(2**31) <= int(text) < 2**31
