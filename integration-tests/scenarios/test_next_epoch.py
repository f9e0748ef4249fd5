"""Next epoch first: where the cache can't hold a data set, the start of the next epoch is at hand when it begins."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import data
from harness.node import Node

roost = pytest.importorskip("roost", reason="the package of python-client is not installed")

UNITS = 128
HEAD = 6
"""Row groups of the start: what a twentieth of half the data set holds, and not many more."""


def epoch(served: Node, url: str, number: int) -> tuple[int, int, int]:
    """Reads an epoch, then lets the node be idle for a moment. Answers rows, and hits at its start and in all."""
    client = roost.connect(served.address, fallback=False, maps=False)
    tickets = client.plan(url, shuffle="row_groups", seed=3, epoch=number).tickets
    assert len(tickets) == UNITS
    start = served.stat().hits
    rows = sum(client.read(ticket).num_rows for ticket in tickets[:HEAD])
    head = served.stat().hits - start
    rows += sum(client.read(ticket).num_rows for ticket in tickets[HEAD:])
    return rows, head, served.stat().hits - start


@pytest.mark.parametrize("bandwidth", ["100MiB", "0"])
def test_the_start_of_the_next_epoch_is_at_hand(node, tmp_path: Path, bandwidth: str):
    directory = data.units(tmp_path / "units", UNITS)
    url = directory.as_uri() + "/"
    expected = pq.read_table(directory)
    served = node("--capacity", str(expected.nbytes // 2), "--ahead-bandwidth", bandwidth)
    limit, unit = served.stat().capacity_bytes, expected.nbytes / UNITS * 1.1

    heads, hits = [], []
    for number in range(6):
        rows, head, hit = epoch(served, url, number)
        assert rows == expected.num_rows
        heads.append(head)
        hits.append(hit / UNITS)
        if bandwidth != "0":
            served.wait(
                lambda: served.metrics()["roost_cache_waiting_bytes"] + unit > limit / 20,
                "the part for the next epoch is filled",
                timeout=20,
            )
        assert served.metrics()["roost_cache_waiting_bytes"] <= limit / 20

    if bandwidth == "0":
        assert served.metrics()["roost_ahead_bytes_total"] == 0
        assert sum(heads[1:]) < 5 * HEAD * 0.65, heads
    else:
        # All but what its neighbours in the part left no room for.
        assert sum(heads[1:]) >= 5 * HEAD * 0.65, heads
    # The part that is kept costs the rest of the epoch no more than it brings.
    assert min(hits[1:]) >= 0.47, hits


def test_what_fits_keeps_no_part(node, tmp_path: Path):
    directory = data.units(tmp_path / "units", UNITS)
    served = node("--capacity", "1GiB")
    for number in range(2):
        rows, _, hits = epoch(served, directory.as_uri() + "/", number)
        assert rows == UNITS * (rows // UNITS)
    assert hits == UNITS
    assert served.metrics()["roost_ahead_bytes_total"] == 0
