"""Record batches as what training code takes: numpy arrays, and plain values where there is no array for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from roost.errors import InvalidRequestError


def columns(batch: pa.RecordBatch) -> dict[str, Any]:
    """Each column as `values` gives it."""
    return {name: values(name, batch.column(at)) for at, name in enumerate(batch.schema.names)}


def values(name: str, array: Any) -> Any:
    """A column as it is best handed on.

    Returns:
        Numbers, booleans and times (as int64 in their unit): an array that is the caller's own. Lists of a fixed size
        of
        these, and tensors: an array of more dimensions. Lists of any length: a list of arrays. All else (text, bytes,
        structs, ...): a list of Python values.

    Raises:
        InvalidRequestError: a null where an array has no place for it; of floating point it becomes NaN.
    """
    if isinstance(array.type, pa.FixedShapeTensorType) and not array.null_count:
        return np.array(array.to_numpy_ndarray())
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        return values(name, array.dictionary_decode())
    if _is_number(kind):
        return _numbers(name, array)
    if pa.types.is_fixed_size_list(kind) and (
        _is_number(kind.value_type) or pa.types.is_fixed_size_list(kind.value_type)
    ):
        if array.null_count:
            raise _null(name, array)
        inner = values(name, array.flatten())
        return inner.reshape(len(array), kind.list_size, *inner.shape[1:])
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_number(kind.value_type):
        if array.null_count:
            raise _null(name, array)
        inner = values(name, array.flatten())
        ends = np.cumsum(np.asarray(array.value_lengths()))
        return np.split(inner, ends[:-1]) if len(array) else []
    return array.to_pylist()


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_temporal(kind)
    ) and not types.is_interval(kind)


def _numbers(name: str, array: Any) -> Any:
    kind = array.type
    if array.null_count and not pa.types.is_floating(kind):
        raise _null(name, array)
    if pa.types.is_temporal(kind):
        array = array.view(pa.int64() if kind.bit_width == 64 else pa.int32())
    # A copy: what is mapped from the cache is nobody's to write to.
    return np.array(array.to_numpy(zero_copy_only=False))


def _null(name: str, array: Any) -> InvalidRequestError:
    return InvalidRequestError(
        f"column {name!r} has nulls, for which arrays of {array.type} have no value: read it with format='arrow', or"
        " write the data without them"
    )
