"""One timed epoch: how fast it was, how long its consumer waited, and what it took of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable

from . import ray_cluster, ray_usage, report
from .consume import Consumer
from .origin import Origin
from .ray_readers import Consumed, Reader


def timed(reader: Reader, rows: int, origin: Origin, apart: Callable[[], set[int]]) -> report.Sample:
    """Reads an epoch.

    Args:
        rows: that are due.
        apart: processes whose CPU and memory are not the reader's: the origin's.
    """
    consumer, waits = Consumer(), ray_usage.Waits()
    elsewhere = Consumed(0, 0)
    others = apart()
    spilled, traffic = ray_cluster.spilled_bytes(), origin.traffic()
    origin_cpu = _cpu_of(others)
    with ray_usage.Usage(others) as usage:
        start = time.perf_counter()
        first = 0.0
        for batch in waits.over(reader()):
            first = first or time.perf_counter() - start
            if isinstance(batch, Consumed):
                elsewhere = Consumed(elsewhere.rows + batch.rows, elsewhere.bytes + batch.bytes)
            else:
                consumer.take(batch)
        seconds = time.perf_counter() - start
    came = consumer.rows + elsewhere.rows
    if came != rows:
        raise RuntimeError(f"{came} rows came, {rows} were due")
    gigabytes = (consumer.bytes + elsewhere.bytes) / 1e9
    return {
        "gb_per_s": gigabytes / seconds,
        "rows_per_s": rows / seconds,
        "first_batch_ms": first * 1000,
        "p99_wait_ms": waits.percentile(0.99) * 1000,
        "cpu_s_per_gb": usage.cpu_seconds / gigabytes,
        "peak_mib": usage.peak_memory / 2**20,
        "spilled_mib": (ray_cluster.spilled_bytes() - spilled) / 2**20,
        "origin_mb": (origin.traffic() - traffic).bytes / 1e6,
        "origin_cpu_s": _cpu_of(others) - origin_cpu,
    }


def _cpu_of(pids: set[int]) -> float:
    return sum(ray_usage.cpu_of(pid) for pid in pids)
