"""Which ways tickets came, summed over all processes of a Ray job, and one warning where no node answered."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import ray

from roost import _direct

if TYPE_CHECKING:
    from roost.client import Client

_NAME = "roost-statistics"
_WAYS = ("mapped_tickets", "streamed_tickets", "direct_tickets")

# Handles of the counting actors of jobs. The one that made an actor keeps it alive.
_known: dict[tuple[str, str], Any] = {}


class _Statistics:
    """Runs as an actor, one a job."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_WAYS, 0)
        self._metrics: Any = None

    def add(self, counts: Mapping[str, int]) -> None:
        if counts["direct_tickets"] and not self._counts["direct_tickets"]:
            print(
                "DirectReadWarning: tasks read straight from the origin, as no node of Roost answers there. What is"
                " read is right, but nothing is cached, and every epoch fetches and decodes again."
                " roost.ray.statistics() counts how much. (Said once in a job.)",
                file=sys.stderr,
                flush=True,
            )
        if self._metrics is None:
            from ray.util.metrics import Counter

            self._metrics = Counter(
                "roost_tickets", description="Tickets read, by the way they came.", tag_keys=("way",)
            )
        for name in _WAYS:
            self._counts[name] += counts[name]
            if counts[name]:
                self._metrics.inc(counts[name], tags={"way": name.removesuffix("_tickets")})

    def counts(self) -> dict[str, int]:
        return self._counts


def statistics() -> dict[str, int]:
    """How the tickets of this Ray job were read, on all machines.

    Returns:
        `mapped_tickets`: in place, on a node's own host. `streamed_tickets`: sent by a node. `direct_tickets`: from the
        origin, without a node. Tasks and iterations that have not ended are not counted yet. Ray's metrics have the
        same as `roost_tickets`, by `way`.
    """
    actor = _actor()
    if actor is not None:
        with contextlib.suppress(ray.exceptions.RayActorError):
            return dict(ray.get(actor.counts.remote()))
    return dict.fromkeys(_WAYS, 0)


def begin() -> None:
    """Starts counting for this job, without waiting for it."""
    job = _job()
    if job not in _known:
        # Of the driver: where a task made it, it would end with the worker.
        actor = ray.remote(_Statistics).options(name=_NAME, get_if_exists=True, num_cpus=0, max_restarts=-1)
        _known[job] = actor.remote()


@contextlib.contextmanager
def counted(client: Client) -> Iterator[None]:
    """Counts, in the end, how the client's tickets came."""
    actor = _actor()
    if actor is not None:
        # It is said once in the job, not once in each worker.
        _direct._warned = True
    try:
        yield
    finally:
        counts = client.statistics()
        if actor is not None and any(counts.values()):
            # Nobody waits for it, nor fails with it, as where the cluster has just ended.
            with contextlib.suppress(Exception):
                actor.add.remote(counts)


def _actor() -> Any:
    """The job's counting actor, if there is one."""
    if not ray.is_initialized():
        return None
    job = _job()
    if job not in _known:
        try:
            _known[job] = ray.get_actor(_NAME)
        except ValueError:
            return None
    return _known[job]


def _job() -> tuple[str, str]:
    context = ray.get_runtime_context()
    # The first job of each cluster has the same id; no node has the id of another.
    return str(context.get_job_id()), str(context.get_node_id())
