"""One timed read in this process: how fast it was, what CPU it took, and whether it read what it should have."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from . import report
from .consume import Consumer
from .node import Node


def timed(
    read: Callable[[], Sequence[Consumer]], rows: int, *, repeat: int = 1, node: Node | None = None
) -> report.Sample:
    """Reads `rows`, `repeat` times. A `node` that is named has to hand all of them over as maps, and its CPU counts."""

    def used() -> float:
        return time.process_time() + (node.process.cpu_seconds() if node else 0.0)

    mapped = rows_mapped(node) if node else 0
    cpu, start = used(), time.perf_counter()
    consumers = [consumer for _ in range(repeat) for consumer in read()]
    seconds, cpu = time.perf_counter() - start, used() - cpu
    came = sum(c.rows for c in consumers)
    if came != rows * repeat:
        raise RuntimeError(f"{came} rows came, {rows * repeat} were due")
    if node and (mapped := rows_mapped(node) - mapped) != came:
        raise RuntimeError(f"of {came} rows only {mapped} were read from maps: the client went back to Flight")
    gigabytes = sum(c.bytes for c in consumers) / 1e9
    return {"gb_per_s": gigabytes / seconds, "rows_per_s": came / seconds, "cpu_s_per_gb": cpu / gigabytes}


def rows_mapped(node: Node) -> int:
    """Rows that a node has handed over as maps."""
    return round(node.metrics()["roost_mapped_rows_total"])
