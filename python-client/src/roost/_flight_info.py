"""Reads `FlightInfo` from its wire form, because pyarrow 17 does not show the `app_metadata` of plans and endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.flight as flight
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto


def _message_class() -> Any:
    """The part of `arrow.flight.protocol.FlightInfo` that is read here, with the field numbers of Flight's protocol."""
    file = descriptor_pb2.FileDescriptorProto(name="roost/flight_info.proto", package="roost.flight", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, str, bool]) -> None:
        added = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            scalar = {"bytes": _FIELD.TYPE_BYTES, "string": _FIELD.TYPE_STRING}.get(kind, _FIELD.TYPE_MESSAGE)
            added.field.add(
                name=field,
                number=number,
                type=scalar,
                type_name=f".roost.flight.{kind}" if scalar == _FIELD.TYPE_MESSAGE else None,
                label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
            )

    message("Ticket", ("ticket", 1, "bytes", False))
    message("Location", ("uri", 1, "string", False))
    message(
        "FlightEndpoint",
        ("ticket", 1, "Ticket", False),
        ("location", 2, "Location", True),
        ("app_metadata", 4, "bytes", False),
    )
    message("FlightInfo", ("endpoint", 3, "FlightEndpoint", True), ("app_metadata", 7, "bytes", False))
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("roost.flight.FlightInfo"))


_FlightInfo = _message_class()


@dataclass(frozen=True)
class Endpoint:
    """One endpoint of a `FlightInfo`."""

    ticket: bytes
    locations: tuple[str, ...]
    app_metadata: bytes


@dataclass(frozen=True)
class Info:
    """What Roost puts into a `FlightInfo`, next to the schema."""

    endpoints: tuple[Endpoint, ...]
    app_metadata: bytes


def parse(info: flight.FlightInfo) -> Info:
    """Takes `info` apart."""
    message = _FlightInfo.FromString(info.serialize())
    return Info(
        tuple(
            Endpoint(e.ticket.ticket, tuple(location.uri for location in e.location), e.app_metadata)
            for e in message.endpoint
        ),
        message.app_metadata,
    )
