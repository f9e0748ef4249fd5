"""Where data sets lie, for clients that read without a node: URL → file system, and the objects of a data set."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as fs

from roost import _http_file
from roost.errors import (
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RoostError,
    UnavailableError,
    UnsupportedError,
)

_GLOB = re.compile(r"[*?\[]")
# The parts of a glob. `**` is more than `*` only as a whole segment; a `]` that comes first in a class is a member.
_GLOB_PART = re.compile(
    r"(?P<dirs>(?:^|(?<=/))\*\*/)|(?P<all>(?:^|(?<=/))\*\*$)|(?P<star>\*+)|(?P<one>\?)"
    r"|\[(?P<not>[!^]?)(?P<members>\]?[^\]]*)\]|(?P<text>[^*?\[]+|\[)"
)
# Characters that stand for themselves in the path of a canonical URL, besides letters, digits and `-_.~`.
_PLAIN = "/!$&'()+,;=:@"


@dataclass(frozen=True)
class ObjectMeta:
    """One object of a data set."""

    url: str
    #: Where the file system has it.
    path: str
    size: int
    #: Nanoseconds since 1970; None where the origin does not say.
    modified_ns: int | None


@dataclass(frozen=True)
class Listing:
    """The objects of a data set, sorted by path."""

    url: str
    #: Behind which hive partition directories begin; empty for a single object.
    base: str
    objects: tuple[ObjectMeta, ...]


def canonical(url: str | os.PathLike[str]) -> str:
    """The URL that a data set goes by: a local path becomes a `file://` URL, a URL stays what it is.

    Raises:
        InvalidRequestError: it is empty.
    """
    text = os.fspath(url)
    if not text:
        raise InvalidRequestError("the URL of a data set is empty")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return text
    directory = text.endswith("/") or os.path.isdir(text)
    path = os.path.abspath(text)
    # A file that is there is meant, also where its name could be a glob.
    plain = _PLAIN if os.path.exists(text) else _PLAIN + "*?[]^"
    return "file://" + quote(path, safe=plain) + ("/" if directory and not path.endswith("/") else "")


def base_of(url: str) -> str:
    """Behind which hive partition directories begin, by a data set's URL; empty for a single object."""
    if _is_http(url):
        return ""
    glob = _GLOB.search(url)
    if glob:
        return url[: url.rfind("/", 0, glob.start()) + 1]
    return url if url.endswith("/") else ""


def _is_http(url: str) -> bool:
    return url.partition("://")[0].lower() in ("http", "https")


def locate(url: str) -> tuple[fs.FileSystem | None, str]:
    """The file system of an object's URL, and the path in it. HTTP has no file system; the path is the URL.

    Raises:
        UnsupportedError: a scheme that can only be read through a node.
        InvalidRequestError: not a URL.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "file":
        return fs.LocalFileSystem(), unquote(rest)
    if scheme in ("s3", "s3a"):
        bucket, _, key = rest.partition("/")
        if not bucket:
            raise InvalidRequestError(f"{url}: no bucket; write s3://BUCKET/KEY")
        return _s3(frozenset(_aws_settings(os.environ).items())), f"{bucket}/{unquote(key)}"
    if scheme in ("http", "https"):
        return None, url
    raise UnsupportedError(
        f"{url}: {scheme}:// is read only through a node, and none answers; start one with `roost serve`"
    )


def _aws_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `S3FileSystem` from the environment variables that nodes honour."""

    def first(*names: str) -> str | None:
        return next((environ[name] for name in names if environ.get(name)), None)

    def flag(name: str) -> bool:
        return environ.get(name, "").lower() in ("1", "true", "on", "yes", "y")

    settings: dict[str, Any] = {"region": first("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1"}
    endpoint = first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if endpoint:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        settings["scheme"] = parts.scheme
        settings["endpoint_override"] = parts.netloc + parts.path.rstrip("/")
    if flag("AWS_SKIP_SIGNATURE"):
        settings["anonymous"] = True
    elif environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"):
        settings["access_key"] = environ["AWS_ACCESS_KEY_ID"]
        settings["secret_key"] = environ["AWS_SECRET_ACCESS_KEY"]
        token = first("AWS_SESSION_TOKEN", "AWS_TOKEN")
        if token:
            settings["session_token"] = token
    if flag("AWS_VIRTUAL_HOSTED_STYLE_REQUEST"):
        settings["force_virtual_addressing"] = True
    return settings


@functools.lru_cache(maxsize=8)
def _s3(settings: frozenset[tuple[str, Any]]) -> fs.FileSystem:
    return fs.S3FileSystem(**dict(settings))


def stat(url: str) -> ObjectMeta:
    """What the origin says of one object.

    Raises:
        NotFoundError: there is none.
        RoostError: the origin refuses, or does not answer.
    """
    filesystem, path = locate(url)
    if filesystem is None:
        found = _http_file.head(url)
        modified = None if found.modified is None else int(found.modified * 1e9)
        return ObjectMeta(url, path, found.size, modified)
    try:
        info = filesystem.get_file_info(path)
    except (OSError, pa.ArrowException) as error:
        raise from_origin(error, url) from error
    if info.type != fs.FileType.File:
        raise NotFoundError(f"{url}: not found")
    return ObjectMeta(url, path, int(info.size or 0), info.mtime_ns)


def open_file(meta: ObjectMeta) -> pa.NativeFile:
    """Opens an object to read at random."""
    filesystem, path = locate(meta.url)
    if filesystem is None:
        return pa.PythonFile(_http_file.HttpFile(_http_file.head(meta.url)), mode="r")
    try:
        return filesystem.open_input_file(path)
    except (OSError, pa.ArrowException) as error:
        raise from_origin(error, meta.url) from error


def list_objects(url: str) -> Listing:
    """The objects of a data set: one object, all below a prefix, or those that match a glob.

    Names below the prefix that begin with '_' or '.' are hidden, and so is all below such a directory.

    Raises:
        NotFoundError: nothing is there.
        RoostError: the origin refuses, or does not answer.
    """
    url = canonical(url)
    glob = _GLOB.search(url)
    if _is_http(url):
        if url.endswith("/") or (glob and glob[0] != "?"):
            raise UnsupportedError(f"{url}: HTTP has no listings: name one object")
        return Listing(url, "", (stat(url),))
    filesystem, path = locate(url if glob is None else base_of(url))
    assert filesystem is not None
    try:
        if glob is None and not url.endswith("/"):
            info = filesystem.get_file_info(path)
            if info.type == fs.FileType.File:
                meta = ObjectMeta(url, path, int(info.size or 0), info.mtime_ns)
                return Listing(url, "", (meta,))
            url += "/"
        base = base_of(url)
        root = path.rstrip("/") + "/"
        infos = filesystem.get_file_info(fs.FileSelector(root.rstrip("/") or "/", recursive=True))
    except FileNotFoundError as error:
        raise NotFoundError(f"{url}: not found") from error
    except (OSError, pa.ArrowException) as error:
        raise from_origin(error, url) from error
    accepts = _filter(url[len(base) :] if glob else "")
    objects = []
    for info in infos:
        relative = info.path[len(root) :]
        if info.type == fs.FileType.File and accepts(relative):
            object_url = base + quote(relative, safe=_PLAIN)
            objects.append(ObjectMeta(object_url, info.path, int(info.size or 0), info.mtime_ns))
    if not objects:
        raise NotFoundError(f"{url}: no Parquet object there (names that begin with '_' or '.' are skipped)")
    objects.sort(key=lambda meta: meta.path.encode())
    return Listing(url, base, tuple(objects))


def _filter(glob: str) -> Callable[[str], bool]:
    """Which paths below the base belong to the data set: visible ones, and those that the glob matches if there is one.

    A segment of the glob that begins with '_' or '.' asks for what is hidden otherwise.
    """
    whole = glob_pattern(glob or "**")
    outspoken = [glob_pattern(segment) for segment in glob.split("/") if segment[:1] in ("_", ".")]

    def hidden(segment: str) -> bool:
        return segment[:1] in ("_", ".") and not any(pattern.fullmatch(segment) for pattern in outspoken)

    return lambda path: whole.fullmatch(path) is not None and not any(map(hidden, path.split("/")))


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob of a URL as a regular expression for decoded paths.

    `*` and `?` stay within a name, `**/` crosses directories, `[...]` is a class; `%2A` is a star that means itself.

    >>> bool(glob_pattern("**/a*.parquet").fullmatch("x/y/ab.parquet")), bool(glob_pattern("*").fullmatch("a/b"))
    (True, False)
    """
    pattern = ""
    for part in _GLOB_PART.finditer(glob):
        if part["dirs"]:
            pattern += "(?:.*/)?"
        elif part["all"]:
            pattern += ".*"
        elif part["star"]:
            pattern += "[^/]*"
        elif part["one"]:
            pattern += "[^/]"
        elif part["text"]:
            pattern += re.escape(unquote(part["text"]))
        else:
            members = re.sub(r"([\\\[\]^&~|])", r"\\\1", unquote(part["members"]))
            pattern += f"(?!/)[{'^' if part['not'] else ''}{members}]"
    return re.compile(pattern, re.DOTALL)


def from_origin(error: Exception, url: str) -> RoostError:
    """Translates what pyarrow raised while it read `url` from the origin."""
    if isinstance(error, RoostError):
        return error
    text = str(error)
    if isinstance(error, FileNotFoundError) or "NO_SUCH_BUCKET" in text or "NO_SUCH_KEY" in text:
        return NotFoundError(f"{url}: not found ({text})")
    if isinstance(error, PermissionError) or "ACCESS_DENIED" in text or "AccessDenied" in text:
        return PermissionDeniedError(f"{url}: the origin refuses access ({text})")
    return UnavailableError(f"{url}: the origin can't be read: {text}")
