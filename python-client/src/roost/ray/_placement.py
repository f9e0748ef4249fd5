"""Where read tasks run: on the Ray node whose Roost node owns what they read."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import ray

from roost.ray._orders import Order


@dataclass(frozen=True)
class Select:
    """Whether an order is of a part; pickles."""

    hosts: Mapping[str, str]
    node: str

    def __call__(self, order: Order) -> bool:
        return owner(order, self.hosts) == self.node


@dataclass(frozen=True)
class Part:
    """The orders that one Ray node is best to read. An empty node: any is as good."""

    node: str
    nbytes: int
    select: Select

    def scheduling(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that have tasks run there while that node lives."""
        if not self.node:
            return {}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(self.node, soft=True)
        return {"ray_remote_args": {**(given.get("ray_remote_args") or {}), "scheduling_strategy": strategy}}


def parts(orders: Sequence[Order], free: bool) -> list[Part]:
    """The orders by the Ray node that reads them best; one part where it makes no difference."""
    if not free:
        return []
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return []
    from roost.ray._start import started

    return by_node(orders, hosts(nodes, started()))


def hosts(nodes: Iterable[Mapping[str, Any]], started: Mapping[str, str]) -> dict[str, str]:
    """Ray nodes by the names that a Roost node's address may have.

    Args:
        nodes: what `ray.nodes()` says.
        started: Ray nodes by the address of the Roost node that was started there.
    """
    found: dict[str, str] = {}
    several: set[str] = set()
    for node in nodes:
        for name in {node.get("NodeManagerAddress"), node.get("NodeManagerHostname"), _address(node)} - {None, ""}:
            if found.setdefault(str(name), node["NodeID"]) != node["NodeID"]:
                # Ray nodes on one host, as in tests: the host says nothing.
                several.add(str(name))
    for name in several:
        del found[name]
    return {**found, **started}


def _address(node: Mapping[str, Any]) -> str | None:
    try:
        return socket.gethostbyname(str(node.get("NodeManagerHostname")))
    except OSError:
        return None


def owner(order: Order, hosts: Mapping[str, str]) -> str:
    """The Ray node whose Roost node owns most of an order; empty where none does."""
    nbytes: dict[str, int] = {}
    for ticket in order.tickets:
        for location in ticket.locations:
            node = hosts.get(location) or hosts.get(urlsplit(location).hostname or "")
            if node:
                nbytes[node] = nbytes.get(node, 0) + ticket.nbytes
                break
    return max(nbytes, key=lambda node: nbytes[node]) if nbytes else ""


def by_node(orders: Sequence[Order], hosts: Mapping[str, str]) -> list[Part]:
    """The parts, largest first."""
    nbytes: dict[str, int] = {}
    for order in orders:
        node = owner(order, hosts)
        nbytes[node] = nbytes.get(node, 0) + order.nbytes
    return [Part(node, size, Select(hosts, node)) for node, size in sorted(nbytes.items(), key=lambda item: -item[1])]
