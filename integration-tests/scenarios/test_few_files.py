"""Few file descriptors: a cache that is sound is not thrown away because a file can't be opened just now."""

import contextlib
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import data, maps
from harness.compare import assert_same
from harness.doors import socket_of
from harness.node import Node

FILES = 128
UNITS = 200


@pytest.fixture
def served(node: Callable[..., Node]) -> Node:
    return node(limits={resource.RLIMIT_NOFILE: (FILES, FILES)})


def files(served: Node) -> int:
    return len(list(Path(f"/proc/{served.pid}/fd").iterdir()))


def test_more_fragments_than_files(served: Node, tmp_path: Path):
    directory = data.units(tmp_path / "units", UNITS, size=32 << 10)
    url, expected = directory.as_uri() + "/", pq.read_table(directory)
    for _ in range(2):
        assert_same(served.read(url), expected)
    assert served.stat().damaged == 0
    assert (served.stat().misses, served.stat().fragments) == (UNITS, UNITS)
    served.restart().recovered()
    assert_same(served.read(url), expected)
    stat = served.stat()
    assert (stat.damaged, stat.misses, stat.fragments) == (0, 0, UNITS)


@pytest.mark.parametrize("door", ["tcp", "unix"])
def test_connections_take_all_files(served: Node, tmp_path: Path, door: str):
    """While strangers hold all descriptors a read may fail or come from the origin. What is cached stays cached."""
    directory = data.units(tmp_path / "units", 40, size=32 << 10)
    url, expected = directory.as_uri() + "/", pq.read_table(directory)
    assert_same(served.read(url), expected)
    served.restart().recovered()
    tickets = served.tickets(url)
    before = files(served)
    strangers = []
    for _ in range(FILES):
        if door == "tcp":
            host, port = served.address.split(":")
            stranger = socket.create_connection((host, int(port)), timeout=5)
        else:
            stranger = maps.connect(socket_of(served), timeout=5)
        strangers.append(stranger)
    served.wait(lambda: files(served) >= FILES - 1, "all descriptors are taken")
    assert before < FILES // 2
    for ticket in tickets:
        # Rows or an error: both are fair now, a wrong row is not.
        with contextlib.suppress(pa.ArrowException):
            assert served.get(ticket).num_rows == (32 << 10) // 32
    for stranger in strangers:
        stranger.close()
    served.wait(lambda: files(served) < FILES - 20, "descriptors are free")
    stat = served.stat()
    assert (stat.damaged, stat.fragments) == (0, 40)
    assert_same(served.read(url), expected)
