"""TPC-H tables and photos from S3 are served as `pyarrow.parquet.read_table` reads them."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import data
from harness.compare import assert_same


@pytest.mark.parametrize("name", data.TPCH_TABLES)
def test_tpch_table(node, origin, bucket, tpch: Path, name: str):
    path = tpch / f"{name}.parquet"
    url = bucket.put(f"tpch/{name}.parquet", path)
    expected = pq.read_table(path)
    columns = expected.schema.names
    served = node(origin=origin)

    assert_same(served.read(url), expected)
    assert_same(served.read(url), expected)
    for wanted in (columns[::-1], columns[1::2], [columns[-1], columns[0]]):
        assert_same(served.read(url, wanted), expected.select(wanted))
    served.restart()
    assert_same(served.read(url), expected)


def test_projections_before_the_whole(node, origin, bucket, tpch: Path):
    """Columns come from three fills, overlap, and are joined in the order asked for."""
    path = tpch / "lineitem.parquet"
    url = bucket.put("lineitem.parquet", path)
    expected = pq.read_table(path)
    served = node(origin=origin)

    for wanted in (
        ["l_comment", "l_orderkey"],
        ["l_orderkey", "l_shipdate", "l_comment"],
        ["l_extendedprice"],
        ["l_extendedprice", "l_comment", "l_shipdate", "l_tax"],
        expected.schema.names,
    ):
        assert_same(served.read(url, wanted), expected.select(wanted))
    served.restart()
    assert_same(served.read(url), expected)


def test_a_prefix_of_parts(node, origin, bucket, tmp_path: Path):
    local = data.tpch(tmp_path, 0.02, ("lineitem",), parts=12) / "lineitem"
    url = bucket.put("lineitem/", local)
    expected = pq.read_table(local)
    served = node(origin=origin)

    assert_same(served.read(url, threads=4), expected)
    assert_same(served.read(url, threads=4), expected)
    served.restart()
    assert_same(served.read(url, threads=4), expected)


def test_images(node, origin, bucket, images: Path):
    url = bucket.put("images/", images)
    expected = pq.read_table(images)
    served = node(origin=origin)

    assert_same(served.read(url), expected)
    assert_same(served.read(url), expected)
    assert_same(served.read(url, ["label", "image"]), expected.select(["label", "image"]))
    served.restart()
    assert_same(served.read(url), expected)


def test_partitions(node, origin, bucket, tmp_path: Path):
    local = data.hive(tmp_path / "hive")
    url = bucket.put("hive/", local)
    expected = pq.read_table(local)
    served = node(origin=origin)

    assert_same(served.read(url), expected)
    wanted = ["region", "c01", "year"]
    assert_same(served.read(url, wanted), expected.select(wanted))
    assert_same(served.read(url, ["year"]), expected.select(["year"]))
    assert_same(served.read(url), expected)


@pytest.mark.parametrize("group", [100, 500, 7000])
def test_small_row_groups(node, tmp_path: Path, group: int):
    path = data.small_groups(tmp_path / "small.parquet", group=group)
    expected = pq.read_table(path)
    served = node()

    assert_same(served.read(path.as_uri()), expected)
    assert_same(served.read(path.as_uri()), expected)
    batches = served.get(served.tickets(path.as_uri())[0]).to_batches()
    assert max(batch.num_rows for batch in batches) > group, "row groups are packed"


def test_large_row_group(node, tmp_path: Path):
    """More rows than a batch holds, and more bytes than one read fetches."""
    path = data.wide(tmp_path / "wide.parquet", rows=600_000)
    expected = pq.read_table(path)
    served = node()

    assert_same(served.read(path.as_uri()), expected)
    assert_same(served.read(path.as_uri(), ["c19", "c00"]), expected.select(["c19", "c00"]))
    served.restart()
    assert_same(served.read(path.as_uri()), expected)
