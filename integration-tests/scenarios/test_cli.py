"""The commands: what they print for people and machines, and exit codes that can be trusted."""

import io
import json
import os
import pty
import select
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import data
from harness.compare import assert_same
from harness.node import Node, clean_environment, cli, executable

SUCCESS, FAILED, USAGE, NO_NODE = 0, 1, 2, 3


@pytest.fixture
def served(node) -> Node:
    return node()


@pytest.fixture
def units(tmp_path: Path) -> Path:
    return data.units(tmp_path / "units", 12)


def url_of(directory: Path) -> str:
    return directory.as_uri() + "/"


def test_warm_ls_stat_read_evict(served: Node, units: Path):
    """The way of a data set through the commands."""
    url = url_of(units)
    rows = pq.read_table(units).num_rows

    warm = served.cli("warm", url, "--json")
    assert (warm.code, warm.err) == (SUCCESS, "")
    told = warm.json()
    assert told["complete"] is True
    assert (told["row_groups"], told["row_groups_cached"], told["rows"]) == (12, 12, rows)

    (listed,) = served.cli("ls", "--json").lines()
    assert (listed["url"], listed["row_groups"], listed["row_groups_total"], listed["pinned"]) == (url, 12, 12, False)

    stat = served.cli("stat", "--json").json()
    assert stat["fragments"] == 12
    assert stat["used_bytes"] == listed["bytes"]

    read = served.cli("read", url, "--epochs", "3", "--shuffle-seed", "1", "--json")
    assert read.code == SUCCESS
    for number, epoch in enumerate(read.lines(), start=1):
        assert (epoch["epoch"], epoch["rows"], epoch["complete"]) == (number, rows, True)
        assert (epoch["hits"], epoch["misses"], epoch["origin_bytes"]) == (12, 0, 0)

    assert served.cli("pin", url, "--json").json()["pinned"] == [url]
    assert served.cli("unpin", url, "--json").json()["pinned"] == []
    assert served.cli("evict", url, "--json").json()["fragments"] == 12
    assert served.cli("ls", "--json").lines() == []


@pytest.mark.parametrize("command", ["warm", "plan", "cat", "read", "pin", "unpin", "evict"])
def test_for_people(served: Node, units: Path, command: str):
    """A line or a table, on standard output; nothing of a progress bar in a pipe."""
    if command == "unpin":
        served.pin(url_of(units))
    done = served.cli(command, url_of(units))
    assert (done.code, done.err) == (SUCCESS, "")
    assert done.out
    assert "\x1b" not in done.out
    assert "\r" not in done.out


@pytest.mark.parametrize("command", ["ls", "stat"])
def test_for_people_without_url(served: Node, units: Path, command: str):
    served.warm(url_of(units))
    done = served.cli(command)
    assert (done.code, done.err) == (SUCCESS, "")
    assert command != "ls" or url_of(units) in done.out


def test_plan(served: Node, units: Path):
    plan = served.cli("plan", url_of(units), "--json", "--columns", "c01,c00", "--limit", "40000").json()
    assert (plan["rows"], plan["objects"], plan["tickets_total"]) == (40_000, 12, 2)
    assert [f["name"] for f in plan["schema"]] == ["c01", "c00"]
    pieces = [piece for ticket in plan["tickets"] for piece in ticket["pieces"]]
    assert [(p["row_group"], p["rows"], p["rows_cut"]) for p in pieces] == [(0, 32768, 0), (0, 32768, 25536)]
    page = served.cli("plan", url_of(units), "--json", "--from", "3", "--count", "4").json()
    assert [ticket["index"] for ticket in page["tickets"]] == [3, 4, 5, 6]
    assert page["next"] == 7


def test_cat(served: Node, tpch: Path):
    path = tpch / "nation.parquet"
    table = pq.read_table(path)

    lines = served.cli("cat", path.as_uri(), "--json", "--limit", "3", "--columns", "n_name,n_nationkey").lines()
    assert lines == table.select(["n_name", "n_nationkey"]).slice(0, 3).to_pylist()

    csv = served.cli("cat", path.as_uri(), "--format", "csv", "--limit", "0").out.splitlines()
    assert csv[0] == "n_nationkey,n_name,n_regionkey,n_comment"
    assert len(csv) == 26

    shown = served.cli("cat", path.as_uri()).out
    assert "ALGERIA" in shown


def test_cat_as_arrow(served: Node, tpch: Path):
    path = tpch / "lineitem.parquet"
    done = subprocess.run(
        [executable(), "cat", path.as_uri(), "--limit", "0", "--format", "arrow"],
        capture_output=True,
        env=clean_environment() | {"ROOST_NODE": f"grpc://{served.address}"},
        check=True,
    )
    assert_same(pa.ipc.open_stream(io.BytesIO(done.stdout)).read_all(), pq.read_table(path))


def test_a_pipe_that_is_closed_early(served: Node, tpch: Path):
    """`roost cat ... | head` is no error."""
    node = f"ROOST_NODE=grpc://{served.address}"
    shell = (
        f"set -o pipefail; {node} {executable()} cat {(tpch / 'lineitem.parquet').as_uri()} --limit 0 --json | head -1"
    )
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=clean_environment(), timeout=120)
    assert (done.returncode, done.stderr) == (SUCCESS, "")
    assert json.loads(done.stdout)["l_orderkey"] == 1


def test_paths_are_urls_of_local_files(served: Node, units: Path):
    assert served.cli("warm", str(units), "--json").json()["row_groups"] == 12


def test_warm_fails_when_not_all_is_cached(node, units: Path):
    served = node("--capacity", "4MiB")
    done = served.cli("warm", url_of(units), "--json")
    assert done.code == FAILED
    told = done.json()
    assert told["complete"] is False
    assert told["row_groups_bypassed"] >= 8
    assert "not cached" in done.err


def test_warm_fails_when_an_object_is_broken(served: Node, units: Path):
    broken = units / "unit-0007.parquet"
    data.break_first_page(broken)
    done = served.cli("warm", url_of(units))
    assert done.code == FAILED
    assert "unit-0007.parquet" in done.err
    assert done.out == ""


@pytest.mark.parametrize("command", ["warm", "plan", "cat", "read"])
def test_nothing_there(served: Node, command: str):
    done = served.cli(command, "file:///no/such/place/")
    assert done.code == FAILED
    assert "file:///no/such/place/" in done.err
    assert done.out == ""
    told = json.loads(served.cli(command, "file:///no/such/place/", "--json").err)
    assert told["error"]["kind"] == "not_found"


@pytest.mark.parametrize(
    "command", ["warm file:///x", "plan file:///x", "ls", "stat", "cat file:///x", "read file:///x"]
)
def test_no_node(command: str):
    done = cli(*command.split(), "--node", "grpc://127.0.0.1:1", timeout=60)
    assert done.code == NO_NODE
    assert "127.0.0.1:1" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    "command", ["", "nonsense", "warm", "read file:///x --epochs 0", "stat --nonsense", "cat x --format y"]
)
def test_usage(command: str):
    done = cli(*command.split())
    assert done.code == USAGE
    assert "Usage" in done.err or "try '--help'" in done.err


@pytest.mark.parametrize("command", ["serve", "warm", "plan", "ls", "cat", "stat", "evict", "pin", "unpin", "read"])
def test_help_teaches(command: str):
    done = cli(command, "--help")
    assert done.code == SUCCESS
    assert "Examples:" in done.out
    assert f"roost {command}" in done.out
    assert max(map(len, done.out.splitlines())) <= 140
    assert command in cli("--help").out
    assert cli("--version").out.startswith("roost ")


def test_progress_bar_in_a_terminal(served: Node, origin, bucket, units: Path):
    """Bytes, rows, rate and time left, where somebody watches."""
    served.environment = {}
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [executable(), "warm", url_of(units)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=child,
        env=clean_environment() | {"ROOST_NODE": f"grpc://{served.address}", "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(child)
    drawn = b""
    while select.select([parent], [], [], 60)[0]:
        try:
            drawn += os.read(parent, 1 << 16)
        except OSError:  # the command has ended
            break
    out, _ = process.communicate(timeout=60)
    os.close(parent)
    assert process.returncode == SUCCESS
    assert b"cached 12 of 12 row groups" in out
    assert b"warm" in drawn
