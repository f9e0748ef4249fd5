"""Rows of many batches in another order, copied once into batches of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from roost._direct import empty_batch

if TYPE_CHECKING:
    from roost.order import Index

# Columns are gathered into batches of about so many bytes.
_SLAB_BYTES = 8 << 20

# Typed so by none of pyarrow's stubs: an array of any type.
Array = Any
Gather = Callable[["Index"], Array]


def mixed(
    batches: Sequence[pa.RecordBatch], schema: pa.Schema, order: Index, multiple: int = 1
) -> Iterator[pa.RecordBatch]:
    """The rows of `batches` at the places `order`, in batches whose rows are multiples of `multiple`, but the last."""
    rows = sum(batch.num_rows for batch in batches)
    if not rows or not len(order):
        return
    nbytes = sum(batch.get_total_buffer_size() for batch in batches)
    wanted = max(1, _SLAB_BYTES * rows // max(nbytes, 1))
    slab = max(multiple, wanted // multiple * multiple)
    gathers = [_gather([batch.column(at) for batch in batches]) for at in range(len(schema))]
    del batches
    for start in range(0, len(order), slab):
        places = order[start : start + slab]
        if gathers:
            yield pa.RecordBatch.from_arrays([gather(places) for gather in gathers], schema=schema)
        else:
            yield empty_batch(len(places), schema)


def joined(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """One batch of them all."""
    if len(batches) == 1:
        return batches[0]
    if not len(schema):
        return empty_batch(sum(batch.num_rows for batch in batches), schema)
    columns = [pa.concat_arrays([batch.column(at) for batch in batches]) for at in range(len(schema))]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _gather(chunks: list[Array]) -> Gather:
    if len(chunks) > 1:
        try:
            chunks = [pa.concat_arrays(chunks)]
        except pa.ArrowInvalid:
            # More text than 32-bit offsets reach.
            return _Scattered(chunks)
    whole = chunks[0]
    return lambda places: _take(whole, places)


def _take(array: Array, places: Index) -> Array:
    try:
        return array.take(pa.array(places))
    except pa.ArrowNotImplementedError:
        # Views of text can't be taken, only cut and joined.
        return pa.concat_arrays([array.slice(place, 1) for place in places.tolist()])


class _Scattered:
    """Takes from chunks that can't be one."""

    def __init__(self, chunks: list[Array]) -> None:
        self._chunks = chunks
        self._ends = np.cumsum([len(chunk) for chunk in chunks])

    def __call__(self, places: Index) -> Array:
        numbers = np.searchsorted(self._ends, places, side="right")
        order = np.argsort(numbers, kind="stable")
        parts = []
        for number in np.unique(numbers).tolist():
            chunk = self._chunks[number]
            own = places[order[numbers[order] == number]] - (int(self._ends[number]) - len(chunk))
            parts.append(_take(chunk, own))
        return _take(pa.concat_arrays(parts), np.argsort(order, kind="stable"))
