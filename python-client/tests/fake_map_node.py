"""A node's unix socket for tests: hands over open files as it is told to, and misbehaves when told to."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fake_node import BATCH_ROWS, FakeNode

import roost
from roost import _wire
from roost.plan import PackedSchema, Piece, Ticket

HELLO = b"ROOSTMAP"


def ipc_file(path: Path, table: pa.Table, batch_rows: int | None = None, **options: Any) -> Path:
    """Writes an Arrow IPC file."""
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return path


def constant(value: pa.Array) -> Any:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([value], names=["value"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return _wire.MappedColumn(constant=sink.getvalue().to_pybytes())


def null() -> Any:
    return _wire.MappedColumn(null=True)


def stored(file: int, column: int) -> Any:
    return _wire.MappedColumn(file=_wire.FileColumn(file=file, column=column))


@dataclass
class MapPiece:
    """What is handed over; `raw` replaces the frame's bytes."""

    batches: int
    rows: int
    columns: Sequence[Any]
    files: Sequence[Path] = ()
    rows_cut: int = 0
    number: int | None = None
    raw: bytes | None = None
    announced: int | None = None


@dataclass
class Answer:
    """The answer to a ticket. A piece may be an error, or an exception of which the connection dies."""

    schema: pa.Schema
    pieces: Sequence[MapPiece | Exception | Any]
    header: Any = None


@dataclass
class Seen:
    """What a connection brought."""

    request: Any
    credits_at_first: int = 0
    sent: int = 0
    ended: threading.Event = field(default_factory=threading.Event)


class FakeMapNode:
    """Listens at `path`. `answer` says what a ticket gets; `seen` has an item for each connection that asked."""

    def __init__(self, answer: Callable[[Any], Answer | Any]) -> None:
        self.answer = answer
        self.seen: queue.Queue[Seen] = queue.Queue()
        self.strangers = 0
        self._directory = tempfile.TemporaryDirectory(prefix="roost-map-")
        self.path = Path(self._directory.name) / "roost.sock"
        self.address = f"grpc+unix://{self.path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeMapNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._directory.cleanup()

    def stop(self) -> None:
        """Nobody listens any more, but the file stays, as after a kill."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def next(self) -> Seen:
        return self.seen.get(timeout=30)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            if _exactly(connection, 8) != HELLO:
                self.strangers += 1
                return
            request = _wire.MapRequest.FromString(_exactly(connection, struct.unpack("<I", _exactly(connection, 4))[0]))
            seen = Seen(request)
            self.seen.put(seen)
            try:
                self._answer(connection, seen)
                while connection.recv(4096):
                    pass
            finally:
                seen.ended.set()

    def _answer(self, connection: socket.socket, seen: Seen) -> None:
        answer = self.answer(_wire.SignedTicket.FromString(seen.request.ticket))
        if isinstance(answer, _wire.MapError):
            connection.sendall(_frame(_wire.MapReply(error=answer)))
            return
        schema = answer.schema.serialize().to_pybytes()
        header = answer.header or _wire.MapHeader(schema=schema, pieces=len(answer.pieces))
        seen.credits_at_first = len(connection.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT)) if answer.pieces else 0
        connection.sendall(_frame(_wire.MapReply(header=header)))
        for number, piece in enumerate(answer.pieces):
            _exactly(connection, 1)
            if isinstance(piece, Exception):
                raise ConnectionError from piece
            if isinstance(piece, _wire.MapError):
                connection.sendall(_frame(_wire.MapReply(error=piece)))
                return
            _send(connection, number, piece)
            seen.sent += 1


def _send(connection: socket.socket, number: int, piece: MapPiece) -> None:
    message = _wire.MappedPiece(
        piece=number if piece.number is None else piece.number,
        batches=piece.batches,
        rows=piece.rows,
        rows_cut=piece.rows_cut,
        files=len(piece.files) if piece.announced is None else piece.announced,
        columns=piece.columns,
    )
    frame = piece.raw if piece.raw is not None else _frame(_wire.MapReply(piece=message))
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb")).fileno() for path in piece.files]
        # The first byte alone, as a node with a full socket would.
        socket.send_fds(connection, [frame[:1]], files) if files else connection.sendall(frame[:1])
        connection.sendall(frame[1:])


def _frame(reply: Any) -> bytes:
    body: bytes = reply.SerializeToString()
    return struct.pack("<I", len(body)) + body


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def open_files() -> list[str]:
    """What this process has open."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


def whole_file(path: Path, **changes: Any) -> MapPiece:
    """A piece of all columns of a file, in order."""
    reader = pa.ipc.open_file(path)
    batches = reader.num_record_batches
    rows = sum(reader.get_batch(i).num_rows for i in range(batches))
    columns = [stored(0, i) for i in range(len(reader.schema))]
    piece = MapPiece(batches, rows, columns, [path])
    for name, value in changes.items():
        setattr(piece, name, value)
    return piece


URL = "file:///data/x.parquet"


class Host:
    """A map node with one answer, and a client that has nothing else to read from."""

    def __init__(self) -> None:
        self.answers: Answer | Any = None
        self.node = FakeMapNode(lambda signed: self.answers)
        self.client = roost.connect("grpc://127.0.0.1:1", fallback=False)

    def ticket(self, schema: pa.Schema, *pieces: MapPiece) -> Ticket:
        """The ticket that is answered with these pieces from now on."""
        self.answers = Answer(schema, pieces)
        planned = tuple(Piece(URL, number, 1, p.rows, p.rows_cut) for number, p in enumerate(pieces))
        rows = sum(piece.num_rows for piece in planned)
        signed = _wire.SignedTicket(payload=b"p").SerializeToString()
        return Ticket(signed, URL, planned, rows, 1, (self.node.address,), PackedSchema(schema))

    def read(self, schema: pa.Schema, *pieces: MapPiece) -> pa.Table:
        table = self.client.read(self.ticket(schema, *pieces))
        # Each test's own comparison comes behind this one.
        table.validate(full=True)
        assert table.schema.equals(schema, check_metadata=True), f"{table.schema}\n!=\n{schema}"
        for batch in table.to_batches():
            assert batch.schema.equals(schema, check_metadata=True)
            # Its types say more than a comparison of schemas finds.
            assert [str(column.type) for column in batch.columns] == [str(type) for type in schema.types]
        return table


class Served:
    """A Flight node, and on the same host a map node that serves the same tickets."""

    def __init__(self, flight: FakeNode, directory: Path) -> None:
        self.flight = flight
        self.directory = directory
        #: Changes a ticket's answer: called with its number.
        self.change: Callable[[int, Answer], Answer | Any] = lambda number, answer: answer
        self.maps = FakeMapNode(self._answer)
        flight.locations = [flight.address, self.maps.address]

    def _answer(self, signed: Any) -> Answer | Any:
        payload = _wire.TicketPayload.FromString(signed.payload)
        number = int(payload.pieces[0].suffix)
        path, ordinal, _ = self.flight._row_groups()[number]
        table = pq.ParquetFile(path).read_row_group(ordinal).select(list(payload.columns.names))
        file = ipc_file(self.directory / f"{number}.arrow", table, BATCH_ROWS)
        schema = pa.schema(list(table.schema), metadata=pq.read_schema(path).metadata)
        answer = Answer(schema, [whole_file(file, rows_cut=payload.pieces[0].rows_cut)])
        return self.change(number, answer)
