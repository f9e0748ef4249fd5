"""`kill -9` at random moments under load: after each start the rows are right, and nothing is left that grows."""

import contextlib
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import flight

from harness import data
from harness.compare import assert_same

ROUNDS = 10


def test_rows_are_right_and_nothing_piles_up(node, origin, bucket, tmp_path: Path):
    local = data.units(tmp_path / "units", 60)
    url = bucket.put("units/", local)
    expected = pq.read_table(local)
    rng = random.Random(5)
    served = node("--revalidate", "0s", origin=origin)
    left: list[int] = []

    for number in range(ROUNDS):
        tickets = served.tickets(url)
        rng.shuffle(tickets)
        mark = origin.mark()
        with ThreadPoolExecutor(5) as pool:
            reads = [pool.submit(read_or_break, served, ticket) for ticket in tickets]
            warming = pool.submit(warm_or_break, served, url)
            origin.wait_for(lambda e: e.reads_data, count=rng.randrange(1, 8), mark=mark)
            served.kill9()
            warming.result()
            tables = [read.result() for read in reads]
        # A stream that the kill cut short ended in an error: what came whole has a unit's rows.
        assert {table.num_rows for table in tables if table is not None} <= {(1 << 20) // 32}
        served.start().recovered()
        # Warm data is forgotten on purpose, so that the next round fills again.
        if number % 3 == 2:
            assert_same(served.read(url, threads=4), expected)
            served.evict(url)
            left.append(len(served.files()))

    assert_same(served.read(url, threads=4), expected)
    assert_same(served.read(url, threads=4), expected)
    served.restart().recovered()
    stat = served.stat()
    assert stat.damaged == 0
    assert stat.fragments == stat.row_groups == 60, "each row group is cached once"
    assert served.disk() <= stat.used_bytes + (1 << 20), [str(f) for f in served.files()]
    assert max(left) - min(left) <= 2, f"files in the emptied cache, by round: {left}"


def read_or_break(served, ticket) -> pa.Table | None:
    try:
        return served.get(ticket, served.connect())
    except (flight.FlightError, pa.ArrowException, OSError):
        return None


def warm_or_break(served, url: str) -> None:
    with contextlib.suppress(flight.FlightError, pa.ArrowException, OSError):
        served.warm(url)


def test_torn_files_are_not_believed(node, tmp_path: Path):
    """Files that a crash of the machine left: cut short, empty, foreign."""
    local = data.units(tmp_path / "units", 8)
    url = local.as_uri() + "/"
    expected = pq.read_table(local)
    served = node()
    assert_same(served.read(url), expected)
    served.kill9()
    whole = sorted(served.files(), key=lambda file: file.stat().st_size)[-6:]
    for file, size in zip(whole, (0, 1, 100, 4096, 500_000, file_size(whole[5]) - 1), strict=True):
        # A file of its own: the node may not have let go of the old one.
        content = file.read_bytes()[:size]
        file.unlink()
        file.write_bytes(content)
    notes = served.cache_dirs[0] / "notes.txt"
    notes.write_text("not of Roost")

    served.start().recovered()

    assert_same(served.read(url), expected)
    assert_same(served.read(url), expected)
    assert served.stat().fragments == 8
    assert notes.exists(), "files of others are left alone"


def file_size(path: Path) -> int:
    return path.stat().st_size


def test_two_nodes_do_not_share_a_directory(node, tmp_path: Path):
    cache = tmp_path / "cache"
    first = node(cache_dirs=[cache])
    second = node(cache_dirs=[cache], start=False)
    try:
        second.start()
    except AssertionError:
        assert str(cache) in second.log_tail()
    else:
        raise AssertionError("two nodes would delete each other's files")
    assert first.running
    first.kill9()
    second.start()
