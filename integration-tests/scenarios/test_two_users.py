"""A client of another user on the same host: it maps if the socket's permissions let it, else it streams."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import data
from harness.node import Node

pytest.importorskip("roost", reason="the package of python-client is not installed")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs two users, so it needs root")

STRANGER = 65534

# Everything is imported before the user changes: it may not be allowed to read the modules.
CLIENT = """
import json, os, sys, zlib
import pyarrow.flight, roost, roost._map, roost._direct
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
client = roost.connect(sys.argv[2], fallback=False)
table = client.read_table(sys.argv[3])
sums = [zlib.crc32(column.combine_chunks().buffers()[1]) for column in table.columns]
print(json.dumps([os.getuid(), client.statistics(), table.num_rows, sums]))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """Where everyone may enter; pytest's own directories are closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Data that the stranger can't read for itself."""
    path = data.wide(tmp_path / "wide.parquet", rows=20_000, columns=3)
    path.chmod(0o600)
    return path


def read_as(user: int, served: Node, path: Path) -> tuple[dict[str, int], int, list[int]]:
    command = [sys.executable, "-c", CLIENT, str(user), f"grpc://{served.address}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    who, statistics, rows, sums = json.loads(done.stdout)
    assert who == user
    return statistics, rows, sums


def test_another_user_maps(node: Callable[..., Node], place: Path, secret: Path):
    served = node(cache_dirs=[place / "cache"])
    for file in (place / "cache").rglob("*"):
        assert file.is_dir() or file.is_socket() or not file.stat().st_mode & 0o004 or file.suffix != ".arrow"
    own = read_as(0, served, secret)
    other = read_as(STRANGER, served, secret)
    assert own == other
    assert other[0] == {"mapped_tickets": 1, "streamed_tickets": 0, "direct_tickets": 0}
    assert other[1] == pq.read_metadata(secret).num_rows


@pytest.mark.parametrize("mode", ["600", "660"])
def test_another_user_is_kept_out(node: Callable[..., Node], place: Path, secret: Path, mode: str):
    served = node("--socket-mode", mode, cache_dirs=[place / "cache"])
    own = read_as(0, served, secret)
    other = read_as(STRANGER, served, secret)
    assert own[0]["mapped_tickets"] == 1
    assert other[0] == {"mapped_tickets": 0, "streamed_tickets": 1, "direct_tickets": 0}
    assert own[1:] == other[1:]


def test_a_directory_that_keeps_others_out(node: Callable[..., Node], place: Path, secret: Path):
    served = node(cache_dirs=[place / "cache"])
    (place / "cache").chmod(0o700)
    assert read_as(STRANGER, served, secret)[0]["streamed_tickets"] == 1


def test_the_command_as_another_user(node: Callable[..., Node], place: Path, secret: Path):
    from harness.node import clean_environment, executable

    served = node(cache_dirs=[place / "cache"])
    served.warm(secret.as_uri())
    binary = place / "roost"
    try:
        os.link(executable(), binary)
    except OSError:
        shutil.copy(executable(), binary)
    binary.chmod(0o755)
    command = [str(binary), "read", secret.as_uri(), "--json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        env=clean_environment() | {"ROOST_NODE": f"grpc://{served.address}"},
    )
    assert done.returncode == 0, done.stderr
    epoch = json.loads(done.stdout)
    assert (epoch["tickets_mapped"], epoch["tickets_streamed"], epoch["complete"]) == (1, 0, True)
