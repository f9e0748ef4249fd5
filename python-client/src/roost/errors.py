"""Everything this package raises or warns of, and how answers of nodes become errors.

Each class says what the caller should do. All derive from `RoostError`; where Python has an exception of the same
meaning (`FileNotFoundError`, `ValueError`, ...) they derive from that too.
"""

from __future__ import annotations

import re
from typing import ClassVar

import pyarrow as pa
import pyarrow.flight as flight


class RoostError(Exception):
    """What went wrong; the message names the thing and what to do about it."""

    #: Whether the same request can succeed later, or on another node, without being changed.
    retryable: ClassVar[bool] = False


class InvalidRequestError(RoostError, ValueError):
    """The request is wrong: change it."""


class NotFoundError(RoostError, FileNotFoundError):
    """The thing named does not exist."""


class PermissionDeniedError(RoostError, PermissionError):
    """The origin or the node refuses the caller."""


class UnauthenticatedError(RoostError):
    """Credentials are missing or wrong."""


class StalePlanError(RoostError):
    """An object changed since the plan was made: plan again."""


class ExhaustedError(RoostError):
    """A limit of the node was reached: ask later, or for less."""

    retryable = True


class UnavailableError(RoostError, ConnectionError):
    """No node answers, or the origin does not: start or mend it, then retry."""

    retryable = True


class RoostTimeoutError(RoostError, TimeoutError):
    """No answer in time: retry, or give `connect` a longer `timeout`."""

    retryable = True


class UnsupportedError(RoostError, NotImplementedError):
    """Valid, but not supported by this version."""


class CorruptDataError(RoostError):
    """The origin's bytes are not the Parquet they claim to be: mend the object."""


class CancelledError(RoostError):
    """The call was cancelled."""


class InternalError(RoostError):
    """A defect in Roost: report it."""


class NotCachedError(RoostError):
    """A warm ended, but not everything asked for is cached; `result` has the numbers."""

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[NotCachedError], tuple[str, object]]:
        return type(self), (str(self), self.result)


class DirectReadWarning(UserWarning):
    """No node answers, so data is read from the origin: it is right, but nothing is cached."""


# pyarrow wraps the message of a node: "Flight returned not found error, with message: MESSAGE", and behind it says
# what it knows of the call.
_WRAPPED = re.compile(r"(?:\w+: )?(?P<what>(?:Flight|gRPC) [^:]*?),? with message: (?P<message>.*)", re.DOTALL)
_CONTEXT = re.compile(r"\.? (?:gRPC client debug context|Client context): .*", re.DOTALL)

# By the words pyarrow uses; the Python class alone does not tell (`ArrowInvalid` stands for four codes).
_BY_WORDS: tuple[tuple[str, type[RoostError]], ...] = (
    ("invalid argument", InvalidRequestError),
    ("out-of-range", InvalidRequestError),
    ("not found", NotFoundError),
    ("precondition failed", StalePlanError),
    ("resource exhausted", ExhaustedError),
    ("unavailable", UnavailableError),
    ("timeout", RoostTimeoutError),
    ("unauthorized", PermissionDeniedError),
    ("unauthenticated", UnauthenticatedError),
    ("unimplemented", UnsupportedError),
    ("data loss", CorruptDataError),
    ("cancelled", CancelledError),
)
# A node written with Arrow C++ sends its status in a form that pyarrow does not wrap.
_BY_CLASS: tuple[tuple[type[Exception], type[RoostError]], ...] = (
    (flight.FlightUnavailableError, UnavailableError),
    (flight.FlightTimedOutError, RoostTimeoutError),
    (flight.FlightUnauthorizedError, PermissionDeniedError),
    (flight.FlightUnauthenticatedError, UnauthenticatedError),
    (flight.FlightCancelledError, CancelledError),
    (pa.ArrowNotImplementedError, UnsupportedError),
)

# gRPC reports some broken connections as internal errors.
_BROKEN_CONNECTION = re.compile(
    r"RST_STREAM|GOAWAY|stream removed|socket closed|connection reset|broken pipe|endpoint closing|transport closed"
    r"|h2 protocol error|http2 error|connection closed",
    re.IGNORECASE,
)


def from_flight(error: Exception, doing: str) -> RoostError:
    """Translates what pyarrow raised while `doing` something ("planning s3://...") into an error of this package."""
    if isinstance(error, RoostError):
        return error
    # KeyError's text is a quoted repr; its argument is the text.
    text = str(error.args[0]) if error.args else str(error)
    wrapped = _WRAPPED.fullmatch(text)
    what, message = (wrapped["what"], wrapped["message"]) if wrapped else ("", text)
    message = _CONTEXT.sub("", message)
    kind = _kind(error, what, message)
    advice = " (plan again: call plan() with refresh=True)" if kind is StalePlanError else ""
    verb, _, thing = doing.partition(" ")
    # Nodes begin with what they speak of, too.
    said = f"{verb} {message}" if thing and message.startswith(thing) else f"{doing}: {message}"
    return kind(said + advice)


def _kind(error: Exception, what: str, message: str) -> type[RoostError]:
    for words, kind in _BY_WORDS:
        if words in what:
            return kind
    for flight_class, kind in _BY_CLASS:
        if isinstance(error, flight_class):
            return kind
    return UnavailableError if _BROKEN_CONNECTION.search(message) else InternalError
