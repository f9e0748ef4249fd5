"""Readers that miss the same row group at the same time share one fetch, whether its result can be kept or not."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import data
from harness.origin import covered, data_request, doubled

READERS = 64


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """Small enough for 64 copies in this process: 20 columns, 3 MB."""
    return data.wide(tmp_path / "cold.parquet", rows=20_000)


def read_together(served, origin, ticket, expected) -> None:
    """64 readers ask before the origin has answered any of them."""
    clients = [served.connect() for _ in range(READERS)]
    with ThreadPoolExecutor(READERS) as pool, origin.holding(data_request) as gate:
        reads = [pool.submit(served.get, ticket, client) for client in clients]
        gate.wait_for_arrivals(1)
        served.wait(lambda: served.metrics()["roost_streams_active"] == READERS, "all readers have asked")
        gate.open()
        for read in reads:
            assert read.result(timeout=120).equals(expected)


def test_each_byte_is_fetched_once(node, origin, bucket, cold: Path):
    url = bucket.put("cold.parquet", cold)
    served = node(origin=origin)
    (ticket,) = served.tickets(url)

    read_together(served, origin, ticket, pq.read_table(cold))

    assert doubled(origin.data_since()) == {}
    assert sum(e.sent for e in origin.data_since()) == sum(
        end - start for start, end in covered(origin.data_since(), bucket.path("cold.parquet"))
    )
    mark = origin.mark()
    served.get(ticket)
    assert origin.since(mark) == [], "what they shared was kept"


def test_also_when_the_cache_is_full(node, origin, bucket, cold: Path, tmp_path: Path):
    """What fills the cache is pinned, so the shared row group can't be kept."""
    full = bucket.put("full/", data.units(tmp_path / "full", 12))
    url = bucket.put("cold.parquet", cold)
    served = node("--capacity", "8MiB", origin=origin)
    served.warm(full, pin=True)
    (ticket,) = served.tickets(url)
    before = served.stat()
    mark = origin.mark()

    read_together(served, origin, ticket, pq.read_table(cold))

    assert doubled(origin.data_since(mark)) == {}
    after = served.stat()
    assert after.bypasses > before.bypasses
    assert after.pinned_bytes == before.pinned_bytes, "nothing pinned was given up"
    served.wait(lambda: served.stat().used_bytes <= after.capacity_bytes, "what passed is gone", timeout=10)


def test_readers_of_different_columns_share_what_they_share(node, origin, bucket, cold: Path):
    url = bucket.put("cold.parquet", cold)
    served = node(origin=origin)
    expected = pq.read_table(cold)
    wanted = [[f"c{i:02}", f"c{(i + 1) % 20:02}"] for i in range(20)]
    tickets = [served.tickets(url, columns)[0] for columns in wanted]
    with ThreadPoolExecutor(20) as pool, origin.holding(data_request) as gate:
        reads = [pool.submit(served.get, ticket, served.connect()) for ticket in tickets]
        gate.wait_for_arrivals(1)
        served.wait(lambda: served.metrics()["roost_streams_active"] == 20, "all readers have asked")
        gate.open()
        for columns, read in zip(wanted, reads, strict=True):
            assert read.result(timeout=120).equals(expected.select(columns))
    assert doubled(origin.data_since()) == {}


def test_a_reader_that_leaves_does_not_end_the_fill_of_others(node, origin, bucket, cold: Path):
    url = bucket.put("cold.parquet", cold)
    served = node(origin=origin)
    (ticket,) = served.tickets(url)
    first, second = served.connect(), served.connect()
    with ThreadPoolExecutor(2) as pool, origin.holding(data_request) as gate:
        stream = first.do_get(ticket)
        reader = pool.submit(served.get, ticket, second)
        gate.wait_for_arrivals(1)
        served.wait(lambda: served.metrics()["roost_streams_active"] == 2, "both have asked")
        stream.cancel()
        served.wait(lambda: served.metrics()["roost_streams_active"] == 1, "the first has left")
        gate.open()
        assert reader.result(timeout=60).equals(pq.read_table(cold))
    assert doubled(origin.data_since()) == {}
