"""Plans by asking a node: requests, pages, and the tickets of some blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import pyarrow.flight as flight
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.message import DecodeError, Message

from roost import _convert, _flight_info, _wire
from roost._nodes import Nodes
from roost._origin import canonical
from roost.errors import InternalError, InvalidRequestError, StalePlanError
from roost.order import EVENS, SHUFFLES
from roost.plan import PackedSchema, Ticket

M = TypeVar("M", bound=Message)

_ANY_TYPE = "type.googleapis.com/roost.v1.PlanRequest"
# How often a plan is begun anew when it breaks midway.
_ATTEMPTS = 3
# Larger plans are fetched a part at a time, as they are read.
_TICKETS_AT_ONCE = 100_000


def plan_request(
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
) -> _wire.PlanRequest:
    """What a node is asked, from what the user asks.

    Raises:
        InvalidRequestError: an argument that makes no sense; the message names it.
    """
    request = _wire.PlanRequest(url=canonical(url), job=job or "", refresh=refresh)
    if columns is not None:
        if isinstance(columns, (str, bytes)):
            raise InvalidRequestError(f"columns is {columns!r}: it must be a list of names, such as [{columns!r}]")
        request.columns.SetInParent()
        request.columns.names.extend(columns)
    if limit is not None:
        request.limit = _whole("limit", limit, "a number of rows")
    if isinstance(shuffle, bool) or shuffle is None:
        shuffle = "rows" if shuffle or (shuffle is None and seed is not None) else "none"
    if shuffle not in SHUFFLES:
        raise InvalidRequestError(f"shuffle is {shuffle!r}: it is one of {', '.join(map(repr, SHUFFLES))}")
    if even not in EVENS:
        raise InvalidRequestError(f"even is {even!r}: it is one of {', '.join(map(repr, EVENS))}")
    request.shuffle = SHUFFLES.index(shuffle)
    request.even = EVENS.index(even)
    request.skip = _whole("skip", skip, "a number of rows")
    request.seed = _whole("seed", seed or 0, "a number of 64 bits", 1 << 64)
    request.epoch = _whole("epoch", epoch, "a number of 64 bits", 1 << 64)
    if block is not None:
        request.block = _whole("block", block, "a number of row groups")
        if block == 0 or (block > 1 and shuffle != "rows"):
            raise InvalidRequestError(
                f"block is {block}: it is how many row groups are mixed with shuffle='rows'; None is the default"
            )
    if (rank is None) != (world_size is None):
        raise InvalidRequestError("rank and world_size belong together: give both or neither")
    if rank is not None and world_size is not None:
        request.world_size = _whole("world_size", world_size, "a number of readers", 1 << 32)
        if not 0 <= rank < world_size:
            raise InvalidRequestError(f"rank is {rank}: with world_size {world_size} it is 0 to {world_size - 1}")
        request.rank = rank
    return request


def _whole(name: str, value: int, what: str, below: int = 1 << 63) -> int:
    if not isinstance(value, int) and hasattr(value, "__index__"):
        value = value.__index__()
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
        raise InvalidRequestError(f"{name} is {value!r}: it is {what}, 0 or more")
    return value


@dataclass(frozen=True)
class Answer:
    """A plan as a node answers it."""

    info: _wire.PlanInfo
    packed: PackedSchema
    #: None where there are too many to be fetched at once.
    tickets: tuple[Ticket, ...] | None


class Planner:
    """Asks nodes for plans."""

    def __init__(self, nodes: Nodes, options: Callable[[], flight.FlightCallOptions]) -> None:
        self._nodes = nodes
        self._options = options

    def plan(self, request: _wire.PlanRequest, *, whole: bool = False) -> Answer:
        """A plan with its tickets, unless they are too many; `whole`: in any case."""
        for _ in range(_ATTEMPTS):
            answer = self._pages(request, None if whole else _TICKETS_AT_ONCE)
            if answer is not None:
                return answer
        raise StalePlanError(f"planning {request.url}: its objects change faster than its plan can be read; try again")

    def facts(self, request: _wire.PlanRequest, **wanted: Any) -> _wire.PlanInfo:
        """A plan's facts without tickets."""
        asked = _copy(request)
        asked.count = 1
        for name, value in wanted.items():
            setattr(asked, name, value)
        return self._page(asked, ())[1]

    def blocks(
        self, request: _wire.PlanRequest, fingerprint: str, blocks: Sequence[int], urls: dict[str, str]
    ) -> list[tuple[Ticket, ...]]:
        """The tickets of these blocks of a plan that was made before.

        Raises:
            StalePlanError: the data set has changed since.
        """
        asked = _copy(request)
        asked.world_size = asked.rank = 0
        asked.refresh = False
        del asked.blocks[:]
        asked.blocks.extend(blocks)
        answer = self._pages(asked, None, urls)
        if answer is None or answer.info.fingerprint.hex() != fingerprint:
            raise StalePlanError(f"{request.url} changed since the plan was made: plan again")
        tickets = iter(answer.tickets or ())
        found = []
        for block in blocks:
            first = next(tickets, None)
            members = [] if first is None else [first, *islice(tickets, first.members - 1)]
            if not members or any(ticket.block != block for ticket in members) or len(members) != members[0].members:
                raise InternalError(f"planning {request.url}: the node's answer is not the tickets of block {block}")
            found.append(tuple(members))
        return found

    def _page(self, request: _wire.PlanRequest, prefer: tuple[str, ...]) -> tuple[Any, _wire.PlanInfo, Any, str]:
        doing = f"planning {request.url}"
        found, address = self._nodes.ask(
            lambda client: client.get_flight_info(_descriptor(request), self._options()), doing, prefer=prefer
        )
        parsed = _flight_info.parse(found)
        return found, parse(_wire.PlanInfo, parsed.app_metadata, doing), parsed, address

    def _pages(self, request: _wire.PlanRequest, most: int | None, urls: dict[str, str] | None = None) -> Answer | None:
        """All pages of a plan; None where the data set changed between two of them."""
        doing = f"planning {request.url}"
        page = _copy(request)
        address: tuple[str, ...] = ()
        tickets: list[Ticket] = []
        urls = {} if urls is None else urls
        first: _wire.PlanInfo | None = None
        packed: PackedSchema | None = None
        while True:
            found, info, parsed, answered = self._page(page, address)
            address = (answered,)
            if first is None or packed is None:
                first, packed = info, PackedSchema(found.schema)
                # The pages are one job's, and listing the origin anew between them would gain nothing.
                page.job = info.job
                page.refresh = False
            elif info.fingerprint != first.fingerprint:
                return None
            if most is not None and first.tickets > most:
                return Answer(first, packed, None)
            dataset = info.url or request.url
            for endpoint in parsed.endpoints:
                tickets.append(_convert.ticket(endpoint, dataset, packed, urls, doing, len(tickets)))
            if not info.HasField("next"):
                break
            if info.next != len(tickets):
                raise InternalError(f"{doing}: {answered} continues at ticket {info.next} after {len(tickets)} tickets")
            setattr(page, "from", info.next)
        if len(tickets) != first.tickets or _rows(tickets) != first.rows:
            raise InternalError(
                f"{doing}: {len(tickets)} tickets came where the plan has {first.tickets}, or their rows do not add up"
                f" to {first.rows}"
            )
        return Answer(first, packed, tuple(tickets))


def _rows(tickets: Sequence[Ticket]) -> int:
    """Rows of the plan in tickets of whole blocks."""
    rows = 0
    at = 0
    while at < len(tickets):
        first = tickets[at]
        members = tickets[at : at + first.members]
        own = sum(ticket.num_rows for ticket in members)
        rows += (own if first.until_row is None else min(own, first.until_row)) - first.from_row
        at += first.members
    return rows


def _copy(request: _wire.PlanRequest) -> _wire.PlanRequest:
    copy = _wire.PlanRequest()
    copy.CopyFrom(request)
    return copy


def _descriptor(request: _wire.PlanRequest) -> flight.FlightDescriptor:
    packed = PackedAny(type_url=_ANY_TYPE, value=request.SerializeToString())
    return flight.FlightDescriptor.for_command(packed.SerializeToString())


def parse(message: type[M], data: Any, doing: str) -> M:
    """A message from its bytes.

    Raises:
        InternalError: what answered is no Roost node.
    """
    try:
        return message.FromString(data if isinstance(data, bytes) else data.to_pybytes())
    except DecodeError as error:
        raise InternalError(f"{doing}: the answer cannot be understood; is a Roost node there? ({error})") from error
