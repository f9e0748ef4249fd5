"""Who reads what, whatever happens: simulated on lists of blocks, without data."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import numpy as np
import pytest

import roost
from roost import _epoch
from roost._epoch import Facts, Itinerary, Window

FACTS = Facts("s3://b/t/", "c" * 16, "rows", 1, 2, 3, 0, None, "l" * 16, "s" * 16)


class Reader:
    """A reader that may be killed and begun again from what it saved last."""

    def __init__(self, rows: Any, window: Window, even: str, rank: int, world: int, state: Any) -> None:
        self.rows, self.window, self.even, self.place = rows, window, even, (rank, world)
        self.state = state
        self.kept: list[tuple[int, int, int]] = []
        self.begin()

    def begin(self) -> None:
        # Through JSON, as a checkpoint goes.
        state = json.loads(json.dumps(self.state)) if self.state else None
        self.way = Itinerary(FACTS, self.window, *self.place, state)
        self.target = self.way.target(self.rows, self.even)
        self.items = self.way.items(self.even == "repeat")
        self.item: Any = None
        self.read: list[tuple[int, int, int]] = []

    def step(self, most: int) -> bool:
        """Reads a few rows; whether there were any."""
        left = most if self.target is None else min(most, self.target - self.way.cursor.read)
        if left <= 0:
            return False
        if self.item is None:
            self.item = next(self.items, None)
            if self.item is None:
                return False
            self.row = self.item.start
        stop = int(self.rows[self.item.block]) if self.item.stop is None else self.item.stop
        take = min(left, stop - self.row)
        self.read += [(self.item.block, self.row + i, self.item.lap) for i in range(take)]
        self.row += take
        self.way.advance(self.item, self.row, self.row == stop, take)
        if self.row == stop:
            self.item = None
        return True

    def save(self) -> None:
        self.state = self.way.state()
        self.kept += self.read
        self.read = []


@pytest.mark.parametrize("seed", range(150))
def test_each_row_once_whoever_reads(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randrange(60)
    rows = np.array([draw.randrange(1, 12) for _ in range(count)], np.int64)
    window = Window(0, count)
    if count > 3 and draw.random() < 0.4:
        first, end = sorted(draw.sample(range(count), 2))
        window = Window(first, end + 1, draw.randrange(int(rows[first])), None)
    even = draw.choice(["none", "none", "drop", "repeat"])
    expected = [(b, r) for b in range(window.first, window.end) for r in range(window.start(b), rows[b])]
    state: Any = None
    kept: list[tuple[int, int, int]] = []
    ended = False
    for _ in range(draw.randrange(1, 8)):
        world = draw.choice([1, 2, 3, 5, 8, 64])
        if state is None and even != "none" and 0 < window.end - window.first < world:
            with pytest.raises(roost.InvalidRequestError, match="evenly"):
                Reader(rows, window, even, 0, world, state)
            return
        readers = [Reader(rows, window, even, rank, world, state) for rank in range(world)]
        assert len({reader.target for reader in readers}) == 1
        weights = [draw.random() ** 3 + 0.01 for _ in readers]
        alive = set(range(world))
        for _ in range(draw.choice([3, 40, 10_000])):
            if not alive:
                break
            rank = draw.choices(sorted(alive), [weights[i] for i in sorted(alive)])[0]
            if not readers[rank].step(draw.randrange(1, 7)):
                readers[rank].save()
                alive.discard(rank)
            elif draw.random() < 0.3:
                readers[rank].save()
            elif draw.random() < 0.05:
                # Killed: what it read since it saved is lost with it.
                readers[rank].begin()
        for reader in readers:
            reader.save()
            kept += reader.kept
        if even != "none" and not alive:
            assert {reader.way.cursor.read for reader in readers} == {readers[0].target or 0}
        states = [reader.state for reader in readers]
        draw.shuffle(states)
        state = _epoch.merge({"loader": [{"worker": one} for one in states]})
        ended = not alive
        if ended:
            break
    once = [(block, row) for block, row, lap in kept if lap == 0]
    assert len(once) == len(set(once)), "a row came twice"
    if ended and even == "drop":
        assert set(once) <= set(expected)
        return
    rest = Itinerary(FACTS, window, 0, 1, state)
    left = [(item.block, row) for item in rest.items() for row in range(item.start, rows[item.block])]
    assert sorted(once + left) == expected
    if ended:
        assert not left


def test_open_blocks_come_first_and_then_the_sequence() -> None:
    window = Window(0, 20)
    level = [[8], [5, 3], [6, 2], [3]]
    state = {"roost": 1, "plan": _epoch.asdict(FACTS), "done": [], "world": 4, "all": level}
    items = list(Itinerary(FACTS, window, 0, 1, state).items())
    assert [(item.block, item.start) for item in items] == [
        *[(5, 3), (6, 2)],
        *[(b, 0) for b in (3, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)],
    ]
    halves = [[item.block for item in Itinerary(FACTS, window, rank, 2, state).items()] for rank in range(2)]
    assert halves == [[item.block for item in items][rank::2] for rank in range(2)]
    # The same ranks go on as they were.
    assert [item.block for item in Itinerary(FACTS, window, 1, 4, state).items()] == [5, 9, 13, 17]


def test_states_stay_small() -> None:
    """However often the ranks change, and however large the data set is."""
    window = Window(0, 1_000_000)
    state: Any = None
    draw = random.Random(5)
    sizes = []
    for _ in range(30):
        world = draw.choice([16, 48, 64])
        ways = [Itinerary(FACTS, window, rank, world, state) for rank in range(world)]
        for way in ways:
            items = way.items()
            for _ in range(draw.randrange(3, 9)):
                item = next(items)
                way.advance(item, 0, True, 100)
            way.advance(next(items), 7, False, 7)
        states = [way.state() for way in ways]
        sizes.append(max(len(json.dumps(one)) for one in states))
        state = _epoch.merge(states)
    # A cursor of each of 64 ranks, once or twice.
    assert max(sizes) < 2500, sizes
    fresh = Itinerary(FACTS, window, 5, 64).state()
    assert len(json.dumps(fresh)) < 400


def test_a_million_blocks_are_gone_on_with_at_once() -> None:
    window = Window(0, 1_000_000)
    level = [[1000 * 64 + rank + 64 * (rank * 7 % 5), rank % 3] for rank in range(64)]
    state = {
        "roost": 1,
        "plan": _epoch.asdict(FACTS),
        "done": [level],
        "world": 48,
        "all": [[r + 480] for r in range(48)],
    }
    began = time.perf_counter()
    way = Itinerary(FACTS, window, 3, 40, state)
    item = next(way.items())
    target = way.target(np.full(1_000_000, 100), "drop")
    assert time.perf_counter() - began < 1
    assert item.block > 0
    assert target is not None


def test_states_of_others_are_refused_by_name() -> None:
    window = Window(0, 10)
    state = Itinerary(FACTS, window, 1, 2).state()

    def refused(**other: Any) -> str:
        facts = _epoch.Facts(**{**_epoch.asdict(FACTS), **other})
        with pytest.raises(roost.RoostError) as caught:
            Itinerary(facts, window, 1, 2, state)
        assert isinstance(caught.value, roost.StalePlanError) == bool({"layout", "snapshot"} & set(other))
        return str(caught.value)

    assert "epoch was 2 and is 3" in refused(epoch=3)
    assert "seed was 1 and is 9" in refused(seed=9)
    assert "url was 's3://b/t/' and is 's3://b/u/'" in refused(url="s3://b/u/")
    assert "other columns" in refused(columns="x")
    assert "block was 3 and is 4" in refused(block=4)
    assert "limit was None and is 5" in refused(limit=5)
    assert "skip was 0 and is 5" in refused(skip=5)
    assert "shuffle was 'rows' and is 'none'" in refused(shuffle="none")
    assert "objects were added, removed or rewritten" in refused(layout="x")
    assert "replaced by others of the same size" in refused(snapshot="x")
    # Without a node identities are not known; the objects are the same.
    _ = Itinerary(_epoch.Facts(**{**_epoch.asdict(FACTS), "snapshot": ""}), window, 1, 2, state)


def test_merging_needs_all_and_only_one_epoch() -> None:
    states = [Itinerary(FACTS, Window(0, 10), rank, 3).state() for rank in range(3)]
    with pytest.raises(roost.InvalidRequestError, match="of 3 readers' states, those of 1 are missing"):
        _epoch.merge([states[0], states[2]])
    with pytest.raises(roost.InvalidRequestError, match="no state of a roost reader"):
        _epoch.merge([{"model": 1}])
    with pytest.raises(roost.InvalidRequestError, match="two states of rank 1 differ"):
        _epoch.merge([*states, {**states[1], "at": [4]}])
    with pytest.raises(roost.InvalidRequestError, match="not of one epoch: world"):
        _epoch.merge([states[0], Itinerary(FACTS, Window(0, 10), 1, 2).state()])
    with pytest.raises(roost.InvalidRequestError, match=r"rank 1 of 3 alone.*rank 0 of 2"):
        Itinerary(FACTS, Window(0, 10), 0, 2, states[1])
    with pytest.raises(roost.InvalidRequestError, match="version 2"):
        _epoch.merge([{**states[0], "roost": 2}])
    # A state that is there twice, as loaders keep it, is one; merged ones may be merged again.
    merged = _epoch.merge([states, states])
    assert _epoch.merge([merged, merged]) == merged
