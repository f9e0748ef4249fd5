"""One `roost serve`, in embedded mode: free ports, a cache of its own."""

from __future__ import annotations

import re
import shutil
import tempfile
import urllib.request
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
        self.cache = Path(tempfile.mkdtemp(prefix="roost-cache-", dir=cache_parent))
        try:
            self.process = Process(
                [
                    *(executables.roost(), "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"),
                    *("--cache-dir", self.cache, "--capacity", capacity, *flags),
                ],
                logs / "roost.log",
                ready="roost: serving ",
                environment=environment,
            )
        except BaseException:
            shutil.rmtree(self.cache, ignore_errors=True)
            raise
        words = self.process.ready_line.split()
        self.address = next(w for w in words if w.startswith("grpc://"))
        self._http = next(w for w in words if w.startswith("http://"))

    def metrics(self) -> dict[str, float]:
        """The node's metrics that have no labels."""
        with urllib.request.urlopen(f"{self._http}/metrics", timeout=10) as answer:
            return parse_metrics(answer.read().decode())

    def cached_files(self) -> list[Path]:
        """The fragments' files."""
        return [path for path in self.cache.rglob("*") if path.is_file()]

    def stop(self) -> None:
        self.process.stop()
        shutil.rmtree(self.cache, ignore_errors=True)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def parse_metrics(text: str) -> dict[str, float]:
    """The samples without labels of a page in the Prometheus text format."""
    return {m[1]: float(m[2]) for m in re.finditer(r"^(\w+) (\S+)$", text, re.MULTILINE)}
