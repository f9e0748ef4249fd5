"""Against a real node: the `roost` executable of `$ROOST_BIN`, else of the repository's `target/release`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROWS, assert_same, rich_table

import roost

BINARY = Path(os.environ.get("ROOST_BIN") or Path(__file__).parents[2] / "target" / "release" / "roost")

pytestmark = pytest.mark.skipif(
    not BINARY.exists(), reason=f"no node to test against: ROOST_BIN is unset and {BINARY} is not built"
)


class Node:
    """A running `roost serve`."""

    def __init__(self, cache: Path) -> None:
        command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--http", "off", "--cache-dir", cache]
        self.log = open(cache.parent / "node.log", "w")  # noqa: SIM115
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        assert ready.startswith("roost: serving grpc://"), f"{ready!r}\n{(cache.parent / 'node.log').read_text()}"
        self.address = ready.split()[2]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=60) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "cache")
    yield node
    node.close()


@pytest.fixture
def client(served: Node) -> roost.Client:
    return roost.connect(served.address, fallback=False)


@pytest.fixture(params=[True, False], ids=["mapped", "streamed"])
def either(served: Node, request: pytest.FixtureRequest) -> Iterator[roost.Client]:
    """A client that reads by one of both ways alone."""
    client = roost.connect(served.address, fallback=False, maps=request.param)
    yield client
    assert client.statistics()["streamed_tickets" if request.param else "mapped_tickets"] == 0


COLUMNS = [
    None,
    ["nested", "id"],
    ["kind"],
    ["seen", "a.dotted name", "kind", "price", "text", "nested", "id"],
    ["price", "seen"],
    [],
]


@pytest.mark.parametrize("columns", COLUMNS)
def test_cold_and_warm_equal_pyarrow(either: roost.Client, dataset: Path, columns: list[str] | None) -> None:
    client = either
    # pyarrow takes a dot in a name of `columns` for a path.
    expected = pq.read_table(dataset).select(columns) if columns else pq.read_table(dataset, columns=columns)
    assert_same(client.read_table(dataset, columns), expected)
    hits = client.stat().hits
    assert_same(client.read_table(dataset, columns), expected)
    if columns != []:
        assert client.stat().hits > hits
    batches = list(client.plan(dataset, columns).batches())
    assert_same(pa.Table.from_batches(batches, schema=expected.schema), expected)


@pytest.mark.parametrize("limit", [0, 1, 201, 10_000])
def test_limit(either: roost.Client, dataset: Path, limit: int) -> None:
    assert_same(either.read_table(dataset, limit=limit), pq.read_table(dataset).slice(0, limit))


@pytest.mark.parametrize("columns", COLUMNS)
def test_the_fallback_gives_what_the_node_gives(
    client: roost.Client, served: Node, tmp_path: Path, columns: list[str] | None
) -> None:
    """Objects that differ, partitions, and names that sort oddly: the same table with and without a node."""
    directory = tmp_path / "many"
    for number, name in enumerate(["year=2024/b", "year=2023/Z", "year=2023/a b", "year=2024/ä"]):
        path = directory / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = rich_table(50, 50 * number)
        if number == 1:
            table = table.drop_columns(["text"])
        if number == 2:
            table = table.append_column("more", pa.array(range(50), pa.int16()))
        pq.write_table(table, path, row_group_size=20)
    (directory / "_SUCCESS").touch()
    by_node = client.plan(directory, columns)
    there = by_node.to_table()
    served.kill()
    reader = roost.connect(served.address)
    with pytest.warns(roost.DirectReadWarning):
        here = reader.plan(directory, columns)
    assert here.direct
    assert here.url == by_node.url
    assert [t.pieces for t in here] == [t.pieces for t in by_node]
    assert_same(here.to_table(), there)
    # The node's own tickets, too, are read from the origin.
    for ticket, ours in zip(by_node, here, strict=True):
        assert_same(reader.read(pickle.loads(pickle.dumps(ticket))), reader.read(ours))


def test_a_node_killed_midway(served: Node, dataset: Path) -> None:
    client = roost.connect(served.address)
    batches = client.plan(dataset).batches(prefetch=0)
    first = next(batches)
    served.kill()
    with pytest.warns(roost.DirectReadWarning):
        left = list(batches)
    assert_same(pa.Table.from_batches([first, *left]), pq.read_table(dataset))


def _sum(packed: bytes) -> int:
    client, ticket = pickle.loads(packed)
    return sum(client.read(ticket)["id"].to_pylist())


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_tickets_travel(client: roost.Client, dataset: Path, method: str) -> None:
    plan = client.plan(dataset)
    with multiprocessing.get_context(method).Pool(2) as pool:
        sums = pool.map(_sum, [pickle.dumps((client, ticket)) for ticket in plan])
    assert sum(sums) == sum(range(3 * ROWS))


# --- the cache --------------------------------------------------------------------------------------------------------


def test_warm_pin_ls_and_evict(client: roost.Client, dataset: Path) -> None:
    seen: list[roost.WarmProgress] = []
    result = client.warm(dataset, ["id", "kind"], pin=True, progress=seen.append)
    assert (result.complete, result.rows, result.row_groups, result.row_groups_hit) == (True, 600, 3, 0)
    assert result.origin_bytes > 0
    assert seen[-1].row_groups_done == 3
    url = f"file://{dataset}/"
    (cached,) = client.ls()
    assert (cached.url, cached.pinned, cached.row_groups, cached.fragments) == (url, True, 3, 3)
    before = client.stat()
    assert before.pinned == (url,)
    assert before.pinned_bytes > 0
    assert client.read_table(dataset, ["kind"]).num_rows == 600
    after = client.stat()
    assert (after.misses, after.origin_bytes) == (before.misses, before.origin_bytes)
    assert client.warm(dataset, ["id"]).row_groups_hit == 3
    assert client.unpin(dataset) == ()
    assert client.pin(dataset) == (url,)
    assert client.evict(dataset).fragments == 3
    assert client.stat().fragments == 0


def test_warm_names_what_is_missing(client: roost.Client, dataset: Path) -> None:
    client.plan(dataset)
    path = dataset / "part-1.parquet"
    content = bytearray(path.read_bytes())
    # The header of the first page stands behind the four bytes of the magic.
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    with pytest.raises(roost.NotCachedError, match=r"part-1\.parquet#rg0"):
        client.warm(dataset)
    result = client.warm(dataset, raise_on_missing=False)
    assert (result.complete, result.row_groups_failed) == (False, 1)
    with pytest.raises(roost.CorruptDataError, match=r"part-1\.parquet"):
        roost.connect(client.addresses).read_table(dataset)


# --- errors and broken streams ----------------------------------------------------------------------------------------


def test_errors_come_through(served: Node, dataset: Path, tmp_path: Path) -> None:
    client = roost.connect(served.address)
    with warnings.catch_warnings():
        warnings.simplefilter("error", roost.DirectReadWarning)
        with pytest.raises(FileNotFoundError, match=r"nothing\.parquet"):
            client.plan(tmp_path / "nothing.parquet")
        with pytest.raises(roost.InvalidRequestError, match="zz"):
            client.plan(dataset, ["zz"])
        plan = client.plan(dataset)
        pq.write_table(rich_table(10), dataset / "part-2.parquet")
        with pytest.raises(roost.StalePlanError, match=r"part-2\.parquet"):
            plan.to_table()
        # Here the plan is not the caller's, so it is made anew.
        assert_same(client.read_table(dataset), pq.read_table(dataset))


class CuttingProxy:
    """Stands before a node and cuts each of its first connections after so many bytes of the node's."""

    def __init__(self, target: str, cuts: list[int]) -> None:
        host, _, port = target.rpartition("://")[2].rpartition(":")
        self._target = (host, int(port))
        self._cuts = cuts
        self.was_cut = 0
        #: Bytes of the node's that went on, by connection.
        self.passed: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            left = self._cuts.pop(0) if self._cuts else None
            node = socket.create_connection(self._target)
            self.passed.append(0)
            number = len(self.passed) - 1
            threading.Thread(target=self._copy, args=(client, node, None, None), daemon=True).start()
            threading.Thread(target=self._copy, args=(node, client, left, number), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, most: int | None, number: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if most is not None and passed + len(data) > most:
                    self.was_cut += 1
                    break
                sink.sendall(data)
                passed += len(data)
                if number is not None:
                    self.passed[number] = passed
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


def test_broken_streams_are_resumed(client: roost.Client, served: Node, tmp_path: Path) -> None:
    """One row group of several batches, over connections that are cut: every row once, whole batches never again."""
    numbers = np.random.default_rng(7).integers(0, 2**62, size=(2, 4_000_000))
    path = tmp_path / "large.parquet"
    table = pa.table({"a": numbers[0], "b": numbers[1]})
    pq.write_table(table, path, row_group_size=len(table), use_dictionary=False, compression="none")
    client.warm(path)
    plan = client.plan(path)
    assert len(plan) == 1
    assert len(list(plan.batches())) >= 3
    proxy = CuttingProxy(served.address, [30 << 20, 1 << 20, 25 << 20])
    try:
        # Without locations: the tickets would lead around the proxy.
        ticket = plan.tickets[0]
        lone = roost.Ticket(
            ticket.signed, ticket.dataset, ticket.pieces, ticket.num_rows, ticket.nbytes, (), ticket.packed_schema
        )
        found = roost.connect(proxy.address, fallback=False).read(lone)
    finally:
        proxy.close()
    assert proxy.was_cut == 3
    assert found.equals(table)
    # Two whole batches came before the last connection, which brought the others alone.
    assert proxy.passed[-1] < 0.6 * table.nbytes
