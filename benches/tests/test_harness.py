"""Checks the measuring itself: a wrong yardstick makes every benchmark lie."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

import run  # noqa: E402
from harness import plan_request, report  # noqa: E402
from harness.consume import Checksum, Consumer  # noqa: E402
from harness.processes import Process, ProcessError  # noqa: E402
from harness.progress import bar  # noqa: E402

ARRAYS = [
    pa.array([1, None, 3, 4] * 10),
    pa.array([True, False] * 20),
    pa.array(["a", "bb", None, "dddd"] * 10),
    pa.array([b"abc"] * 40, pa.binary(3)),
    pa.array(["text", "x"] * 20, pa.large_string()),
    pa.array([[1, 2], [3], None, []] * 10),
    pa.array([["a"]] * 40, pa.large_list(pa.string())),
    pa.array([[1.0, 2.0]] * 40, pa.list_(pa.float64(), 2)),
    pa.array([{"a": 1, "b": "x"}] * 40),
    pa.array([[("k", 1)]] * 40, pa.map_(pa.string(), pa.int64())),
    pa.array(["a", "b"] * 20).dictionary_encode(),
    pa.nulls(40),
]


def consumed(array: pa.Array) -> int:
    consumer = Consumer()
    consumer.take(pa.record_batch([array], ["c"]))
    assert consumer.rows == len(array)
    return consumer.bytes


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: str(a.type))
def test_each_byte_is_copied_once(array: pa.Array) -> None:
    # pyarrow leaves the last offset out of nbytes: 4 or 8 bytes a list or string array.
    assert array.nbytes <= consumed(array) <= array.nbytes + 32
    part = array.slice(8, 16)
    assert part.nbytes <= consumed(part) <= part.nbytes + 32
    assert consumed(array.slice(0, 0)) == 0


def checksum(batches: list[pa.RecordBatch]) -> Checksum:
    sums = Checksum(batches[0].schema.names)
    for batch in batches:
        sums.take(batch)
    return sums


def test_a_checksum_knows_neither_order_nor_batches_nor_views() -> None:
    table = pa.table({"n": [1, 2, 3, 4], "t": ["a", "long enough for a view's buffer", None, ""]})
    whole = checksum(table.to_batches())
    views = table.set_column(1, "t", table["t"].cast(pa.string_view()))
    assert checksum(table.take([3, 1, 0, 2]).to_batches(max_chunksize=3)) == whole
    assert checksum(views.slice(2).to_batches() + views.slice(0, 2).to_batches()) == whole


@pytest.mark.parametrize(
    "other",
    [
        {"n": [1, 2, 3, 5], "t": ["a", "b", None, ""]},
        {"n": [1, 2, 3, 4], "t": ["a", "c", None, ""]},
        {"n": [1, 2, 3], "t": ["a", "b", ""]},
    ],
)
def test_a_checksum_sees_a_changed_value_and_a_lost_row(other: dict[str, list[object]]) -> None:
    table = pa.table({"n": [1, 2, 3, 4], "t": ["a", "b", None, ""]})
    assert checksum(table.to_batches()) != checksum(pa.table(other).to_batches())


def test_readers_take_turns_and_ratios_are_of_rounds(tmp_path: Path) -> None:
    order: list[str] = []

    def reader(name: str, speeds: list[float]):
        def read() -> report.Sample:
            order.append(name)
            return {"gb_per_s": speeds[order.count(name) - 1]}

        return read

    # The machine is twice as fast in round 2, ours is always 3 times theirs.
    samples = report.rounds(2, {"ours": reader("ours", [3, 6]), "theirs": reader("theirs", [1, 2])}, "test")
    assert order == ["ours", "theirs", "theirs", "ours"]
    out = report.Report("test", tmp_path / "json")
    out.case("c", samples, [report.Bar("ours", "theirs", "gb_per_s", 2.9)], {})
    assert out.missed == []
    out.case("c", samples, [report.Bar("ours", "theirs", "gb_per_s", 3.1)], {})
    assert out.finish() == 1


def test_a_section_of_the_results_is_replaced_and_others_stay() -> None:
    first = run.merge("", {"warm": "## warm\n\nstale\n", "cold": "## cold\n\nkept\n"})
    second = run.merge(first, {"warm": "## warm\n\nnew\n"})
    assert first.count(run.HEAD) == second.count(run.HEAD) == 1
    assert "stale" not in second
    assert second.index("kept") < second.index("new")


def test_the_plan_request_is_what_the_protocol_says() -> None:
    wire = pytest.importorskip("google.protobuf.any_pb2")
    message = wire.Any.FromString(plan_request.descriptor("s3://b/p/", ["a", "long" * 50]).command)
    assert message.type_url == "type.googleapis.com/roost.v1.PlanRequest"
    projection = b"\x0a\x01a" + b"\x0a\xc8\x01" + b"long" * 50
    assert message.value == b"\x0a\x09s3://b/p/" + b"\x12" + bytes([len(projection) & 0x7F | 0x80, 1]) + projection


def test_bars_are_as_wide_as_asked() -> None:
    assert [bar(share, 4) for share in (-1, 0, 0.5, 1, 2)] == ["░░░░", "░░░░", "██░░", "████", "████"]
    assert bar(0.125, 4, empty=" ") == "▌   "


def test_a_child_that_ends_too_early_is_told_with_its_log(tmp_path: Path) -> None:
    code = "import sys; sys.exit('no such bucket')"
    with pytest.raises(ProcessError, match="code 1.*\n.*no such bucket"):
        Process([sys.executable, "-c", code], tmp_path / "log", ready="ready")


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from harness.processes import Process
child = Process(['sleep', '600'], Path({str(tmp_path / "log")!r}))
print(child.pid, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None and parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while _alive(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        os.sched_yield()
    parent.stdin.close()
    parent.stdout.close()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
