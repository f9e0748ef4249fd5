"""The committed descriptor is that of the protocol, and works with the protobuf that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from roost import _wire

SCRIPTS = Path(__file__).parents[1] / "scripts"
PACKAGE = Path(_wire.__file__).parent
ADVICE = "run scripts/update_wire.py"


@pytest.fixture(scope="module")
def compiled() -> bytes:
    pytest.importorskip("grpc_tools", reason="grpcio-tools compiles the protocol")
    sys.path.insert(0, str(SCRIPTS))
    try:
        import update_wire
    finally:
        sys.path.pop(0)
    if not update_wire.PROTO.exists():
        pytest.skip(f"{update_wire.PROTO} is not here: the package stands outside its repository")
    return update_wire.compile_proto(update_wire.PROTO)


def test_the_descriptor_is_the_protocols(compiled: bytes) -> None:
    committed = FileDescriptorSet.FromString((PACKAGE / "roost.binpb").read_bytes())
    assert committed == FileDescriptorSet.FromString(compiled), ADVICE


def test_the_types_are_the_descriptors(compiled: bytes) -> None:
    import update_wire

    assert (PACKAGE / "_wire.pyi").read_text() == update_wire.stubs(compiled), ADVICE


def test_messages_travel() -> None:
    request = _wire.PlanRequest(url="s3://b/t/", columns=_wire.Projection(names=["a"]), limit=0)
    setattr(request, "from", 7)
    again = _wire.PlanRequest.FromString(request.SerializeToString())
    assert again == request
    assert (getattr(again, "from"), again.HasField("limit"), again.HasField("columns")) == (7, True, True)


def test_a_resumed_ticket_keeps_what_it_does_not_know() -> None:
    signed = _wire.SignedTicket(key_id=3, mac=b"m", payload=b"p").SerializeToString()
    # Field 15 of a later version: 0x7A is its tag, a string of one byte.
    later = signed + b"\x7a\x01x"
    message = _wire.SignedTicket.FromString(later)
    message.after.CopyFrom(_wire.BatchPosition(piece=1, batch=2, row_group=3))
    assert b"\x7a\x01x" in message.SerializeToString()
