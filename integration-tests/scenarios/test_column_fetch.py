"""Only the columns asked for are fetched, and only those that are missing."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.compare import assert_same
from harness.origin import covered, doubled


def chunks(path: Path, *columns: int) -> list[tuple[int, int]]:
    """The byte ranges of column chunks, joined where they touch."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    joined: list[tuple[int, int]] = []
    for index in sorted(columns):
        column = group.column(index)
        start = column.dictionary_page_offset or column.data_page_offset
        end = start + column.total_compressed_size
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


@pytest.fixture
def served(node, origin):
    return node(origin=origin)


def test_two_of_twenty_then_a_third(served, origin, bucket, wide: Path):
    url, path = bucket.put("wide.parquet", wide), bucket.path("wide.parquet")
    expected = pq.read_table(wide)

    assert_same(served.read(url, ["c03", "c11"]), expected.select(["c03", "c11"]))
    assert covered(origin.data_since(), path) == chunks(wide, 3, 11)
    assert doubled(origin.data_since()) == {}
    footers = [e for e in origin.since() if e.reads_footer]
    assert len(footers) == 1

    mark = origin.mark()
    wanted = ["c11", "c07", "c03"]
    assert_same(served.read(url, wanted), expected.select(wanted))
    assert covered(origin.data_since(mark), path) == chunks(wide, 7)
    assert [e for e in origin.since(mark) if e.reads_footer] == [], "footers are cached"

    mark = origin.mark()
    assert_same(served.read(url), expected)
    rest = [c for c in range(20) if c not in (3, 7, 11)]
    assert covered(origin.data_since(mark), path) == chunks(wide, *rest)
    assert doubled(origin.data_since()) == {}


def test_row_counts_fetch_no_data(served, origin, bucket, wide: Path):
    url = bucket.put("wide.parquet", wide)
    table = served.read(url, [])
    assert (table.num_rows, table.num_columns) == (200_000, 0)
    assert origin.data_since() == []


def test_warming_columns(served, origin, bucket, wide: Path):
    url, path = bucket.put("wide.parquet", wide), bucket.path("wide.parquet")
    served.warm(url, ["c05"])
    assert covered(origin.data_since(), path) == chunks(wide, 5)
    served.warm(url, ["c05", "c06"])
    assert covered(origin.data_since(), path) == chunks(wide, 5, 6)
    assert doubled(origin.data_since()) == {}


def test_limit_reads_its_row_groups_only(served, origin, bucket, images: Path):
    """Four objects of one row group each: 70 rows lie in the first two."""
    url = bucket.put("images/", images)
    assert served.read(url, limit=70).equals(pq.read_table(images).slice(0, 70))
    assert {e.path for e in origin.data_since()} == {
        bucket.path("images/images-000.parquet"),
        bucket.path("images/images-001.parquet"),
    }
