"""Child processes that end with us, whatever happens, and what the kernel knows of them.

Each child is told by the kernel to end when this process dies, so that not even `kill -9` leaves one behind; each is
stopped in order when its owner's `with` block or the interpreter ends.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_running: list[Process] = []


class ProcessError(RuntimeError):
    """A child did not start, or ended when it should not have."""


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A child whose log goes to a file and which is ready once it has printed a line that starts with `ready`."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        log: Path,
        *,
        ready: str | None = None,
        environment: Mapping[str, str] | None = None,
        ready_seconds: float = 60,
        talks: bool = False,
    ) -> None:
        """`ready=None` waits for nothing. With `talks` the child's standard input stays open for `ask`."""
        self.name = Path(str(arguments[0])).name
        self._log_path = log
        with log.open("ab") as errors:
            self._child = subprocess.Popen(
                [str(a) for a in arguments],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                preexec_fn=_end_with_parent,
                bufsize=0,
            )
        _running.append(self)
        self._pending = b""
        self.ready_line = ""
        if ready is not None:
            try:
                self.ready_line = self._line_starting_with(ready, ready_seconds)
            except BaseException:
                self.stop()
                raise

    @property
    def pid(self) -> int:
        return self._child.pid

    def _line_starting_with(self, start: str, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while True:
            line = self._line(deadline)
            if line.startswith(start):
                return line

    def _line(self, deadline: float) -> str:
        """The child's next line; fails when it ends first or `deadline` passes."""
        assert self._child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ProcessError(f"{self.name} said nothing in time; its log ends with:\n{self.log_tail()}")
                more = os.read(self._child.stdout.fileno(), 65536)
                if not more:
                    code = self._child.wait()
                    raise ProcessError(f"{self.name} ended with code {code}; its log ends with:\n{self.log_tail()}")
                self._pending += more
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def ask(self, line: str, seconds: float = 300) -> str:
        """Sends the child a line and answers the one it prints in return."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line.encode() + b"\n")
        except BrokenPipeError:
            raise ProcessError(f"{self.name} has ended; its log ends with:\n{self.log_tail()}") from None
        return self._line(time.monotonic() + seconds)

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-lines:])

    def cpu_seconds(self) -> float:
        """CPU time that all its threads have used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss(self) -> int:
        """The most memory it has had resident, in bytes, mapped files included."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise ProcessError(f"{self.name} has ended")

    def stop(self, seconds: float = 20) -> None:
        """Asks it to end, then makes it."""
        if self in _running:
            _running.remove(self)
        with contextlib.suppress(BrokenPipeError, OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(seconds)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _stop_all() -> None:
    for process in reversed(_running.copy()):
        process.stop(seconds=5)


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def clean_up_on_exit() -> None:
    """Makes SIGTERM and SIGHUP end this program the orderly way, as an exception that every `with` block sees."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)


atexit.register(_stop_all)
