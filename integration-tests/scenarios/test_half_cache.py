"""A cache of half the data set serves nearly half of each epoch, in whatever order; LRU would serve a sixth."""

import random
from pathlib import Path

import pyarrow.parquet as pq

from harness import data
from harness.node import Node

UNITS = 128
PASSING = 65 << 20
"""What passes a full cache lies on the disk for a moment; this much at most, in a small cache."""


def epoch(served: Node, url: str, job: str, seed: int) -> tuple[int, float]:
    """Reads all row groups once, shuffled. Returns the rows and the share of row groups that hit."""
    before = served.stat()
    tickets = served.tickets(url, job=job)
    random.Random(seed).shuffle(tickets)
    rows = sum(served.get(ticket).num_rows for ticket in tickets)
    after = served.stat()
    hits, misses = after.hits - before.hits, after.misses - before.misses
    assert hits + misses == UNITS
    return rows, hits / UNITS


def test_hits_of_shuffled_epochs(node, tmp_path: Path):
    directory = data.units(tmp_path / "units", UNITS)
    url = directory.as_uri() + "/"
    expected = pq.read_table(directory)
    served = node("--capacity", str(expected.nbytes // 2))

    shares = []
    for number in range(5):
        rows, share = epoch(served, url, "trainer", number)
        assert rows == expected.num_rows
        shares.append(share)
        stat = served.stat()
        kept = stat.held_bytes + stat.pinned_bytes + stat.evictable_bytes
        assert kept <= stat.capacity_bytes
        assert stat.used_bytes <= stat.capacity_bytes + PASSING

    assert shares[0] == 0
    assert min(shares[1:]) >= 0.48, shares
    served.wait(lambda: served.stat().used_bytes <= served.stat().capacity_bytes, "what passed is gone", timeout=10)
    # What is on disk is what the node says, not more.
    assert served.disk() <= served.stat().capacity_bytes * 1.02 + (1 << 20)


def test_the_job_is_remembered_by_its_name(node, tmp_path: Path):
    """Between epochs nobody reads; another data set read once by no job doesn't push out what the job holds."""
    url = data.units(tmp_path / "units", UNITS).as_uri() + "/"
    passing = data.units(tmp_path / "passing", UNITS, seed=2)
    served = node("--capacity", "64MiB", "--job-grace", "1h")
    epoch(served, url, "trainer", 1)
    _, before = epoch(served, url, "trainer", 2)

    served.cli("cat", f"{passing.as_uri()}/unit-0000.parquet")

    _, after = epoch(served, url, "trainer", 3)
    assert after >= before - 0.02
