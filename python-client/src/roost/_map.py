"""Reads a ticket on the node's own host: the node hands over open files through its unix socket, and they are mapped.

Speaks the protocol that `roost.proto` describes under "Maps". Whatever goes wrong here is no error of the read: it ends
in `Unmapped`, and the caller goes on over Flight behind the last batch that was given out.
"""

from __future__ import annotations

import array
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa
from google.protobuf.message import DecodeError

from roost import _wire
from roost._ipc_layout import LayoutError
from roost._map_batches import Assembly, Column, Constant, Null, Places, Stored
from roost._map_file import MappedFile, live_maps
from roost.plan import Ticket

_HELLO = b"ROOSTMAP"
_CREDIT = b"\x00"
# Pieces that are asked for ahead, so that the node prepares one while another is read.
_AHEAD = 2
_CONNECT_SECONDS = 2
# A piece may have to be fetched first. Whether a node that says nothing for so long still lives, Flight finds out.
_ANSWER_SECONDS = 60
# So long nobody tries a socket again that did not work.
_LEFT_ALONE_SECONDS = 5.0
_FRAME_MAX = 64 << 20
# What Linux passes in one message.
_FILES_MAX = 253
# The kernel allows a process 65,530 by default.
_MAPS_MAX = 30_000

_left_alone: dict[str, float] = {}
# Those open. A set changes in one step; a count would need a lock, which no `__del__` may take.
_connected: set[int] = set()


class Unmapped(Exception):
    """The ticket, or what is left of it, is to be read over Flight."""


class _BrokenSocketError(Unmapped):
    """The socket is not to be tried again soon."""


def is_left_alone(path: str) -> bool:
    """Whether the socket did not work a moment ago."""
    return _left_alone.get(path, 0.0) > time.monotonic()


def read(ticket: Ticket, path: str) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """The ticket's batches over maps: each with its piece and its number there, as Flight counts them.

    Args:
        ticket: a signed one.
        path: the node's socket.

    Raises:
        Unmapped: it goes no further here; what came before stays good.
    """
    try:
        yield from _read(ticket, path)
    except _BrokenSocketError:
        _left_alone[path] = time.monotonic() + _LEFT_ALONE_SECONDS
        raise
    except (OSError, LayoutError, LookupError, pa.ArrowException) as error:
        # A file that can't be read. Over Flight the node sees that for itself, and fetches it again.
        raise Unmapped(str(error)) from error


def _read(ticket: Ticket, path: str) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    connection = _connect(path)
    pieces = len(ticket.pieces)
    request = _wire.MapRequest(ticket=ticket.signed).SerializeToString()
    asked = min(_AHEAD, pieces)
    connection.send(b"".join((_HELLO, struct.pack("<I", len(request)), request, _CREDIT * asked)))
    header = connection.header()
    if (header.pieces, header.first) != (pieces, 0):
        raise _BrokenSocketError("the node speaks of other pieces than the ticket has")
    if not _schema(header.schema).equals(ticket.schema):
        raise Unmapped("the node serves another schema than was planned")
    assembly = Assembly(ticket.packed_schema)
    for number, planned in enumerate(ticket.pieces):
        piece, descriptors = connection.piece()
        try:
            if (piece.piece, piece.rows - piece.rows_cut) != (number, planned.num_rows):
                raise _BrokenSocketError(f"another piece came than {planned}")
            batches = piece.batches
            places = _places(piece)
            files = [
                MappedFile(file, wanted, connection) for file, wanted in zip(descriptors, places.wanted, strict=True)
            ]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if asked < pieces:
            connection.send(_CREDIT)
            asked += 1
        for index, batch in assembly.batches(places, files, batches, planned.num_rows):
            yield number, index, batch


@lru_cache(maxsize=16)
def _schema(message: bytes) -> pa.Schema:
    """A schema from its message, which is the same for all the tickets of a plan."""
    return pa.ipc.read_schema(pa.py_buffer(message))


def _places(piece: _wire.MappedPiece) -> Places:
    """Where the columns of a piece are; all else is taken out of the message."""
    # Thousands of pieces have the same few answers, and wide ones take long to take apart.
    for field in ("piece", "batches", "rows", "rows_cut"):
        piece.ClearField(field)
    return _places_of(piece.SerializeToString())


@lru_cache(maxsize=64)
def _places_of(serialized: bytes) -> Places:
    piece = _wire.MappedPiece.FromString(serialized)
    columns: list[Column] = []
    for column in piece.columns:
        kind = column.WhichOneof("values")
        if kind == "file":
            columns.append(Stored(column.file.file, column.file.column))
        elif kind == "constant":
            columns.append(Constant(column.constant))
        elif kind == "null":
            columns.append(Null())
        else:
            raise LookupError("a column lies where this version does not know to look")
    return Places.of(serialized, columns, piece.files)


def _connect(path: str) -> _Connection:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Who keeps many tables keeps their connections; descriptors are left for others.
    if (soft != resource.RLIM_INFINITY and len(_connected) >= soft // 2) or live_maps() >= _MAPS_MAX:
        raise Unmapped(f"tables hold {len(_connected)} connections and {live_maps()} maps, as many as is safe")
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Unlike Python's own timeout, this waits where more connect at a time than the node accepts.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", _CONNECT_SECONDS, 0))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _ANSWER_SECONDS, 0))
        opened.connect(path)
    except OSError as error:
        opened.close()
        raise _BrokenSocketError(f"{path} takes no connection: {error}") from error
    return _Connection(opened)


class _Connection:
    """A connection to the node's socket. It closes when nobody holds it, and maps do."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        _connected.add(id(self))

    def __del__(self) -> None:
        _connected.discard(id(self))
        self._socket.close()

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise _BrokenSocketError(f"the node let go: {error}") from error

    def header(self) -> _wire.MapHeader:
        """What the node says first."""
        reply, descriptors = self._receive()
        try:
            if reply.WhichOneof("reply") != "header":
                raise _BrokenSocketError(f"a {reply.WhichOneof('reply')} came where a header was due")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return reply.header

    def piece(self) -> tuple[_wire.MappedPiece, list[int]]:
        """The next piece, and its files, which are the caller's to close."""
        reply, descriptors = self._receive()
        kind = reply.WhichOneof("reply")
        if kind != "piece" or len(descriptors) != reply.piece.files:
            for descriptor in descriptors:
                os.close(descriptor)
            raise _BrokenSocketError(f"a {kind} with {len(descriptors)} files came where a piece was due")
        return reply.piece, descriptors

    def _receive(self) -> tuple[_wire.MapReply, list[int]]:
        descriptors: list[int] = []
        try:
            reply = _wire.MapReply.FromString(self._frame(descriptors))
            if reply.WhichOneof("reply") == "error":
                raise Unmapped(f"{reply.error.message} (code {reply.error.code})")
        except BaseException as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise Unmapped(f"no answer for {_ANSWER_SECONDS} seconds") from error
            if isinstance(error, (OSError, DecodeError)):
                raise _BrokenSocketError(f"the answer broke off: {error}") from error
            raise
        return reply, descriptors

    def _frame(self, descriptors: list[int]) -> bytes:
        """The next frame. Descriptors come with a frame's first byte, so no byte of the one behind it is read here."""
        head = b""
        while len(head) < 4:
            data, ancillary, flags, _ = self._socket.recvmsg(
                4 - len(head), socket.CMSG_SPACE(4 * _FILES_MAX), socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.extend(array.array("i", content[: len(content) - len(content) % 4]))
            if flags & socket.MSG_CTRUNC:
                raise OSError("the process may not open as many files as were handed over")
            if not data:
                raise ConnectionError("the node closed the connection")
            head += data
        (length,) = struct.unpack("<I", head)
        if length > _FRAME_MAX:
            raise ConnectionError(f"a frame of {length} bytes was announced")
        body = bytearray(length)
        view = memoryview(body)
        while view:
            received = self._socket.recv_into(view)
            if received == 0:
                raise ConnectionError("the node closed the connection within a frame")
            view = view[received:]
        return bytes(body)
