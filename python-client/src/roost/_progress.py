"""Shows how a warm gets on, where a person waits: with tqdm if it is installed, else with a plain line of text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from roost.plan import human_bytes
from roost.results import WarmProgress

ProgressCallback = Callable[[WarmProgress], None]


class Bar(Protocol):
    """Something that shows progress and is closed at the end."""

    def update(self, progress: WarmProgress) -> None:
        """Shows the state."""

    def close(self) -> None:
        """Leaves the last state standing."""


class NoBar:
    """Shows nothing, but tells a function if there is one."""

    def __init__(self, callback: ProgressCallback | None = None) -> None:
        self._callback = callback

    def update(self, progress: WarmProgress) -> None:
        """Tells the function."""
        if self._callback is not None:
            self._callback(progress)

    def close(self) -> None:
        """Nothing is left to do."""


class TextBar:
    """One line that is rewritten: share, bytes, rows, rate and time left."""

    def __init__(self, label: str, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._out = out
        self._clock = clock
        self._started = clock()
        self._drawn = float("-inf")
        self._last: WarmProgress | None = None
        self._width = 0

    def update(self, progress: WarmProgress) -> None:
        """Draws, at most ten times a second."""
        self._last = progress
        if self._clock() - self._drawn >= 0.1:
            self._draw(progress)

    def close(self) -> None:
        """Draws the last state and ends the line."""
        if self._last is not None:
            self._draw(self._last)
            self._out.write("\n")
            self._out.flush()

    def _draw(self, progress: WarmProgress) -> None:
        self._drawn = self._clock()
        line = text_line(self._label, progress, self._drawn - self._started)
        self._out.write("\r" + line.ljust(self._width))
        self._out.flush()
        self._width = len(line)


def text_line(label: str, progress: WarmProgress, seconds: float) -> str:
    """The bar's text after so many seconds."""
    share = min(1.0, progress.bytes_done / progress.bytes_total) if progress.bytes_total else 0.0
    if progress.row_groups_total and progress.row_groups_done >= progress.row_groups_total:
        share = 1.0
    filled = int(share * 20)
    bar = "#" * filled + "-" * (20 - filled)
    text = f"{label} [{bar}] {share:4.0%} {human_bytes(progress.bytes_done)}, {progress.rows_done:,} rows"
    if seconds > 0:
        text += f", {human_bytes(progress.bytes_done / seconds)}/s"
        if 0 < share < 1:
            text += f", {_duration(seconds * (1 - share) / share)} left"
    return text


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class TqdmBar:
    """A bar of tqdm, over decoded bytes."""

    def __init__(self, label: str, tqdm: Any) -> None:
        self._bar = tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr)

    def update(self, progress: WarmProgress) -> None:
        """Moves the bar."""
        # The total is an estimate until the end.
        self._bar.total = max(progress.bytes_total, progress.bytes_done)
        self._bar.set_postfix_str(f"{progress.rows_done:,} rows", refresh=False)
        self._bar.update(progress.bytes_done - self._bar.n)

    def close(self) -> None:
        """Leaves the bar standing."""
        self._bar.close()


def make_bar(label: str, progress: bool | ProgressCallback | None) -> Bar:
    """The bar that was asked for. None: one where standard error is a terminal."""
    if callable(progress):
        return NoBar(progress)
    wanted = bool(getattr(sys.stderr, "isatty", lambda: False)()) if progress is None else progress
    if not wanted:
        return NoBar()
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return TextBar(label, sys.stderr)
    return TqdmBar(label, tqdm)
