"""A node as its users meet it: the process, its Flight door, its HTTP door, its command line."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from google.protobuf.any_pb2 import Any as AnyMessage
from pyarrow import flight
from pyarrow.flight import FlightCallOptions, FlightClient, FlightDescriptor, FlightEndpoint, FlightInfo, Ticket

from .messages import pb

ROOT = Path(__file__).parents[2]
READY = re.compile(r"^roost: serving grpc://(\S+) http://(\S+)$")
START_TIMEOUT = 30


def executable() -> Path:
    """`ROOST_BIN`, or what `cargo build --release` makes."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    return Path(os.environ.get("ROOST_BIN") or (target if target.is_absolute() else ROOT / target) / "release/roost")


def clean_environment() -> dict[str, str]:
    """Without what would make a node or a command behave as the machine's owner likes."""
    dropped = ("ROOST_", "AWS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"NO_COLOR": "1", "RUST_BACKTRACE": "1"}


@dataclass
class Node:
    """One node. Its directory, flags and environment stay the same over restarts; its ports do not."""

    directory: Path
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cache_dirs: Sequence[Path] = ()
    limits: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    starts: int = 0
    process: subprocess.Popen[str] | None = None
    address: str = ""
    http: str = ""

    def __post_init__(self) -> None:
        self.cache_dirs = self.cache_dirs or [self.directory / "cache"]
        self.clients: list[FlightClient] = []

    # The process

    @property
    def log(self) -> Path:
        return self.directory / "node.log"

    def start(self) -> Node:
        command = [str(executable()), "serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
        for cache in self.cache_dirs:
            command += ["--cache-dir", str(cache)]
        self.starts += 1
        # Threads of the test may have connected to the address of the start before.
        self.clients.clear()
        with self.log.open("a") as log:
            log.write(f"--- start {self.starts}: {' '.join([*command, *self.flags])}\n")
            log.flush()
            self.process = subprocess.Popen(
                [*command, *self.flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=clean_environment() | {"HOME": str(self.directory)} | dict(self.environment),
                preexec_fn=self.limit if self.limits else None,
            )
        line = self.first_line(self.process)
        found = READY.match(line)
        if not found:
            self.kill9()
            raise AssertionError(f"the node printed {line!r} instead of its addresses\n{self.log_tail()}")
        self.address, self.http = found.groups()
        return self

    def limit(self) -> None:
        # Writing beyond RLIMIT_FSIZE is to fail, as a quota makes it fail, not to end the process.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for name, value in self.limits.items():
            resource.setrlimit(name, value)

    def first_line(self, process: subprocess.Popen[str]) -> str:
        """Standard output's first line; a node that says nothing in time is killed, which ends the wait."""
        watchdog = threading.Timer(START_TIMEOUT, process.kill)
        watchdog.start()
        try:
            assert process.stdout
            return process.stdout.readline().rstrip("\n")
        finally:
            watchdog.cancel()

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill9(self) -> None:
        self.end(signal.SIGKILL)

    def terminate(self) -> int:
        """SIGTERM; returns the exit code."""
        return self.end(signal.SIGTERM)

    def end(self, how: signal.Signals) -> int:
        for client in self.clients:
            client.close()
        self.clients.clear()
        process = self.process
        if process is None:
            return 0
        process.send_signal(how)
        try:
            code = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"the node did not end within 60 s of {how.name}\n{self.log_tail()}") from None
        finally:
            if process.stdout:
                process.stdout.close()
            self.process = None
        return code

    def restart(self, *flags: str) -> Node:
        """Ends the node in order where it still runs, and starts it again, with other flags where some are given."""
        if self.process:
            self.terminate()
        if flags:
            self.flags = flags
        return self.start()

    def log_tail(self, size: int = 8000) -> str:
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else "(no log)"

    # Flight, with pyarrow alone

    def connect(self) -> FlightClient:
        """A client of its own, with a connection of its own."""
        client = flight.connect(f"grpc://{self.address}", generic_options=[("grpc.use_local_subchannel_pool", 1)])
        self.clients.append(client)
        return client

    @property
    def flight(self) -> FlightClient:
        if not self.clients:
            self.connect()
        return self.clients[0]

    def info(self, url: str) -> FlightInfo:
        return self.flight.get_flight_info(FlightDescriptor.for_path(url))

    def plan(self, url: str, columns: Sequence[str] | None = None, **fields: Any) -> FlightInfo:
        return self.flight.get_flight_info(plan_descriptor(url, columns, **fields))

    def tickets(self, url: str, columns: Sequence[str] | None = None, **fields: Any) -> list[Ticket]:
        return [e.ticket for e in self.plan(url, columns, **fields).endpoints]

    def get(self, ticket: Ticket, client: FlightClient | None = None) -> pa.Table:
        return (client or self.flight).do_get(ticket, options()).read_all()

    def read(self, url: str, columns: Sequence[str] | None = None, threads: int = 2, **fields: Any) -> pa.Table:
        """The whole of a plan in its order, tickets read in parallel. By path where nothing else is asked."""
        info = self.info(url) if columns is None and not fields else self.plan(url, columns, **fields)
        return self.read_plan(info, threads)

    def read_plan(self, info: FlightInfo, threads: int = 2) -> pa.Table:
        with ThreadPoolExecutor(threads) as pool:
            tables = list(pool.map(lambda endpoint: self.get(endpoint.ticket), info.endpoints))
        for table in tables:
            assert table.schema.equals(info.schema, check_metadata=True), f"{table.schema} instead of {info.schema}"
        # `concat_tables` forgets the rows of tables without columns.
        return pa.Table.from_batches([batch for table in tables for batch in table.to_batches()], info.schema)

    def action(self, name: str, message: Any = None) -> Iterator[bytes]:
        body = message.SerializeToString() if message is not None else b""
        for result in self.flight.do_action(flight.Action(name, body), options()):
            yield result.body.to_pybytes()

    def warm(self, url: str, columns: Sequence[str] | None = None, pin: bool = False) -> list[Any]:
        """The progress messages of a warm; the last is the outcome."""
        request = pb.WarmRequest(plan=plan_request(url, columns), pin=pin)
        return [pb.WarmProgress.FromString(body) for body in self.action("roost.warm", request)]

    def evict(self, url: str) -> Any:
        return self.one("roost.evict", url, pb.EvictResult)

    def pin(self, url: str) -> list[str]:
        return list(self.one("roost.pin", url, pb.PinResult).pinned)

    def unpin(self, url: str) -> list[str]:
        return list(self.one("roost.unpin", url, pb.PinResult).pinned)

    def one(self, action: str, url: str, result: Any) -> Any:
        (body,) = self.action(action, pb.DatasetRequest(url=url))
        return result.FromString(body)

    def stat(self) -> Any:
        (body,) = self.action("roost.stat")
        return pb.CacheStats.FromString(body)

    def cached(self) -> dict[str, Any]:
        """What ListFlights tells, by URL."""
        flights = self.flight.list_flights(options=options())
        listed = [pb.CachedDataset.FromString(info.app_metadata) for info in flights]
        return {dataset.url: dataset for dataset in listed}

    # HTTP, files, memory

    def get_http(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.http}{path}", timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Samples of /metrics by name with labels, as they are printed."""
        status, text = self.get_http("/metrics")
        assert status == 200, text
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def files(self) -> list[Path]:
        """The files in the cache directories."""
        return [p for cache in self.cache_dirs for p in sorted(cache.rglob("*")) if p.is_file() and not p.is_symlink()]

    def disk(self) -> int:
        """Bytes of all files in the cache directories, footers and the node's own small files among them."""
        return sum(file.stat().st_size for file in self.files())

    def rss_anon(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE).group(1)) * 1024  # type: ignore[union-attr]

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Asks again and again until `condition` holds: for what the node does in its own time and tells no one."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}\n{self.log_tail()}"
            time.sleep(0.05)

    def recovered(self) -> Node:
        self.wait(lambda: not self.stat().recovering, "the cache directories are read")
        return self

    # The command line

    def cli(self, *arguments: str, timeout: float = 120, **environment: str) -> Outcome:
        return cli(*arguments, timeout=timeout, **{"ROOST_NODE": f"grpc://{self.address}", **environment})

    def cli_into(self, path: str | Path, *arguments: str, timeout: float = 120) -> None:
        """A command that is to succeed, with its standard output in a file."""
        with open(path, "wb") as out:
            done = subprocess.run(
                [str(executable()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                text=True,
                timeout=timeout,
                env=clean_environment() | {"ROOST_NODE": f"grpc://{self.address}"},
            )
        assert done.returncode == 0, done.stderr


@dataclass
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def cli(*arguments: str, timeout: float = 120, **environment: str) -> Outcome:
    done = subprocess.run(
        [str(executable()), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean_environment() | environment,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def options(timeout: float = 120) -> FlightCallOptions:
    """No call of a test waits for ever."""
    return FlightCallOptions(timeout=timeout)


def plan_request(url: str, columns: Sequence[str] | None = None, **fields: Any) -> Any:
    request = pb.PlanRequest(url=url)
    if columns is not None:
        request.columns.SetInParent()
        request.columns.names.extend(columns)
    # `from` is a word of Python's.
    for name, value in fields.items():
        setattr(request, name.rstrip("_"), value)
    return request


def plan_descriptor(url: str, columns: Sequence[str] | None = None, **fields: Any) -> FlightDescriptor:
    message = AnyMessage()
    message.Pack(plan_request(url, columns, **fields))
    return FlightDescriptor.for_command(message.SerializeToString())


def position(chunk: Any) -> Any:
    """Where a batch lies. The first batch's position has no bytes: all its fields are zero."""
    return pb.BatchPosition.FromString(chunk.app_metadata.to_pybytes() if chunk.app_metadata else b"")


def plan_info(info: FlightInfo) -> Any:
    return pb.PlanInfo.FromString(info.app_metadata)


def endpoint_info(endpoint: FlightEndpoint) -> Any:
    return pb.EndpointInfo.FromString(endpoint.app_metadata)
