"""Reads one ticket as record batches, over streams that may break: no row twice, none lost, none left out silently."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.flight as flight
from google.protobuf.message import DecodeError

from roost import _direct, _wire
from roost._nodes import Nodes, in_use, local_sockets
from roost.errors import CancelledError, InternalError, RoostError, StalePlanError, UnavailableError, from_flight
from roost.plan import Ticket

# Breaks in a row, without a batch between them, before the nodes are taken for unable to serve the ticket.
_BREAKS_MAX = 4


_log = logging.getLogger("roost")


class Ways:
    """Counts by which ways tickets came; several threads may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter(mapped=0, streamed=0, direct=0)

    def count(self, way: str) -> None:
        """A ticket comes this way."""
        with self._lock:
            self._counts[way] += 1

    def counts(self) -> dict[str, int]:
        """How many came by each way."""
        with self._lock:
            return dict(self._counts)


@dataclass
class _Progress:
    """How much of the ticket has been given out."""

    rows: int = 0
    #: Where the last batch lies: piece, batch, row group. None before the first one.
    position: tuple[int, int, int] | None = None


class _BrokenError(Exception):
    """The stream ended before the ticket did."""

    def __init__(self, cause: RoostError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def read(ticket: Ticket, nodes: Nodes, *, fallback: bool, maps: bool, ways: Ways) -> Iterator[pa.RecordBatch]:
    """The ticket's rows: mapped where the node is on this host and `maps` allows it, else streamed from the nodes; from
    the origin where no node answers and `fallback` allows it.

    Raises:
        StalePlanError: an object changed since the plan was made.
        UnavailableError: no node answers, and `fallback` is off.
        RoostError: a node's answer.
    """
    if not ticket.signed:
        ways.count("direct")
        yield from _direct.read(ticket)
        return
    progress = _Progress()
    if maps and sys.platform == "linux":
        whole = yield from _mapped(ticket, nodes, progress, ways)
        if whole:
            return
    breaks = 0
    broken_at: str | None = None
    while True:
        rows_before = progress.rows
        try:
            with in_use():
                reader, address = _open(ticket, nodes, progress, broken_at)
                if broken_at is None:
                    ways.count("streamed")
                try:
                    yield from _batches(reader, ticket, progress)
                    return
                finally:
                    # Ends the call where the consumer left early; a call that has ended is not touched.
                    reader.cancel()
                    del reader
        except _BrokenError as broken:
            broken_at = address
            breaks = 1 if progress.rows > rows_before else breaks + 1
            if breaks < _BREAKS_MAX:
                continue
            if not (fallback and isinstance(broken.cause, UnavailableError)):
                raise broken.cause from broken
            reason = str(broken.cause)
        except UnavailableError as error:
            if not fallback:
                raise
            reason = str(error)
        _direct.warn_once(reason)
        ways.count("direct")
        yield from _direct.read(ticket, skip=progress.rows)
        return


def _mapped(ticket: Ticket, nodes: Nodes, progress: _Progress, ways: Ways) -> Generator[pa.RecordBatch, None, bool]:
    """As much of the ticket as a node on this host hands over; whether that is all."""
    # The ticket's locations are ranked; where it has none, any node is as good.
    for path in local_sockets(ticket.locations or nodes.addresses):
        from roost import _map

        if _map.is_left_alone(path):
            continue
        try:
            for piece, number, batch in _map.read(ticket, path):
                if progress.position is None:
                    ways.count("mapped")
                progress.position = piece, number, ticket.pieces[piece].row_group
                progress.rows += batch.num_rows
                yield batch
        except _map.Unmapped as reason:
            _log.debug("%s is not mapped through %s from row %d on: %s", ticket, path, progress.rows, reason)
            return False
        if progress.position is None:
            ways.count("mapped")
        return progress.rows == ticket.num_rows
    return False


def _open(
    ticket: Ticket, nodes: Nodes, progress: _Progress, broken_at: str | None
) -> tuple[flight.FlightStreamReader, str]:
    order = flight.Ticket(_resumed(ticket, progress))
    return nodes.ask(
        lambda client: client.do_get(order),
        f"reading {ticket}",
        prefer=ticket.locations,
        avoid=broken_at,
        skip_down=True,
    )


def _resumed(ticket: Ticket, progress: _Progress) -> bytes:
    """What a node is shown, so that it starts behind what was given out."""
    if progress.position is None:
        return ticket.signed
    message = _wire.SignedTicket.FromString(ticket.signed)
    piece, batch, row_group = progress.position
    message.after.CopyFrom(_wire.BatchPosition(piece=piece, batch=batch, row_group=row_group))
    return message.SerializeToString()


def _batches(reader: flight.FlightStreamReader, ticket: Ticket, progress: _Progress) -> Iterator[pa.RecordBatch]:
    doing = f"reading {ticket}"
    if not reader.schema.equals(ticket.schema):
        raise StalePlanError(f"{doing}: the node serves another schema than was planned: plan again")
    last: tuple[int, int, int] | None = None
    while True:
        try:
            chunk = reader.read_chunk()
        except StopIteration:
            break
        except (pa.ArrowException, OSError) as error:
            failure = from_flight(error, doing)
            if failure.retryable or isinstance(failure, CancelledError):
                raise _BrokenError(failure) from error
            raise failure from error
        batch = chunk.data
        if batch is None:
            continue
        position = _position(chunk.app_metadata, doing)
        if last is not None and position[:2] <= last[:2]:
            raise InternalError(f"{doing}: batch {position} came after {last}; the order of the rows is not known")
        last = position
        if progress.position is not None and position[:2] <= progress.position[:2]:
            # The node started at the beginning again: this was given out.
            continue
        progress.position = position
        if batch.num_rows:
            progress.rows += batch.num_rows
            if progress.rows > ticket.num_rows:
                raise InternalError(f"{doing}: {progress.rows} rows came where the ticket has {ticket.num_rows}")
            yield _stamped(batch, ticket.schema)
    if progress.rows != ticket.num_rows:
        raise _BrokenError(
            InternalError(f"{doing}: the stream ended after {progress.rows} of {ticket.num_rows} rows without an error")
        )


def _position(metadata: pa.Buffer | None, doing: str) -> tuple[int, int, int]:
    try:
        # The very first batch of an object has only zeros in its position, which protobuf writes as nothing.
        position = _wire.BatchPosition.FromString(b"" if metadata is None else metadata.to_pybytes())
    except DecodeError as error:
        raise InternalError(f"{doing}: a batch's position cannot be understood: {error}") from error
    return position.piece, position.batch, position.row_group


def _stamped(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`batch` with the schema's own metadata, which Flight may leave out."""
    if batch.schema.metadata == schema.metadata:
        return batch
    return batch.replace_schema_metadata(schema.metadata)
