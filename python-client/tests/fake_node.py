"""A node for tests: speaks the protocol over one Parquet data set, and misbehaves when told to.

It plans on its own (one ticket a row group, several batches a ticket) and shares no code with the client's planner.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
from google.protobuf.any_pb2 import Any as ProtoAny

from roost import _wire
from roost._flight_info import _FlightInfo

BATCH_ROWS = 7


class FakeNode(flight.FlightServerBase):
    """Serves `objects`, Parquet files in the order of the plan.

    Fields that tests set:
        page: most tickets in one answer.
        before_batch: called with (ticket's number, batch's number) before each batch is sent; raises to break there.
        before_plan: called with each PlanRequest; raises to refuse.
        tell_positions: whether batches carry their position.
    """

    def __init__(self, objects: list[Path], location: str = "grpc://127.0.0.1:0") -> None:
        super().__init__(location)
        self.objects = objects
        self.page = 10_000
        self.before_batch: Callable[[int, int], None] = lambda ticket, batch: None
        self.before_plan: Callable[[Any], None] = lambda request: None
        self.before_get: Callable[[int], None] = lambda ticket: None
        self.tell_positions = True
        self.locations: list[str] = []
        self.drop_last_batch = False
        self.fingerprint_salt = b""
        self.requests: list[Any] = []
        self.gets: list[Any] = []
        self.actions: dict[str, Callable[[bytes], Iterator[bytes]]] = {}
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"grpc+tcp://127.0.0.1:{self.port}"

    # --- planning -----------------------------------------------------------------------------------------------------

    def _row_groups(self) -> list[tuple[Path, int, int]]:
        found = []
        for path in self.objects:
            metadata = pq.read_metadata(path)
            found += [(path, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
        return found

    def _schema(self, request: Any) -> pa.Schema:
        schema = pq.read_schema(self.objects[0])
        if not request.HasField("columns"):
            return schema
        return pa.schema([schema.field(name) for name in request.columns.names], metadata=schema.metadata)

    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        packed = ProtoAny.FromString(descriptor.command)
        assert packed.type_url == "type.googleapis.com/roost.v1.PlanRequest"
        request = _wire.PlanRequest.FromString(packed.value)
        with self.lock:
            self.requests.append(request)
        self.before_plan(request)
        schema = self._schema(request)
        left = request.limit if request.HasField("limit") else None
        tickets = []
        for number, (path, ordinal, rows) in enumerate(self._row_groups()):
            kept = rows if left is None else min(rows, left)
            if kept == 0:
                continue
            left = None if left is None else left - kept
            payload = _wire.TicketPayload(
                dataset=request.url,
                pieces=[
                    _wire.TicketPiece(
                        suffix=str(number), row_group=ordinal, row_groups=1, rows=rows, rows_cut=rows - kept
                    )
                ],
                columns=_wire.Projection(names=schema.names),
            )
            signed = _wire.SignedTicket(key_id=1, mac=b"m" * 16, payload=payload.SerializeToString())
            piece = _wire.Piece(url=path.as_uri(), row_group=ordinal, row_groups=1, rows=rows, rows_cut=rows - kept)
            info = _wire.EndpointInfo(rows=kept, bytes=kept * 10, pieces=[piece])
            tickets.append((signed.SerializeToString(), info))
        start = getattr(request, "from")
        page = tickets[start : start + self.page]
        fingerprint = hashlib.sha256(
            request.url.encode() + repr(schema.names).encode() + self.fingerprint_salt
        ).digest()
        plan = _wire.PlanInfo(
            fingerprint=fingerprint,
            rows=sum(info.rows for _, info in tickets),
            bytes=sum(info.bytes for _, info in tickets),
            tickets=len(tickets),
            job=request.job or "made-up",
            url=request.url,
        )
        if start + len(page) < len(tickets):
            plan.next = start + len(page)
        return self._flight_info(schema, descriptor, page, plan)

    def _flight_info(
        self, schema: pa.Schema, descriptor: flight.FlightDescriptor, page: list[Any], plan: Any
    ) -> flight.FlightInfo:
        # pyarrow 17 cannot set `app_metadata`; the message's other fields pass through as unknown ones.
        message = _FlightInfo.FromString(flight.FlightInfo(schema, descriptor, [], -1, -1).serialize())
        for signed, info in page:
            endpoint = message.endpoint.add()
            endpoint.ticket.ticket = signed
            endpoint.app_metadata = info.SerializeToString()
            for location in self.locations:
                endpoint.location.add().uri = location
        message.app_metadata = plan.SerializeToString()
        return flight.FlightInfo.deserialize(message.SerializeToString())

    # --- reading ------------------------------------------------------------------------------------------------------

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.GeneratorStream:
        signed = _wire.SignedTicket.FromString(ticket.ticket)
        with self.lock:
            self.gets.append(signed)
        payload = _wire.TicketPayload.FromString(signed.payload)
        (piece,) = payload.pieces
        number = int(piece.suffix)
        self.before_get(number)
        path, ordinal, _ = self._row_groups()[number]
        names = list(payload.columns.names)
        table = pq.ParquetFile(path).read_row_group(ordinal)
        table = table.slice(0, piece.rows - piece.rows_cut)
        first = signed.after.batch + 1 if signed.HasField("after") else 0

        def batches() -> Iterator[Any]:
            starts = list(range(0, table.num_rows, BATCH_ROWS))
            if self.drop_last_batch:
                starts.pop()
            for index, start in enumerate(starts):
                if index < first:
                    continue
                self.before_batch(number, index)
                rows = table.slice(start, BATCH_ROWS)
                if names:
                    batch = rows.select(names).combine_chunks().to_batches()[0]
                else:
                    batch = pa.RecordBatch.from_struct_array(pa.Array.from_buffers(pa.struct([]), len(rows), [None]))
                    batch = batch.replace_schema_metadata(table.schema.metadata)
                position = _wire.BatchPosition(piece=0, batch=index, row_group=ordinal)
                yield (batch, position.SerializeToString()) if self.tell_positions else batch

        schema = pa.schema([table.schema.field(name) for name in names], metadata=table.schema.metadata)
        return flight.GeneratorStream(schema, batches())

    # --- actions ------------------------------------------------------------------------------------------------------

    def do_action(self, context: Any, action: flight.Action) -> Iterator[bytes]:
        return self.actions[action.type](action.body.to_pybytes())

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[flight.FlightInfo]:
        held = _wire.CachedDataset(url="s3://b/t/", objects=2, row_groups=3, fragments=4, bytes=5, pinned=True)
        yield self._flight_info(pa.schema([]), flight.FlightDescriptor.for_path("s3://b/t/"), [], held)
