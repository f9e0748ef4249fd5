"""Planning, reading and the cache's actions against a node that speaks the protocol."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest
from conftest import ROWS, assert_same
from fake_node import BATCH_ROWS, FakeNode

import roost
from roost import _wire

PROJECTIONS: list[list[str] | None] = [
    None,
    ["nested", "id"],
    ["a.dotted name", "price", "text", "seen", "nested", "id"],
    [],
]


@pytest.fixture(autouse=True)
def no_fallback() -> Any:
    """A read that silently left the node would prove nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", roost.DirectReadWarning)
        yield


@pytest.mark.parametrize("columns", PROJECTIONS)
def test_read_table_equals_pyarrow(node: FakeNode, dataset: Path, columns: list[str] | None) -> None:
    found = roost.connect(node.address).read_table(dataset, columns)
    # pyarrow takes a dot in a name of `columns` for a path.
    assert_same(found, pq.read_table(dataset).select(columns) if columns else pq.read_table(dataset, columns=columns))


@pytest.mark.parametrize("prefetch", [0, 1, 2, 50])
def test_batches_are_in_the_plans_order(node: FakeNode, dataset: Path, prefetch: int) -> None:
    plan = roost.connect(node.address).plan(dataset)
    batches = list(plan.batches(prefetch=prefetch))
    assert all(batch.schema.equals(plan.schema, check_metadata=True) for batch in batches)
    assert [i for batch in batches for i in batch["id"].to_pylist()] == list(range(3 * ROWS))
    assert max(batch.num_rows for batch in batches) == BATCH_ROWS


def test_plan_tells_what_it_is(node: FakeNode, dataset: Path) -> None:
    plan = roost.connect(node.address).plan(dataset, ["id", "text"])
    assert (len(plan), plan.num_rows, plan.nbytes) == (21, 3 * ROWS, 3 * ROWS * 10)
    assert plan.url == f"file://{dataset}/"
    assert plan.job == "made-up"
    assert plan.fingerprint == bytes.fromhex(plan.fingerprint).hex() != ""
    assert not plan.direct
    assert repr(plan) == f"<roost.Plan file://{dataset}/: 21 tickets, 600 rows, ~5.9 KiB, 2 columns (id, text)>"
    first = next(iter(plan))
    assert repr(first) == f"<roost.Ticket file://{dataset}/part-0.parquet#rg0: 30 rows, ~300 B>"
    assert first.columns == ("id", "text")
    assert plan.to_table().num_rows == plan.num_rows


def test_the_request_says_what_was_asked(node: FakeNode, dataset: Path) -> None:
    client = roost.connect(node.address)
    client.plan(dataset, ["text"], limit=31, job="train", refresh=True)
    client.plan(dataset, [])
    client.plan(dataset)
    first, none, everything = node.requests
    assert (list(first.columns.names), first.limit, first.job, first.refresh) == (["text"], 31, "train", True)
    assert none.HasField("columns")
    assert not list(none.columns.names)
    assert not everything.HasField("columns")
    assert not everything.HasField("limit")


@pytest.mark.parametrize("limit", [0, 1, 30, 31, 599, 600, 10_000])
def test_limit(node: FakeNode, dataset: Path, limit: int) -> None:
    client = roost.connect(node.address)
    assert_same(client.read_table(dataset, limit=limit), pq.read_table(dataset).slice(0, limit))
    assert client.read_table(dataset, [], limit).num_rows == min(limit, 600)


def test_pages_are_put_together(node: FakeNode, dataset: Path) -> None:
    node.page = 4
    plan = roost.connect(node.address).plan(dataset, refresh=True)
    assert len(plan) == 21
    assert [getattr(request, "from") for request in node.requests] == [0, 4, 8, 12, 16, 20]
    assert [request.refresh for request in node.requests] == [True] + 5 * [False]
    assert [request.job for request in node.requests] == [""] + 5 * ["made-up"]
    assert plan.to_table()["id"].to_pylist() == list(range(600))


def test_a_plan_that_changes_between_pages_is_made_again(node: FakeNode, dataset: Path) -> None:
    node.page = 8

    def change_once(request: Any) -> None:
        if getattr(request, "from") == 8 and len(node.requests) == 2:
            node.fingerprint_salt = b"changed"

    node.before_plan = change_once
    assert len(roost.connect(node.address).plan(dataset)) == 21
    assert [getattr(request, "from") for request in node.requests] == [0, 8, 0, 8, 16]


def test_a_plan_that_never_settles_is_an_error(node: FakeNode, dataset: Path) -> None:
    node.page = 8

    def change(request: Any) -> None:
        node.fingerprint_salt = str(len(node.requests)).encode()

    node.before_plan = change
    with pytest.raises(roost.StalePlanError, match="change faster"):
        roost.connect(node.address).plan(dataset)


def test_a_page_too_few_is_an_error(node: FakeNode, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = node._flight_info

    def short(schema: Any, descriptor: Any, page: list[Any], plan: Any) -> flight.FlightInfo:
        return whole(schema, descriptor, page[:-1], plan)

    monkeypatch.setattr(node, "_flight_info", short)
    with pytest.raises(roost.InternalError, match="20 tickets came where the plan has 21"):
        roost.connect(node.address).plan(dataset)


def _read(packed: bytes) -> list[int]:
    plan, ticket, client = pickle.loads(packed)
    assert client.read(ticket)["id"].to_pylist() == list(range(30))
    return plan.to_table()["id"].to_pylist()  # type: ignore[no-any-return]


def test_plans_and_tickets_travel_to_another_process(node: FakeNode, dataset: Path) -> None:
    client = roost.connect(node.address)
    plan = client.plan(dataset)
    packed = pickle.dumps((plan, plan.tickets[0], client))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_read, (packed,)) == list(range(600))


def test_pickles_are_small(node: FakeNode, dataset: Path) -> None:
    plan = roost.connect(node.address).plan(dataset)
    alone = len(pickle.dumps(plan.tickets[0]))
    schema = len(plan.schema.serialize())
    assert alone < schema + 700
    # The schema and the names of objects are there once.
    assert len(pickle.dumps(plan)) < alone + len(plan) * 300
    again = pickle.loads(pickle.dumps(plan))
    assert again.tickets == plan.tickets
    assert again.schema.equals(plan.schema, check_metadata=True)
    assert len({id(ticket.packed_schema) for ticket in again}) == 1


def test_columns_as_text_are_refused(node: FakeNode, dataset: Path) -> None:
    with pytest.raises(roost.InvalidRequestError, match=r"must be a list of names, such as \['id'\]"):
        roost.connect(node.address).plan(dataset, "id")
    with pytest.raises(ValueError, match="limit is -1"):
        roost.connect(node.address).plan(dataset, limit=-1)


def test_a_nodes_refusal_is_not_hidden_by_the_fallback(node: FakeNode, dataset: Path) -> None:
    def refuse(request: Any) -> None:
        raise flight.FlightUnauthorizedError("not you")

    node.before_plan = refuse
    with pytest.raises(PermissionError, match=f"planning file://{dataset}/: not you"):
        roost.connect(node.address).plan(dataset)


def test_read_table_plans_again_when_the_plan_is_stale(
    node: FakeNode, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = roost.connect(node.address)
    reads = client.read_batches

    def stale_once(ticket: roost.Ticket) -> Any:
        if not any(request.refresh for request in node.requests):
            raise roost.StalePlanError("changed")
        return reads(ticket)

    monkeypatch.setattr(client, "read_batches", stale_once)
    assert client.read_table(dataset).num_rows == 600


def test_pulls_run_side_by_side(node: FakeNode, dataset: Path) -> None:
    together = threading.Barrier(4, timeout=30)
    seen: set[int] = set()

    def meet(ticket: int) -> None:
        if ticket < 4 and ticket not in seen:
            seen.add(ticket)
            together.wait()

    node.before_get = meet
    assert roost.connect(node.address).plan(dataset).to_table(threads=4).num_rows == 600


def test_a_consumer_that_stops_early_stops_the_threads(node: FakeNode, dataset: Path) -> None:
    plan = roost.connect(node.address).plan(dataset)
    batches = plan.batches(prefetch=3)
    next(batches)
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("roost-pull")]
    assert mine
    batches.close()  # type: ignore[attr-defined]
    for thread in mine:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(node.gets) < len(plan)


# --- the cache --------------------------------------------------------------------------------------------------------


def progress(done: int, **more: Any) -> bytes:
    message = _wire.WarmProgress(
        row_groups_total=4, row_groups_done=done, bytes_total=400, bytes_done=100 * done, rows_done=10 * done, **more
    )
    return message.SerializeToString()


def test_warm(node: FakeNode) -> None:
    asked: list[Any] = []

    def warm(body: bytes) -> Any:
        asked.append(_wire.WarmRequest.FromString(body))
        return iter([progress(1), progress(4, finished=True, row_groups_hit=1, origin_bytes=77)])

    node.actions["roost.warm"] = warm
    seen: list[roost.WarmProgress] = []
    result = roost.connect(node.address).warm("s3://b/t/", ["a"], pin=True, progress=seen.append)
    assert [p.row_groups_done for p in seen] == [1, 4]
    assert (result.row_groups, result.rows, result.nbytes, result.row_groups_hit) == (4, 40, 400, 1)
    assert result.complete
    assert result.pinned
    assert str(result) == ("s3://b/t/: 4 of 4 row groups cached (1 before), 40 rows, 400 B; read 77 B from the origin")
    (request,) = asked
    assert (request.plan.url, list(request.plan.columns.names), request.pin) == ("s3://b/t/", ["a"], True)


def test_warm_raises_what_is_missing(node: FakeNode) -> None:
    failure = _wire.Failure(row_group="s3://b/t/x#rg3", message="access denied")
    last = progress(4, finished=True, row_groups_bypassed=2, row_groups_failed=1, failures=[failure])
    node.actions["roost.warm"] = lambda body: iter([last])
    client = roost.connect(node.address)
    with pytest.raises(roost.NotCachedError) as caught:
        client.warm("s3://b/t/")
    assert "1 failed (s3://b/t/x#rg3: access denied)" in str(caught.value)
    assert "2 found no room" in str(caught.value)
    result = client.warm("s3://b/t/", raise_on_missing=False)
    assert result == caught.value.result
    assert not result.complete
    assert pickle.loads(pickle.dumps(caught.value)).result == result


def test_a_warm_that_breaks_is_begun_again(node: FakeNode) -> None:
    calls = []

    def warm(body: bytes) -> Any:
        calls.append(body)
        yield progress(1)
        if len(calls) == 1:
            raise flight.FlightUnavailableError("restarting")
        yield progress(4, finished=True)

    node.actions["roost.warm"] = warm
    assert roost.connect(node.address).warm("s3://b/t/").complete
    assert len(calls) == 2


def test_a_warm_that_never_finishes_is_an_error(node: FakeNode) -> None:
    node.actions["roost.warm"] = lambda body: iter([progress(1)])
    with pytest.raises(roost.InternalError, match="stopped telling before the end"):
        roost.connect(node.address).warm("s3://b/t/")


def test_stat_evict_pin_and_ls(node: FakeNode, tmp_path: Path) -> None:
    stats = _wire.CacheStats(
        version="1.2",
        hits=3,
        misses=1,
        directories=[_wire.CacheDirectory(path="/c", used_bytes=1, free_bytes=2, min_free_bytes=3)],
        jobs=[_wire.Job(name="j", dataset="d", idle_seconds=1, held_bytes=2, share_bytes=3)],
        pinned=["s3://b/t/"],
    )
    asked: list[str] = []

    def told(answer: Any) -> Any:
        def act(body: bytes) -> Any:
            asked.append(_wire.DatasetRequest.FromString(body).url)
            return iter([answer.SerializeToString()])

        return act

    node.actions["roost.stat"] = lambda body: iter([stats.SerializeToString()])
    node.actions["roost.evict"] = told(_wire.EvictResult(fragments=2, bytes=9))
    node.actions["roost.pin"] = told(_wire.PinResult(pinned=["a", "b"]))
    node.actions["roost.unpin"] = told(_wire.PinResult(pinned=["a"]))
    client = roost.connect(node.address)
    stat = client.stat()
    assert (stat.version, stat.hit_rate, stat.pinned) == ("1.2", 0.75, ("s3://b/t/",))
    assert stat.directories == (roost.CacheDirectory("/c", 1, 2, 3, ""),)
    assert stat.jobs == (roost.Job("j", "d", 1, 2, 3),)
    assert client.evict("s3://b/t/") == roost.EvictResult(2, 9)
    assert client.pin(tmp_path / "x.parquet") == ("a", "b")
    assert client.unpin("s3://b/t/") == ("a",)
    assert asked == ["s3://b/t/", f"file://{tmp_path}/x.parquet", "s3://b/t/"]
    assert client.ls() == [roost.CachedDataset("s3://b/t/", 2, 3, 4, 5, True, False, 0, 0)]
