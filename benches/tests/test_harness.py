"""Checks the measuring itself: a wrong yardstick makes every benchmark lie."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

import run  # noqa: E402
from harness import executables, pagecache, plan_request, report, served  # noqa: E402
from harness.consume import Checksum, Consumer  # noqa: E402
from harness.node import parse_metrics  # noqa: E402
from harness.processes import Process, ProcessError  # noqa: E402
from harness.progress import bar  # noqa: E402
from harness.readers import connect, flight_batches, share  # noqa: E402
from harness.timed import timed  # noqa: E402

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


def test_a_bar_may_be_the_most_and_names_a_second_figure(tmp_path: Path) -> None:
    samples = {
        "ours": [{"gb_per_s": 2.0, "server_cpu_s_per_gb": 0.1}],
        "theirs": [{"gb_per_s": 1.0, "server_cpu_s_per_gb": 0.2}],
    }
    out = report.Report("test", tmp_path / "json")
    goals = [report.Bar("ours", "theirs", "gb_per_s", 2.0)]
    out.case("c", samples, [*goals, report.Bar("ours", "theirs", "server_cpu_s_per_gb", most=0.5)], {})
    assert out.missed == []
    out.case("c", samples, [*goals, report.Bar("ours", "theirs", "server_cpu_s_per_gb", most=0.4)], {})
    assert out.missed == ["c: ours / theirs, server CPU-s/GB is 0.50, the bar is at most 0.4"]
    assert out.table().count("bar ≥ 2.0: met") == 2
    assert "bar ≤ 0.4: MISSED" in out.table()


def test_a_machine_is_busy_from_a_fifth_of_its_cores_on() -> None:
    assert report.busy_note(0.3, 2) == ""
    assert "1.5 of 2 cores" in report.busy_note(1.5, 2)
    assert 0 <= report.busy_cores(0.05) <= (os.cpu_count() or 1)


def test_a_section_of_the_results_is_replaced_and_others_stay() -> None:
    first = run.merge("", {"cold": "## cold\n\nstale\n", "serve": "## serve\n\nkept\n"})
    second = run.merge(first, {"cold": "## cold\n\nnew\n"})
    assert first.count(run.HEAD) == second.count(run.HEAD) == 1
    assert "stale" not in second
    assert second.index("kept") < second.index("new")


def test_the_section_of_a_benchmark_that_is_gone_goes_too() -> None:
    old = run.HEAD + "\n## gone\n\nold\n\n## serve\n\nkept\n"
    assert run.merge(old, {}) == run.HEAD + "\n## serve\n\nkept\n"


def test_every_benchmark_that_is_run_is_there_and_says_how() -> None:
    for name in run.NAMES:
        assert f"python benches/{name}.py" in (HERE / f"{name}.py").read_text()
        assert f"| `{name}.py` |" in (HERE / "README.md").read_text()


def test_metrics_with_labels_are_left_out() -> None:
    page = '# HELP a_total A.\n# TYPE a_total counter\na_total 12\nb_seconds 1.5e-3\nc{kind="read"} 7\n'
    assert parse_metrics(page) == {"a_total": 12.0, "b_seconds": 0.0015}


def test_items_are_shared_by_threads_and_each_is_read_once() -> None:
    batches = [pa.record_batch({"n": [i]}) for i in range(50)]
    both = threading.Barrier(2, timeout=30)
    opened: list[int] = []

    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[int], list[pa.RecordBatch]]]:
        opened.append(both.wait())  # passes only if there are two threads at a time
        yield lambda number: [batches[number]]

    sinks = share(range(50), 2, lambda: Checksum(["n"]), open_reader)
    sinks[0].merge(sinks[1])
    assert sinks[0] == checksum(batches)
    assert sorted(opened) == [0, 1]


def test_a_reader_that_fails_fails_the_whole() -> None:
    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[int], list[pa.RecordBatch]]]:
        def read(number: int) -> list[pa.RecordBatch]:
            raise ConnectionError(f"item {number}")

        yield read

    with pytest.raises(ConnectionError, match="item 0"):
        share(range(3), 1, Consumer, open_reader)


PEERS = {"pyarrow": served.pyarrow_peer, "arrow-flight": served.arrow_flight_peer}


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_serves_the_batches_of_its_files_on_both_sockets(peer: str, tmp_path: Path) -> None:
    if peer == "arrow-flight" and not (executables.ROOT / "target/release/bench-serve").exists():
        pytest.skip("bench-serve is not built")
    batches = [pa.record_batch({"n": [i, i + 1], "t": ["a", "long enough for a view's buffer"]}) for i in range(6)]
    files = [tmp_path / "0.arrow", tmp_path / "1.arrow"]
    for file, part in zip(files, (batches[:4], batches[4:]), strict=True):
        with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, part[0].schema) as writer:
            for batch in part:
                writer.write_batch(batch)
    assert served.batches_in(files) == 6
    started = PEERS[peer](files, tmp_path)
    with started.process:
        assert started.unix is not None
        for address in (started.tcp, started.unix):
            with connect(address) as client:
                came = [b for ticket in started.tickets for b in flight_batches(client, ticket)]
            assert came == batches
        copied = tmp_path / "copy.arrow"
        served.copy_to_one(started, copied)
    with pa.memory_map(str(copied)) as source:
        assert pa.ipc.open_file(source).read_all() == pa.Table.from_batches(batches)


def test_a_read_that_brings_too_few_rows_does_not_count() -> None:
    def read() -> list[Consumer]:
        consumer = Consumer()
        consumer.take(pa.record_batch({"n": [1, 2, 3]}))
        return [consumer]

    assert timed(read, 3, repeat=2)["gb_per_s"] > 0
    with pytest.raises(RuntimeError, match="3 rows came, 4 were due"):
        timed(read, 4)


def test_files_leave_the_page_cache_also_where_a_process_maps_them(tmp_path: Path) -> None:
    size = 4 << 20
    file = tmp_path / "file"
    file.write_bytes(os.urandom(size))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        before = bytes(mapped)
        assert pagecache.cached([file]) == size
        try:
            pagecache.drop([file], [os.getpid()])
        except (OSError, pagecache.StillCached) as why:  # a kernel or file system that keeps them, such as tmpfs
            pytest.skip(str(why))
        assert pagecache.cached([file]) <= size // 50
        assert bytes(mapped) == before


def test_the_maps_of_a_process_are_found_by_their_files() -> None:
    maps = (
        "7f00-8f00 r--p 00000000 fe:00 1 /cache/a b.arrow\n"
        "9000-a000 rw-p 00000000 00:00 0 \n"
        "b000-c000 r--p 00000000 fe:00 2 /cache/c.arrow\n"
        "d000-e000 r--p 00000000 fe:00 3 /cache/other.arrow\n"
    )
    files = {"/cache/a b.arrow", "/cache/c.arrow"}
    assert pagecache.mapped(maps, files) == [(0x7F00, 0x8F00), (0xB000, 0xC000)]


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
