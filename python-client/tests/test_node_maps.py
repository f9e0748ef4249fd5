"""Maps against a real node: the files of its cache are read in place, while it evicts, refills and dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_same, rich_table
from test_node import BINARY, Node

import roost
from roost import _map, _map_file

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason=f"no node to test against: {BINARY} is not built")


@pytest.fixture
def node() -> Iterator[Node]:
    # Not below `tmp_path`, whose parents are closed to other users.
    with tempfile.TemporaryDirectory(prefix="roost-node-") as directory:
        Path(directory).chmod(0o755)
        node = Node(Path(directory) / "cache")
        yield node
        node.close()


@pytest.fixture
def client(node: Node) -> Iterator[roost.Client]:
    """A client that must map: it is an error when something is streamed."""
    client = roost.connect(node.address, fallback=False)
    yield client
    assert client.statistics()["streamed_tickets"] == 0
    assert (len(_map._connected), _map_file.live_maps()) == (0, 0)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """An object whose one row group has several batches."""
    numbers = np.random.default_rng(7).integers(0, 2**62, size=(2, 4_000_000))
    path = tmp_path / "large.parquet"
    table = pa.table({"a": numbers[0], "b": numbers[1]})
    pq.write_table(table, path, row_group_size=len(table), use_dictionary=False, compression="none")
    return path


def test_partitions_and_missing_columns(client: roost.Client, node: Node, tmp_path: Path) -> None:
    directory = tmp_path / "many"
    for number, name in enumerate(["year=2023/a", "year=2024/b", "year=2024/c"]):
        path = directory / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = rich_table(50, 50 * number)
        if number == 1:
            table = table.drop_columns(["text", "kind", "nested"])
        pq.write_table(table, path, row_group_size=20)
    streaming = roost.connect(node.address, fallback=False, maps=False)
    for columns in (None, ["year"], ["text"], ["year", "kind", "id", "nested"], []):
        found = client.read_table(directory, columns)
        assert_same(found, streaming.read_table(directory, columns))
        assert_same(client.read_table(directory, columns, 60), found.slice(0, 60))


def test_columns_filled_one_after_the_other(client: roost.Client, dataset: Path) -> None:
    """Each column has a file of its own then."""
    expected = pq.read_table(dataset)
    for name in expected.column_names:
        assert_same(client.read_table(dataset, [name]), expected.select([name]))
    assert_same(client.read_table(dataset), expected)
    assert_same(client.read_table(dataset, limit=350), expected.slice(0, 350))


def used(client: roost.Client, until: int) -> int:
    """The bytes that the node counts as used, once they are as many as expected."""
    give_up_at = time.monotonic() + 30
    while (found := client.stat().used_bytes) != until and time.monotonic() < give_up_at:
        pass
    return found


def test_evicted_midway(client: roost.Client, large: Path) -> None:
    client.warm(large, progress=False)
    before = client.stat().used_bytes
    (ticket,) = client.plan(large).tickets
    batches = client.read_batches(ticket)
    first = next(batches)
    assert client.evict(large).fragments == 1
    # The disk is not free before the reader lets go.
    assert client.stat().used_bytes == before
    table = pa.Table.from_batches([first, *batches])
    assert table.equals(pq.read_table(large))
    assert client.stat().used_bytes == before
    del first, batches, table
    assert used(client, 0) == 0


def test_evicted_again_and_again(client: roost.Client, node: Node, dataset: Path) -> None:
    expected = pq.read_table(dataset)
    stop = threading.Event()

    def evict() -> None:
        other = roost.connect(node.address, fallback=False)
        while not stop.is_set():
            other.evict(dataset)

    evicting = threading.Thread(target=evict)
    evicting.start()
    try:
        for _ in range(20):
            assert_same(client.read_table(dataset), expected)
    finally:
        stop.set()
        evicting.join()


def test_a_node_killed_midway(node: Node, large: Path, dataset: Path) -> None:
    client = roost.connect(node.address)
    client.warm(large, progress=False)
    (ticket,) = client.plan(large).tickets
    plan = client.plan(dataset)
    batches = client.read_batches(ticket)
    first = next(batches)
    node.kill()
    # What is mapped needs no node any more.
    assert pa.Table.from_batches([first, *batches]).equals(pq.read_table(large))
    assert client.statistics() == {"mapped_tickets": 1, "streamed_tickets": 0, "direct_tickets": 0}
    with pytest.warns(roost.DirectReadWarning):
        assert_same(plan.to_table(), pq.read_table(dataset))
    assert client.statistics() == {"mapped_tickets": 1, "streamed_tickets": 0, "direct_tickets": len(plan)}


def _as_nobody(packed: bytes, queue: Any) -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    client, ticket = pickle.loads(packed)
    table = client.read(ticket)
    queue.put((client.statistics()["mapped_tickets"], table["id"].to_pylist()))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user(client: roost.Client, dataset: Path) -> None:
    ticket = client.plan(dataset).tickets[0]
    rows = client.read(ticket)["id"].to_pylist()
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    child = context.Process(target=_as_nobody, args=(pickle.dumps((client, ticket)), queue))
    child.start()
    child.join(60)
    assert queue.get(timeout=10) == (1, rows)
