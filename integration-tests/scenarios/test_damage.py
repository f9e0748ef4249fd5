"""A fragment whose bytes changed on disk is found, deleted and filled again: readers get right rows."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import data
from harness.compare import assert_same
from harness.node import Node


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0x10]))


def largest(served: Node) -> Path:
    return max(served.files(), key=lambda file: file.stat().st_size)


@pytest.fixture
def cached(node, tmp_path: Path):
    """A node that has one large fragment, its URL and what it must answer."""
    path = data.wide(tmp_path / "wide.parquet", rows=20_000)
    served = node()
    expected = pq.read_table(path)
    assert_same(served.read(path.as_uri()), expected)
    return served, path.as_uri(), expected


@pytest.mark.parametrize("place", [0.02, 0.25, 0.5, 0.75, 0.97])
def test_while_the_node_is_down(cached, place: float):
    served, url, expected = cached
    served.terminate()
    file = largest(served)
    flip(file, int(file.stat().st_size * place))
    served.start().recovered()

    assert_same(served.read(url), expected)

    assert served.stat().damaged == 1
    assert_same(served.read(url), expected)
    served.restart().recovered()
    assert_same(served.read(url), expected)
    stat = served.stat()
    assert (stat.damaged, stat.misses) == (0, 0), "what was filled again is sound"


@pytest.mark.parametrize("place", [0, 5, 64, -1, -8, -12, -100, -400, -2000])
def test_at_the_ends_of_the_file(cached, place: int):
    """Where the file's own description lies. Some bytes there mean nothing: rows must be right in any case."""
    served, url, expected = cached
    served.terminate()
    file = largest(served)
    flip(file, place % file.stat().st_size)
    served.start().recovered()

    assert_same(served.read(url), expected)
    assert_same(served.read(url, ["c19", "c00"]), expected.select(["c19", "c00"]))
    assert served.stat().fragments == 1


def test_before_the_first_use(cached):
    served, url, expected = cached
    served.restart().recovered()
    file = largest(served)
    flip(file, file.stat().st_size // 2)

    assert_same(served.read(url), expected)
    assert served.stat().damaged == 1


def test_after_a_use_with_verify_always(node, tmp_path: Path):
    path = data.wide(tmp_path / "wide.parquet", rows=20_000)
    expected = pq.read_table(path)
    served = node("--verify", "always")
    for _ in range(2):
        assert_same(served.read(path.as_uri()), expected)
    file = largest(served)
    flip(file, file.stat().st_size // 2)

    assert_same(served.read(path.as_uri()), expected)
    assert served.stat().damaged == 1


def test_only_columns_that_are_read_are_checked(cached):
    """Damage in one column doesn't cost the readers of another."""
    served, url, expected = cached
    served.terminate()
    file = largest(served)
    flip(file, int(file.stat().st_size * 0.97))
    served.start().recovered()

    assert_same(served.read(url, ["c00"]), expected.select(["c00"]))
    assert served.stat().damaged == 0
    assert_same(served.read(url, ["c19", "c00"]), expected.select(["c19", "c00"]))
    assert served.stat().damaged == 1


def test_a_file_that_vanished(cached):
    served, url, expected = cached
    served.restart().recovered()
    largest(served).unlink()

    assert_same(served.read(url), expected)


def test_the_directory_emptied_under_a_running_node(cached):
    """What `rm -r cache/*` does, which people do."""
    served, url, expected = cached
    for file in served.files():
        file.unlink()

    assert_same(served.read(url), expected)
    served.restart().recovered()
    assert_same(served.read(url), expected)
