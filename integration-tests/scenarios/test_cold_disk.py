"""Fragments that are read from the disk do not hold up other requests: whoever waits for the disk is not one of the
threads that answer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness import data
from harness.node import Node, options

SMALL = 300
"""Requests whose time is taken."""


def forget(served: Node) -> None:
    """Drops the cache's files from the page cache. What is mapped stays, so the node must have been started anew."""
    for file in served.files():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def workers(served: Node) -> list[Path]:
    """The threads that answer. When nothing is to be done, those that may block wait for work for some seconds only,
    while these wait for as long as it takes, or for sockets."""
    cores = len(os.sched_getaffinity(0))
    found: list[Path] = []

    def idle() -> bool:
        found.clear()
        for task in Path(f"/proc/{served.pid}/task").iterdir():
            if not (task / "comm").read_text().startswith("tokio"):
                continue
            try:
                call = (task / "syscall").read_text().split()
            except PermissionError:
                pytest.skip("may not look at what threads wait for")
            if len(call) < 6:
                return False
            first, limit = int(call[1], 16), int(call[4], 16)
            # A lock is an address, a set of sockets a small number.
            if first < 4096 or limit == 0:
                found.append(task)
        return len(found) == cores

    served.wait(idle, "the node has nothing to do")
    return list(found)


def field(task: Path, number: int) -> int:
    """A number of `/proc/PID/stat`, counted as its manual does."""
    return int((task / "stat").read_text().rpartition(")")[2].split()[number - 3])


def faults(task: Path) -> int:
    """Times that this thread waited for a page of a file."""
    return field(task, 12)


def p99(served: Node, ticket, until: threading.Event | None = None) -> tuple[float, int]:
    client = served.connect()
    times = []
    while len(times) < SMALL or (until and not until.is_set() and len(times) < 100 * SMALL):
        started = time.perf_counter()
        client.do_get(ticket, options()).read_all()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) * 99 // 100], len(times)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_small_requests_while_the_disk_is_read(node: Callable[..., Node], tmp_path: Path, codec: str):
    path = data.wide(tmp_path / "wide.parquet", rows=1_200_000)
    pq.write_table(data.numbers(1000, 3), tmp_path / "small.parquet")
    served = node("--compression", codec)
    served.warm(path.as_uri())
    served.warm((tmp_path / "small.parquet").as_uri())
    served.restart(*served.flags).recovered()
    (small,) = served.tickets((tmp_path / "small.parquet").as_uri())
    large = served.tickets(path.as_uri())
    p99(served, small)
    idle, _ = p99(served, small)

    answering = workers(served)
    before = [faults(task) for task in answering]
    done = threading.Event()
    chunks = 0

    def read_cold() -> None:
        nonlocal chunks
        try:
            client = served.connect()
            for _ in range(2):
                for ticket in large:
                    forget(served)
                    for chunk in client.do_get(ticket, options()):
                        chunks += chunk.data.num_rows > 0
        finally:
            done.set()

    thread = threading.Thread(target=read_cold)
    thread.start()
    busy, requests = p99(served, small, done)
    thread.join()
    waited = sum(after - then for after, then in zip(map(faults, answering), before, strict=True))
    waits = sum(map(faults, Path(f"/proc/{served.pid}/task").iterdir()))
    assert chunks > 5
    # Cores are few and shared with the readers: the bound tells waiting for a core from waiting for a disk's queue.
    assert busy < max(50 * idle, 0.25), f"p99 {busy * 1000:.1f} ms of {requests}, idle {idle * 1000:.1f} ms"
    assert waits > 10, "something was read from the disk"
    assert waited < waits // 4, f"of {waits} times the answering threads waited for the disk {waited} times"
