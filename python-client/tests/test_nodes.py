"""Addresses, and which node is asked when."""

from __future__ import annotations

import socket
from pathlib import Path

import pyarrow.flight as flight
import pytest
from fake_node import FakeNode

import roost
from roost import _nodes
from roost._nodes import Nodes, parse_addresses


def closed_address() -> str:
    """An address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"grpc+tcp://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (None, ("grpc+tcp://127.0.0.1:8815",)),
        ("grpc://h:1", ("grpc+tcp://h:1",)),
        ("h", ("grpc+tcp://h:8815",)),
        ("h:2, grpc+tls://g:3/,h:2", ("grpc+tcp://h:2", "grpc+tls://g:3")),
        (["a:1", "b:2,c:3"], ("grpc+tcp://a:1", "grpc+tcp://b:2", "grpc+tcp://c:3")),
        ("grpc+unix:///run/roost.sock", ("grpc+unix:///run/roost.sock",)),
        ("grpc+unix:///run/a b/%20.sock", ("grpc+unix:///run/a%20b/%20.sock",)),
        ("grpc://[::1]", ("grpc+tcp://[::1]:8815",)),
        ("grpc://[::1]:9", ("grpc+tcp://[::1]:9",)),
    ],
)
def test_addresses(given: str | list[str] | None, parsed: tuple[str, ...]) -> None:
    assert parse_addresses(given) == parsed


def test_the_environment_names_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_NODE", "a:1,b:2")
    assert roost.connect().addresses == ("grpc+tcp://a:1", "grpc+tcp://b:2")
    assert repr(roost.connect()) == "<roost.Client grpc+tcp://a:1, grpc+tcp://b:2>"


@pytest.mark.parametrize("given", ["http://h:1", "grpc://h:x", "grpc://:1", "grpc://h:70000", " , ", []])
def test_wrong_addresses(given: str | list[str]) -> None:
    with pytest.raises(roost.InvalidRequestError):
        roost.connect(given)


def test_etcd_is_refused_clearly() -> None:
    with pytest.raises(roost.UnsupportedError, match="name the nodes"):
        roost.connect("etcd://h:1/c")


def test_connecting_asks_nobody() -> None:
    roost.connect(closed_address(), fallback=False)


def test_the_next_address_is_asked(node: FakeNode, dataset: Path) -> None:
    client = roost.connect([closed_address(), node.address], fallback=False)
    plan = client.plan(dataset)
    assert not plan.direct
    assert plan.to_table().num_rows == 600


def test_a_node_that_was_down_is_asked_last() -> None:
    nodes = Nodes(("grpc+tcp://a:1", "grpc+tcp://b:1"), patient=True)
    _nodes._connections.mark("grpc+tcp://a:1", down=True)
    assert nodes.order() == ["grpc+tcp://b:1", "grpc+tcp://a:1"]
    _nodes._connections.mark("grpc+tcp://a:1", down=False)
    assert nodes.order() == ["grpc+tcp://a:1", "grpc+tcp://b:1"]
    assert nodes.order(avoid="grpc+tcp://a:1") == ["grpc+tcp://b:1", "grpc+tcp://a:1"]
    assert nodes.order(prefer=["c:2", "arrow-flight-reuse-connection://?"])[0] == "grpc+tcp://c:2"


def test_a_tickets_location_comes_first(node: FakeNode, dataset: Path, plain_dataset: Path) -> None:
    with FakeNode(node.objects) as owner:
        node.locations = [owner.address]
        client = roost.connect(node.address, fallback=False)
        assert client.plan(dataset).to_table().num_rows == 600
        assert (len(owner.gets), len(node.gets)) == (21, 0)


def test_a_socket_on_this_host_comes_first(node: FakeNode, dataset: Path, tmp_path: Path) -> None:
    # Flight's locations are URIs.
    owner_address = f"grpc+unix://{tmp_path}/a%20socket"
    with FakeNode(node.objects, owner_address) as owner:
        node.locations = [node.address, f"grpc+unix://{tmp_path}/nothing", owner_address]
        client = roost.connect(node.address, fallback=False, maps=False)
        assert client.plan(dataset).to_table().num_rows == 600
        assert (len(owner.gets), len(node.gets)) == (21, 0)
        # The whole protocol is spoken there.
        here = roost.connect(f"grpc+unix://{tmp_path}/a socket", fallback=False, maps=False)
        assert here.read_table(dataset).num_rows == 600
    assert Nodes((node.address,), patient=True).order(node.locations) == [node.address]


def test_a_socket_that_fails_is_asked_last(
    node: FakeNode, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    node.locations = [node.address, f"grpc+unix://{path}"]
    assert Nodes((), patient=True).order(node.locations) == [f"grpc+unix://{path}", node.address]
    client = roost.connect(node.address, fallback=False, maps=False)
    assert client.plan(dataset).to_table().num_rows == 600
    assert Nodes((), patient=True).order(node.locations) == [node.address, f"grpc+unix://{path}"]
    monkeypatch.setattr(_nodes.os, "access", lambda path, mode: False)
    assert Nodes((), patient=True).order(node.locations) == [node.address]


def test_nobody_answers() -> None:
    addresses = [closed_address(), closed_address()]
    client = roost.connect(addresses)
    for call in (client.stat, client.ls, lambda: client.warm("s3://b/t/"), lambda: client.pin("s3://b/t/")):
        with pytest.raises(roost.UnavailableError) as caught:
            call()
        assert "Start one with `roost serve`" in str(caught.value)
        assert all(address in str(caught.value) for address in addresses)


def test_a_node_that_comes_back_is_found(dataset: Path, plain_dataset: Path) -> None:
    objects = sorted(dataset.iterdir())
    with FakeNode(objects) as first:
        address, port = first.address, first.port
        client = roost.connect(address, fallback=False)
        assert client.plan(dataset).num_rows == 600
    with FakeNode(objects, f"grpc://127.0.0.1:{port}"):
        assert client.plan(dataset).num_rows == 600


def test_a_node_that_was_started_just_now_is_asked(dataset: Path, plain_dataset: Path) -> None:
    with FakeNode(sorted(dataset.iterdir())) as first:
        address, port = first.address, first.port
    client = roost.connect(address)
    with pytest.raises(roost.UnavailableError):
        client.stat()
    assert _nodes._connections.is_down(address)
    with FakeNode(sorted(dataset.iterdir()), f"grpc://127.0.0.1:{port}"):
        assert not client.plan(dataset).direct


def test_one_connection_an_address(monkeypatch: pytest.MonkeyPatch, node: FakeNode, dataset: Path) -> None:
    made = []
    real = flight.FlightClient

    def make(address: str, **options: object) -> flight.FlightClient:
        made.append(address)
        return real(address, **options)

    monkeypatch.setattr(flight, "FlightClient", make)
    roost.connect(node.address).read_table(dataset)
    roost.connect(node.address).read_table(dataset)
    assert made == [node.address]
