"""The process of one Roost node, owned by an actor: it ends with it, and is started again when it ends before."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_READY = "roost: serving "
_PR_SET_PDEATHSIG = 1
# A node drains for as long as it is configured to; then it is made to end.
_STOP_SECONDS = 45
# Between two starts of a node that ends before it has lived so long, again and again.
_PAUSE_SECONDS = (0.0, 0.0, 0.5, 2.0, 5.0)
_LIFE_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """How a node is started."""

    host: str
    capacity: str
    directories: tuple[str, ...] = ()
    subdirectory: str = ""
    executable: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    #: The key that signs tickets; empty: the node makes one.
    secret: str = ""


class NodeProcess:
    """Runs `roost serve`. Its methods may be called by several threads."""

    def __init__(self, settings: Settings) -> None:
        """Starts the node, and waits until it serves.

        Raises:
            RuntimeError: there is no executable, or it ended.
        """
        self._settings = settings
        self._listen = f"{settings.host}:0"
        self._address = ""
        self._failure: BaseException | None = None
        self._child: subprocess.Popen[str] | None = None
        self._stopping = threading.Event()
        self._ready = threading.Event()
        # The kernel ends a child when the thread that began it ends: this one lives as long as the actor.
        self._thread = threading.Thread(target=self._keep, name="roost-node", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def address(self) -> str:
        """Where the node serves."""
        return self._address

    def pid(self) -> int:
        """The node's process."""
        return self._child.pid if self._child is not None else 0

    def stop(self) -> None:
        """Drains and ends the node."""
        self._stopping.set()
        child = self._child
        if child is not None and child.poll() is None:
            child.terminate()
        self._thread.join(_STOP_SECONDS)
        if child is not None and child.poll() is None:
            child.kill()

    def _keep(self) -> None:
        short_lives = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                child = self._start()
            except BaseException as failure:
                if not self._ready.is_set():
                    self._failure = failure
                    self._ready.set()
                    return
                print(f"roost: not started again: {failure}", file=sys.stderr, flush=True)
            else:
                self._ready.set()
                if self._stopping.is_set():
                    # Asked to stop while it started.
                    child.terminate()
                code = child.wait()
                if not self._stopping.is_set():
                    print(f"roost: the node ended with code {code}; it is started again", file=sys.stderr, flush=True)
            short_lives = 0 if time.monotonic() - began > _LIFE_SECONDS else short_lives + 1
            self._stopping.wait(_PAUSE_SECONDS[min(short_lives, len(_PAUSE_SECONDS) - 1)])

    def _start(self) -> subprocess.Popen[str]:
        settings = self._settings
        command = [find_executable(settings.executable), "serve", "--listen", self._listen, "--http", "off"]
        directories = _directories(settings)
        for directory in directories:
            command += ["--cache-dir", directory]
        if settings.secret:
            command += ["--secret-file", _secret_file(settings, directories)]
        command += ["--capacity", settings.capacity, *settings.flags]
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **settings.environment},
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self._child = child
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line.startswith(_READY):
            child.kill()
            raise RuntimeError(
                f"`{' '.join(command)}` ended with code {child.wait()} before it served; Ray's log of this actor has"
                " what it said"
            )
        self._address = next(word for word in line.split() if word.startswith("grpc"))
        # Started again, it is found where it was.
        self._listen = self._address.partition("://")[2]
        return child


def find_executable(given: str | None, environ: dict[str, str] | None = None) -> str:
    """The executable: what is given, `$ROOST_BIN`, beside the interpreter or the package, or on the PATH.

    Raises:
        RuntimeError: there is none.
    """
    environ = dict(os.environ) if environ is None else environ
    named = given or environ.get("ROOST_BIN")
    if named:
        if os.access(named, os.X_OK) and not os.path.isdir(named):
            return named
        raise RuntimeError(f"{named} is no executable on this machine, but is named as Roost's")
    beside = [Path(sys.executable).parent, Path(__file__).parents[1], Path(__file__).parents[1] / "bin"]
    for directory in beside:
        if os.access(directory / "roost", os.X_OK) and (directory / "roost").is_file():
            return str(directory / "roost")
    found = shutil.which("roost", path=environ.get("PATH"))
    if found is None:
        raise RuntimeError(
            "there is no executable `roost` on this machine: put it on the PATH, name it by ROOST_BIN, or give"
            " start_nodes(executable=...)"
        )
    return found


def _directories(settings: Settings) -> Sequence[str]:
    directories = settings.directories
    if not directories and settings.subdirectory:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        directories = (os.path.join(base, "roost"),)
    return [os.path.join(directory, settings.subdirectory).rstrip("/") for directory in directories]


def _secret_file(settings: Settings, directories: Sequence[str]) -> str:
    base = directories[0] if directories else os.path.expanduser("~/.cache/roost")
    path = Path(base).parent / f"{Path(base).name}.ray-secret"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(settings.secret)
    new.rename(path)
    return str(path)


_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
