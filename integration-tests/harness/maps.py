"""The map protocol of `roost.proto`, spoken from its definition alone."""

from __future__ import annotations

import array
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa

from .messages import pb

MAGIC = b"ROOSTMAP"


def connect(path: Path | str, timeout: float = 30) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX)
    opened.settimeout(timeout)
    opened.connect(str(path))
    return opened


def request(ticket: bytes) -> bytes:
    message = pb.MapRequest(ticket=ticket).SerializeToString()
    return MAGIC + struct.pack("<I", len(message)) + message


class MapCall:
    """One ticket, to be mapped. Close it, or let it go."""

    def __init__(self, path: Path | str, ticket: bytes, credits: int = 0) -> None:
        self.socket = connect(path)
        self.socket.sendall(request(ticket) + bytes(credits))

    def __enter__(self) -> MapCall:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def ask(self, count: int = 1) -> None:
        self.socket.sendall(bytes(count))

    def reply(self) -> tuple[Any, list[int]]:
        """The next message, and the descriptors that came with it."""
        files: list[int] = []
        head = b""
        while len(head) < 4:
            part, ancillary, _, _ = self.socket.recvmsg(4 - len(head), socket.CMSG_SPACE(4 * 253))
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    files.extend(array.array("i", content[: len(content) - len(content) % 4]))
            if not part:
                raise ConnectionError("the node closed the connection")
            head += part
        (length,) = struct.unpack("<I", head)
        body = b""
        while len(body) < length:
            part = self.socket.recv(length - len(body))
            if not part:
                raise ConnectionError("the node closed the connection")
            body += part
        return pb.MapReply.FromString(body), files


def read_files(files: list[int]) -> list[pa.Table]:
    """Reads whole files by their descriptors, and closes those."""
    tables = []
    for file in files:
        with os.fdopen(file, "rb") as opened:
            tables.append(pa.ipc.open_file(pa.py_buffer(opened.read())).read_all())
    return tables
