"""A progress bar for people who wait: on a terminal it is drawn in place, in a pipe it is silent."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import TextIO

_DRAW_EVERY = 0.1


class ProgressBar:
    """Counts rows towards `rows`, shown as bytes of `size`; may be told of progress by many threads."""

    def __init__(self, label: str, rows: int, size: int, out: TextIO | None = None) -> None:
        self._label, self._rows, self._size = label, max(1, rows), size
        self._out = out or sys.stderr
        self._lock = threading.Lock()
        self._done = 0
        self._start = time.monotonic()
        self._drawn = 0.0

    def add(self, rows: int) -> None:
        with self._lock:
            self._done += rows
            if time.monotonic() - self._drawn >= _DRAW_EVERY:
                self._draw()

    def set_fraction(self, fraction: float, label: str) -> None:
        """For work that is known by its share alone."""
        with self._lock:
            self._done, self._label = round(fraction * self._rows), label
            self._draw()

    def _draw(self) -> None:
        if not self._out.isatty():
            return
        self._drawn = time.monotonic()
        share = min(1.0, self._done / self._rows)
        seconds = self._drawn - self._start
        facts = f" {share:4.0%}"
        if self._size and share > 0 and seconds > 0:
            done = share * self._size
            left = seconds * (1 - share) / share
            facts += f"  {done / 1e9:.2f} of {self._size / 1e9:.2f} GB  {self._done:,} rows"
            facts += f"  {done / 1e9 / seconds:.2f} GB/s  {left:.0f} s left"
        columns = shutil.get_terminal_size().columns
        width = max(10, min(30, columns - len(self._label) - len(facts) - 4))
        line = f"{self._label} {bar(share, width)}{facts}"
        print(f"\r\033[K{line[: columns - 1]}", end="", file=self._out, flush=True)

    def __enter__(self) -> ProgressBar:
        with self._lock:
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self._out.isatty():
            print("\r\033[K", end="", file=self._out, flush=True)


def bar(share: float, width: int, empty: str = "░") -> str:
    """`share` of `width` as blocks, to an eighth of a column."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    blocks = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return blocks + empty * (width - len(blocks))
