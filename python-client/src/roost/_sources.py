"""Where the tickets of a plan's blocks come from: a node, or the data set's own footers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from roost import _direct, _wire, order
from roost._epoch import Facts, Window
from roost._planning import Answer
from roost.errors import StalePlanError, UnavailableError
from roost.plan import PackedSchema, Plan, Ticket

if TYPE_CHECKING:
    from roost._direct import DirectPlan
    from roost.client import Client
    from roost.order import Index


class Source(Protocol):
    """Answers which tickets blocks have."""

    @property
    def direct(self) -> bool:
        """Whether no node is asked."""
        ...

    def blocks(self, blocks: Sequence[int]) -> list[tuple[Ticket, ...]]:
        """The tickets of each of these blocks."""
        ...

    def block_rows(self) -> Index:
        """Rows of each block of the whole order, before `skip` and `limit`."""
        ...

    def all(self, rank: int, world: int) -> tuple[Ticket, ...]:
        """The tickets of a reader."""
        ...

    def explained(self, rank: int, world: int) -> _wire.Explain:
        """What a reader's reading takes."""
        ...


# --- By a node --------------------------------------------------------------------------------------------------------


class NodeSource:
    """Asks nodes; where none answers, makes the same order from the footers, if it comes out the same."""

    direct = False

    def __init__(
        self,
        client: Client,
        request: _wire.PlanRequest,
        fingerprint: str,
        layout: str,
        tickets: tuple[Ticket, ...] | None,
    ) -> None:
        self._client = client
        self._request = request.SerializeToString()
        self._fingerprint = fingerprint
        self._layout = layout
        #: Of all blocks, where they are known.
        self._known = tickets
        self._at: dict[int, int] | None = None
        self._urls: dict[str, str] = {}
        self._spare: DirectSource | None = None

    def blocks(self, blocks: Sequence[int]) -> list[tuple[Ticket, ...]]:
        if self._known is not None:
            if self._at is None:
                starts = range(len(self._known))
                self._at = {self._known[i].block: i for i in reversed(starts)}
            known, at = self._known, self._at
            return [known[at[b] : at[b] + known[at[b]].members] for b in blocks]
        if self._spare is not None:
            return self._spare.blocks(blocks)
        try:
            return self._client._planner.blocks(self._asked(), self._fingerprint, blocks, self._urls)
        except UnavailableError as error:
            return self._fall_back(error).blocks(blocks)

    def block_rows(self) -> Index:
        try:
            info = self._client._planner.facts(self._asked(), want_block_rows=True, world_size=0, rank=0)
        except UnavailableError as error:
            return self._fall_back(error).block_rows()
        self._check(info)
        return np.array(info.block_rows, np.int64)

    def all(self, rank: int, world: int) -> tuple[Ticket, ...]:
        asked = self._asked()
        asked.rank, asked.world_size = (rank, world) if world > 1 else (0, 0)
        answer = self._client._planner.plan(asked, whole=True)
        self._check(answer.info)
        return answer.tickets or ()

    def explained(self, rank: int, world: int) -> _wire.Explain:
        rank, world = (rank, world) if world > 1 else (0, 0)
        info = self._client._planner.facts(self._asked(), want_explain=True, rank=rank, world_size=world)
        self._check(info)
        return info.explain

    def _asked(self) -> _wire.PlanRequest:
        return _wire.PlanRequest.FromString(self._request)

    def _check(self, info: _wire.PlanInfo) -> None:
        if info.fingerprint.hex() != self._fingerprint:
            raise StalePlanError(f"{self._asked().url} changed since the plan was made: plan again")

    def _fall_back(self, error: UnavailableError) -> DirectSource:
        if not self._client._fallback:
            raise error
        request = self._asked()
        spare = DirectSource(_direct.plan(request.url, _columns(request)), request)
        if spare.found.layout != self._layout:
            # Another order would read rows twice and leave others out.
            raise error
        _direct.warn_once(str(error))
        self._spare = spare
        return spare


def by_node(client: Client, request: _wire.PlanRequest, answer: Answer) -> Plan:
    """The plan that a node answered."""
    info, packed, tickets = answer.info, answer.packed, answer.tickets
    # A node of before blocks had names plans in the order of the data, where each ticket is one.
    blocks = info.blocks or info.tickets
    window = Window(
        info.first_block,
        info.end_block if info.blocks else blocks,
        info.first_row,
        info.end_row if info.HasField("end_row") else None,
    )
    layout, fingerprint = info.layout.hex(), info.fingerprint.hex()
    whole = tickets if request.world_size <= 1 else None
    request.job = info.job
    return Plan(
        client,
        packed,
        NodeSource(client, request, fingerprint, layout, whole),
        _facts(request, info.url or request.url, packed, info.block or 1, layout[:16], info.snapshot.hex()[:16]),
        window,
        tickets,
        blocks=blocks,
        count=info.tickets,
        fingerprint=fingerprint,
        num_rows=info.rank_rows if info.HasField("rank_rows") else info.rows,
        nbytes=info.bytes,
        rank=request.rank,
        world_size=max(1, request.world_size),
        even=order.EVENS[request.even],
        job=info.job,
    )


# --- Without a node ---------------------------------------------------------------------------------------------------


class DirectSource:
    """Orders what the footers say."""

    direct = True

    def __init__(self, found: DirectPlan, request: _wire.PlanRequest) -> None:
        self.found = found
        shuffle = order.SHUFFLES[request.shuffle]
        counts = np.array(found.counts, np.int64)
        size = order.block_size(shuffle, request.block, len(found.tickets), found.whole_nbytes)
        self._order = order.Order(counts, shuffle=shuffle, seed=request.seed, epoch=request.epoch, block=size)
        self._starts = np.cumsum(counts) - counts
        self._rows = self._order.sums([ticket.num_rows for ticket in found.tickets])
        limit = request.limit if request.HasField("limit") else None
        if limit is None and not request.skip:
            self.window = Window(0, self._order.blocks)
        else:
            self.window = Window(*order.window(self._rows, request.skip, limit))

    @property
    def count(self) -> int:
        """Blocks."""
        return self._order.blocks

    @property
    def size(self) -> int:
        """Row groups of the largest block."""
        return self._order.size(0) if self._order.blocks else 1

    def blocks(self, blocks: Sequence[int]) -> list[tuple[Ticket, ...]]:
        return [self._block(block) for block in blocks]

    def block_rows(self) -> Index:
        return self._rows

    def all(self, rank: int, world: int) -> tuple[Ticket, ...]:
        return tuple(ticket for block in self.numbers(rank, world) for ticket in self._block(block))

    def numbers(self, rank: int, world: int) -> range:
        """The blocks of a reader."""
        first = self.window.first
        return range(first + (rank - first) % world, self.window.end, world)

    def explained(self, rank: int, world: int) -> _wire.Explain:
        found = self.found
        own = [ticket for block in self.numbers(rank, world) for ticket in self._block(block)]
        nbytes = sum(ticket.nbytes for ticket in own)
        whole = sum(ticket.nbytes for ticket in found.tickets)
        return _wire.Explain(
            row_groups_total=len(found.tickets),
            row_groups=len(own),
            bytes=nbytes,
            # Nothing is cached; of the objects' bytes, the columns' share.
            origin_bytes=found.encoded_nbytes * whole // max(found.whole_nbytes, 1) * nbytes // max(whole, 1),
        )

    def _block(self, block: int) -> tuple[Ticket, ...]:
        members = self._order.members(block)
        start, stop = self.window.start(block), self.window.stop(block)
        tickets = []
        for object, ordinal in members:
            ticket = self.found.tickets[self._starts[object] + ordinal]
            cut = stop
            if stop is not None and self._order.shuffle != "rows":
                # Rows stay as they lie: those behind the end need not be read.
                (piece,) = ticket.pieces
                nbytes = ticket.nbytes * stop // max(piece.rows, 1)
                piece = replace(piece, rows_cut=piece.rows - stop)
                ticket = replace(ticket, pieces=(piece,), num_rows=piece.num_rows, nbytes=nbytes)
                cut = None
            tickets.append(replace(ticket, block=block, members=len(members), from_row=start, until_row=cut))
        return tuple(tickets)


def by_footers(client: Client, request: _wire.PlanRequest) -> Plan:
    """The same plan without a node."""
    found = _direct.plan(request.url, _columns(request))
    source = DirectSource(found, request)
    rank, world = request.rank, max(1, request.world_size)
    rows = source.window.rows(source.block_rows())
    own = order.shares(rows[source.window.first :], source.window.first, world)
    even = order.EVENS[request.even]
    target = order.even_share(own, even, source.window.end - source.window.first) if request.world_size else None
    tickets = source.all(rank, world)
    packed = tickets[0].packed_schema if tickets else PackedSchema(found.schema)
    facts = _facts(request, found.url, packed, source.size, found.layout[:16], "")
    hashed = hashlib.sha256(repr((facts, found.identity)).encode())
    return Plan(
        client,
        packed,
        source,
        facts,
        source.window,
        tickets,
        blocks=source.count,
        count=len(tickets),
        fingerprint=hashed.hexdigest(),
        num_rows=int(own[rank]) if target is None else target,
        nbytes=sum(ticket.nbytes for ticket in tickets),
        rank=rank,
        world_size=world,
        even=even,
    )


def _columns(request: _wire.PlanRequest) -> list[str] | None:
    return list(request.columns.names) if request.HasField("columns") else None


def _facts(request: _wire.PlanRequest, url: str, packed: PackedSchema, block: int, layout: str, snapshot: str) -> Facts:
    names = hashlib.sha256("\0".join(packed.schema.names).encode()).hexdigest()[:16]
    shuffled = request.shuffle != _wire.SHUFFLE_NONE
    return Facts(
        url=url,
        columns=names,
        shuffle=order.SHUFFLES[request.shuffle],
        # Nothing is drawn where nothing is shuffled; the epoch is still another one.
        seed=request.seed if shuffled else 0,
        epoch=request.epoch,
        block=block,
        skip=request.skip,
        limit=request.limit if request.HasField("limit") else None,
        layout=layout,
        snapshot=snapshot,
    )
