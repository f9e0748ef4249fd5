"""Warm, pin, unpin, evict, and what ListFlights and statistics tell of them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import data
from harness.compare import assert_same


@pytest.fixture
def units(tmp_path: Path) -> Path:
    return data.units(tmp_path / "units", 16)


def url_of(directory: Path) -> str:
    return directory.as_uri() + "/"


def test_warm_tells_its_progress(node, origin, bucket, units: Path):
    url = bucket.put("units/", units)
    expected = pq.read_table(units)
    served = node(origin=origin)

    progress = served.warm(url)

    assert [p.finished for p in progress] == [False] * (len(progress) - 1) + [True]
    done = [p.row_groups_done for p in progress]
    assert done == sorted(done)
    last = progress[-1]
    assert (last.row_groups_done, last.row_groups_total, last.row_groups_hit) == (16, 16, 0)
    assert (last.rows_done, last.rows_total) == (expected.num_rows, expected.num_rows)
    assert (last.row_groups_failed, last.row_groups_bypassed) == (0, 0)
    assert last.bytes_done == last.bytes_total == pytest.approx(expected.nbytes, rel=0.05)
    sent = sum(e.sent for e in origin.data_since())
    assert sent <= last.origin_bytes <= sent + (17 << 16), "and footers"
    mark = origin.mark()
    assert_same(served.read(url), expected)
    assert origin.data_since(mark) == []

    again = served.warm(url)[-1]
    assert (again.row_groups_hit, again.row_groups_done, again.origin_bytes) == (16, 16, 0)


def test_warm_goes_on_past_what_fails(node, units: Path):
    broken = units / "unit-0005.parquet"
    data.break_first_page(broken)
    last = node().warm(url_of(units))[-1]
    assert last.finished
    assert last.row_groups_failed == 1
    (failure,) = last.failures
    assert failure.row_group == f"{broken.as_uri()}#rg0"
    assert failure.message
    assert last.row_groups_total == 16


def test_list_flights_tells_what_is_cached(node, units: Path):
    served = node("--job-grace", "0s")
    url = url_of(units)
    assert served.cached() == {}
    served.warm(url, ["c00"])
    served.wait(lambda: not served.cached()[url].held, "nobody holds what was warmed")
    entry = served.cached()[url]
    assert (entry.objects, entry.row_groups, entry.fragments, entry.row_groups_total) == (16, 16, 16, 16)
    quarter = pq.read_table(units).nbytes // 4
    assert entry.bytes == pytest.approx(quarter, rel=0.1)
    assert not entry.pinned
    served.restart().recovered()
    again = served.cached()[url]
    assert (again.objects, again.row_groups, again.fragments, again.bytes) == (16, 16, 16, entry.bytes)


def test_evict(node, units: Path, images: Path):
    served = node()
    served.warm(url_of(units))
    served.warm(url_of(images))
    before = served.stat()

    gone = served.evict(url_of(units))

    assert gone.fragments == 16
    after = served.stat()
    assert before.used_bytes - after.used_bytes == gone.bytes
    assert before.fragments - after.fragments == 16
    assert set(served.cached()) == {url_of(images)}
    assert served.disk() <= after.used_bytes + (1 << 20)
    assert_same(served.read(url_of(units)), pq.read_table(units))
    assert served.evict(url_of(units)).fragments == 16
    assert served.evict(url_of(units)).fragments == 0


def test_evict_one_object(node, units: Path):
    served = node()
    served.warm(url_of(units))
    assert served.evict(f"{url_of(units)}unit-0003.parquet").fragments == 1
    assert served.stat().fragments == 15


def test_evict_under_a_reader(node, images: Path):
    """A stream that has begun goes on to its end."""
    served = node()
    url = url_of(images)
    served.warm(url)
    streams = [served.connect().do_get(ticket) for ticket in served.tickets(url)]
    first = [stream.read_chunk().data for stream in streams]
    served.evict(url)
    tables = [
        pa.Table.from_batches([batch, *stream.read_all().to_batches()])
        for batch, stream in zip(first, streams, strict=True)
    ]
    assert pa.concat_tables(tables).equals(pq.read_table(images))


def test_pinned_data_stays(node, units: Path, tmp_path: Path):
    other = data.units(tmp_path / "other", 40, seed=9)
    served = node("--capacity", "24MiB", "--job-grace", "0s")
    url = url_of(units)
    assert served.pin(url) == [url]
    served.warm(url)
    for seed in range(2):
        assert_same(served.read(url_of(other), job=f"job {seed}"), pq.read_table(other))
    before = served.stat()
    assert before.pinned_bytes == pytest.approx(16 << 20, rel=0.05)
    assert list(before.pinned) == [url]
    assert served.cached()[url].pinned
    assert_same(served.read(url), pq.read_table(units))
    assert served.stat().misses == before.misses, "all of it is still there"


def test_pins_outlive_the_node(node, units: Path):
    served = node()
    served.warm(url_of(units), pin=True)
    for how in ("kill9", "terminate"):
        getattr(served, how)()
        served.start().recovered()
        stat = served.stat()
        assert list(stat.pinned) == [url_of(units)]
        assert stat.pinned_bytes == stat.used_bytes > 0


def test_unpinned_data_makes_room(node, units: Path, tmp_path: Path):
    other = data.units(tmp_path / "other", 16, seed=9)
    served = node("--capacity", "17MiB", "--job-grace", "0s")
    served.warm(url_of(units), pin=True)
    refused = served.warm(url_of(other))[-1]
    assert refused.row_groups_bypassed >= 15
    assert served.unpin(url_of(units)) == []
    served.wait(lambda: served.stat().held_bytes == 0, "no job holds the data")
    accepted = served.warm(url_of(other))[-1]
    assert accepted.row_groups_bypassed == 0
    assert set(served.cached()) >= {url_of(other)}


def test_warming_a_running_cache_to_the_brim(node, units: Path):
    """Half of what is asked for fits: the rest is told as not kept, and the cache stays within its capacity."""
    served = node("--capacity", "8MiB")
    last = served.warm(url_of(units))[-1]
    assert last.finished
    assert last.row_groups_bypassed in range(8, 11)
    stat = served.stat()
    assert stat.used_bytes <= stat.capacity_bytes
    assert served.disk() <= stat.capacity_bytes + (1 << 20)


def test_several_cache_directories(node, units: Path, tmp_path: Path):
    served = node(cache_dirs=[tmp_path / "one", tmp_path / "two"])
    served.warm(url_of(units))
    stat = served.stat()
    assert len(stat.directories) == 2
    assert all(directory.used_bytes > 2 << 20 for directory in stat.directories), "both are used"
    served.kill9()
    served.start().recovered()
    assert_same(served.read(url_of(units)), pq.read_table(units))
    assert served.stat().misses == 0


def test_capacity_that_shrank(node, units: Path):
    """A smaller capacity at the next start is kept to."""
    served = node("--capacity", "64MiB")
    served.warm(url_of(units))
    served.restart("--capacity", "8MiB", "--min-free", "0").recovered()
    served.wait(lambda: served.stat().used_bytes <= 8 << 20, "the cache is within its new capacity")
    assert_same(served.read(url_of(units)), pq.read_table(units))


@pytest.mark.parametrize("action", ["evict", "pin", "unpin"])
def test_urls_that_make_no_sense(node, action: str):
    served = node()
    with pytest.raises(pa.ArrowInvalid, match="nonsense"):
        getattr(served, action)("nonsense")


def test_fragments_are_plain_arrow_files(node, tpch: Path):
    """Any Arrow reader opens what is on the disk."""
    path = tpch / "orders.parquet"
    served = node()
    served.warm(path.as_uri())
    file = max(served.files(), key=lambda file: file.stat().st_size)
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_file(source).read_all()
    assert table.equals(pq.read_table(path).select(table.schema.names))
