"""Memory that belongs to the process alone stays within the limit while far more data streams through."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.node import Node, options

LIMIT = 128 << 20
BASE = 64 << 20
"""What a node takes beside `--memory`: code's data, threads, the allocator's slack, and gRPC's windows."""
FACTOR = 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """20 times the limit, of binaries that don't compress. Hard links: the disk need not hold it twenty times."""
    directory = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(1)
    rows = LIMIT // 100_000
    table = pa.table(
        {"image": pa.array([rng.bytes(100_000) for _ in range(rows)], pa.binary()), "label": pa.array(range(rows))}
    )
    first = directory / "part-00.parquet"
    pq.write_table(table, first, row_group_size=rows // 4, compression="none")
    for number in range(1, FACTOR):
        os.link(first, directory / f"part-{number:02}.parquet")
    return directory.as_uri() + "/", rows * FACTOR


class Peak:
    """Samples a node's anonymous memory while a block runs."""

    def __init__(self, served: Node) -> None:
        self.served, self.bytes = served, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.sample)

    def sample(self) -> None:
        while not self.done.wait(0.01):
            self.bytes = max(self.bytes, self.served.rss_anon())

    def __enter__(self) -> "Peak":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def drain(served: Node, ticket) -> int:
    """Reads a ticket and keeps nothing of it."""
    return sum(chunk.data.num_rows for chunk in served.connect().do_get(ticket, options()))


@pytest.mark.parametrize("capacity", ["4GiB", "256MiB"])
@pytest.mark.parametrize("readers", [1, 8])
def test_streaming(node, large, capacity: str, readers: int):
    """Into a cache that holds all of it, and past one that is full; then once more, warm."""
    url, rows = large
    served = node("--memory", str(LIMIT), "--capacity", capacity)
    tickets = served.tickets(url)
    with Peak(served) as peak:
        for _ in range(2):
            with ThreadPoolExecutor(readers) as pool:
                assert sum(pool.map(lambda ticket: drain(served, ticket), tickets)) == rows
    assert peak.bytes <= LIMIT + BASE, f"{peak.bytes >> 20} MiB"
    assert served.stat().memory_used_bytes <= LIMIT


def test_a_reader_that_stops_reading(node, large):
    """Streams that nobody takes from must not pile up in the node."""
    url, _ = large
    served = node("--memory", str(LIMIT))
    tickets = served.tickets(url)
    with Peak(served) as peak:
        idle = [served.connect().do_get(ticket, options()) for ticket in tickets[:16]]
        # Each has begun.
        for stream in idle:
            assert stream.read_chunk().data.num_rows > 0
        # And another reader still gets its rows.
        assert drain(served, tickets[-1]) > 0
    assert peak.bytes <= LIMIT + BASE, f"{peak.bytes >> 20} MiB"
    for stream in idle:
        stream.cancel()
