"""Plans and reads without any node, straight from the origin: same rows, same order, same schema."""

from __future__ import annotations

import hashlib
import struct
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from roost import _footer, _hive, _origin
from roost._origin import ObjectMeta
from roost._unify import unify
from roost.errors import (
    CorruptDataError,
    DirectReadWarning,
    InvalidRequestError,
    NotFoundError,
    RoostError,
    StalePlanError,
)
from roost.plan import PackedSchema, Piece, Ticket

# Small row groups of an object are read as one, up to both.
_RUN_ROWS = 64 * 1024
_RUN_BYTES = 32 << 20
_BATCH_BYTES = 16 << 20
_FOOTER_THREADS = 16
_FOOTERS_KEPT = 64

_warned = False
_warn_lock = threading.Lock()


def warn_once(reason: str) -> None:
    """Warns, once in the life of the process, that nothing is cached."""
    global _warned
    with _warn_lock:
        if _warned:
            return
        _warned = True
    warnings.warn(
        f"Roost reads straight from the origin: {reason} What is read is right, but nothing is cached, and every epoch"
        " fetches and decodes again. connect(..., fallback=False) makes this an error. (Said once in a process.)",
        DirectReadWarning,
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """The `stacklevel` at which a warning names the line that called this package, if there is one in this thread."""
    level, frame = 1, sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] == "roost" and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    return level


@dataclass(frozen=True)
class DirectPlan:
    """What `plan` found: everything, in the order of the data."""

    url: str
    schema: pa.Schema
    tickets: tuple[Ticket, ...]
    #: Tickets of each object.
    counts: tuple[int, ...]
    #: Decoded bytes of all columns, estimated.
    whole_nbytes: int
    #: Encoded bytes of all objects.
    encoded_nbytes: int
    #: Hash of the objects, their sizes and row groups; a node makes the same of the same ones.
    layout: str
    #: Hash of the objects' identities and of the schema; a node makes another one.
    identity: str


def plan(url: str, columns: Sequence[str] | None) -> DirectPlan:
    """Plans a data set from its listing and footers.

    Raises:
        NotFoundError: nothing is there.
        InvalidRequestError: no such column, or columns of objects that do not agree.
        CorruptDataError: an object that is not Parquet.
    """
    listing = _origin.list_objects(url)
    with ThreadPoolExecutor(min(_FOOTER_THREADS, len(listing.objects))) as pool:
        fragments = list(pool.map(_fragment, listing.objects))
    full = unify(
        ((meta.url, fragment.physical_schema) for meta, fragment in zip(listing.objects, fragments, strict=True)),
        _hive.fields(listing.base, (meta.url for meta in listing.objects)) if listing.base else (),
    )
    schema = full if columns is None else project(full, columns, listing.url)
    packed = PackedSchema(schema)
    wanted = None if columns is None else set(columns)
    identity = hashlib.sha256(PackedSchema(full).to_bytes())
    layout = hashlib.sha256()
    tickets: list[Ticket] = []
    counts: list[int] = []
    whole = 0
    for meta, fragment in zip(listing.objects, fragments, strict=True):
        identity.update(repr((meta.url, meta.size, meta.modified_ns)).encode())
        runs = list(_pieces(meta.url, fragment, wanted))
        name = meta.url.encode()
        layout.update(struct.pack("<Q", len(name)) + name + struct.pack("<QQ", meta.size, len(runs)))
        for piece, nbytes, all_nbytes in runs:
            layout.update(struct.pack("<IIQ", piece.row_group, piece.row_groups, piece.rows))
            whole += all_nbytes
            tickets.append(Ticket(b"", listing.url, (piece,), piece.num_rows, nbytes, (), packed, block=len(tickets)))
        counts.append(len(runs))
    return DirectPlan(
        listing.url,
        schema,
        tuple(tickets),
        tuple(counts),
        whole,
        sum(meta.size for meta in listing.objects),
        layout.hexdigest(),
        identity.hexdigest(),
    )


def project(schema: pa.Schema, columns: Sequence[str], url: str) -> pa.Schema:
    """`schema` cut to these columns, in this order."""
    seen = set()
    for name in columns:
        if name not in schema.names:
            raise InvalidRequestError(f"{url}: no column {name!r}; it has {', '.join(map(repr, schema.names))}")
        if name in seen:
            raise InvalidRequestError(f"{url}: column {name!r} is asked for twice")
        seen.add(name)
    metadata: Any = schema.metadata
    return pa.schema([schema.field(name) for name in columns], metadata=metadata)


def _pieces(url: str, fragment: Any, wanted: set[str] | None) -> Iterator[tuple[Piece, int, int]]:
    """Runs of consecutive row groups, as a node forms them, with decoded bytes of the columns wanted, and of all."""
    metadata = fragment.metadata
    first, count, rows, whole, nbytes = 0, 0, 0, 0, 0
    leaves = [metadata.schema.column(leaf).path.split(".")[0] for leaf in range(metadata.num_columns)]
    read = [wanted is None or leaf in wanted for leaf in leaves]
    for ordinal, sizes in enumerate(_footer.decoded_bytes(metadata, fragment.physical_schema)):
        group_rows, group_bytes = metadata.row_group(ordinal).num_rows, sum(sizes)
        full = rows + group_rows > _RUN_ROWS or whole + group_bytes > _RUN_BYTES
        if rows and group_rows and full:
            yield Piece(url, first, count, rows), nbytes, whole
            first, count, rows, whole, nbytes = ordinal, 0, 0, 0, 0
        count += 1
        rows += group_rows
        whole += group_bytes
        nbytes += sum(size for size, is_read in zip(sizes, read, strict=True) if is_read)
    if rows:
        yield Piece(url, first, count, rows), nbytes, whole


def read(ticket: Ticket, skip: int = 0) -> Iterator[pa.RecordBatch]:
    """The rows of a ticket behind the first `skip`, in order, with the ticket's schema.

    Raises:
        StalePlanError: an object changed since the plan was made.
        RoostError: the origin refuses, or does not answer.
    """
    for piece in ticket.pieces:
        if skip >= piece.num_rows:
            skip -= piece.num_rows
            continue
        yield from _read_piece(ticket, piece, skip)
        skip = 0


def _read_piece(ticket: Ticket, piece: Piece, skip: int) -> Iterator[pa.RecordBatch]:
    try:
        fragment = _fragment(_origin.stat(piece.url))
    except NotFoundError as error:
        raise StalePlanError(f"{piece.url} is gone since the plan was made: plan again") from error
    metadata = fragment.metadata
    ordinals = range(piece.row_group, piece.row_group + piece.row_groups)
    if ordinals.stop > metadata.num_row_groups:
        raise StalePlanError(f"{piece} is gone since the plan was made: plan again")
    groups = [metadata.row_group(ordinal) for ordinal in ordinals]
    rows = sum(group.num_rows for group in groups)
    if rows != piece.rows:
        raise StalePlanError(f"{piece} has {rows} rows where the plan has {piece.rows}: plan again")
    present = set(fragment.physical_schema.names)
    scanner = fragment.subset(row_group_ids=list(ordinals)).scanner(
        # By field reference: a name with a dot would else be taken for a path.
        columns={name: pc.field(name) for name in ticket.columns if name in present},
        batch_size=_batch_rows(rows, sum(group.total_byte_size for group in groups)),
        batch_readahead=4,
        fragment_readahead=1,
    )
    base = _origin.base_of(ticket.dataset)
    position, end = 0, piece.num_rows
    try:
        for batch in scanner.to_batches():
            length = batch.num_rows
            start, stop = max(skip - position, 0), min(length, end - position)
            position += length
            if start < stop:
                yield _conform(batch.slice(start, stop - start), ticket.schema, base, piece.url)
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, pa.ArrowInvalid):
            raise CorruptDataError(f"{piece}: can't be decoded: {error}") from error
        raise _origin.from_origin(error, piece.url) from error
    if position != rows:
        raise CorruptDataError(f"{piece}: {position} rows came where its footer says {rows}")


def _batch_rows(rows: int, nbytes: int) -> int:
    return max(1, min(1 << 17, rows * _BATCH_BYTES // max(nbytes, 1), rows))


def _conform(batch: pa.RecordBatch, schema: pa.Schema, base: str, url: str) -> pa.RecordBatch:
    """`batch` with the columns and types of the data set's schema."""
    rows = batch.num_rows
    if not schema.names:
        return empty_batch(rows, schema)
    arrays = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        if index >= 0:
            array = batch.column(index)
            if array.type != field.type:
                try:
                    array = array.cast(field.type)
                except pa.ArrowException as error:
                    raise CorruptDataError(f"{url}: column {field.name!r}: {error}") from error
        else:
            partition = _hive.column(base, url, field, rows)
            array = pa.nulls(rows, field.type) if partition is None else partition
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def empty_batch(rows: int, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of no columns but `rows` rows."""
    structs: Any = pa.Array.from_buffers(pa.struct([]), rows, [None])
    batch: pa.RecordBatch = pa.RecordBatch.from_struct_array(structs)
    return batch if not schema.metadata else batch.replace_schema_metadata(schema.metadata)


# Fragments with their footers, by everything that identifies an object.
_fragments: OrderedDict[ObjectMeta, Any] = OrderedDict()
_fragments_lock = threading.Lock()


def _fragment(meta: ObjectMeta) -> Any:
    """An object with its footer, read once while the object stays the same."""
    with _fragments_lock:
        fragment = _fragments.get(meta)
        if fragment is not None:
            _fragments.move_to_end(meta)
            return fragment
    format: Any = ds.ParquetFileFormat()
    filesystem, path = _origin.locate(meta.url)
    try:
        if filesystem is None:
            fragment = format.make_fragment(_origin.open_file(meta))
        else:
            fragment = format.make_fragment(path, filesystem)
        fragment.ensure_complete_metadata()
    except FileNotFoundError as error:
        raise NotFoundError(f"{meta.url}: not found") from error
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, RoostError):
            raise
        if isinstance(error, pa.ArrowInvalid) or "Parquet" in str(error):
            raise CorruptDataError(f"{meta.url}: not a Parquet file: {error}") from error
        raise _origin.from_origin(error, meta.url) from error
    with _fragments_lock:
        _fragments[meta] = fragment
        while len(_fragments) > _FOOTERS_KEPT:
            _fragments.popitem(last=False)
    return fragment
