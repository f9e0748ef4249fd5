"""One schema for many objects, by the rule nodes follow.

The first object's fields in order, then fields that others add. A field that some object lacks becomes nullable; where
types differ the wider one is served.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from pyarrow import types

from roost.errors import InvalidRequestError, UnsupportedError


def unify(objects: Iterable[tuple[str, pa.Schema]], partitions: Iterable[pa.Field[Any]] = ()) -> pa.Schema:
    """The schema of a data set whose objects, in order, have these schemas, with `partitions` behind them.

    Raises:
        InvalidRequestError: a column has types that no type holds both.
        UnsupportedError: an object has two columns of one name.
    """
    fields: dict[str, pa.Field[Any]] = {}
    brought_by: dict[str, str] = {}
    metadata: Any = None
    last: pa.Schema | None = None
    for number, (url, schema) in enumerate(objects):
        if number == 0:
            metadata = schema.metadata
        if last is not None and schema.equals(last, check_metadata=True):
            continue
        names = schema.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UnsupportedError(f"{url}: two columns are named {twice!r}; columns are read by name, rename one")
        for field in schema:
            known = fields.get(field.name)
            if known is None:
                # Objects before this one lack the field: their rows have nulls.
                fields[field.name] = field if number == 0 else field.with_nullable(True)
                brought_by[field.name] = url
            elif known != field:
                wide = wider(known.type, field.type)
                if wide is None:
                    raise InvalidRequestError(
                        f"column {field.name!r} is {known.type} in {brought_by[field.name]} but {field.type} in {url}:"
                        " no type holds both; read them apart or rewrite one"
                    )
                if wide != known.type:
                    brought_by[field.name] = url
                fields[field.name] = known.with_type(wide).with_nullable(known.nullable or field.nullable)
        for name in fields.keys() - set(names):
            fields[name] = fields[name].with_nullable(True)
        last = schema
    for field in partitions:
        fields.setdefault(field.name, field)
    return pa.schema(list(fields.values()), metadata=metadata)


def wider(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both without loss, if one does."""
    if a == b:
        return a
    if types.is_integer(a) and types.is_integer(b):
        return _wider_integer(a, b)
    for one, other in ((a, b), (b, a)):
        if types.is_null(one):
            return other
        if types.is_floating(one) and types.is_floating(other) and one.bit_width < other.bit_width:
            return other
        if (types.is_string(one) and types.is_large_string(other)) or (
            types.is_binary(one) and types.is_large_binary(other)
        ):
            return other
        if types.is_dictionary(one) and one.value_type == other:
            return other
    if types.is_timestamp(a) and types.is_timestamp(b) and a.tz == b.tz:
        units = ("s", "ms", "us", "ns")
        return pa.timestamp(max(a.unit, b.unit, key=units.index), a.tz)
    return _wider_nested(a, b)


def _wider_integer(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if types.is_signed_integer(a) == types.is_signed_integer(b):
        return a if a.bit_width > b.bit_width else b
    signed, unsigned = (a, b) if types.is_signed_integer(a) else (b, a)
    width = max(signed.bit_width, unsigned.bit_width * 2)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(width)


def _wider_nested(a: Any, b: Any) -> pa.DataType | None:
    for is_list, make in ((types.is_list, pa.list_), (types.is_large_list, pa.large_list)):
        if is_list(a) and is_list(b):
            item = _wider_field(a.value_field, b.value_field)
            return None if item is None else make(item)
    if types.is_fixed_size_list(a) and types.is_fixed_size_list(b) and a.list_size == b.list_size:
        item = _wider_field(a.value_field, b.value_field)
        return None if item is None else pa.list_(item, a.list_size)
    if types.is_struct(a) and types.is_struct(b) and a.num_fields == b.num_fields:
        # Members are matched by position and name: adding members inside a struct is not unified.
        pairs = [(a.field(i), b.field(i)) for i in range(a.num_fields)]
        members = [_wider_field(x, y) for x, y in pairs if x.name == y.name]
        known = [member for member in members if member is not None]
        if len(known) == len(pairs):
            return pa.struct(known)
    return None


def _wider_field(a: pa.Field[Any], b: pa.Field[Any]) -> pa.Field[Any] | None:
    wide = wider(a.type, b.type)
    return None if wide is None else a.with_type(wide).with_nullable(a.nullable or b.nullable)
