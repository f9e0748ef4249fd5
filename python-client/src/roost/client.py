"""The client: asks nodes to plan, pulls tickets, and fills and inspects the cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

import pyarrow as pa
import pyarrow.flight as flight
from google.protobuf.message import Message

from roost import _convert, _direct, _flight_info, _stream, _wire
from roost._ahead import in_order
from roost._nodes import Nodes, parse_addresses
from roost._origin import canonical
from roost._planning import Planner, parse, plan_request
from roost._progress import ProgressCallback, make_bar
from roost._sources import by_footers, by_node
from roost.errors import (
    InternalError,
    InvalidRequestError,
    NotCachedError,
    StalePlanError,
    UnavailableError,
    from_flight,
)
from roost.plan import Plan, Ticket
from roost.results import CachedDataset, CacheStats, EvictResult, WarmResult

M = TypeVar("M", bound=Message)

_ANY_TYPE = "type.googleapis.com/roost.v1.PlanRequest"
# How often a plan or a warm is begun anew when it breaks midway.
_ATTEMPTS = 3
# One ticket's thread stops pulling when so many bytes of it wait to be taken.
_BUFFER_BYTES = 32 << 20


def connect(
    address: str | Iterable[str] | None = None,
    *,
    fallback: bool = True,
    timeout: float = 300.0,
    maps: bool | None = None,
) -> Client:
    """A client of the nodes at `address`. Nothing is asked until there is something to ask.

    Args:
        address: `grpc://HOST:PORT` or `grpc+unix:///PATH`, also several: comma-separated or an iterable. Any node can
            answer any request; the first one that does, does. None: `$ROOST_NODE`, else `grpc://127.0.0.1:8815`.
        fallback: where no node answers, plan and read the origin itself with pyarrow, and warn once
            (`DirectReadWarning`). False: raise `UnavailableError`.
        timeout: seconds that a plan, or a question about the cache, may take. Reading and warming have no limit.
        maps: on a node's own host, read its files in place instead of having them sent; what is read holds their disk
            space until it is freed. None: unless `$ROOST_MAPS` is `0`.

    Raises:
        InvalidRequestError: not an address.

    Example:
        >>> import roost
        >>> client = roost.connect("grpc://127.0.0.1:8815")
        >>> client
        <roost.Client grpc+tcp://127.0.0.1:8815>
    """
    return Client(parse_addresses(address), fallback=fallback, timeout=timeout, maps=maps)


class Client:
    """Reads data sets through Roost nodes. Made by `connect`.

    A client may be used by several threads, and pickled: it then connects anew in the other process. Connections are
    shared by all clients of a process.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        fallback: bool = True,
        timeout: float = 300.0,
        maps: bool | None = None,
    ) -> None:
        self._nodes = Nodes(tuple(addresses), patient=not fallback)
        self._fallback = fallback
        self._timeout = timeout
        self._maps = maps
        self._planner = Planner(self._nodes, self._call_options)
        self._ways = _stream.Ways()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The nodes, in the order they are asked."""
        return self._nodes.addresses

    def __reduce__(self) -> tuple[object, tuple[tuple[str, ...], bool, float, bool | None]]:
        return _rebuild, (self.addresses, self._fallback, self._timeout, self._maps)

    def __repr__(self) -> str:
        return f"<roost.Client {', '.join(self.addresses)}>"

    # --- plan and read ------------------------------------------------------------------------------------------------

    def plan(
        self,
        url: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        skip: int = 0,
        shuffle: str | bool | None = None,
        seed: int | None = None,
        epoch: int = 0,
        block: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        even: str = "none",
        job: str | None = None,
        refresh: bool = False,
    ) -> Plan:
        """Plans a read: which tickets, in which order. No data is read.

        Args:
            url: a Parquet object, a prefix (`s3://bucket/dir/`) or a glob (`s3://bucket/dir/*.parquet`); a local path
                becomes a `file://` URL.
            columns: names of top-level columns, in the order wanted. None: all. `[]`: none, only row counts.
            limit: at most so many rows, from the start of the plan's order, behind those of `skip`.
            skip: leave out so many rows at the start of the plan's order.
            shuffle: "rows": row groups in a drawn order, and rows mixed within blocks of `block` row groups of
                different objects. "row_groups": row groups in a drawn order, the rows of each as they lie. "none":
                objects by path, row groups in order. None: "rows" if there is a `seed`, else "none".
            seed, epoch: what orders are drawn from; the same give the same order, everywhere and for ever.
            block: how many row groups are mixed with each other. None: so many that they take some 256 MiB, and that
                there are at least 16 blocks.
            rank, world_size: read only every `world_size`-th block, from the `rank`-th on. All ranks together read the
                plan.
            even: make ranks equally long. "drop": as the shortest; "repeat": as the longest, by reading rows again.
            job: a name for who reads: what a job reads is held in the cache while the job lives. None: the node makes
                one up.
            refresh: list the origin again even where the node thinks it knows.

        Returns:
            The plan. Without a node it has the same order, where the node would see the same row groups.

        Raises:
            NotFoundError: nothing is there.
            InvalidRequestError: no such column; an argument out of its bounds; a URL that is none.
            UnavailableError: no node answers, and `fallback` is off.

        Example:
            >>> plan = roost.connect().plan("s3://bucket/train/", columns=["label", "image"])   # doctest: +SKIP
            >>> plan.num_rows, len(plan)                                                        # doctest: +SKIP
            (1000000, 128)
        """
        request = plan_request(
            url,
            columns,
            limit=limit,
            skip=skip,
            shuffle=shuffle,
            seed=seed,
            epoch=epoch,
            block=block,
            rank=rank,
            world_size=world_size,
            even=even,
            job=job,
            refresh=refresh,
        )
        try:
            return by_node(self, request, self._planner.plan(request))
        except UnavailableError as error:
            if not self._fallback:
                raise
            reason = str(error)
        _direct.warn_once(reason)
        return by_footers(self, request)

    def read(self, ticket: Ticket) -> pa.Table:
        """The rows of one ticket.

        Returns:
            A table of `ticket.num_rows` rows with `ticket.schema`. On a node's own host it lies in the node's files and
            holds their disk space until it is freed.

        Raises:
            StalePlanError: an object changed since the plan was made.
            RoostError: a node's answer, or the origin's.
        """
        return _table(self.read_batches(ticket), ticket.schema)

    def statistics(self) -> dict[str, int]:
        """How this client's tickets were read since it was made.

        Returns:
            `mapped_tickets`: in place, on a node's own host. `streamed_tickets`: sent by a node. `direct_tickets`: from
            the origin, without a node. A ticket that changed its way midway counts for each way it took.
        """
        return {f"{way}_tickets": count for way, count in self._ways.counts().items()}

    def read_batches(self, ticket: Ticket) -> Iterator[pa.RecordBatch]:
        """The rows of one ticket as record batches, as they come. A stream that breaks is resumed where it broke.

        Raises:
            StalePlanError: an object changed since the plan was made.
            RoostError: a node's answer, or the origin's.
        """
        maps = os.environ.get("ROOST_MAPS") != "0" if self._maps is None else self._maps
        return _stream.read(ticket, self._nodes, fallback=self._fallback, maps=maps, ways=self._ways)

    def read_table(
        self,
        url: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        *,
        threads: int | None = None,
    ) -> pa.Table:
        """Reads a data set, several tickets at a time.

        Args:
            url, columns, limit: as for `plan`.
            threads: how many tickets are pulled at a time; by default as many as suits this machine.

        Returns:
            What `pyarrow.parquet.read_table(url, columns=columns)` gives: schema, metadata, values and order.

        Raises:
            NotFoundError, InvalidRequestError: as for `plan`.
            RoostError: a node's answer, or the origin's; never are rows left out silently.

        Example:
            >>> table = roost.connect().read_table("s3://bucket/train/", columns=["label"])   # doctest: +SKIP
        """
        try:
            return self.plan(url, columns, limit=limit).to_table(threads)
        except StalePlanError:
            # The node planned from what it knew; an object has changed since it looked.
            return self.plan(url, columns, limit=limit, refresh=True).to_table(threads)

    # --- the cache ----------------------------------------------------------------------------------------------------

    def warm(
        self,
        url: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        pin: bool = False,
        progress: bool | ProgressCallback | None = None,
        *,
        raise_on_missing: bool = True,
    ) -> WarmResult:
        """Fills the cache with a data set, so that the first epoch is as fast as the others.

        Args:
            url, columns: as for `plan`.
            pin: also keep it: nothing evicts it until `unpin`.
            progress: True shows a bar on standard error, None does so where that is a terminal, False never; a function
                is called with each `WarmProgress` instead.
            raise_on_missing: raise where not everything asked for could be cached.

        Raises:
            NotCachedError: not everything is cached; the message names what is not, `.result` has the numbers.
            UnavailableError: no node answers. Reading falls back to the origin, warming cannot.

        Example:
            >>> print(roost.connect().warm("s3://bucket/train/", pin=True))   # doctest: +SKIP
            s3://bucket/train/: 128 of 128 row groups cached (0 before), 1,000,000 rows, 4.1 GiB; read 1.2 GiB from ...
        """
        request = _wire.WarmRequest(plan=plan_request(url, columns), pin=pin)
        action = flight.Action("roost.warm", request.SerializeToString())
        doing = f"warming {request.plan.url}"
        bar = make_bar(doing, progress)
        try:
            last = None
            for attempt in range(_ATTEMPTS):
                # The first answer is asked for too: pyarrow calls nobody before.
                (first, others), _ = self._nodes.ask(lambda client: _begin(client.do_action(action)), doing)
                try:
                    for result in chain(first, others):
                        last = parse(_wire.WarmProgress, result.body, doing)
                        bar.update(_convert.warm_progress(last))
                    break
                except (pa.ArrowException, OSError) as error:
                    # Warming again costs nothing for what is cached already.
                    failure = from_flight(error, doing)
                    if not failure.retryable or attempt == _ATTEMPTS - 1:
                        raise failure from error
        finally:
            bar.close()
        if last is None or not last.finished:
            raise InternalError(f"{doing}: the node stopped telling before the end; what is cached is not known")
        warmed = _convert.warm_result(last, request.plan.url, pin)
        if raise_on_missing and not warmed.complete:
            raise NotCachedError(_convert.missing(warmed), warmed)
        return warmed

    def stat(self) -> CacheStats:
        """The statistics of a node, the first of the addresses that answers.

        Raises:
            UnavailableError: no node answers.

        Example:
            >>> roost.connect().stat().hit_rate   # doctest: +SKIP
            0.97
        """
        return _convert.cache_stats(self._action("roost.stat", None, _wire.CacheStats, "asking for statistics"))

    def evict(self, url: str | os.PathLike[str]) -> EvictResult:
        """Removes what a node's cache holds of a data set.

        Raises:
            UnavailableError: no node answers.
        """
        request = _wire.DatasetRequest(url=canonical(url))
        result = self._action("roost.evict", request, _wire.EvictResult, f"evicting {request.url}")
        return EvictResult(result.fragments, result.bytes)

    def pin(self, url: str | os.PathLike[str]) -> tuple[str, ...]:
        """Pins a data set: nothing evicts what the cache holds of it.

        Returns:
            The URLs pinned on the node now.

        Raises:
            UnavailableError: no node answers.
        """
        request = _wire.DatasetRequest(url=canonical(url))
        return tuple(self._action("roost.pin", request, _wire.PinResult, f"pinning {request.url}").pinned)

    def unpin(self, url: str | os.PathLike[str]) -> tuple[str, ...]:
        """Takes a pin back.

        Returns:
            The URLs pinned on the node now.

        Raises:
            UnavailableError: no node answers.
        """
        request = _wire.DatasetRequest(url=canonical(url))
        return tuple(self._action("roost.unpin", request, _wire.PinResult, f"unpinning {request.url}").pinned)

    def ls(self) -> list[CachedDataset]:
        """The data sets of which a node's cache holds something.

        Raises:
            UnavailableError: no node answers.
        """
        doing = "listing cached data sets"
        options = self._call_options()
        flights, _ = self._nodes.ask(lambda client: list(client.list_flights(options=options)), doing)
        infos = (_flight_info.parse(info).app_metadata for info in flights)
        return [_convert.cached_dataset(parse(_wire.CachedDataset, info, doing)) for info in infos]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _call_options(self) -> flight.FlightCallOptions:
        return flight.FlightCallOptions(timeout=self._timeout)

    def _action(self, name: str, request: Message | None, answer: type[M], doing: str) -> M:
        action = flight.Action(name, b"" if request is None else request.SerializeToString())
        options = self._call_options()
        results, address = self._nodes.ask(lambda client: list(client.do_action(action, options)), doing)
        if len(results) != 1:
            raise InternalError(f"{doing}: {address} gave {len(results)} answers where one was due")
        return parse(answer, results[0].body, doing)

    def _plan_table(self, plan: Plan, threads: int | None) -> pa.Table:
        if threads is None:
            threads = min(16, max(4, 2 * (os.cpu_count() or 1)))
        elif threads < 1:
            raise InvalidRequestError(f"threads is {threads}: at least one is needed")
        first = plan.tickets[0] if plan.tickets else None
        if plan.shuffle == "rows" or plan.even != "none" or (first is not None and first.from_row):
            return _table(plan.batches(prefetch=min(threads, 2)), plan.schema)
        sources = [_Source(self, ticket) for ticket in plan.tickets]
        return _table(in_order(sources, workers=threads), plan.schema)


class _Source:
    """Begins to read a ticket when called."""

    __slots__ = ("_client", "_ticket")

    def __init__(self, client: Client, ticket: Ticket) -> None:
        self._client = client
        self._ticket = ticket

    def __call__(self) -> Iterator[pa.RecordBatch]:
        return self._client.read_batches(self._ticket)


def _rebuild(addresses: tuple[str, ...], fallback: bool, timeout: float, maps: bool | None) -> Client:
    return Client(addresses, fallback=fallback, timeout=timeout, maps=maps)


def _begin(results: Iterator[flight.Result]) -> tuple[list[flight.Result], Iterator[flight.Result]]:
    """The first of `results`, if there is one, and the others."""
    results = iter(results)
    return list(islice(results, 1)), results


def _table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    # `concat_tables` forgets the rows of tables without columns; this does not.
    return pa.Table.from_batches(list(batches), schema=schema)
