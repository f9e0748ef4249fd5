"""The Python package against a real node, and without one."""

import pickle
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.compare import assert_same
from harness.node import Node

roost = pytest.importorskip("roost", reason="the package of python-client is not installed")


@pytest.fixture
def served(node) -> Node:
    return node()


def test_read_table(served: Node, tpch: Path):
    path = tpch / "orders.parquet"
    client = roost.connect(f"grpc://{served.address}")
    expected = pq.read_table(path)
    assert_same(client.read_table(path.as_uri()), expected)
    columns = ["o_comment", "o_orderkey"]
    assert_same(client.read_table(path.as_uri(), columns=columns), expected.select(columns))
    stat = served.stat()
    assert (stat.misses, stat.hits) == (1, 1)


def test_tickets_travel(served: Node, images: Path):
    client = roost.connect(f"grpc://{served.address}")
    plan = pickle.loads(pickle.dumps(client.plan(images.as_uri() + "/")))
    expected = pq.read_table(images)
    assert plan.schema.equals(expected.schema, check_metadata=True)
    rows = sum(client.read(pickle.loads(pickle.dumps(ticket))).num_rows for ticket in plan.tickets)
    assert rows == expected.num_rows


def test_warm(served: Node, images: Path):
    client = roost.connect(f"grpc://{served.address}")
    client.warm(images.as_uri() + "/")
    assert served.stat().fragments == 4


def test_without_a_node_the_origin_is_read(served: Node, images: Path):
    """The same rows in the same order, and one warning."""
    url = images.as_uri() + "/"
    client = roost.connect(f"grpc://{served.address}")
    plan = client.plan(url)
    through = client.read_table(url)
    served.kill9()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        late = [client.read(ticket) for ticket in plan.tickets]
        direct = client.read_table(url)
    assert_same(direct, through)
    assert sum(table.num_rows for table in late) == through.num_rows
    assert len([w for w in caught if "roost" in str(w.category).lower() or "roost" in str(w.message).lower()]) == 1
