"""What this process and all that it started take: CPU time, and memory at its peak.

Ray's workers come and go: the time of those that ended is in what their parents waited for, and those are counted too.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


def family(root: int, without: Collection[int] = ()) -> dict[int, list[str]]:
    """The fields of /proc/PID/stat, behind the name, of `root` and its descendants; not of `without` and theirs."""
    stats: dict[int, list[str]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stats[int(entry.name)] = Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()
    children: dict[int, list[int]] = {}
    for pid, fields in stats.items():
        children.setdefault(int(fields[1]), []).append(pid)
    found: dict[int, list[str]] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in stats and pid not in without:
            found[pid] = stats[pid]
            waiting += children.get(pid, [])
    return found


def cpu_of(pid: int) -> float:
    """CPU time of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


class Usage:
    """What this process and its descendants take while the block runs; samples, as some of them end before it does."""

    _EVERY_SECONDS = 0.1

    def __init__(self, without: Collection[int] = ()) -> None:
        self.peak_memory = 0
        self._without = without
        self._before: dict[tuple[int, str], int] = {}
        self._latest: dict[tuple[int, str], int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def cpu_seconds(self) -> float:
        """CPU time; a process that ends loses the tenth of a second before, at most."""
        return sum(ticks - self._before.get(key, 0) for key, ticks in self._latest.items()) / _TICK

    def __enter__(self) -> Usage:
        self._look()
        self._before = dict(self._latest)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _sample(self) -> None:
        while not self._stop.wait(self._EVERY_SECONDS):
            self._look()

    def _look(self) -> None:
        found = family(os.getpid(), self._without)
        self.peak_memory = max(self.peak_memory, sum(map(_anonymous, found)))
        for pid, fields in found.items():
            # A process id comes again; with the time of its start it does not.
            self._latest[pid, fields[19]] = int(fields[11]) + int(fields[12])


def _anonymous(pid: int) -> int:
    """Bytes of memory that is no file's. The object store counts once, as the raylet's, which owns it."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        memory = int(lines.get("RssAnon", "0 kB").split()[0])
        if lines.get("Name", "").strip() == "raylet":
            memory += int(lines.get("RssShmem", "0 kB").split()[0])
        return memory * 1024
    return 0


class Waits:
    """How long a consumer waited for each batch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._asked = time.perf_counter()

    def over(self, batches: Iterator[object]) -> Iterator[object]:
        """Passes batches on."""
        self._asked = time.perf_counter()
        for batch in batches:
            self.seconds.append(time.perf_counter() - self._asked)
            yield batch
            self._asked = time.perf_counter()

    def percentile(self, share: float) -> float:
        """The wait that this share of batches did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
