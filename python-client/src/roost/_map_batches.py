"""PURE: columns of mapped files, constants and nulls → record batches as Flight gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import pyarrow as pa

from roost._direct import empty_batch
from roost.plan import PackedSchema


@dataclass(frozen=True, slots=True)
class Stored:
    """A column's values lie in a file: its number, and the position in its schema."""

    file: int
    column: int


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value in each row: an IPC stream of one batch, one column, one row."""

    stream: bytes


@dataclass(frozen=True, slots=True)
class Null:
    """All null."""


Column = Stored | Constant | Null


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the columns of a piece are; many pieces share one."""

    #: Says the same as the other fields, and is quickly compared.
    key: bytes
    columns: tuple[Column, ...]
    #: By file: the positions of the columns that are wanted of it, in the order wanted.
    wanted: tuple[tuple[int, ...], ...]
    #: All are columns of one file: there is nothing to gather.
    simple: bool

    @classmethod
    def of(cls, key: bytes, columns: Sequence[Column], files: int) -> Places:
        """Sorts columns by file.

        Raises:
            LookupError: a column lies in a file that is not there.
        """
        wanted: list[list[int]] = [[] for _ in range(files)]
        stored = [column for column in columns if isinstance(column, Stored)]
        for column in stored:
            wanted[column.file].append(column.column)
        simple = files == 1 and len(stored) == len(columns)
        return cls(key, tuple(columns), tuple(map(tuple, wanted)), simple)


class File(Protocol):
    """Batches of those columns that are wanted of a file, in the order in which they are wanted."""

    @property
    def schema_bytes(self) -> bytes:
        """The message of the schema of all that is in the file."""

    @property
    def num_batches(self) -> int:
        """How many there are."""

    def batch(self, number: int) -> pa.RecordBatch:
        """One of them."""


class Assembly:
    """Puts pieces together; every batch has the served schema, with all metadata."""

    def __init__(self, served: PackedSchema) -> None:
        self._served = served
        self._schema = served.schema
        self._expanded: dict[tuple[int, Column], Any] = {}

    def batches(
        self, places: Places, files: Sequence[File], batches: int, rows: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The first `rows` rows of a piece of `batches` batches: each batch with its number.

        Raises:
            LookupError: the files do not hold what they should.
            OSError, pa.ArrowException: a file can't be read.
        """
        if len(places.columns) != len(self._schema):
            raise LookupError(f"{len(places.columns)} columns came where the schema has {len(self._schema)}")
        if any(file.num_batches != batches for file in files):
            raise LookupError(f"the files have {[file.num_batches for file in files]} batches, not {batches}")
        if rows and not batches:
            raise LookupError(f"{rows} rows came in no batch")
        if not files:
            if rows:
                yield batches - 1, self._without_files(places, rows)
            return
        stamp: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None
        left = rows
        for number in range(batches):
            if left == 0:
                break
            parts = [file.batch(number) for file in files]
            batch = parts[0] if places.simple else self._gathered(places, parts)
            length = batch.num_rows
            if length < left and number == batches - 1:
                raise LookupError(f"the files end {left - length} rows early")
            if stamp is None:
                stamp = self._stamp(places, files, batch.schema)
            if length > left:
                batch, length = batch.slice(0, left), left
            left -= length
            if length:
                yield number, stamp(batch)

    def _without_files(self, places: Places, rows: int) -> pa.RecordBatch:
        if not places.columns:
            return empty_batch(rows, self._schema)
        batch = self._batch(places, (), rows)
        return self._stamp(places, (), batch.schema)(batch)

    def _gathered(self, places: Places, parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        rows = parts[0].num_rows
        if any(part.num_rows != rows for part in parts):
            raise LookupError(f"batches of {[part.num_rows for part in parts]} rows do not lie beside each other")
        return self._batch(places, parts, rows)

    def _batch(self, places: Places, parts: Sequence[pa.RecordBatch], rows: int) -> pa.RecordBatch:
        stored = [iter(part.columns) for part in parts]
        arrays = [
            next(stored[column.file]) if isinstance(column, Stored) else self._expand(position, column, rows)
            for position, column in enumerate(places.columns)
        ]
        return pa.RecordBatch.from_arrays(arrays, names=self._schema.names)

    def _expand(self, position: int, column: Constant | Null, rows: int) -> Any:
        known = self._expanded.get((position, column))
        if known is None or len(known) < rows:
            type = self._schema.field(position).type
            known = pa.nulls(rows, type) if isinstance(column, Null) else repeated(_value(column.stream), rows)
            self._expanded[position, column] = known
        return known.slice(0, rows)

    def _stamp(
        self, places: Places, files: Sequence[File], found: pa.Schema
    ) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
        """What makes batches of the schema `found` batches of the served one, without touching their values."""
        # Comparing wide schemas takes longer than reading a piece, and what depends on the same comes out the same.
        key = (self._served.to_bytes(), places.key, *(file.schema_bytes for file in files))
        how = _known_stamps.get(key)
        if how is None:
            how = _how_to_stamp(found, self._schema)
            if len(_known_stamps) >= _STAMPS_MAX:
                _known_stamps.clear()
            _known_stamps[key] = how
        schema = self._schema
        if how is _Stamp.NONE:
            return lambda batch: batch
        if how is _Stamp.METADATA:
            return lambda batch: batch.replace_schema_metadata(schema.metadata)
        return lambda batch: pa.record_batch(_Restamped(batch, schema))


class _Stamp(Enum):
    """How far batches have the served schema already."""

    NONE = "wholly"
    METADATA = "all but its own metadata"
    ALL = "values that it can describe"


_STAMPS_MAX = 64
_known_stamps: dict[tuple[bytes, ...], _Stamp] = {}


def _how_to_stamp(found: pa.Schema, served: pa.Schema) -> _Stamp:
    if found.equals(served, check_metadata=True):
        return _Stamp.NONE
    if found.with_metadata(served.metadata).equals(served, check_metadata=True):
        return _Stamp.METADATA
    # Names and nullability are the served schema's to tell; the values must be what it says.
    for theirs, ours in zip(found.types, served.types, strict=True):
        if theirs != ours:
            raise LookupError(f"a column of {theirs} came where {ours} was due")
    return _Stamp.ALL


class _Restamped:
    """A batch under another schema of the same layout: pyarrow takes both through its C interface, without a copy.

    Building it of its arrays would keep the names and the metadata that stand inside the arrays' nested types.
    """

    def __init__(self, batch: Any, schema: pa.Schema) -> None:
        self._batch = batch
        self._schema = schema

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[Any, Any]:
        return self._schema.__arrow_c_schema__(), self._batch.__arrow_c_array__()[1]


def _value(stream: bytes) -> Any:
    batch = pa.ipc.open_stream(stream).read_next_batch()
    if (batch.num_columns, batch.num_rows) != (1, 1):
        raise LookupError(f"a constant of {batch.num_columns} columns and {batch.num_rows} rows came")
    return batch.column(0)


def repeated(value: Any, rows: int) -> Any:
    """`value`, an array of one, so often."""
    if isinstance(value, pa.ExtensionArray):
        return pa.ExtensionArray.from_storage(value.type, repeated(value.storage, rows))
    if isinstance(value, pa.DictionaryArray):
        indices = repeated(value.indices, rows)
        return pa.DictionaryArray.from_arrays(indices, value.dictionary, ordered=value.type.ordered)
    try:
        return pa.repeat(value[0], rows)
    except pa.ArrowNotImplementedError:
        return value.take(pa.repeat(pa.scalar(0, pa.int64()), rows))
