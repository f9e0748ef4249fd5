"""Tickets are signed: a node reads what a node planned, and nothing else."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

from harness.messages import pb
from harness.node import Node


def refused():
    return pytest.raises((pa.ArrowInvalid, flight.FlightError))


@pytest.fixture
def served(node) -> Node:
    return node()


@pytest.fixture
def signed(served: Node, tpch: Path):
    (ticket,) = served.tickets((tpch / "nation.parquet").as_uri())
    return pb.SignedTicket.FromString(ticket.ticket)


def get(served: Node, signed) -> pa.Table:
    return served.get(flight.Ticket(signed.SerializeToString()))


def test_as_it_was_given(served: Node, signed):
    assert get(served, signed).num_rows == 25
    assert len(signed.mac) == 16
    assert len(signed.SerializeToString()) < 1000, "some hundred bytes"


def test_another_url(served: Node, signed, tmp_path: Path):
    """The attack: reading with the node's rights what was never planned."""
    secret = tmp_path / "secret.parquet"
    pq.write_table(pa.table({"secret": ["x"]}), secret)
    payload = pb.TicketPayload.FromString(signed.payload)
    payload.dataset, payload.base = secret.as_uri(), secret.parent.as_uri() + "/"
    payload.pieces[0].suffix = secret.name
    signed.payload = payload.SerializeToString()
    with refused() as caught:
        get(served, signed)
    assert "secret" not in str(caught.value), "the answer tells nothing about what is there"


def test_any_bit(served: Node, signed):
    rng = random.Random(3)
    for name in ("payload", "mac"):
        whole = getattr(signed, name)
        for _ in range(20):
            changed = bytearray(whole)
            changed[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            forged = pb.SignedTicket()
            forged.CopyFrom(signed)
            setattr(forged, name, bytes(changed))
            with refused():
                get(served, forged)


def test_a_mac_cut_short(served: Node, signed):
    for size in (0, 1, 8, 15):
        signed.mac = signed.mac[:size]
        with refused():
            get(served, signed)


def test_another_key(served: Node, signed):
    signed.key_id ^= 1
    with refused():
        get(served, signed)


@pytest.mark.parametrize("ticket", [b"", b"\x00", b"\xff" * 40, b"nonsense", b"\x08\x01" * 5000])
def test_nonsense(served: Node, ticket: bytes):
    with refused():
        served.get(flight.Ticket(ticket))


def test_a_ticket_outlives_the_node(served: Node, signed):
    served.kill9()
    served.start()
    assert get(served, signed).num_rows == 25


def test_nodes_with_one_secret_read_each_other_s_tickets(node, tpch: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_bytes(random.Random(1).randbytes(32))
    secret.chmod(0o600)
    url = (tpch / "region.parquet").as_uri()
    one, two = (node("--secret-file", str(secret)) for _ in range(2))
    stranger = node()
    (ticket,) = one.tickets(url)
    assert two.get(ticket).num_rows == 5
    with refused():
        stranger.get(ticket)


def test_the_key_is_for_the_owner_alone(served: Node, signed):
    del signed
    small = [file for file in served.files() if 16 <= file.stat().st_size <= 256]
    assert small, "the key lies in a file"
    assert [file for file in small if file.stat().st_mode & 0o077] == []


def test_places_that_are_not_allowed(node, tpch: Path, tmp_path: Path):
    """`--allow` holds for plans, and for tickets that were signed before it was set."""
    url = (tpch / "nation.parquet").as_uri()
    served = node()
    (ticket,) = served.tickets(url)
    served.restart("--min-free", "0", "--allow", f"{tmp_path.as_uri()}/inside/")
    for denied in (url, tmp_path.as_uri() + "/inside/../nation.parquet", tmp_path.as_uri() + "/insider/"):
        with pytest.raises((flight.FlightUnauthorizedError, pa.ArrowInvalid)):
            served.plan(denied)
    with pytest.raises(flight.FlightUnauthorizedError):
        served.get(ticket)
