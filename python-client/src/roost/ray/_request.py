"""What a data set of Ray's asks Roost for: planned on the driver, and anew for each epoch."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from roost.client import Client, connect
from roost.errors import InvalidRequestError, NotFoundError
from roost.plan import Plan
from roost.ray._orders import Order, orders

# Epochs whose plans are kept: Ray asks several times for each.
_KEPT = 2


@dataclass(frozen=True)
class Request:
    """Which rows, in which order."""

    client: Client
    urls: tuple[str, ...]
    columns: tuple[str, ...] | None
    shuffle: str
    seed: int
    #: None: counts how often Ray has executed the data set.
    epoch: int | None
    block: int | None
    even: str
    job: str
    ignore_missing: bool = False
    _plans: dict[int, tuple[Plan, ...]] = field(default_factory=dict, compare=False, repr=False)

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        # Plans are made again where they are needed: they may be of another epoch then.
        return Request, (
            *(self.client, self.urls, self.columns, self.shuffle, self.seed, self.epoch, self.block, self.even),
            *(self.job, self.ignore_missing),
        )

    def of_columns(self, columns: Sequence[str] | None) -> Request:
        """The same rows, of these columns."""
        return replace(self, columns=None if columns is None else tuple(columns), _plans={})

    def epoch_of(self, context: Any) -> int:
        """The epoch that an execution of Ray's reads; its context says how many there were before."""
        if self.epoch is not None:
            return self.epoch
        # Not public: where a version does not tell, all executions read one order.
        return int(getattr(context, "_execution_idx", 0) or 0) if self.shuffle != "none" else 0

    def plan(self, url: str, epoch: int, **part: Any) -> Plan:
        """One plan."""
        return self.client.plan(
            url,
            self.columns,
            shuffle=self.shuffle,
            seed=self.seed,
            epoch=epoch,
            block=self.block,
            job=self.job,
            **part,
        )

    def plans(self, epoch: int) -> tuple[Plan, ...]:
        """The plans of an epoch, one for each URL.

        Raises:
            NotFoundError: nothing is there.
            InvalidRequestError: objects of the URLs differ in their schemas.
        """
        known = self._plans.get(epoch)
        if known is None:
            found = []
            for url in self.urls:
                try:
                    found.append(self.plan(url, epoch))
                except NotFoundError:
                    if not self.ignore_missing:
                        raise
            if not found:
                raise NotFoundError(f"none of the {len(self.urls)} paths is there: {', '.join(self.urls[:3])}, ...")
            _same_schema(found)
            known = tuple(found)
            while len(self._plans) >= _KEPT:
                self._plans.pop(next(iter(self._plans)))
            self._plans[epoch] = known
        return known

    def orders(self, epoch: int) -> list[Order]:
        """All that is read in an epoch, in its order."""
        return [order for plan in self.plans(epoch) for order in orders(plan.tickets)]

    @property
    def schema(self) -> pa.Schema:
        """The schema of the rows."""
        return self.plans(self.epoch or 0)[0].schema

    @property
    def nbytes(self) -> int:
        """Decoded bytes, estimated."""
        return sum(plan.nbytes for plan in self.plans(self.epoch or 0))


def make(
    paths: str | os.PathLike[str] | Sequence[str],
    columns: Sequence[str] | None,
    *,
    shuffle: Any,
    seed: int | None,
    epoch: int | None,
    block: int | None,
    even: str = "none",
    client: Client,
    job: str | None,
    ignore_missing: bool = False,
) -> Request:
    """A request as the user asks it.

    Raises:
        ValueError: arguments that contradict each other.
    """
    urls = (os.fspath(paths),) if isinstance(paths, (str, os.PathLike)) else tuple(os.fspath(path) for path in paths)
    if not urls:
        raise ValueError("paths is an empty list: give at least one URL")
    urls = tuple(url.removeprefix("local://") for url in urls)
    if isinstance(shuffle, bool) or shuffle is None:
        shuffle = "rows" if shuffle or (shuffle is None and seed is not None) else "none"
    if shuffle != "none" and len(urls) > 1:
        raise ValueError(
            f"an order is drawn over one data set, and these are {len(urls)} paths: name them by a prefix or a glob,"
            " or leave shuffle and seed out"
        )
    if seed is None:
        # As Ray does: without a seed, another order each time the data set is made.
        seed = random.SystemRandom().getrandbits(63) if shuffle != "none" else 0
    return Request(
        client,
        urls,
        None if columns is None else _names(columns),
        shuffle,
        seed,
        epoch,
        block,
        even,
        job or f"ray-{random.SystemRandom().getrandbits(64):016x}",
        ignore_missing,
    )


def _names(columns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(columns, (str, bytes)):
        raise InvalidRequestError(f"columns is {columns!r}: it must be a list of names, such as [{columns!r}]")
    return tuple(columns)


def client_of(given: Client | str | Sequence[str] | None) -> Client:
    """The client to use: what is given; else $ROOST_NODE; else nodes that `start_nodes` started; else the default."""
    if isinstance(given, Client):
        return given
    if given is None and not os.environ.get("ROOST_NODE"):
        from roost.ray._start import addresses

        given = addresses() or None
    return connect(given)


def _same_schema(plans: Sequence[Plan]) -> None:
    first = plans[0]
    for plan in plans[1:]:
        if not plan.schema.equals(first.schema):
            ours, theirs = set(map(str, first.schema)), set(map(str, plan.schema))
            differing = ", ".join(sorted(ours ^ theirs)[:6]) or "the order of the columns"
            raise InvalidRequestError(
                f"{first.url} and {plan.url} differ in their schemas ({differing}): name both by one prefix or glob,"
                " for which a union is made, or choose columns that they share"
            )
