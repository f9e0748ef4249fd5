"""A disk that is full, or becomes full: readers get right rows, the node goes on, and gives space back to others."""

import contextlib
import resource
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import data
from harness.compare import assert_same

DISK = 24 << 20


@pytest.fixture
def units(tmp_path: Path):
    directory = data.units(tmp_path / "units", 48)
    return directory.as_uri() + "/", pq.read_table(directory)


def fill(place: Path, leave: int) -> Path:
    """Lets something else take the disk, all but `leave` bytes."""
    other = place / "other.bin"
    with contextlib.suppress(OSError), other.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    size = other.stat().st_size
    with other.open("r+b") as file:
        file.truncate(max(0, size - leave))
    return other


def test_the_disk_is_smaller_than_the_capacity(node, units, small_disk: Callable[[int], Path]):
    url, expected = units
    served = node("--capacity", "4GiB", cache_dirs=[small_disk(DISK) / "cache"])
    for _ in range(3):
        assert_same(served.read(url, threads=4), expected)
    stat = served.stat()
    assert stat.used_bytes <= DISK
    assert stat.hits > 0, "what there is room for is cached"
    served.kill9()
    served.start().recovered()
    assert_same(served.read(url, threads=4), expected)
    assert served.stat().damaged == 0


def test_something_else_fills_the_disk(node, units, small_disk: Callable[[int], Path]):
    url, expected = units
    place = small_disk(DISK)
    served = node("--capacity", "4GiB", cache_dirs=[place / "cache"])
    tickets = served.tickets(url)
    for ticket in tickets[:8]:
        served.get(ticket)
    fill(place, leave=1 << 19)
    for _ in range(2):
        assert_same(served.read(url, threads=4), expected)
    assert served.running
    assert served.get_http("/healthz")[0] == 200


def test_space_is_given_back(node, units, small_disk: Callable[[int], Path]):
    url, expected = units
    place = small_disk(DISK)
    served = node("--capacity", "4GiB", "--min-free", "4MiB", "--job-grace", "0s", cache_dirs=[place / "cache"])
    assert_same(served.read(url), expected)
    # What passes a full cache lies on the disk for as long as somebody reads it.
    served.wait(lambda: served.stat().directories[0].free_bytes >= 4 << 20, "what passed is gone", timeout=10)
    full = served.stat()
    other = fill(place, leave=1 << 20)

    served.wait(lambda: served.stat().directories[0].free_bytes >= 4 << 20, "the cache has given space back")

    assert served.stat().used_bytes < full.used_bytes
    assert_same(served.read(url), expected)
    other.unlink()
    for _ in range(2):
        assert_same(served.read(url), expected)
    assert served.stat().used_bytes > full.used_bytes // 2, "and grows again"


def test_one_of_two_disks_is_full(node, units, small_disk: Callable[[int], Path], tmp_path: Path):
    url, expected = units
    place = small_disk(4 << 20)
    fill(place, leave=1 << 18)
    served = node("--capacity", "4GiB", cache_dirs=[place / "cache", tmp_path / "roomy"])
    for _ in range(2):
        assert_same(served.read(url, threads=4), expected)
    assert served.stat().hits >= 40, "the other disk is used"


def test_a_directory_that_cannot_be_made(node, tmp_path: Path):
    """Without any cache the node could not do what it is for: it says so and doesn't start."""
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    alone = node(cache_dirs=[blocked / "cache"], start=False)
    with pytest.raises(AssertionError, match="instead of its addresses"):
        alone.start()
    assert str(blocked) in alone.log_tail()


def test_files_may_not_grow(node, units, tmp_path: Path):
    """A limit of the system on the size of files stands for a quota: writing fails part way."""
    url, expected = units
    large = data.wide(tmp_path / "wide.parquet", rows=60_000)
    served = node(limits={resource.RLIMIT_FSIZE: (2 << 20, 2 << 20)})
    for _ in range(2):
        assert_same(served.read(large.as_uri()), pq.read_table(large))
        assert_same(served.read(url), expected)
    assert served.running
    assert served.disk() <= served.stat().used_bytes + (1 << 20)
