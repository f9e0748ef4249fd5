"""PURE: who has read what of an epoch, and what is left: cursors, states, and how states of all ranks become new work.

The work of an epoch is a list of blocks. Rank r of W takes the places p ≡ r (mod W) of that list and keeps a cursor:
its next place, and the row of that block's order at which to go on. Where the world changes its size, the cursors of
all ranks
leave a new list: the blocks that were begun first, then all that nobody began, in the order of the old one; the new
ranks share it in the same way. A state is the plan's facts, the lists' cursors, and the reader's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from roost import order
from roost.errors import InvalidRequestError, StalePlanError

if TYPE_CHECKING:
    from roost.order import Index

VERSION = 1
#: The key by which a state is known among others, such as those of a data loader.
MARK = "roost"

State = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a plan's sequence of rows depends on."""

    url: str
    #: Hash of the columns' names.
    columns: str
    shuffle: str
    seed: int
    epoch: int
    block: int
    skip: int
    limit: int | None
    #: Hash of the objects, their sizes and row groups.
    layout: str
    #: Hash of the objects' identities as the node knows them; empty without a node.
    snapshot: str

    def check(self, saved: Mapping[str, Any]) -> None:
        """Raises where a state was saved of another sequence, and says what is another.

        Raises:
            InvalidRequestError: other arguments of the plan.
            StalePlanError: another data set.
        """
        mine = asdict(self)
        asked = [name for name in mine if name not in ("layout", "snapshot") and saved.get(name) != mine[name]]
        if asked:
            # A hash says nothing to a reader.
            told = (
                "other columns" if name == "columns" else f"{name} was {saved.get(name)!r} and is {mine[name]!r}"
                for name in asked
            )
            raise InvalidRequestError(f"{self.url}: this state is of another plan: {', '.join(told)}")
        if saved.get("layout") != self.layout:
            raise StalePlanError(
                f"{self.url}: this state is of another snapshot: objects were added, removed or rewritten since; begin"
                " the epoch anew"
            )
        if self.snapshot and saved.get("snapshot") and saved["snapshot"] != self.snapshot:
            raise StalePlanError(
                f"{self.url}: this state is of another snapshot: objects were replaced by others of the same size, or"
                " their schema changed; begin the epoch anew"
            )


@dataclass(frozen=True)
class Cursor:
    """Where a rank is in its list."""

    #: Its next place.
    place: int
    #: The row, in the order of that place's block, to go on with; 0 where nothing of it was read.
    row: int = 0
    #: Rows it has read of this list, and how often it began anew (`even="repeat"`).
    read: int = 0
    lap: int = 0

    def to_list(self) -> list[int]:
        """As short as it can be."""
        values = [self.place, self.row, self.read, self.lap]
        while len(values) > 1 and values[-1] == 0:
            values.pop()
        return values

    @classmethod
    def of(cls, values: Sequence[int]) -> Cursor:
        """The inverse of `to_list`."""
        return cls(*(int(value) for value in values))


@dataclass(frozen=True)
class Work:
    """A list of blocks to share."""

    blocks: Index
    #: Rows at which blocks are to be begun that somebody has begun before.
    begun: Mapping[int, int]
    #: The first place that counts.
    start: int = 0

    @classmethod
    def whole(cls, first: int, end: int) -> Work:
        """The blocks `first..end` of an epoch. Places are the blocks' numbers."""
        return cls(np.arange(end), {}, first)

    def first_place(self, rank: int, world: int) -> int:
        """Where a rank begins."""
        return self.start + (rank - self.start) % world

    def rest(self, cursors: Sequence[Cursor]) -> Work:
        """What is left when all ranks have come to these places."""
        world, count = len(cursors), len(self.blocks)
        done = np.zeros(world, np.int64)
        opened = []
        for cursor in cursors:
            is_open = cursor.row > 0 and cursor.place < count
            if is_open:
                opened.append(cursor)
            done[cursor.place % world] = cursor.place + (world if is_open else 0)
        opened.sort(key=lambda cursor: cursor.place)
        places = np.arange(count)
        left = self.blocks[places >= done[places % world]]
        first = [int(self.blocks[cursor.place]) for cursor in opened]
        begun = {block: cursor.row for block, cursor in zip(first, opened, strict=True)}
        if self.begun:
            left_set = set(left[np.isin(left, list(self.begun))].tolist())
            begun |= {block: row for block, row in self.begun.items() if block in left_set}
        return Work(np.concatenate([np.array(first, np.int64), left]), begun)


@dataclass(frozen=True)
class Item:
    """One block's rows to read: rows `start..stop` of its order."""

    place: int
    lap: int
    block: int
    start: int
    stop: int | None


@dataclass(frozen=True)
class Window:
    """What `skip` and `limit` leave: from row `first_row` of block `first` to row `end_row` of the last one."""

    first: int
    end: int
    first_row: int = 0
    end_row: int | None = None

    def start(self, block: int) -> int:
        """The first row of a block's order that is the plan's."""
        return self.first_row if block == self.first else 0

    def stop(self, block: int) -> int | None:
        """The row behind the last one; None: all."""
        return self.end_row if block == self.end - 1 else None

    def rows(self, block_rows: Index) -> Index:
        """Rows of the plan in each block."""
        rows = np.array(block_rows, np.int64)
        if self.end_row is not None and self.end:
            rows[self.end - 1] = self.end_row
        if self.first < self.end:
            rows[self.first] -= self.first_row
        rows[: self.first] = 0
        rows[self.end :] = 0
        return rows


class Itinerary:
    """One reader's way through an epoch."""

    def __init__(self, facts: Facts, window: Window, rank: int, world: int, state: State | None = None) -> None:
        """`state`: where to go on; a reader's own, or merged of all.

        Raises:
            InvalidRequestError: the state is of another plan, or of one rank where all are needed.
            StalePlanError: the state is of another snapshot.
        """
        self.facts, self.window, self.rank, self.world = facts, window, rank, world
        self._done: list[list[list[int]]] = []
        cursor = None
        if state is not None:
            facts.check(state["plan"])
            cursor = self._restore(state)
        works = _works(window, self._done)
        self._work = works[-1]
        self._first = self._work.first_place(rank, world)
        self._resumed = bool(self._done)
        #: Where the reader is.
        self.cursor = cursor or Cursor(self._first)

    def _restore(self, state: State) -> Cursor | None:
        self._done = [list(level) for level in state["done"]]
        if "at" in state and (state["world"] > 1 or self.world == 1):
            if (state["rank"], state["world"]) != (self.rank, self.world):
                raise InvalidRequestError(
                    f"{self.facts.url}: this is the state of rank {state['rank']} of {state['world']} alone, and this"
                    f" is rank {self.rank} of {self.world}: give a list with the states of all {state['world']}"
                )
            return Cursor.of(state["at"])
        # One reader's state is of all of them if it was the only one.
        ranks = state["all"] if "all" in state else [state["at"]]
        if len(ranks) == self.world:
            return Cursor.of(ranks[self.rank])
        self._done.append(list(_finished(ranks, _works(self.window, self._done)[-1])))
        self._collapse()
        return None

    def _collapse(self) -> None:
        """Forgets lists that all ranks have passed the uneven beginning of: states stay small."""
        while len(self._done) > 1:
            works = _works(self.window, self._done[:-1])
            before, last = works[-2], works[-1]
            ahead = max(c[0] + (len(self._done[-2]) if len(c) > 1 else 0) for c in self._done[-2])
            shift = len(before.blocks) - len(last.blocks)
            if any(cursor[0] + shift < ahead for cursor in self._done[-1]):
                return
            self._done[-2:] = [[[cursor[0] + shift, *cursor[1:]] for cursor in self._done[-1]]]

    def state(self) -> State:
        """What `Itinerary` takes to go on here."""
        return {
            MARK: VERSION,
            "plan": asdict(self.facts),
            "done": self._done,
            "world": self.world,
            "rank": self.rank,
            "at": self.cursor.to_list(),
        }

    def target(self, block_rows: Index, even: str) -> int | None:
        """Rows that each rank is to read of its list; None: all its own.

        Raises:
            InvalidRequestError: an epoch that has not one row for each rank.
        """
        if even == "none":
            return None
        work = self._work
        rows = self.window.rows(block_rows)[work.blocks]
        for block, row in work.begun.items():
            rows[work.blocks == block] -= row - self.window.start(block)
        rows = rows[work.start :]
        shares = order.shares(rows, work.start, self.world)
        if self._resumed:
            return int(shares.min() if even == "drop" else shares.max())
        return order.even_share(shares, even, len(rows))

    def items(self, repeat: bool = False) -> Iterator[Item]:
        """What is to be read from here on; without end if `repeat`."""
        place, lap, row = self.cursor.place, self.cursor.lap, self.cursor.row
        blocks = self._work.blocks
        first, step = self._first, self.world
        if repeat and first >= len(blocks):
            # Nothing of its own to repeat: it repeats another's.
            if self._work.start >= len(blocks):
                return
            first = self._work.start + first % (len(blocks) - self._work.start)
            place, lap = (place, lap) if lap else (first, 1)
        while True:
            while place < len(blocks):
                block = int(blocks[place])
                start = row or self._work.begun.get(block) or self.window.start(block)
                yield Item(place, lap, block, start, self.window.stop(block))
                row = 0
                place += step
            if not repeat:
                return
            place, lap = first, lap + 1

    def advance(self, item: Item, row: int, is_end: bool, rows: int) -> None:
        """`rows` more were given out, up to `row` of an item, which ends there or does not."""
        read = self.cursor.read + rows
        if is_end:
            self.cursor = Cursor(item.place + self.world, 0, read, item.lap)
        else:
            self.cursor = Cursor(item.place, row, read, item.lap)


def _finished(ranks: Sequence[Sequence[int]], work: Work) -> Iterator[list[int]]:
    """Cursors of ranks, where those that began anew have read all their own."""
    for rank, values in enumerate(ranks):
        cursor = Cursor.of(values)
        if cursor.lap:
            cursor = Cursor(_end(work, work.first_place(rank, len(ranks)), len(ranks)))
        yield [cursor.place, cursor.row] if cursor.row else [cursor.place]


def _end(work: Work, place: int, world: int) -> int:
    """The first place at or behind `place`, by steps of `world`, that is behind the list's end."""
    return place + max(0, -(-(len(work.blocks) - place) // world)) * world


def _works(window: Window, done: Iterable[Iterable[Sequence[int]]]) -> list[Work]:
    """The list of the whole epoch, and that of each level."""
    works = [Work.whole(window.first, window.end)]
    for level in done:
        works.append(works[-1].rest([Cursor.of(cursor) for cursor in level]))
    return works


# --- States -----------------------------------------------------------------------------------------------------------


def find(state: Any) -> list[State]:
    """The readers' states in a state of something else, such as a data loader, or a list of these."""
    if isinstance(state, Mapping):
        if MARK in state:
            if state[MARK] != VERSION:
                raise InvalidRequestError(f"this state is of version {state[MARK]}, and this roost knows {VERSION}")
            return [dict(state)]
        state = state.values()
    elif not isinstance(state, (list, tuple)):
        return []
    return [found for part in state for found in find(part)]


def merge(states: Any) -> State:
    """One state of all ranks, from those of each.

    Args:
        states: of all ranks (and workers), in any order, also within the states of data loaders.

    Raises:
        InvalidRequestError: some are missing, or they are not of one epoch.
    """
    found = find(states)
    if not found:
        raise InvalidRequestError("no state of a roost reader is in what was given")
    first = found[0]
    if "all" in first and all(state == first for state in found):
        return first
    ranks: dict[int, list[int]] = {}
    for state in found:
        if "at" not in state:
            raise InvalidRequestError("a merged state stands among others: give it alone, or the states of all ranks")
        for name in ("plan", "world", "done"):
            if state[name] != first[name]:
                raise InvalidRequestError(
                    f"the states of rank {first['rank']} and rank {state['rank']} are not of one epoch:"
                    f" {name} is {first[name]!r} and {state[name]!r}"
                )
        if ranks.setdefault(state["rank"], state["at"]) != state["at"]:
            raise InvalidRequestError(f"two states of rank {state['rank']} differ: take those of one checkpoint")
    missing = [rank for rank in range(first["world"]) if rank not in ranks]
    if missing:
        raise InvalidRequestError(
            f"of {first['world']} readers' states, those of {', '.join(map(str, missing[:8]))} are missing"
            + (", and more" if len(missing) > 8 else "")
        )
    merged = {name: first[name] for name in (MARK, "plan", "done", "world")}
    return {**merged, "all": [ranks[rank] for rank in range(first["world"])]}


def one(state: Any) -> State:
    """The state in `state`: the only one, or all of them merged."""
    found = find(state)
    return found[0] if len(found) == 1 else merge(state)
