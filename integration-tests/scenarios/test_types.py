"""Each kind of column is served as `pyarrow.parquet.read_table` reads it: cold, warm, projected, after a restart."""

import pyarrow.parquet as pq
import pytest

from harness import zoo
from harness.compare import assert_same


@pytest.mark.parametrize("name", zoo.CASES)
def test_equals_read_table(node, zoo_file, name: str):
    path = zoo_file(name)
    url = path.as_uri()
    expected = pq.read_table(path)
    served = node()

    assert_same(served.read(url), expected)
    assert_same(served.read(url), expected)
    assert served.stat().misses == 1, "the second read was warm"
    backwards = expected.schema.names[::-1]
    assert_same(served.read(url, backwards), expected.select(backwards))
    served.restart().recovered()
    assert_same(served.read(url), expected)
    assert served.stat().misses == 0, "the restart kept what was cached"


@pytest.mark.parametrize("name", ["mixed", "map", "struct-in-struct", "dictionary-growing"])
def test_columns_cached_one_by_one(node, zoo_file, name: str):
    """Each column comes from a fragment of its own, and the fragments are joined."""
    path = zoo_file(name)
    url = path.as_uri()
    expected = pq.read_table(path)
    served = node()

    for column in expected.schema.names[::-1]:
        assert_same(served.read(url, [column]), expected.select([column]))
    misses = served.stat().misses
    assert_same(served.read(url), expected)
    assert served.stat().misses == misses, "all columns were there"
