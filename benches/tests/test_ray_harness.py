"""Checks the measuring of Ray's readers."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from harness import ray_chart, ray_usage  # noqa: E402
from harness.consume import Consumer  # noqa: E402
from harness.ray_utilisation import compute_time, sized, utilisation  # noqa: E402


def test_slices_of_views_cost_what_they_are_worth() -> None:
    views = pa.array([f"a text that lies in a buffer, number {i}" for i in range(1000)] + ["short"]).cast(
        pa.string_view()
    )

    def consumed(array: pa.Array) -> int:
        consumer = Consumer()
        consumer.take(pa.record_batch([array], ["c"]))
        return consumer.bytes

    assert consumed(views) > 1000 * (16 + 36)
    assert 10 * (16 + 36) <= consumed(views.slice(100, 10)) < 10 * (16 + 48)
    assert consumed(views.slice(1000)) < 32


def test_batches_are_cut_and_joined_to_a_size() -> None:
    table = pa.table({"n": list(range(25))})
    cut = list(sized(iter([table.slice(0, 7), table.slice(7, 1), *table.slice(8).to_batches()]), 10))
    assert [batch.num_rows for batch in cut] == [10, 10, 5]
    assert pa.Table.from_batches(cut).equals(table)


def test_utilisation_is_the_share_of_time_in_which_is_computed() -> None:
    batches = pa.table({"n": list(range(40))}).to_batches(max_chunksize=4)

    def slow(seconds: float):  # noqa: ANN202
        for batch in batches:
            time.sleep(seconds)
            yield batch

    assert utilisation(slow(0), 0.02)[0] > 0.8
    share, steps = utilisation(slow(0.04), 0.01)
    assert steps == 10
    assert share < 0.4
    assert compute_time(lambda: slow(0.02), 0.5) == pytest.approx(0.01, rel=0.6)
    with pytest.raises(ZeroDivisionError):
        utilisation((1 // 0 for _ in range(1)), 0.01)


def test_the_cpu_of_children_that_ended_counts() -> None:
    burn = "import time; end = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    with ray_usage.Usage() as usage:
        child = subprocess.Popen([sys.executable, "-c", burn])
        child.wait()
    assert usage.cpu_seconds > 0.4
    assert usage.peak_memory > 1 << 20
    with ray_usage.Usage({0}) as idle:
        pass
    assert idle.cpu_seconds < 0.3


def test_waits_are_those_for_batches() -> None:
    def slow():  # noqa: ANN202
        for _ in range(3):
            time.sleep(0.02)
            yield None

    waits = ray_usage.Waits()
    for _ in waits.over(slow()):
        time.sleep(0.1)
    assert len(waits.seconds) == 3
    assert 0.02 <= waits.percentile(0.99) < 0.1


def test_charts_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figures = {"ray,tuned": {"ample": 0.2, "320MiB": 0.1}, "late,maps": {"ample": 8.0}}
    for name in ("a", "b"):
        ray_chart.bars(tmp_path / name / "chart.svg", "images", figures, "GB/s")
    first = (tmp_path / "a" / "chart.svg").read_text()
    assert "late,maps" in first or "<svg" in first
    assert first == (tmp_path / "b" / "chart.svg").read_text()
