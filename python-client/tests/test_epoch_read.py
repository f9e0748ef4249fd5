"""Plans of epochs, read without a node: exact order, exact resume, errors that say what changed."""

from __future__ import annotations

import json
import pickle
import random
import threading
from pathlib import Path
from typing import Any

import order_model as model
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_same, rich_table

import roost
from roost import _direct, _mix

pytestmark = pytest.mark.filterwarnings("ignore::roost.DirectReadWarning")


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row group stands alone."""
    monkeypatch.setattr(_direct, "_RUN_ROWS", 1)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> roost.Client:
    """Without a node, and not waiting for one."""

    def nobody(request: Any, **_: Any) -> Any:
        raise roost.UnavailableError("no node here.")

    client = roost.connect("grpc://127.0.0.1:1")
    monkeypatch.setattr(client._planner, "plan", nobody)
    return client


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Nine objects of different lengths: 1 to 9 row groups of up to 10 rows; `id` counts all rows."""
    directory = tmp_path / "data"
    directory.mkdir()
    start = 0
    for number in range(9):
        rows = 10 * number + 3
        pq.write_table(rich_table(rows, start), directory / f"part-{number}.parquet", row_group_size=10)
        start += rows
    return directory


def expected(data: Path, shuffle: str, seed: int, epoch: int, block: int) -> list[list[int]]:
    """Ids of each block, by the model."""
    ids, start = [], 0
    for path in sorted(data.iterdir()):
        groups = pq.ParquetFile(path).metadata
        ids.append([])
        for ordinal in range(groups.num_row_groups):
            rows = groups.row_group(ordinal).num_rows
            ids[-1].append(list(range(start, start + rows)))
            start += rows
    found = []
    for number, members in enumerate(model.blocks([len(groups) for groups in ids], shuffle, seed, epoch, block)):
        rows = [row for o, g in members for row in ids[o][g]]
        found.append([rows[i] for i in model.rows(len(rows), seed, epoch, number)] if shuffle == "rows" else rows)
    return found


def ids(batches: Any) -> list[int]:
    return [row for batch in batches for row in batch.column("id").to_pylist()]


ORDERS = [("none", 1), ("row_groups", 1), ("rows", 4), ("rows", 1), ("rows", 100)]


@pytest.mark.parametrize(("shuffle", "block"), ORDERS)
@pytest.mark.parametrize("world", [1, 2, 7, 64])
def test_the_order_is_the_models(client: roost.Client, data: Path, shuffle: str, block: int, world: int) -> None:
    blocks = expected(data, shuffle, 11, 3, block)
    asked: dict[str, Any] = {"shuffle": shuffle, "seed": 11, "epoch": 3, "block": block if shuffle == "rows" else None}
    for rank in range(world):
        plan = client.plan(data, ["id"], **asked, rank=rank, world_size=world)
        own = [row for number in range(rank, len(blocks), world) for row in blocks[number]]
        assert plan.blocks == len(blocks)
        assert ids(plan.batches(prefetch=0)) == own
        if rank < 3:
            assert ids(plan.batches()) == own
            sized = list(plan.batches(batch_size=7))
            assert ids(sized) == own
            assert {batch.num_rows for batch in sized[:-1]} <= {7}
            assert plan.num_rows == len(own)


@pytest.mark.parametrize(("shuffle", "block"), ORDERS)
@pytest.mark.parametrize(("skip", "limit"), [(0, 0), (0, 25), (13, None), (13, 4), (57, 120), (10_000, 5), (0, 10_000)])
def test_skip_and_limit_count_rows_of_the_order(
    client: roost.Client, data: Path, shuffle: str, block: int, skip: int, limit: int | None
) -> None:
    asked: dict[str, Any] = {"shuffle": shuffle, "seed": 1, "block": block if shuffle == "rows" else None}
    whole = [row for rows in expected(data, shuffle, 1, 0, block) for row in rows]
    wanted = whole[skip:][:limit]
    plan = client.plan(data, skip=skip, limit=limit, **asked)
    assert plan.num_rows == len(wanted)
    assert ids(plan.batches()) == wanted
    assert plan.to_table()["id"].to_pylist() == wanted
    parts = [client.plan(data, skip=skip, limit=limit, **asked, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(row for part in parts for row in ids(part.batches())) == sorted(wanted)
    assert sum(part.num_rows for part in parts) == len(wanted)


def test_all_types_are_mixed(client: roost.Client, data: Path) -> None:
    table = client.plan(data, seed=5, block=6).to_table()
    assert_same(table.sort_by("id"), pq.read_table(data))
    counted = client.plan(data, [], seed=5, block=6)
    assert sum(batch.num_rows for batch in counted.batches(batch_size=10)) == counted.num_rows


@pytest.mark.parametrize("batch_size", [None, 1, 8, 1000])
@pytest.mark.parametrize(("shuffle", "block"), [("none", None), ("rows", 4)])
def test_every_state_is_gone_on_with(
    client: roost.Client, data: Path, shuffle: str, block: int | None, batch_size: int | None
) -> None:
    plan = client.plan(data, ["id"], shuffle=shuffle, seed=2, block=block, skip=5, limit=150)
    whole = list(plan.batches(batch_size=batch_size))
    reader = plan.batches(batch_size=batch_size)
    for count in range(0, len(whole), 1 if len(whole) < 40 else 13):
        reader = plan.batches(batch_size=batch_size)
        for _ in range(count):
            next(reader)
        state = json.loads(json.dumps(reader.state_dict()))
        reader.close()
        again = pickle.loads(pickle.dumps(plan)).batches(batch_size=batch_size, state=state)
        assert ids(again) == ids(whole[count:])
        other = plan.batches(batch_size=batch_size)
        next(other)
        other.load_state_dict(state)
        assert ids(other) == ids(whole[count:])


@pytest.mark.parametrize("seed", range(8))
def test_ranks_change_and_die_at_random(client: roost.Client, data: Path, seed: int) -> None:
    """Each row once, in each block in the model's order, for 1 to 64 ranks that change in mid-epoch."""
    draw = random.Random(seed)
    block = draw.choice([1, 3, 8])
    blocks = expected(data, "rows", seed, 1, block)
    state: Any = None
    kept: list[int] = []
    while True:
        world = draw.choice([1, 2, 3, 8, 17, 64])
        base = client.plan(data, ["id"], seed=seed, epoch=1, block=block)
        plans = [base.shard(rank, world) for rank in range(world)]
        readers = [plan.batches(batch_size=4, prefetch=0, state=state) for plan in plans]
        saved = [reader.state_dict() for reader in readers]
        since: list[list[int]] = [[] for _ in readers]
        alive = set(range(world))
        for _ in range(draw.randrange(5, 60)):
            if not alive:
                break
            rank = draw.choice(sorted(alive))
            batch = next(readers[rank], None)
            if batch is None:
                alive.discard(rank)
                continue
            since[rank] += batch.column("id").to_pylist()
            if draw.random() < 0.5:
                kept += since[rank]
                since[rank] = []
                saved[rank] = json.loads(json.dumps(readers[rank].state_dict()))
            elif draw.random() < 0.2:
                # Killed: what it read since its checkpoint is read again.
                since[rank] = []
                readers[rank] = plans[rank].batches(batch_size=4, prefetch=0, state=saved[rank])
        for rank, reader in enumerate(readers):
            kept += since[rank]
            saved[rank] = reader.state_dict()
            reader.close()
        draw.shuffle(saved)
        state = saved if draw.random() < 0.5 else roost.merge_states(saved)
        if not alive:
            break
    assert sorted(kept) == sorted(row for rows in blocks for row in rows)
    at = {row: place for place, row in enumerate(kept)}
    for rows in blocks:
        places = [at[row] for row in rows]
        # A block may be given up and gone on with, never read out of its order.
        assert places == sorted(places)


@pytest.mark.parametrize("even", ["drop", "repeat"])
def test_even_ranks_have_as_many_rows(client: roost.Client, data: Path, even: str) -> None:
    whole = [row for rows in expected(data, "rows", 3, 0, 4) for row in rows]
    plans = [client.plan(data, ["id"], seed=3, block=4, rank=rank, world_size=5, even=even) for rank in range(5)]
    own = [[ids(client.plan(data, ["id"], seed=3, block=4, rank=rank, world_size=5).batches()) for rank in range(5)]][0]
    read = [ids(plan.batches(batch_size=6)) for plan in plans]
    target = (min if even == "drop" else max)(map(len, own))
    assert {len(rows) for rows in read} == {target} == {plan.num_rows for plan in plans}
    for rows, mine in zip(read, own, strict=True):
        assert rows == (mine + mine)[:target]
    if even == "repeat":
        assert {row for rows in read for row in rows} == set(whole)
    # Saved in the middle, they end at the same number.
    for plan, rows in zip(plans, read, strict=True):
        reader = plan.batches(batch_size=6)
        first = next(reader)
        state = reader.state_dict()
        reader.close()
        assert ids([first, *plan.batches(batch_size=6, state=state)]) == rows
    with pytest.raises(roost.InvalidRequestError, match="can't be shared evenly by 64 ranks"):
        client.plan(data, seed=3, block=4, rank=0, world_size=64, even=even)


def test_what_changed_is_named(client: roost.Client, data: Path) -> None:
    reader = client.plan(data, ["id"], seed=1, block=4).batches(batch_size=5)
    next(reader)
    state = reader.state_dict()
    for other, said in [
        ({"seed": 2}, "seed was 1 and is 2"),
        ({"epoch": 1}, "epoch was 0 and is 1"),
        ({"block": 5}, "block was 4 and is 5"),
        ({"limit": 9}, "limit was None and is 9"),
        ({"columns": ["text"]}, "other columns"),
        ({"shuffle": "row_groups", "block": None}, "shuffle was 'rows' and is 'row_groups'"),
    ]:
        plan = client.plan(data, **{"columns": ["id"], "seed": 1, "block": 4, **other})
        with pytest.raises(roost.InvalidRequestError, match=said):
            plan.batches(state=state)
    pq.write_table(rich_table(5), data / "part-99.parquet")
    with pytest.raises(roost.StalePlanError, match="objects were added"):
        client.plan(data, ["id"], seed=1, block=4).batches(state=state)


def test_arguments_are_checked(client: roost.Client, data: Path) -> None:
    for arguments, said in [
        ({"shuffle": "row"}, "shuffle is 'row'"),
        ({"even": "both"}, "even is 'both'"),
        ({"seed": -1}, "seed is -1"),
        ({"epoch": 1.5}, "epoch is 1.5"),
        ({"block": 0, "seed": 1}, "block is 0"),
        ({"block": 4}, "block is 4"),
        ({"rank": 1}, "rank and world_size belong together"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"skip": -3}, "skip is -3"),
    ]:
        with pytest.raises(roost.InvalidRequestError, match=said):
            client.plan(data, **arguments)
    for arguments, said in [({"batch_size": 0}, "batch_size is 0"), ({"prefetch": -1}, "prefetch is -1")]:
        with pytest.raises(roost.InvalidRequestError, match=said):
            client.plan(data).batches(**arguments)


def test_a_failed_read_leaves_the_state_where_it_was(
    client: roost.Client, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = client.plan(data, ["id"], seed=1, block=3)
    whole = ids(plan.batches(batch_size=16))
    reader = plan.batches(batch_size=16, prefetch=0)
    first = [next(reader), next(reader)]

    def broken(ticket: Any) -> Any:
        raise roost.UnavailableError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(client, "read_batches", broken)
        with pytest.raises(roost.UnavailableError):
            first.extend(reader)
    assert ids(first) + ids(plan.batches(batch_size=16, state=reader.state_dict())) == whole


def test_closing_ends_the_threads(client: roost.Client, data: Path) -> None:
    before = set(threading.enumerate())
    reader = client.plan(data, seed=1, block=2).batches(batch_size=2, prefetch=3)
    next(reader)
    reader.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert list(reader) == []


def test_explained(client: roost.Client, data: Path) -> None:
    plan = client.plan(data, ["id"], seed=1, block=9)
    told = plan.explain(batch_size=32)
    found = json.loads(json.dumps(told.to_dict()))
    assert (found["rows"], found["row_groups"], found["row_groups_pruned"]) == (plan.num_rows, 45, 0)
    assert found["expected_hits"] == 0
    assert 0 < found["origin_nbytes"] < sum(path.stat().st_size for path in data.iterdir())
    assert found["variance_inflation"] > 1
    better = client.plan(data, ["id"], seed=1, block=found["recommended_block"]).explain(batch_size=32)
    assert better.variance_inflation is not None
    assert better.variance_inflation <= 1.1
    assert "× the variance of a full shuffle" in str(told)
    few = client.plan(data, ["id"], shuffle="row_groups", seed=1, limit=15).explain()
    assert few.row_groups + few.row_groups_pruned == 45
    assert few.row_groups < 4
    assert client.plan(data).explain().variance_inflation is None


def test_columns_that_cannot_be_one_array_are_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [pa.record_batch({"a": [f"{i}" for i in range(s, s + 7)]}) for s in range(0, 35, 7)]
    order = _direct_order(35)
    whole = [f"{i}" for i in order.tolist()]
    schema = batches[0].schema
    assert [v for b in _mix.mixed(batches, schema, order) for v in b["a"].to_pylist()] == whole
    found = _mix._Scattered([batch.column(0) for batch in batches])(order)
    assert found.to_pylist() == whole
    views = [pa.record_batch({"a": batch.column(0).cast(pa.string_view())}) for batch in batches]
    assert [v for b in _mix.mixed(views, views[0].schema, order) for v in b["a"].to_pylist()] == whole


def _direct_order(rows: int) -> Any:
    return roost.order.row_order(rows, 1, 2, 3)
