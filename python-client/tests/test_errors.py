"""Every status of a node becomes the error that says what to do, with the node's words and nothing else's."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

import roost
from roost import _nodes
from roost.errors import from_flight
from roost.plan import PackedSchema, Ticket

grpc = pytest.importorskip("grpc")
from status_server import status_server  # noqa: E402

CODES = [
    ("INVALID_ARGUMENT", roost.InvalidRequestError),
    ("OUT_OF_RANGE", roost.InvalidRequestError),
    ("NOT_FOUND", roost.NotFoundError),
    ("PERMISSION_DENIED", roost.PermissionDeniedError),
    ("UNAUTHENTICATED", roost.UnauthenticatedError),
    ("FAILED_PRECONDITION", roost.StalePlanError),
    ("RESOURCE_EXHAUSTED", roost.ExhaustedError),
    ("UNAVAILABLE", roost.UnavailableError),
    ("DEADLINE_EXCEEDED", roost.RoostTimeoutError),
    ("UNIMPLEMENTED", roost.UnsupportedError),
    ("DATA_LOSS", roost.CorruptDataError),
    ("CANCELLED", roost.CancelledError),
    ("INTERNAL", roost.InternalError),
    ("UNKNOWN", roost.InternalError),
    ("ABORTED", roost.InternalError),
]
MESSAGE = "s3://b/t/x#rg3: column 'ä' is int64. Detail: none; 50%25, with message: and so on"
TICKET = Ticket(b"signed", "s3://b/t/", (), 0, 0, (), PackedSchema(pa.schema([])))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nodes, "_DELAYS", (0.01,))


@pytest.mark.parametrize(("code", "error"), CODES)
def test_statuses(code: str, error: type[roost.RoostError]) -> None:
    with status_server(grpc.StatusCode[code], MESSAGE) as (address, _):
        client = roost.connect(address, fallback=False)
        for call in (lambda: client.plan("s3://b/t/"), lambda: client.read(TICKET), client.stat):
            with pytest.raises(error) as caught:
                call()
            assert type(caught.value) is error
            text = str(caught.value)
            assert "s3://b/t/x#rg3: column 'ä' is int64" in text
            assert "debug context" not in text
            assert "Client context" not in text


def test_the_whole_message_survives() -> None:
    with status_server(grpc.StatusCode.NOT_FOUND, MESSAGE) as (address, _):
        with pytest.raises(roost.NotFoundError) as caught:
            roost.connect(address).plan("s3://b/t/")
        assert str(caught.value) == f"planning {MESSAGE}"


def test_a_stale_plan_says_what_to_do() -> None:
    with status_server(grpc.StatusCode.FAILED_PRECONDITION, "s3://b/t/x changed") as (address, _):
        with pytest.raises(roost.StalePlanError, match=r"s3://b/t/x changed \(plan again"):
            roost.connect(address).read(TICKET)


@pytest.mark.parametrize(
    ("code", "calls"), [("NOT_FOUND", 1), ("INTERNAL", 1), ("UNAVAILABLE", 2), ("RESOURCE_EXHAUSTED", 2)]
)
def test_only_what_can_pass_is_tried_again(code: str, calls: int) -> None:
    with status_server(grpc.StatusCode[code], "no") as (address, handler):
        with pytest.raises(roost.RoostError):
            roost.connect(address, fallback=False).plan("s3://b/t/")
        assert handler.calls == calls


def test_a_full_node_does_not_send_readers_to_the_origin(tmp_path: Path) -> None:
    with status_server(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many readers") as (address, _):
        with pytest.raises(roost.ExhaustedError, match="too many readers"):
            roost.connect(address).plan(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "Flight returned internal error, with message: Received RST_STREAM with error code 2",
        "Flight returned internal error, with message: h2 protocol error: error reading a body from connection",
        "Flight RPC failed with message: Stream removed",
    ],
)
def test_broken_connections_are_unavailability(text: str) -> None:
    assert isinstance(from_flight(pa.ArrowException(text), "reading"), roost.UnavailableError)


def test_a_thing_is_named_once() -> None:
    error = from_flight(
        pa.ArrowKeyError("Flight returned not found error, with message: s3://b/t: gone"), "planning s3://b/t"
    )
    assert str(error) == "planning s3://b/t: gone"


def test_errors_pickle() -> None:
    for name in roost.__all__:
        kind = getattr(roost, name)
        if isinstance(kind, type) and issubclass(kind, roost.RoostError):
            again = pickle.loads(pickle.dumps(kind("what happened")))
            assert type(again) is kind
            assert str(again) == "what happened"
