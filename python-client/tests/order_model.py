"""The order of an epoch, written again from the page "Order" of the documentation alone: slow, plain, no numpy."""

from __future__ import annotations

G = 0x9E3779B97F4A7C15
M = (1 << 64) - 1


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
    return z ^ (z >> 31)


def key(seed: int, epoch: int, purpose: int, index: int) -> int:
    k = mix((seed + G) & M)
    k = mix(((k ^ epoch) + G) & M)
    k = mix(((k ^ purpose) + G) & M)
    return mix(((k ^ index) + G) & M)


def drawn(key: int, i: int) -> int:
    return mix((key + (i + 1) * G) & M) >> 32


def in_drawn_order(n: int, key: int) -> list[int]:
    return sorted(range(n), key=lambda i: (drawn(key, i), i))


def permutation(n: int, key: int) -> list[int]:
    if n <= 64:
        return in_drawn_order(n, key)
    half = -(-((n - 1).bit_length()) // 2)
    mask = 2**half - 1
    found = []
    for place in range(n):
        value = place
        while True:
            left, right = value >> half, value & mask
            for r in range(1, 7):
                left, right = right, left ^ (mix(right ^ mix((key + r * G) & M)) & mask)
            value = (left << half) | right
            if value < n:
                break
        found.append(value)
    return found


def blocks(counts: list[int], shuffle: str, seed: int, epoch: int, block: int) -> list[list[tuple[int, int]]]:
    """(object, row group) of each block's members."""
    if shuffle == "none":
        return [[(o, g)] for o, m in enumerate(counts) for g in range(m)]
    deck = [
        (o, g)
        for o in permutation(len(counts), key(seed, epoch, 1, 0))
        for g in permutation(counts[o], key(seed, epoch, 2, o))
    ]
    n = len(deck)
    if n == 0:
        return []
    hands = -(-n // (block if shuffle == "rows" else 1))
    size = -(-n // hands)
    large = n - (size - 1) * hands
    numbers = permutation(large, key(seed, epoch, 3, 0))
    numbers += [large + p for p in permutation(hands - large, key(seed, epoch, 3, 1))]
    return [deck[hand::hands] for hand in numbers]


def rows(count: int, seed: int, epoch: int, block: int) -> list[int]:
    return in_drawn_order(count, key(seed, epoch, 4, block))
