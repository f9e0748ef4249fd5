"""Starts a Roost node on each Ray node, and finds those that run."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from roost.client import Client, connect
from roost.ray._process import NodeProcess, Settings

_NAMESPACE = "roost"
_PREFIX = "roost-node-"
# An executable that says nothing for so long hangs.
_START_SECONDS = 120
_STOP_SECONDS = 60


class Nodes:
    """The Roost nodes of a Ray cluster. They run until `stop`, or until the cluster ends.

    In a `with` statement they are stopped in its end.
    """

    def __init__(self, actors: Mapping[str, Any], by_ray_node: Mapping[str, str]) -> None:
        self._actors = dict(actors)
        self._addresses = dict(by_ray_node)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where they are, this machine's first."""
        own = ray.get_runtime_context().get_node_id()
        return tuple(self._addresses[node] for node in sorted(self._addresses, key=lambda node: node != own))

    def client(self, **arguments: Any) -> Client:
        """A client of theirs; `arguments` as for `roost.connect`."""
        return connect(self.addresses, **arguments)

    def stop(self) -> None:
        """Drains and ends them. Their caches stay on disk."""
        stopping = [actor.stop.remote() for actor in self._actors.values()]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    def __len__(self) -> int:
        return len(self._addresses)

    def __iter__(self) -> Iterator[str]:
        return iter(self.addresses)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<roost.ray.Nodes {', '.join(self._addresses.values())}>"


def start_nodes(
    share: float = 0.5,
    *,
    cache_dir: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    executable: str | os.PathLike[str] | None = None,
    insecure: bool = False,
    environment: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
) -> Nodes:
    """Runs one Roost node on each Ray node. Where one runs already, it stays as it is.

    Each is owned by an actor that takes no CPU from Ray, starts the node again should it end, and ends it with the
    cluster. `read_parquet` and `tickets` find them unless they are told of others.

    Args:
        share: of the filesystems of the cache directories, the part that fragments may take.
        cache_dir: directories for the cache on each machine. None: `~/.cache/roost`, as `roost serve` has it.
        executable: None: `$ROOST_BIN`, else `roost` beside the package or on the PATH of each machine.
        insecure: on clusters of several machines nodes listen where other machines reach them, and whoever does can
            read all that they can read. Must be True there.
        environment: variables for the nodes, such as credentials of the origin; they have those of Ray's workers too.
        flags: others of `roost serve`, such as `("--compression", "lz4")`.

    Returns:
        The nodes, with their addresses.

    Raises:
        ValueError: an argument out of its bounds; several machines without `insecure`.
        RuntimeError: a node did not start; with the end of its log.

    Example:
        >>> roost.ray.start_nodes(share=0.3, cache_dir="/nvme/roost")   # doctest: +SKIP
        <roost.ray.Nodes grpc://127.0.0.1:34519>
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}: it is a part of the disks, more than 0 and at most 1")
    if not ray.is_initialized():
        ray.init()
    alive = [node for node in ray.nodes() if node["Alive"]]
    machines = {node["NodeManagerAddress"] for node in alive}
    if len(machines) > 1 and not insecure:
        raise ValueError(
            f"the cluster has {len(machines)} machines, so that nodes must listen where other machines reach them, and"
            " nothing asks callers who they are: say insecure=True if the network is yours alone"
        )
    given = [cache_dir] if isinstance(cache_dir, (str, os.PathLike)) else cache_dir or ()
    directories = tuple(os.fspath(directory) for directory in given)
    # Any node can serve the tickets of any other.
    secret = secrets.token_hex(32)
    actors: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for node in alive:
        host = node["NodeManagerAddress"]
        number = seen[host] = seen.get(host, -1) + 1
        settings = Settings(
            host=host if len(machines) > 1 else "127.0.0.1",
            capacity=f"{share * 100:g}%",
            directories=directories,
            # A directory has one node. Several on a machine are only had in tests.
            subdirectory=f"node-{number}" if number else "",
            executable=None if executable is None else os.fspath(executable),
            environment=dict(environment or {}),
            flags=tuple(flags) + (("--insecure",) if len(machines) > 1 else ()),
            secret=secret if len(alive) > 1 else "",
        )
        actors[node["NodeID"]] = (
            ray.remote(NodeProcess)
            .options(
                name=_PREFIX + node["NodeID"],
                namespace=_NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                num_cpus=0,
                max_restarts=-1,
                # One that asks where it is must not wait for one that has it stop.
                max_concurrency=4,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(settings)
        )
    try:
        found = ray.get([actor.address.remote() for actor in actors.values()], timeout=_START_SECONDS)
    except ray.exceptions.RayError as error:
        for actor in actors.values():
            ray.kill(actor)
        raise RuntimeError(f"a node did not start: {error}") from error
    return Nodes(actors, dict(zip(actors, found, strict=True)))


def started() -> dict[str, str]:
    """Ray nodes by the address of the Roost node that `start_nodes` runs there."""
    if not ray.is_initialized():
        return {}
    from ray.util import list_named_actors

    names = [
        actor["name"]
        for actor in list_named_actors(all_namespaces=True)
        if actor["namespace"] == _NAMESPACE and actor["name"].startswith(_PREFIX)
    ]
    found: dict[str, str] = {}
    for name in names:
        try:
            actor = ray.get_actor(name, namespace=_NAMESPACE)
            found[ray.get(actor.address.remote(), timeout=10)] = name.removeprefix(_PREFIX)
        except (ValueError, ray.exceptions.RayError):
            # It ended meanwhile, or its machine did.
            continue
    return found


def addresses() -> tuple[str, ...]:
    """The addresses of those that run, this machine's first."""
    found = started()
    own = ray.get_runtime_context().get_node_id() if found else ""
    return tuple(sorted(found, key=lambda address: found[address] != own))
