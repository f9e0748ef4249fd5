"""A file object over HTTP range requests, with nothing but the standard library."""

from __future__ import annotations

import email.utils
import io
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

from roost.errors import NotFoundError, PermissionDeniedError, StalePlanError, UnavailableError, UnsupportedError

_ATTEMPTS = 4
_TIMEOUT_SECONDS = 60.0
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class HttpObject:
    """What a server says of an object."""

    url: str
    size: int
    #: Seconds since 1970; None where the server does not say.
    modified: float | None
    etag: str | None


def head(url: str) -> HttpObject:
    """Asks for an object's size and identity, by reading its first byte: not every server answers HEAD rightly.

    Raises:
        NotFoundError: there is none.
        UnsupportedError: the server cannot read ranges.
    """
    try:
        response, _ = _get(url, 0, 1)
    except _Empty:
        return HttpObject(url, 0, None, None)
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        raise UnsupportedError(f"{url}: the server does not say how long the object is (no Content-Range)")
    modified = response.headers.get("Last-Modified")
    parsed = email.utils.parsedate_to_datetime(modified).timestamp() if modified else None
    return HttpObject(url, int(match[3]), parsed, response.headers.get("ETag"))


class HttpFile(io.RawIOBase):
    """An object as a seekable file. A read is one range request; an object that changes meanwhile is an error."""

    def __init__(self, found: HttpObject) -> None:
        self._object = found
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to an offset, as files do."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._object.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """The offset of the next read."""
        return self._position

    def size(self) -> int:
        """Bytes of the object."""
        return self._object.size

    def read(self, size: int | None = -1) -> bytes:
        """Reads up to `size` bytes; fewer only at the end."""
        left = max(0, self._object.size - self._position)
        size = left if size is None or size < 0 else min(size, left)
        if size == 0:
            return b""
        response, body = _get(self._object.url, self._position, size)
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        etag = response.headers.get("ETag")
        if (match and int(match[3]) != self._object.size) or (self._object.etag and etag and etag != self._object.etag):
            raise StalePlanError(f"{self._object.url} changed while it was read: plan again")
        self._position += size
        return body

    def readall(self) -> bytes:
        """Reads to the end."""
        return self.read()


class _Empty(Exception):
    """The object has no byte at the offset asked for."""


def _get(url: str, offset: int, size: int) -> tuple[HTTPResponse, bytes]:
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-{offset + size - 1}"})
    attempt = 0
    while True:
        attempt += 1
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
                if response.status != 206:
                    raise UnsupportedError(
                        f"{url}: the server answers {response.status} to a range request; Parquet needs ranges (206)"
                    )
                body = response.read(size + 1)
            if len(body) == size:
                return response, body
            error: Exception = EOFError(f"{len(body)} bytes came where {size} were asked for")
        except urllib.error.HTTPError as http:
            if http.code == 404:
                raise NotFoundError(f"{url}: not found") from http
            if http.code in (401, 403):
                raise PermissionDeniedError(f"{url}: the server refuses access ({http.code} {http.reason})") from http
            if http.code == 416:
                raise _Empty from http
            if http.code < 500 and http.code != 429:
                raise UnavailableError(f"{url}: the server answers {http.code} {http.reason}") from http
            error = http
        except (OSError, HTTPException) as broken:
            error = broken
        if attempt == _ATTEMPTS:
            raise UnavailableError(f"{url}: bytes {offset}+{size} could not be read: {error}") from error
        time.sleep(0.1 * 4 ** (attempt - 1))
