"""PURE: the order of an epoch: a function of the data set's row groups, shuffle, block, seed and epoch alone.

The rules stand in Roost's documentation, page "Order". A node orders row groups into blocks by the same rules; the rows
of a block are mixed here, in the reader, so that a node can serve what it keeps as it is.

Example:
    >>> order = Order([2, 3, 1], shuffle="rows", seed=7, epoch=0, block=3)
    >>> order.blocks, [order.members(block) for block in range(order.blocks)]
    (2, [[(0, 0), (1, 1), (1, 0)], [(2, 0), (0, 1), (1, 2)]])
    >>> row_order(8, seed=7, epoch=0, block=0).tolist()
    [5, 6, 1, 0, 2, 4, 3, 7]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from roost.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    U64 = NDArray[np.uint64]
    Index = NDArray[np.int64]

__all__ = ["SHUFFLES", "Order", "block_size", "permute", "row_order"]

SHUFFLES = ("none", "row_groups", "rows")
EVENS = ("none", "drop", "repeat")

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_ROUNDS = 6
# Permutations of at most so many numbers are sorted.
_SMALL = 64
_OBJECTS, _ROW_GROUPS, _BLOCKS, _ROWS = 1, 2, 3, 4

_BLOCK_BYTES = 256 << 20
_BLOCKS_MIN = 16
# Numbers mixed at a time: they stay in a core's cache.
_CHUNK = 1 << 14


# --- Numbers ----------------------------------------------------------------------------------------------------------


def mix(z: int) -> int:
    """SplitMix64's output function."""
    z = (z ^ (z >> 30)) * _MIX_1 & _MASK
    z = (z ^ (z >> 27)) * _MIX_2 & _MASK
    return z ^ (z >> 31)


def key(seed: int, epoch: int, purpose: int, index: int) -> int:
    """The key of one permutation."""
    state = seed
    for value in (epoch, purpose, index):
        state = mix(state + _GAMMA & _MASK) ^ value
    return mix(state + _GAMMA & _MASK)


def _mix_all(z: U64) -> U64:
    """`mix` of each, in place."""
    other = np.empty_like(z)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        np.right_shift(z, np.uint64(shift), out=other)
        z ^= other
        z *= np.uint64(factor)
    np.right_shift(z, np.uint64(31), out=other)
    z ^= other
    return z


def _key_all(seed: int, epoch: int, purpose: int, index: U64) -> U64:
    state = seed
    for value in (epoch, purpose):
        state = mix(state + _GAMMA & _MASK) ^ value
    return _mix_all((np.uint64(mix(state + _GAMMA & _MASK)) ^ index) + np.uint64(_GAMMA))


def _drawn_order(n: int, key: int) -> Index:
    """The numbers below n, sorted by the upper half of what is drawn for each, then by themselves."""
    low, high = np.empty(n, np.uint16), np.empty(n, np.uint16)
    steps = np.arange(1, min(n, _CHUNK) + 1, dtype=np.uint64) * np.uint64(_GAMMA)
    for start in range(0, n, _CHUNK):
        stop = min(n, start + _CHUNK)
        drawn = _mix_all(steps[: stop - start] + np.uint64((key + start * _GAMMA) & _MASK))
        low[start:stop] = (drawn >> np.uint64(32)).astype(np.uint16)
        high[start:stop] = (drawn >> np.uint64(48)).astype(np.uint16)
    # Two stable passes, which numpy does by radix for 16 bits.
    order = np.argsort(low, kind="stable")
    ordered: Index = order[np.argsort(high[order], kind="stable")]
    return ordered


def permute(n: int, key: int, place: int) -> int:
    """What stands at `place` in the permutation of 0..n that `key` draws."""
    if n <= _SMALL:
        return sorted((mix(key + (i + 1) * _GAMMA & _MASK) >> 32, i) for i in range(n))[place][1]
    half = ((n - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    value = place
    while True:
        left, right = value >> half, value & mask
        for round in range(1, _ROUNDS + 1):
            left, right = right, left ^ (mix(right ^ mix(key + round * _GAMMA & _MASK)) & mask)
        value = left << half | right
        if value < n:
            return value


def _permutation(n: int, key: int) -> U64:
    """All of the permutation of 0..n that `key` draws."""
    if n <= _SMALL:
        return _drawn_order(n, key).astype(np.uint64)
    places = np.arange(n, dtype=np.uint64)
    return _walk(np.full_like(places, n), np.full_like(places, key), places)


def _permutations(counts: Index, keys: U64) -> U64:
    """One after the other, all permutations of 0..count that the keys draw."""
    of, key = np.repeat(counts, counts).astype(np.uint64), np.repeat(keys, counts)
    places = (np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.uint64)
    drawn = _mix_all(key + (places + np.uint64(1)) * np.uint64(_GAMMA)) >> np.uint64(32)
    whose = np.repeat(np.arange(len(counts), dtype=np.uint64), counts)
    values: U64 = places[np.argsort(whose << np.uint64(32) | drawn, kind="stable")]
    large = np.nonzero(of > _SMALL)[0]
    values[large] = _walk(of[large], key[large], places[large])
    return values


def _walk(n: U64, key: U64, place: U64) -> U64:
    """Large permutations, of arrays of equal length."""
    values: U64 = place.copy()
    walking = np.arange(len(values))
    halves = ((np.frexp((n - np.uint64(1)).astype(np.float64))[1] + 1) // 2).astype(np.uint64)
    while len(walking):
        for start in range(0, len(walking), _CHUNK):
            at = walking[start : start + _CHUNK]
            half, keys, value = halves[at], key[at], values[at]
            mask = (np.uint64(1) << half) - np.uint64(1)
            left, right = value >> half, value & mask
            for round in range(1, _ROUNDS + 1):
                drawn = _mix_all(right ^ _mix_all(keys + np.uint64(round * _GAMMA & _MASK)))
                left, right = right, left ^ (drawn & mask)
            values[at] = (left << half) | right
        walking = walking[values[walking] >= n[walking]]
    return values


# --- Rows of a block --------------------------------------------------------------------------------------------------


def row_order(rows: int, seed: int, epoch: int, block: int) -> Index:
    """The order of a block's rows.

    Returns:
        At each place, the index of a row in the block's row groups, one after the other.
    """
    return _drawn_order(rows, key(seed, epoch, _ROWS, block))


# --- Blocks -----------------------------------------------------------------------------------------------------------


def block_size(shuffle: str, block: int | None, row_groups: int, nbytes: int) -> int:
    """Row groups a block; `block` is what was asked for, None or 0 the default.

    Raises:
        InvalidRequestError: a block of several row groups whose rows are not to be mixed.
    """
    if shuffle != "rows":
        if block not in (None, 0, 1):
            raise InvalidRequestError(
                f"block is {block}: that needs shuffle='rows'; in the other orders each row group is a block"
            )
        return 1
    if block:
        return min(block, max(row_groups, 1))
    fit = min(_BLOCK_BYTES * row_groups // max(nbytes, 1), row_groups)
    return max(1, min(fit, -(-row_groups // _BLOCKS_MIN)))


class Order:
    """Which row groups are in which block, and the blocks' order.

    A row group is named by (ordinal of its object, ordinal among the object's); both as the data set lists them.
    """

    def __init__(
        self, counts: Sequence[int] | Index, *, shuffle: str, seed: int = 0, epoch: int = 0, block: int = 1
    ) -> None:
        """`counts`: row groups of each object. `block`: as `block_size` answers."""
        self.shuffle, self.seed, self.epoch = shuffle, seed, epoch
        sizes = np.asarray(counts, np.int64)
        #: The objects in the epoch's order.
        self._objects: Index = np.arange(len(sizes))
        if shuffle != "none":
            self._objects = _permutation(len(sizes), key(seed, epoch, _OBJECTS, 0)).astype(np.int64)
        self._ends: Index = np.cumsum(sizes[self._objects])
        self._naturally: Index = np.cumsum(sizes) - sizes
        #: Row groups.
        self.row_groups = int(sizes.sum())
        #: Blocks.
        self.blocks = -(-self.row_groups // max(block, 1))
        self._large = -(-self.row_groups // self.blocks) if self.blocks else 0
        self._large_blocks = self.row_groups - (self._large - 1) * self.blocks if self.blocks else 0

    def size(self, block: int) -> int:
        """Row groups of a block."""
        return self._large if block < self._large_blocks else self._large - 1

    def start(self, block: int) -> int:
        """Row groups before a block."""
        large = min(block, self._large_blocks)
        return large * self._large + (block - large) * (self._large - 1)

    def members(self, block: int) -> list[tuple[int, int]]:
        """The row groups of a block, in the order in which `row_order` counts their rows."""
        if not 0 <= block < self.blocks:
            raise IndexError(f"block {block} of {self.blocks}")
        hand = self._hand(block)
        return [self._locate(member * self.blocks + hand) for member in range(self.size(block))]

    def sums(self, values: Sequence[int] | Index) -> Index:
        """Sums over each block's row groups of `values`, one for each row group, object by object."""
        if not self.row_groups:
            return np.zeros(0, np.int64)
        counts = np.diff(self._ends, prepend=0)
        objects = np.repeat(self._objects, counts)
        if self.shuffle == "none":
            ordinals = np.arange(self.row_groups) - np.repeat(self._ends - counts, counts)
        else:
            keys = _key_all(self.seed, self.epoch, _ROW_GROUPS, self._objects.astype(np.uint64))
            ordinals = _permutations(counts, keys).astype(np.int64)
        deck = np.asarray(values, np.int64)[self._naturally[objects] + ordinals]
        hands = np.zeros(self._large * self.blocks, np.int64)
        hands[: self.row_groups] = deck
        sums: Index = hands.reshape(self._large, self.blocks).sum(axis=0)[self._hands()]
        return sums

    def _hand(self, block: int) -> int:
        if self.shuffle == "none":
            return block
        large = self._large_blocks
        if block < large:
            return permute(large, key(self.seed, self.epoch, _BLOCKS, 0), block)
        return large + permute(self.blocks - large, key(self.seed, self.epoch, _BLOCKS, 1), block - large)

    def _hands(self) -> Index:
        if self.shuffle == "none":
            return np.arange(self.blocks)
        large = self._large_blocks
        first, second = (
            _permutation(n, key(self.seed, self.epoch, _BLOCKS, index))
            for index, n in enumerate((large, self.blocks - large))
        )
        return np.concatenate([first, second + np.uint64(large)]).astype(np.int64)

    def _locate(self, card: int) -> tuple[int, int]:
        place = int(np.searchsorted(self._ends, card, side="right"))
        before = int(self._ends[place - 1]) if place else 0
        count = int(self._ends[place]) - before
        object = int(self._objects[place])
        ordinal = card - before
        if self.shuffle != "none":
            ordinal = permute(count, key(self.seed, self.epoch, _ROW_GROUPS, object), ordinal)
        return object, ordinal


# --- Windows and ranks ------------------------------------------------------------------------------------------------


def window(rows: Index, skip: int, limit: int | None) -> tuple[int, int, int, int | None]:
    """What `skip` and `limit` leave of blocks of so many `rows`.

    Returns:
        First block and the one behind the last; where the first begins, and the last ends in its own rows (None: at
        its end).
    """
    ends = np.cumsum(rows)
    total = int(ends[-1]) if len(ends) else 0
    begin = min(skip, total)
    end = total if limit is None else min(begin + limit, total)
    if begin == end:
        return 0, 0, 0, None
    first = int(np.searchsorted(ends, begin, side="right"))
    last = int(np.searchsorted(ends, end, side="left"))
    before_last = int(ends[last] - rows[last])
    until = None if end == int(ends[last]) else end - before_last
    return first, last + 1, begin - int(ends[first] - rows[first]), until


def shares(rows: Sequence[int] | Index, first: int, world: int) -> Index:
    """Rows of each of `world` ranks over blocks of so many `rows`, of which the first one's number is `first`."""
    values = np.asarray(rows, np.int64)
    return np.array([values[(rank - first) % world :: world].sum() for rank in range(world)], np.int64)


def even_share(shares: Index, even: str, blocks: int) -> int | None:
    """Rows that each rank is to read; None: all its own.

    Raises:
        InvalidRequestError: a rank without any row, where all are to have the same.
    """
    if even == "none" or not blocks:
        return None
    if (shares == 0).any():
        raise InvalidRequestError(
            f"{blocks} blocks can't be shared evenly by {len(shares)} ranks: one would have no row; use smaller blocks,"
            " fewer ranks or workers, or even='none'"
        )
    return int(shares.min() if even == "drop" else shares.max())


# --- Quality ----------------------------------------------------------------------------------------------------------


def variance_inflation(
    *, batch: int, row_groups: int, shuffle: str, block: int, world: int = 1, rows: int = 0, likeness: float = 1.0
) -> float | None:
    """How much more the means of batches vary than if all rows had been shuffled; 1 is a full shuffle.

    Args:
        batch: rows of a step, of all ranks together.
        row_groups, rows: of the plan.
        shuffle, block, world: of the plan.
        likeness: how alike the rows of one row group are, from 0 (as any rows) to 1 (all the same, such as the labels
            of data that is sorted by label).

    Returns:
        None without shuffling: then it depends on how the rows lie.
    """
    if shuffle == "none":
        return None
    if not row_groups:
        return 1.0
    # Blocks are equally large.
    own = row_groups / math.ceil(row_groups / block) if shuffle == "rows" else 1.0
    mixed = own * world
    if rows:
        # Some batches go on into the next block: they draw from more row groups.
        share, unit = batch / world, own * rows / row_groups
        mixed /= 1 - share / (3 * unit) if share <= unit else unit / share * (1 - unit / (3 * share))
    mixed = min(mixed, float(row_groups))
    return 1.0 + likeness * (batch - 1) / mixed * (1.0 - mixed / row_groups)


def recommended_block(*, batch: int, row_groups: int, world: int = 1, excess: float = 0.1) -> int:
    """The smallest block with which the variance of batch means is at most `1 + excess` times a full shuffle's, even
    on data that is sorted by what is looked at."""
    if row_groups <= 1 or batch <= 1:
        return 1
    mixed = 1.0 / (excess / (batch - 1) + 1.0 / row_groups)
    # Blocks are equally large, and each rank needs one.
    blocks = max(math.floor(row_groups * world / mixed), min(world, row_groups))
    return math.ceil(row_groups / blocks)
