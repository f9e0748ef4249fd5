"""Files as an HTTP origin, with ranges and conditions.

Its faults are those that real servers have: no ETag, ranges ignored, `If-Match` ignored.
"""

from __future__ import annotations

import email.utils
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from .origin import CHUNK, Answer

RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass
class Directory:
    root: Path
    etags: bool = True
    ranges: bool = True
    conditions: bool = True

    def answer(self, method: str, target: str, headers: Message, body: bytes) -> Answer:
        path = (self.root / urllib.parse.unquote(urllib.parse.urlsplit(target).path).lstrip("/")).resolve()
        if path != self.root.resolve() and self.root.resolve() not in path.parents:
            return text(403, "outside of the directory")
        if method not in ("GET", "HEAD"):
            return text(405, "read only")
        if not path.is_file():
            return text(404, "no such file")
        return self.file(path, method, headers)

    def file(self, path: Path, method: str, headers: Message) -> Answer:
        tag, modified, size = self.identity(path)
        described = [("Last-Modified", modified)]
        if self.etags:
            described.append(("ETag", tag))
        if self.ranges:
            described.append(("Accept-Ranges", "bytes"))
        if self.conditions and self.etags:
            if (wanted := headers.get("if-match")) and wanted not in (tag, "*"):
                return text(412, "changed")
            if headers.get("if-none-match") == tag:
                return Answer(304, described, iter(()), None)
        start, end, status = 0, size, 200
        if self.ranges and (asked := RANGE.match(headers.get("range", ""))):
            first, last = asked.groups()
            start = int(first) if first else max(0, size - int(last))
            end = min(size, int(last) + 1) if first and last else size
            if start >= size:
                return Answer(416, [("Content-Range", f"bytes */{size}")], iter(()), 0)
            described.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
            status = 206
        return Answer(status, described, iter(()) if method == "HEAD" else read(path, start, end), end - start)

    def identity(self, path: Path) -> tuple[str, str, int]:
        stat = path.stat()
        return (
            f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"',
            email.utils.formatdate(stat.st_mtime, usegmt=True),
            stat.st_size,
        )


def read(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end and (chunk := file.read(min(CHUNK, end - start))):
            start += len(chunk)
            yield chunk


def text(status: int, message: str) -> Answer:
    return Answer(status, [("Content-Type", "text/plain")], iter([message.encode()]), len(message))
