"""Epochs: one order on every node, shared by ranks that come and go, resumed exactly, explained before it is read."""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.node import ROOT, Node

roost = pytest.importorskip("roost", reason="the package of python-client is not installed")
sys.path.append(str(ROOT / "python-client" / "tests"))
import order_model as model  # noqa: E402

# Two of them do not go into one run.
GROUP = 33_000
OBJECTS, GROUPS = 6, 3
ROWS = OBJECTS * GROUPS * GROUP


@pytest.fixture(autouse=True)
def warned(monkeypatch: pytest.MonkeyPatch) -> None:
    """That nothing is cached is said once in a process; other tests wait for it."""
    monkeypatch.setattr("roost._direct._warned", True)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Six objects of three row groups; `id` counts the rows, `label` is sorted."""
    directory = tmp_path / "data"
    directory.mkdir()
    for number in range(OBJECTS):
        write(directory, number)
    return directory.as_uri() + "/"


def write(directory: Path, number: int, add: int = 0) -> None:
    ids = np.arange(number * GROUPS * GROUP, (number + 1) * GROUPS * GROUP)
    table = pa.table({"id": ids + add, "label": ids // GROUP})
    # Without compression or dictionaries other numbers make no other size.
    options = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pq.write_table(table, directory / f"part-{number}.parquet", row_group_size=GROUP, **options)


def expected(seed: int, epoch: int, block: int) -> list[list[int]]:
    """Ids of each block, as the documentation says."""
    blocks = []
    for number, members in enumerate(model.blocks([GROUPS] * OBJECTS, "rows", seed, epoch, block)):
        rows = np.concatenate([np.arange(GROUP) + (o * GROUPS + g) * GROUP for o, g in members])
        blocks.append(rows[model.rows(len(rows), seed, epoch, number)].tolist())
    return blocks


def ids(batches) -> list[int]:
    return [row for batch in batches for row in batch.column("id").to_pylist()]


def connect(node: Node, **arguments):
    return roost.connect(f"grpc://{node.address}", **{"fallback": False, **arguments})


def test_the_order_is_the_documented_one_on_every_node(node, data: str):
    blocks = expected(7, 2, 4)
    whole = [row for rows in blocks for row in rows]
    one, two = node(), node()
    for served in (one, two):
        plan = connect(served).plan(data, ["id"], seed=7, epoch=2, block=4)
        assert (plan.blocks, plan.num_rows) == (len(blocks), ROWS)
        assert ids(plan.batches(batch_size=1000)) == whole
    # After a restart with an empty cache.
    one.kill9()
    for name in os.listdir(one.cache_dirs[0]):
        os.rename(one.cache_dirs[0] / name, one.directory / f"old-{name}")
    one.start()
    plan = connect(one).plan(data, ["id"], seed=7, epoch=2, block=4)
    assert ids(plan.batches()) == whole
    assert ids(plan.batches()) == whole, "from the cache"
    other = connect(two).plan(data, ["id"], seed=7, epoch=3, block=4)
    assert ids(other.batches()) != whole


@pytest.mark.parametrize("seed", range(3))
def test_ranks_change_and_die(node, data: str, seed: int):
    draw = random.Random(seed)
    client = connect(node())
    blocks = expected(seed, 0, 3)
    state, kept, left = None, [], [64, 3, 1, 5]
    while True:
        world = left.pop() if left else 2
        plans = [client.plan(data, ["id"], seed=seed, block=3, rank=rank, world_size=world) for rank in range(world)]
        readers = [plan.batches(batch_size=5000, prefetch=1, state=state) for plan in plans]
        saved = [json.loads(json.dumps(reader.state_dict())) for reader in readers]
        since = [[] for _ in readers]
        alive = set(range(world))
        for _ in range(draw.randrange(10, 40) if left else 10_000):
            if not alive:
                break
            rank = draw.choice(sorted(alive))
            batch = next(readers[rank], None)
            if batch is None:
                alive.discard(rank)
                continue
            since[rank] += batch.column("id").to_pylist()
            if draw.random() < 0.2:
                # Killed: what it read since its checkpoint is read again.
                since[rank] = []
                readers[rank].close()
                readers[rank] = plans[rank].batches(batch_size=5000, state=saved[rank])
            elif draw.random() < 0.5:
                kept += since[rank]
                since[rank] = []
                saved[rank] = json.loads(json.dumps(readers[rank].state_dict()))
        for rank, reader in enumerate(readers):
            kept += since[rank]
            saved[rank] = reader.state_dict()
            reader.close()
        assert all(len(json.dumps(one)) < 1500 for one in saved)
        if not alive:
            break
        draw.shuffle(saved)
        state = saved
    assert sorted(kept) == list(range(ROWS))
    at = {row: place for place, row in enumerate(kept)}
    for rows in blocks:
        places = [at[row] for row in rows]
        assert places == sorted(places)


def test_a_node_that_dies_changes_nothing(node, data: str):
    """What the origin gives instead is the same order, gone on with in the middle of a block."""
    served = node()
    whole = [row for rows in expected(1, 0, 2) for row in rows]
    client = connect(served, fallback=True)
    reader = client.plan(data, ["id"], seed=1, block=2).batches(batch_size=10_000, prefetch=1)
    found = ids([next(reader), next(reader), next(reader)])
    served.kill9()
    found += ids(reader)
    assert found == whole
    # Planned without a node, a state that was made with one holds.
    half = client.plan(data, ["id"], seed=1, block=2).batches(batch_size=10_000)
    first = ids([next(half)])
    state = half.state_dict()
    half.close()
    assert first + ids(client.plan(data, ["id"], seed=1, block=2).batches(state=state)) == whole


def test_without_a_node_the_plan_is_the_same(node, tmp_path: Path):
    """Runs of row groups are formed by what their text takes decoded: the footers say it to both."""
    directory = tmp_path / "text"
    directory.mkdir()
    rows = range(9000)
    table = pa.table(
        {
            "id": rows,
            "image": [b"x" * (6000 + row % 3000) for row in rows],
            "text": pa.array([f"row {row}" for row in rows], pa.large_string()),
            "kind": pa.array([f"k{row % 5}" for row in rows]).dictionary_encode(),
            "view": pa.array([f"view {row}" for row in rows], pa.string_view()),
            "nested": [{"a": row, "b": ["x"] * (row % 4)} for row in rows],
            "none": pa.nulls(len(rows)),
            "flag": [row % 3 == 0 for row in rows],
        }
    )
    pq.write_table(table, directory / "a.parquet", row_group_size=700)
    pq.write_table(table.slice(0, 5000), directory / "b.parquet", row_group_size=1100, compression="none")
    pq.write_table(table.slice(0, 7000).drop_columns("view"), directory / "c.parquet", row_group_size=90)
    url = directory.as_uri() + "/"
    by_node = connect(node()).plan(url, seed=3, epoch=1, block=2)
    direct = roost.connect("grpc://127.0.0.1:1").plan(url, seed=3, epoch=1, block=2)
    assert len(by_node.tickets) > 3
    assert [(ticket.pieces, ticket.nbytes) for ticket in direct.tickets] == [
        (ticket.pieces, ticket.nbytes) for ticket in by_node.tickets
    ]
    reader = by_node.batches(batch_size=500)
    first = ids([next(reader)])
    state = reader.state_dict()
    reader.close()
    assert first + ids(direct.batches(state=state)) == ids(by_node.batches())


def test_a_changed_data_set_is_refused_at_restore(node, data: str, tmp_path: Path):
    client = connect(node())
    reader = client.plan(data, ["id"], seed=1, block=2).batches(batch_size=100)
    next(reader)
    state = reader.state_dict()
    reader.close()
    client.plan(data, ["id"], seed=1, block=2, refresh=True).batches(state=state).close()
    write(tmp_path / "data", 3, add=1)
    with pytest.raises(roost.StalePlanError, match="replaced by others of the same size"):
        client.plan(data, ["id"], seed=1, block=2, refresh=True).batches(state=state)
    write(tmp_path / "data", 6)
    with pytest.raises(roost.StalePlanError, match="objects were added, removed or rewritten"):
        client.plan(data, ["id"], seed=1, block=2, refresh=True).batches(state=state)
    with pytest.raises(roost.InvalidRequestError, match="seed was 1 and is 2"):
        client.plan(data, ["id"], seed=2, block=2).batches(state=state)


@pytest.mark.parametrize("even", ["drop", "repeat"])
def test_even_ranks(node, data: str, even: str):
    client = connect(node())
    plans = [client.plan(data, ["id"], seed=1, block=4, rank=r, world_size=3, even=even) for r in range(3)]
    read = [ids(plan.batches(batch_size=7000)) for plan in plans]
    assert {len(rows) for rows in read} == {plan.num_rows for plan in plans}
    distinct = {row for rows in read for row in rows}
    assert len(distinct) == (ROWS if even == "repeat" else sum(map(len, read)))
    with pytest.raises(roost.InvalidRequestError, match="can't be shared evenly by 64 ranks"):
        client.plan(data, ["id"], seed=1, block=4, rank=0, world_size=64, even=even)


def test_explained(node, data: str):
    served = node()
    client = connect(served)
    plan = client.plan(data, ["label"], seed=1, block=3)
    before = plan.explain(batch_size=100)
    assert (before.row_groups, before.expected_hits, before.nodes[0].row_groups_cached) == (OBJECTS * GROUPS, 0, 0)
    # One of two columns is to be fetched.
    total = sum(path.stat().st_size for path in Path(data.removeprefix("file://")).iterdir())
    assert before.origin_nbytes == pytest.approx(total / 2, rel=0.1)
    assert before.variance_inflation > 10
    client.warm(data, columns=["label"])
    after = plan.explain(batch_size=100)
    assert (after.expected_hits, after.origin_nbytes) == (1, 0)
    assert client.plan(data, seed=1, block=3).explain().expected_hits == 0, "`id` is not cached"
    best = client.plan(data, ["label"], seed=1, block=before.recommended_block).explain(batch_size=100)
    assert best.variance_inflation <= 1.1
    part = client.plan(data, ["label"], seed=1, block=3, rank=1, world_size=3).explain()
    assert (part.row_groups, part.row_groups_pruned, part.rank) == (6, 12, 1)
    arguments = ["--columns", "label", "--shuffle", "rows", "--seed", "1", "--block", "3", "--explain"]
    shown = served.cli("plan", data, *arguments, "--batch-size", "100", "--json")
    told = json.loads(shown.out)
    for name in ("row_groups", "expected_hits", "recommended_block", "fingerprint", "blocks"):
        assert told[name] == getattr(after, name)
    assert told["variance_inflation"] == pytest.approx(after.variance_inflation)
    table = served.cli("plan", data, *arguments).out
    assert "18 to read, 0 pruned" in table
    assert "variance of a full shuffle" in table
