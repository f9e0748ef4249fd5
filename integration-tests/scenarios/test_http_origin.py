"""Web servers as origins, with the faults that real ones have."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

from harness import data
from harness.compare import assert_same


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = tmp_path / "published"
    data.units(directory / "units", 4)
    data.wide(directory / "wide.parquet", rows=20_000)
    return directory


def test_one_object(node, web, published: Path):
    origin = web(published)
    url = f"{origin.url}/wide.parquet"
    expected = pq.read_table(published / "wide.parquet")
    served = node()
    assert_same(served.read(url, ["c01", "c18"]), expected.select(["c01", "c18"]))
    two = sum(e.sent for e in origin.data_since())
    assert two <= expected.nbytes * 2 // 20 + 10_000
    assert_same(served.read(url), expected)
    mark = origin.mark()
    assert_same(served.read(url), expected)
    served.restart().recovered()
    assert_same(served.read(url), expected)
    assert origin.data_since(mark) == []


@pytest.mark.parametrize("several", ["units/", "units/*.parquet"])
def test_several_objects(node, web, published: Path, several: str):
    """HTTP has no listings: said so, at once."""
    origin = web(published)
    with pytest.raises((NotImplementedError, pa.ArrowInvalid), match="units/"):
        node().plan(f"{origin.url}/{several}")


def test_no_etag(node, web, published: Path):
    """Last-Modified and size tell the object then."""
    origin = web(published, etags=False)
    url = f"{origin.url}/wide.parquet"
    served = node()
    for _ in range(2):
        assert_same(served.read(url), pq.read_table(published / "wide.parquet"))


def test_ranges_ignored(node, web, published: Path):
    """The server sends the whole object for each range: right rows, or an error that says so."""
    origin = web(published, ranges=False)
    url = f"{origin.url}/wide.parquet"
    served = node("--retries", "0")
    try:
        table = served.read(url)
    except (pa.ArrowException, flight.FlightError) as error:
        assert "range" in str(error)  # noqa: PT017
    else:
        assert_same(table, pq.read_table(published / "wide.parquet"))


def test_conditions_ignored(node, web, published: Path):
    """The server takes no notice of If-Match; the change shows in the answer's own ETag."""
    origin = web(published, conditions=False)
    url = f"{origin.url}/wide.parquet"
    served = node()
    (ticket,) = served.tickets(url)
    new = data.numbers(20_000, 20, seed=77)
    pq.write_table(new, published / "wide.parquet", row_group_size=20_000, use_dictionary=False, compression="none")
    with pytest.raises(pa.ArrowInvalid, match="changed"):
        served.get(ticket)
    assert_same(served.read(url, refresh=True), pq.read_table(published / "wide.parquet"))


def test_redirects(node, web, published: Path):
    """Not there, and said so, though the server answers something."""
    origin = web(published)
    with pytest.raises(KeyError, match=r"none\.parquet"):
        node().plan(f"{origin.url}/none.parquet")


def test_a_query_is_part_of_the_url(node, web, published: Path):
    """Presigned URLs carry their permission in the query: it must reach the server, and stay out of logs."""
    origin = web(published)
    served = node()
    url = f"{origin.url}/wide.parquet?X-Amz-Signature=s3cr3t"
    try:
        table = served.read(url, ["c00"])
    except (pa.ArrowInvalid, NotImplementedError) as error:
        assert "query" in str(error)  # noqa: PT017
    else:
        assert_same(table, pq.read_table(published / "wide.parquet", columns=["c00"]))
        assert all(e.query == "X-Amz-Signature=s3cr3t" for e in origin.since())
    assert "s3cr3t" not in served.log_tail()
