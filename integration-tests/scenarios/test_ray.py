"""Ray Data through a real node: same rows, exact metadata, drawn orders, late reads; workers and nodes that die."""

import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.compare import assert_same
from harness.node import Node

roost = pytest.importorskip("roost", reason="the package of python-client is not installed")
ray = pytest.importorskip("ray", reason="Ray is not installed")
pytest.importorskip("ray.data", reason="Ray Data is not installed")
pytest.importorskip("roost.ray")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

# Two of them do not go into one run.
GROUP = 33_000
OBJECTS, GROUPS = 3, 2
ROWS = OBJECTS * GROUPS * GROUP


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, object_store_memory=200 << 20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("roost._direct._warned", False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    yield
    context.execution_options.preserve_order = False


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three objects of two row groups; `id` counts the rows."""
    directory = tmp_path_factory.mktemp("rows")
    for number in range(OBJECTS):
        ids = np.arange(number * GROUPS * GROUP, (number + 1) * GROUPS * GROUP)
        table = pa.table({"id": ids, "half": ids / 2, "text": pa.array([f"row {i}" for i in ids])})
        pq.write_table(table, directory / f"part-{number}.parquet", row_group_size=GROUP)
    return directory.as_uri() + "/"


@pytest.fixture
def served(node: Callable[..., Node]) -> Node:
    return node()


@pytest.fixture
def client(served: Node) -> "roost.Client":
    return roost.connect(f"grpc://{served.address}")


def table_of(ds) -> pa.Table:
    return pa.concat_tables(ds.iter_batches(batch_size=None, batch_format="pyarrow"))


def ids(ds) -> list[int]:
    return table_of(ds)["id"].to_pylist()


# --- Rows, metadata, projection ---------------------------------------------------------------------------------------


def test_the_same_rows_as_parquet_has(client, data):
    ds = roost.ray.read_parquet(data, client=client)
    expected = pq.read_table(data.removeprefix("file://"))
    assert ds.schema().base_schema.equals(expected.schema)
    assert_same(table_of(ds).combine_chunks(), expected.combine_chunks())


def test_counts_read_nothing(served, client, data):
    ds = roost.ray.read_parquet(data, client=client)
    assert ds.count() == ROWS
    assert ds.size_bytes() > ROWS * 16
    assert sorted(ds.input_files()) == [f"{data}part-{number}.parquet" for number in range(OBJECTS)]
    assert served.stat().misses == 0


def test_selected_columns_are_all_that_is_read(served, client, data):
    ds = roost.ray.read_parquet(data, client=client).select_columns(["half"])
    assert table_of(ds).schema.names == ["half"]
    # Of 8 + 8 + some 14 bytes a row.
    assert ROWS * 8 < served.disk() < ROWS * 12
    both = roost.ray.read_parquet(data, client=client, columns=["half", "id"])
    assert table_of(both).schema.names == ["half", "id"]
    assert both.select_columns([]).count() == ROWS
    assert both.rename_columns({"id": "number"}).select_columns(["number"]).take(1) == [{"number": 0}]


def test_limits_read_no_more_than_they_need(served, client, data):
    assert [row["id"] for row in roost.ray.read_parquet(data, client=client).limit(3).take_all()] == [0, 1, 2]


def test_several_paths_are_read_one_after_the_other(client, data):
    paths = [f"{data}part-1.parquet", f"{data}part-0.parquet", f"{data}nothing.parquet"]
    ds = roost.ray.read_parquet(paths, client=client, ignore_missing_paths=True)
    per_object = GROUPS * GROUP
    assert ids(ds) == [*range(per_object, 2 * per_object), *range(per_object)]
    with pytest.raises(roost.NotFoundError):
        roost.ray.read_parquet(paths, client=client)
    with pytest.raises(ValueError, match="prefix or a glob"):
        roost.ray.read_parquet(paths, client=client, seed=1)


def test_tasks_are_small_when_pickled(client, tmp_path):
    columns = {f"a_rather_long_name_of_column_{i}": np.arange(70_000) for i in range(200)}
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=10_000)
    source = roost.ray._source.RoostDatasource(
        roost.ray._request.make(
            path.as_uri(), None, shuffle=None, seed=None, epoch=None, block=None, client=client, job=None
        )
    )
    (task,) = source.get_read_tasks(1)
    schema = len(task.schema.serialize())
    size = len(pickle.dumps(task))
    assert size < schema + 4096 * len(client.plan(path.as_uri()))
    assert sum(block.num_rows for block in pickle.loads(pickle.dumps(task))()) == 70_000 == task.metadata.num_rows


# --- Orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", ["row_groups", "rows"])
def test_each_execution_reads_the_next_epoch_in_its_exact_order(client, data, shuffle):
    ds = roost.ray.read_parquet(
        data, client=client, columns=["id"], shuffle=shuffle, seed=7, block=2 if shuffle == "rows" else None
    )
    # Older versions of Ray do not tell how often they executed a data set.
    told = hasattr(ray.data.DataContext.get_current(), "_execution_idx")
    for epoch in (0, 1 if told else 0):
        plan = client.plan(data, ["id"], shuffle=shuffle, seed=7, epoch=epoch, block=2 if shuffle == "rows" else None)
        assert ids(ds) == plan.to_table()["id"].to_pylist()


def test_an_epoch_that_is_named_stays_the_same(client, data):
    ds = roost.ray.read_parquet(data, client=client, columns=["id"], seed=7, epoch=5)
    expected = client.plan(data, ["id"], seed=7, epoch=5).to_table()["id"].to_pylist()
    assert ids(ds) == expected
    assert ids(ds) == expected
    fixed = ray.data.FileShuffleConfig(seed=3)
    if hasattr(fixed, "reseed_after_execution"):
        fixed = ray.data.FileShuffleConfig(seed=3, reseed_after_execution=False)
    files = roost.ray.read_parquet(data, client=client, columns=["id"], shuffle=fixed)
    expected = client.plan(data, ["id"], shuffle="row_groups", seed=3).to_table()["id"].to_pylist()
    assert ids(files) == ids(files) == expected


# --- Late reads -------------------------------------------------------------------------------------------------------


def test_tickets_are_fetched_in_stages(client, data):
    late = roost.ray.tickets(data, client=client, columns=["id", "half"], shuffle="row_groups", seed=7, epoch=1)
    expected = client.plan(data, ["id", "half"], shuffle="row_groups", seed=7, epoch=1).to_table()
    assert late.count() == OBJECTS * GROUPS
    assert sum(row["rows"] for row in late.take_all()) == ROWS
    for batch_format in ("numpy", "pyarrow", "pandas"):
        fetched = late.map_batches(roost.ray.fetch, batch_format=batch_format, fn_kwargs={"columns": ["id"]})
        assert_same(table_of(fetched).combine_chunks(), expected.select(["id"]).combine_chunks())
    by_row = late.flat_map(lambda row: [{"sum": sum(t["id"].to_numpy().sum() for t in roost.ray.fetch(row))}])
    assert sum(row["sum"] for row in by_row.take_all()) == ROWS * (ROWS - 1) // 2
    with pytest.raises(roost.InvalidRequestError, match=r"roost\.ray\.tickets"):
        list(roost.ray.fetch({"id": [1]}))


def test_fetched_data_is_mapped_and_leaves_the_object_store_alone(client, data):
    before = roost.ray.statistics()
    late = roost.ray.tickets(data, client=client)
    rows = late.map_batches(lambda rows: ({"rows": [t.num_rows]} for t in roost.ray.fetch(rows)))
    assert sum(row["rows"] for row in rows.take_all()) == ROWS
    after = roost.ray.statistics()
    assert after["mapped_tickets"] - before["mapped_tickets"] == OBJECTS * GROUPS
    assert after["streamed_tickets"] == before["streamed_tickets"]


def test_rows_of_blocks_are_mixed_when_they_are_fetched(client, data):
    late = roost.ray.tickets(data, client=client, columns=["id"], seed=7, block=3, epoch=0)
    assert late.count() == OBJECTS * GROUPS // 3
    fetched = table_of(late.map_batches(roost.ray.fetch))["id"].to_pylist()
    assert fetched == client.plan(data, ["id"], seed=7, block=3).to_table()["id"].to_pylist()


# --- Shards -----------------------------------------------------------------------------------------------------------


def test_shards_read_the_plans_exact_order(client, data):
    late = roost.ray.tickets(data, client=client, seed=7, block=1)
    shards = late.streaming_split(2, equal=True)
    for epoch in range(2):
        for rank, shard in enumerate(shards):
            batches = roost.ray.iter_batches(shard, batch_size=1000, columns=["id"])
            assert batches.epoch == epoch
            found = [row for batch in batches for row in batch["id"].to_pylist()]
            plan = client.plan(data, ["id"], seed=7, block=1, epoch=epoch, rank=rank, world_size=2)
            assert found == plan.to_table()["id"].to_pylist()


def test_shards_go_on_where_another_world_was(client, data):
    late = roost.ray.tickets(data, client=client, columns=["id"], seed=7, block=1)
    states, seen = [], []
    for rank, shard in enumerate(late.streaming_split(3)):
        batches = roost.ray.iter_batches(shard, batch_size=1000, epoch=4)
        for _, batch in zip(range(5 + rank), batches, strict=False):
            seen += batch["id"].to_pylist()
        states.append(batches.state_dict())
    for shard in late.streaming_split(2):
        seen += [row for batch in roost.ray.iter_batches(shard, state=states) for row in batch["id"].to_pylist()]
    assert sorted(seen) == list(range(ROWS))


def test_even_ranks_read_the_same_number_of_rows(client, data):
    late = roost.ray.tickets(f"{data}part-0.parquet", client=client, columns=["id"], seed=7, block=1, even="drop")
    for shards, expected in ((late.streaming_split(2), [GROUP, GROUP]), (late.streaming_split(4), None)):
        if expected is None:
            with pytest.raises(roost.InvalidRequestError):
                [roost.ray.iter_batches(shard) for shard in shards]
            continue
        assert [sum(b.num_rows for b in roost.ray.iter_batches(shard)) for shard in shards] == expected


def test_formats_of_batches(client, data):
    late = roost.ray.tickets(data, client=client, columns=["id"])
    assert next(roost.ray.iter_batches(late, batch_size=3, batch_format="numpy"))["id"].tolist() == [0, 1, 2]
    assert next(roost.ray.iter_batches(late, batch_size=3, batch_format="pandas"))["id"].tolist() == [0, 1, 2]
    with pytest.raises(roost.InvalidRequestError, match="batch_format"):
        roost.ray.iter_batches(late, batch_format="lists")
    with pytest.raises(roost.InvalidRequestError, match=r"roost\.ray\.tickets"):
        roost.ray.iter_batches(roost.ray.read_parquet(data, client=client))


def test_shards_are_of_the_objects_that_the_data_set_had(node, tmp_path):
    client = roost.connect(f"grpc://{node('--revalidate', '0s').address}")
    directory = tmp_path / "data"
    directory.mkdir()
    pq.write_table(pa.table({"id": [1, 2]}), directory / "a.parquet")
    late = roost.ray.tickets(directory.as_uri() + "/", client=client)
    assert next(roost.ray.iter_batches(late))["id"].to_pylist() == [1, 2]
    pq.write_table(pa.table({"id": [3]}), directory / "b.parquet")
    with pytest.raises(roost.StalePlanError, match="make it anew"):
        roost.ray.iter_batches(late)


# --- Faults -----------------------------------------------------------------------------------------------------------


def test_a_worker_killed_in_a_task_changes_nothing(client, data, tmp_path):
    def die_once(batch):
        try:
            (tmp_path / "died").touch(exist_ok=False)
        except FileExistsError:
            return batch
        os.kill(os.getpid(), signal.SIGKILL)
        return batch

    ds = roost.ray.read_parquet(data, client=client, columns=["id"], seed=7, block=1, epoch=0)
    assert ids(ds.map_batches(die_once)) == client.plan(data, ["id"], seed=7, block=1).to_table()["id"].to_pylist()
    assert (tmp_path / "died").exists()


def test_a_node_killed_under_tasks_changes_nothing(served, client, data):
    before = roost.ray.statistics()["direct_tickets"]
    ds = roost.ray.read_parquet(data, client=client, columns=["id"])
    served.kill9()
    assert ids(ds) == list(range(ROWS))
    assert roost.ray.statistics()["direct_tickets"] - before == OBJECTS * GROUPS


@pytest.mark.filterwarnings("ignore::roost.DirectReadWarning")
def test_a_node_killed_under_an_iteration_changes_nothing(served, client, data):
    late = roost.ray.tickets(data, client=client, columns=["id"])
    batches = roost.ray.iter_batches(late, batch_size=1000, prefetch=0)
    found = next(batches)["id"].to_pylist()
    served.kill9()
    for batch in batches:
        found += batch["id"].to_pylist()
    assert found == list(range(ROWS))


def test_without_a_node_the_origin_is_read(served, client, data):
    served.kill9()
    before = roost.ray.statistics()["direct_tickets"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ds = roost.ray.read_parquet(data, client=client, columns=["id"])
        assert ids(ds) == list(range(ROWS))
        assert ids(ds) == list(range(ROWS))
    assert len([w for w in caught if w.category is roost.DirectReadWarning]) == 1
    assert roost.ray.statistics()["direct_tickets"] - before == 2 * OBJECTS * GROUPS


# --- Nodes by Ray -----------------------------------------------------------------------------------------------------


def test_nodes_are_started_found_and_stopped(data, tmp_path, monkeypatch):
    from harness.node import executable

    monkeypatch.delenv("ROOST_NODE", raising=False)
    flags = ("--min-free", "0")
    with roost.ray.start_nodes(0.01, cache_dir=tmp_path / "cache", executable=executable(), flags=flags) as nodes:
        assert len(nodes) == 1
        assert roost.ray.start_nodes(executable="/nowhere").addresses == nodes.addresses
        ds = roost.ray.read_parquet(data, columns=["id"])
        assert ids(ds) == list(range(ROWS))
        assert nodes.client().stat().fragments == OBJECTS * GROUPS
        # Killed, it is there again, where it was, with what it had.
        (actor,) = nodes._actors.values()
        pid = ray.get(actor.pid.remote())
        os.kill(pid, signal.SIGKILL)
        waiting = roost.connect(nodes.addresses, fallback=False)
        while ray.get(actor.pid.remote()) == pid:
            pass
        assert waiting.plan(data).num_rows == ROWS
        pid = ray.get(actor.pid.remote())
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1]
    assert roost.ray._start.addresses() == ()


def test_a_node_that_cannot_start_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="no executable"):
        roost.ray.start_nodes(executable="/nowhere")
    with pytest.raises(ValueError, match="share"):
        roost.ray.start_nodes(2)


# --- Placement --------------------------------------------------------------------------------------------------------


def test_reads_are_placed_on_the_ray_nodes_of_the_owners(client, served, data, monkeypatch):
    from roost.ray import _placement

    own = ray.get_runtime_context().get_node_id()
    ray.data.DataContext.get_current().execution_options.preserve_order = False

    found = roost.ray._orders.orders(client.plan(data).tickets)
    assert [part.node for part in _placement.by_node(found, {"127.0.0.1": own})] == [own]
    # As if another machine owned the last.
    owned = {order.tickets[0].pieces for order in found[:-1]}
    monkeypatch.setattr(_placement, "owner", lambda order, hosts: own if order.tickets[0].pieces in owned else "")
    monkeypatch.setattr(_placement, "parts", lambda orders, free: _placement.by_node(orders, {}) if free else [])
    ds = roost.ray.read_parquet(data, client=client, columns=["id"])
    assert ds.count() == ROWS
    assert sorted(ids(ds)) == list(range(ROWS))
    late = roost.ray.tickets(data, client=client, columns=["id"])
    assert sorted(ids(late.map_batches(roost.ray.fetch))) == list(range(ROWS))


# --- Clusters ---------------------------------------------------------------------------------------------------------


def test_a_process_may_go_on_with_another_cluster(client, data):
    assert roost.ray.read_parquet(data, client=client).count() == ROWS
    ray.shutdown()
    ray.init(address="local", num_cpus=2, object_store_memory=200 << 20, include_dashboard=False)
    late = roost.ray.tickets(data, client=client, columns=["id"])
    assert sum(batch.num_rows for batch in roost.ray.iter_batches(late)) == ROWS
    assert roost.ray.statistics()["mapped_tickets"] == OBJECTS * GROUPS
