"""Origins on this machine: an S3 server over a local directory, and the same as far away as S3 of the same region
("S3*").

S3* is `rclone serve s3` behind `s3-proxy`, which holds back each response for 30 ms and paces each connection at 90
MB/s. That is what a virtual machine sees of S3 in its own region; both readers of a comparison pay it alike.
"""

from __future__ import annotations

import dataclasses
import json
import socket
import time
import urllib.request
from pathlib import Path

from pyarrow import fs

from . import executables
from .processes import Process, ProcessError

KEY, SECRET, REGION = "bench", "bench-secret", "us-east-1"
DELAY_MS, MBPS = 30, 90


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What passed between readers and origin."""

    requests: int
    bytes: int

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(self.requests - earlier.requests, self.bytes - earlier.bytes)


class Origin:
    """An S3 server whose buckets are the directories in `directory`."""

    def __init__(self, directory: Path, logs: Path, *, delay_ms: float = DELAY_MS, mbps: float = MBPS) -> None:
        port = _free_port()
        self._server = Process(
            [
                *(executables.from_pypi("rclone"), "serve", "s3", directory, "--addr", f"127.0.0.1:{port}"),
                *(
                    "--auth-key",
                    f"{KEY},{SECRET}",
                    "--no-modtime",
                    "--etag-hash",
                    "",
                    "--config",
                    "/dev/null",
                    "--copy-links",
                ),
                *("--vfs-read-chunk-size", "0", "--vfs-read-ahead", "0", "--log-level", "ERROR"),
            ],
            logs / "rclone.log",
        )
        _wait_for_port(port, self._server)
        self._proxy = Process(
            [
                *(executables.s3_proxy(), "--upstream", f"127.0.0.1:{port}"),
                *("--delay-ms", str(delay_ms), "--mbps", str(mbps)),
            ],
            logs / "s3-proxy.log",
            ready="s3-proxy: listening on ",
        )
        words = self._proxy.ready_line.split()
        self._address, self._counters = words[3], words[6]

    def url(self, path: str) -> str:
        return f"s3://{path}"

    @property
    def environment(self) -> dict[str, str]:
        """The usual AWS variables, for any client."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://{self._address}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def filesystem(self) -> fs.S3FileSystem:
        """A new pyarrow file system: no connection is shared with an earlier one."""
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            region=REGION,
            scheme="http",
            endpoint_override=self._address,
            request_timeout=60,
            connect_timeout=10,
        )

    def traffic(self) -> Traffic:
        """All that passed so far; take the difference of two calls."""
        with urllib.request.urlopen(self._counters, timeout=10) as answer:
            counts = json.load(answer)
        return Traffic(counts["requests"], counts["response_bytes"])

    def stop(self) -> None:
        self._proxy.stop()
        self._server.stop()

    def __enter__(self) -> Origin:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int, process: Process, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    process.stop()
    raise ProcessError(
        f"{process.name} does not listen after {seconds:.0f} s; its log ends with:\n{process.log_tail()}"
    )
