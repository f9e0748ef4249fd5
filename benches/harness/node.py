"""One `roost serve`, in embedded mode: free ports, a cache of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import executables
from .processes import Process


class Node:
    """A node with a fresh, empty cache, which is removed with it."""

    def __init__(
        self,
        logs: Path,
        *,
        cache_parent: Path,
        environment: Mapping[str, str] | None = None,
        capacity: str = "64GiB",
        flags: tuple[str, ...] = (),
    ) -> None:
        cache_parent.mkdir(parents=True, exist_ok=True)
        self._cache = Path(tempfile.mkdtemp(prefix="roost-cache-", dir=cache_parent))
        try:
            self.process = Process(
                [
                    *(executables.roost(), "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"),
                    *("--cache-dir", self._cache, "--capacity", capacity, *flags),
                ],
                logs / "roost.log",
                ready="roost: serving ",
                environment=environment,
            )
        except BaseException:
            shutil.rmtree(self._cache, ignore_errors=True)
            raise
        self.address = next(w for w in self.process.ready_line.split() if w.startswith("grpc://"))

    def stop(self) -> None:
        self.process.stop()
        shutil.rmtree(self._cache, ignore_errors=True)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
