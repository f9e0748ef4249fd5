"""Origins that fail, for a moment or for good: right rows after some retries, or a clear error; never fewer rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import flight

from harness import data, s3
from harness.compare import assert_same
from harness.origin import data_request, object_request

ERRORS = (pa.ArrowException, flight.FlightError, OSError, KeyError)


def test_errors_that_pass(node, origin, bucket, images: Path):
    url = bucket.put("images/", images)
    served = node(origin=origin)
    faults = [
        origin.fault(object_request, times=2, status=503),
        origin.fault(data_request, times=2, status=500),
        origin.fault(data_request, times=2, cut=10_000),
        origin.fault(lambda e: "list-type" in e.query, times=1, status=503),
    ]
    assert_same(served.read(url), pq.read_table(images))
    assert all(fault.hits == fault.times for fault in faults)


def test_errors_that_stay(node, origin, bucket, images: Path):
    url = bucket.put("images/", images)
    served = node("--retries", "2", "--retry-timeout", "5s", origin=origin)
    tickets = served.tickets(url)
    origin.fault(data_request, times=1 << 30, status=503)
    with pytest.raises(ERRORS, match=r"images-000\.parquet"):
        served.get(tickets[0])
    origin.heal()
    assert_same(served.read(url), pq.read_table(images))


def test_a_stream_cut_in_its_middle_is_an_error(node, origin, bucket, tmp_path: Path):
    """Rows that were sent before the origin failed are followed by an error, not by an end."""
    path = data.wide(tmp_path / "wide.parquet", rows=400_000)
    url = bucket.put("wide.parquet", path)
    served = node("--retries", "0", "--piece-bytes", "1MiB", "--origin-concurrency", "1", origin=origin)
    (ticket,) = served.tickets(url)
    origin.fault(lambda e: data_request(e) and len(origin.data_since()) > 40, times=1 << 30, cut=100)
    with pytest.raises(ERRORS):
        served.get(ticket)
    origin.heal()
    assert_same(served.read(url), pq.read_table(path))


def test_an_origin_that_hangs(node, origin, bucket, images: Path):
    url = bucket.put("images/", images)
    served = node("--request-timeout", "500ms", "--retries", "1", "--retry-timeout", "2s", origin=origin)
    tickets = served.tickets(url)
    with origin.holding(data_request), pytest.raises(ERRORS, match=r"images-000\.parquet"):
        served.get(tickets[0])
    assert_same(served.read(url), pq.read_table(images))


def test_an_origin_that_is_not_there(node, bucket):
    served = node("--retries", "0", environment=s3.environment("http://127.0.0.1:1"))
    with pytest.raises(ERRORS, match=r"s3://nowhere/x\.parquet"):
        served.plan("s3://nowhere/x.parquet")


def test_wrong_credentials(node, origin, bucket, images: Path):
    url = bucket.put("images/", images)
    served = node(environment=s3.environment(origin.url, secret="n0t-the-s3cret"))
    with pytest.raises((flight.FlightUnauthorizedError, flight.FlightUnauthenticatedError), match="s3://"):
        served.plan(url)
    assert "n0t-the-s3cret" not in served.log_tail()


def test_anonymous(node, origin, seaweed, images: Path):
    public = seaweed.bucket("public")
    url = public.put("images/", images)
    environment = s3.environment(origin.url)
    del environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    served = node(environment=environment | {"AWS_SKIP_SIGNATURE": "true"})
    assert_same(served.read(url), pq.read_table(images))


def test_no_such_bucket(node, origin):
    served = node(origin=origin)
    with pytest.raises(ERRORS, match="no-such-bucket"):
        served.plan("s3://no-such-bucket/x/")


BROKEN = {
    "no Parquet at all": lambda content: b"hello, world! " * 100,
    "too short": lambda content: b"PAR1",
    "cut off": lambda content: content[: len(content) // 2],
    "footer damaged": lambda content: content[:-200] + b"\x5a" * 150 + content[-50:],
    "footer's length absurd": lambda content: content[:-8] + b"\xff\xff\xff\x7f" + content[-4:],
    "footer's length beyond the file": lambda content: (
        content[:-8] + (len(content) * 2).to_bytes(4, "little") + b"PAR1"
    ),
    "encrypted": lambda content: content[:-4] + b"PARE",
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_no_parquet(node, tmp_path: Path, how: str):
    path = data.small_groups(tmp_path / "x.parquet", rows=5000)
    path.write_bytes(BROKEN[how](path.read_bytes()))
    served = node()
    with pytest.raises(ERRORS, match=r"x\.parquet"):
        served.plan(path.as_uri())
    assert served.running


def test_pages_that_are_damaged(node, tmp_path: Path):
    """The error names the object and the row group; the other row groups are read."""
    path = tmp_path / "x.parquet"
    table = data.numbers(30_000, 4)
    pq.write_table(table, path, row_group_size=10_000, compression="zstd")
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(2)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)
    served = node()
    with pytest.raises(ERRORS, match=r"x\.parquet"):
        served.read(path.as_uri())
    columns = ["c00", "c01", "c03"]
    assert_same(served.read(path.as_uri(), columns), table.select(columns))
    assert served.running


def test_page_checksums_are_compared(node, tmp_path: Path):
    """A flipped bit that decodes well: where the writer left a checksum, it is seen."""
    path = tmp_path / "x.parquet"
    pq.write_table(
        pa.table({"x": range(10_000)}), path, write_page_checksum=True, use_dictionary=False, compression="none"
    )
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ERRORS, match=r"x\.parquet"):
        node().read(path.as_uri())
