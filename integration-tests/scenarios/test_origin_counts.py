"""The counting origin itself: what other scenarios conclude from it must be true."""

from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from harness import s3
from harness.origin import Exchange, covered, doubled, object_request


def exchange(path: str, start: int, end: int, size: int = 100) -> Exchange:
    return Exchange("GET", path, "", {}, status=206, sent=end - start, start=start, end=end, size=size)


def test_doubled_names_what_was_sent_twice():
    once = [exchange("/a", 0, 10), exchange("/a", 10, 20), exchange("/b", 0, 20)]
    assert doubled(once) == {}
    assert doubled([*once, exchange("/a", 5, 12)]) == {"/a": [(5, 10), (10, 12)]}


def test_covered_joins_ranges():
    asked = [exchange("/a", 30, 40), exchange("/a", 0, 10), exchange("/a", 10, 20), exchange("/b", 50, 60)]
    assert covered(asked, "/a") == [(0, 20), (30, 40)]


def test_footer_is_the_tail_of_a_larger_object():
    assert exchange("/a", 90, 100).reads_footer
    assert not exchange("/a", 0, 100).reads_footer, "a whole object is data too"
    assert not exchange("/a", 80, 90).reads_footer


def test_forwards_signed_requests_and_counts_them(origin, bucket, wide: Path):
    bucket.put("wide.parquet", wide)
    filesystem = pafs.S3FileSystem(
        access_key=s3.ACCESS_KEY,
        secret_key=s3.SECRET_KEY,
        region=s3.REGION,
        endpoint_override=f"127.0.0.1:{origin.port}",
        scheme="http",
    )
    chunk = pq.ParquetFile(wide).metadata.row_group(0).column(7)
    fault = origin.fault(object_request, status=503)
    cut = origin.fault(lambda e: e.headers.get("range", "").startswith(f"bytes={chunk.data_page_offset}-"), cut=1000)

    table = pq.read_table(f"{bucket.name}/wide.parquet", filesystem=filesystem, columns=["c07"])

    assert table.equals(pq.read_table(wide, columns=["c07"]))
    assert (fault.hits, cut.hits) == (1, 1)
    data = origin.data_since()
    assert [e.sent for e in data] == [1000, chunk.total_compressed_size]
    assert data[-1].start == chunk.data_page_offset
    start = chunk.data_page_offset
    assert doubled(data) == {bucket.path("wide.parquet"): [(start, start + 1000)]}, "the second try sent them again"
