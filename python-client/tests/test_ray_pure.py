"""What `roost.ray` decides without Ray running; and its page's arguments."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from roost.plan import PackedSchema, Piece, Ticket
from roost.ray import _arguments, _placement, _read, _request
from roost.ray._orders import Order, groups, orders
from roost.ray._process import find_executable

SCHEMA = PackedSchema(pa.schema([("id", pa.int64())]))


def ticket(number: int, *, members: int = 1, at: str = "grpc://a:1", **fields: Any) -> Ticket:
    piece = Piece(f"s3://b/{number}.parquet", 0, 1, 10)
    return Ticket(b"signed", "s3://b/", (piece,), 10, 100, (at,), SCHEMA, number, members, **fields)


def test_orders_are_the_blocks_of_a_plan():
    found = orders([ticket(0, members=2), ticket(0, members=2), ticket(1)])
    assert [len(order.tickets) for order in found] == [2, 1]
    assert [order.num_rows for order in found] == [20, 10]
    cut = Order((ticket(0, members=2, from_row=3), ticket(0, members=2, from_row=3)))
    assert (cut.bounds, cut.num_rows, cut.nbytes) == ((3, 20), 17, 170)
    cut = Order((ticket(0, from_row=3, until_row=7),))
    assert (cut.bounds, cut.num_rows) == ((3, 7), 4)


def test_orders_pickle_without_their_schema():
    order = Order((ticket(3),))
    assert Order.from_bytes(order.to_bytes(), SCHEMA) == order
    wide = PackedSchema(pa.schema([(f"column_{i}", pa.int64()) for i in range(500)]))
    content = Order((Ticket(b"s" * 300, "s3://b/", (Piece("s3://b/0", 0, 1, 10),), 10, 100, (), wide),)).to_bytes()
    assert len(content) < 1500


@pytest.mark.parametrize("weights", [[1] * 7, [100, 1, 1], [1, 1, 100], [0, 0, 0], list(range(20)), [5]])
@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_groups_are_whole_and_none_is_empty(weights: list[int], count: int):
    cuts = groups(weights, count)
    assert len(cuts) == min(count, len(weights))
    assert cuts[0][0] == 0
    assert cuts[-1][1] == len(weights)
    assert all(start < stop for start, stop in cuts)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(cuts))


def test_groups_are_even():
    sums = [stop - start for start, stop in groups([1] * 103, 10)]
    assert max(sums) - min(sums) <= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("filesystem", object()),
        ("catalog", object()),
        ("filter", object()),
        ("partition_filter", object()),
        ("partitioning", None),
        ("schema", pa.schema([])),
        ("include_paths", True),
        ("include_row_hash", True),
        ("tensor_column_schema", {"a": 1}),
        ("file_extensions", ["pq"]),
        ("skip_paths", "a"),
        ("use_threads", True),
        ("something_of_pyarrow", 3),
    ],
)
def test_arguments_without_meaning_are_refused(name: str, value: object):
    with pytest.raises(ValueError, match=rf"^{name}=.* has no meaning for roost\.ray\.read_parquet: .{{15,}}"):
        _arguments.check({name: value})


def test_arguments_that_say_nothing_are_taken():
    from ray.data.datasource.partitioning import Partitioning

    _arguments.check(
        {
            "filesystem": None,
            "filter": None,
            "include_paths": False,
            "partitioning": Partitioning("hive"),
            "file_extensions": ["parquet"],
        }
    )
    with pytest.raises(ValueError, match="partitioning"):
        _arguments.check({"partitioning": Partitioning("dir", field_names=["year"])})


def test_orders_as_ray_asks_for_them():
    config = SimpleNamespace(seed=3, reseed_after_execution=False)
    assert _arguments.order_of(config, None, None) == ("row_groups", 3, 0)
    config.reseed_after_execution = True
    assert _arguments.order_of(config, None, None) == ("row_groups", 3, None)
    assert _arguments.order_of("files", 5, 2) == ("row_groups", 5, 2)
    assert _arguments.order_of("rows", None, None) == ("rows", None, None)
    with pytest.raises(ValueError, match="give one"):
        _arguments.order_of(config, 4, None)


def test_owners_are_found_by_host_or_by_address():
    nodes = [
        {"NodeID": "x", "NodeManagerAddress": "10.0.0.1", "NodeManagerHostname": "host-x.invalid"},
        {"NodeID": "y", "NodeManagerAddress": "10.0.0.2", "NodeManagerHostname": "host-y.invalid"},
    ]
    hosts = _placement.hosts(nodes, {"grpc://127.0.0.1:7": "y"})
    assert _placement.owner(Order((ticket(0, at="grpc://10.0.0.1:8815"),)), hosts) == "x"
    assert _placement.owner(Order((ticket(0, at="grpc+tcp://host-y.invalid:1"),)), hosts) == "y"
    assert _placement.owner(Order((ticket(0, at="grpc://127.0.0.1:7"),)), hosts) == "y"
    assert _placement.owner(Order((ticket(0, at="grpc://elsewhere:1"),)), hosts) == ""
    two = Order((ticket(0, members=3, at="grpc://10.0.0.1:1"), *[ticket(0, members=3, at="grpc://10.0.0.2:1")] * 2))
    assert _placement.owner(two, hosts) == "y"
    parts = _placement.by_node([two, Order((ticket(1, at="grpc://10.0.0.1:1"),))], hosts)
    assert [(part.node, part.nbytes) for part in parts] == [("y", 300), ("x", 100)]
    assert parts[0].select(two)
    assert not parts[1].select(two)


def test_ray_nodes_on_one_host_are_told_apart_by_address_alone():
    nodes = [
        {"NodeID": "x", "NodeManagerAddress": "127.0.0.1", "NodeManagerHostname": "same.invalid"},
        {"NodeID": "y", "NodeManagerAddress": "127.0.0.1", "NodeManagerHostname": "same.invalid"},
    ]
    assert _placement.hosts(nodes, {}) == {}
    assert _placement.hosts(nodes, {"grpc://127.0.0.1:7": "y"}) == {"grpc://127.0.0.1:7": "y"}


def test_tasks_leave_room_in_the_object_store():
    found = [Order((replace(ticket(number), nbytes=16 << 20),)) for number in range(64)]
    plenty = {"CPU": 2, "object_store_memory": 8 << 30}
    assert _read._tasks(found, _read._TASK_BYTES, plenty) == 16
    assert _read._tasks(found, _read._TASK_BYTES, {"CPU": 2, "object_store_memory": 320 << 20}) == 52
    assert _read._tasks(found, _read._TASK_BYTES, {"CPU": 2, "object_store_memory": 80 << 20}) == 64
    # Tickets take no room.
    assert _read._tasks(found, 256 << 20, {"CPU": 2, "object_store_memory": 80 << 20}) == 4
    assert _read._tasks(found, 256 << 20, {}) == 4
    assert _read._tasks([], _read._TASK_BYTES, plenty) == 1


def test_requests_without_a_seed_draw_one():
    def made(**given: Any) -> _request.Request:
        asked: dict[str, Any] = {
            "shuffle": None,
            "seed": None,
            "epoch": None,
            "block": None,
            "client": None,
            "job": None,
        }
        return _request.make("s3://b/", None, **{**asked, **given})

    assert (made().shuffle, made().seed) == ("none", 0)
    assert made(seed=4).shuffle == "rows"
    assert made(shuffle="rows").seed != made(shuffle="rows").seed
    assert made(seed=4).epoch_of(SimpleNamespace(_execution_idx=3)) == 3
    assert made(seed=4, epoch=9).epoch_of(SimpleNamespace(_execution_idx=3)) == 9
    assert made().epoch_of(SimpleNamespace(_execution_idx=3)) == 0
    assert made(seed=4).epoch_of(None) == 0
    with pytest.raises(ValueError, match="empty list"):
        _request.make([], None, shuffle=None, seed=None, epoch=None, block=None, client=None, job=None)  # type: ignore[arg-type]


def test_the_executable_is_found(tmp_path: Path):
    there = tmp_path / "bin" / "roost"
    there.parent.mkdir()
    there.write_text("#!/bin/sh\n")
    with pytest.raises(RuntimeError, match="is no executable"):
        find_executable(str(there))
    there.chmod(0o755)
    assert find_executable(str(there)) == str(there)
    assert find_executable(None, {"ROOST_BIN": str(there), "PATH": ""}) == str(there)
    assert find_executable(None, {"PATH": f"/nowhere{os.pathsep}{there.parent}"}) == str(there)
    with pytest.raises(RuntimeError, match="PATH"):
        find_executable(None, {"PATH": "/nowhere"})
