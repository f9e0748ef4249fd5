"""The one message of Roost's protocol that the benchmarks need: a PlanRequest for some columns, as a Flight command.

Written by hand (two fields), so that the peers' environment needs no protobuf and no package of Roost's.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow.flight as flight

_TYPE = b"type.googleapis.com/roost.v1.PlanRequest"


def descriptor(url: str, columns: Sequence[str] | None = None) -> flight.FlightDescriptor:
    """What to ask GetFlightInfo for: all columns, by path, or `columns`, by PlanRequest."""
    if columns is None:
        return flight.FlightDescriptor.for_path(url)
    projection = b"".join(_field(1, name.encode()) for name in columns)
    request = _field(1, url.encode()) + _field(2, projection)
    return flight.FlightDescriptor.for_command(_field(1, _TYPE) + _field(2, request))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
