"""Fixtures: nodes, S3 with buckets, origins that count, data sets made once."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import data, s3, zoo
from harness.directory import Directory
from harness.node import Node, executable
from harness.origin import Forward, Origin

BUCKETS = itertools.count()


def pytest_sessionstart(session: pytest.Session) -> None:
    if not session.config.option.collectonly and not executable().is_file():
        raise pytest.UsageError(f"no executable at {executable()}: run `cargo build --release`, or set ROOST_BIN")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts the logs of a failed test's nodes into its report."""
    report = yield
    if report.failed:
        for node in getattr(item, "nodes", []):
            report.sections.append((f"node {node.directory.name}", node.log_tail()))
    return report


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Makes nodes: `node(*flags, origin=..., environment=..., cache_dirs=..., start=True)`. They end with the test.

    Disks of test machines may be nearly full: 4 GiB of cache, and no demand on free space, unless flags say otherwise.
    """
    nodes: list[Node] = []
    request.node.nodes = nodes

    def make(
        *flags: str,
        origin: Origin | None = None,
        environment: dict[str, str] | None = None,
        cache_dirs: Sequence[Path] = (),
        limits: dict[int, tuple[int, int]] | None = None,
        start: bool = True,
    ) -> Node:
        directory = tmp_path / f"node{len(nodes)}"
        directory.mkdir()
        defaults = []
        for flag, value in (("--capacity", "4GiB"), ("--min-free", "0")):
            if flag not in flags:
                defaults += [flag, value]
        settings = (s3.environment(origin.url) if origin else {}) | (environment or {})
        made = Node(directory, [*defaults, *flags], settings, cache_dirs, limits or {})
        nodes.append(made)
        return made.start() if start else made

    yield make
    for made in nodes:
        with contextlib.suppress(ProcessLookupError):
            made.kill9()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3]:
    with s3.serve(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture
def bucket(seaweed: s3.S3) -> s3.Bucket:
    """An empty bucket."""
    return seaweed.bucket(f"bucket-{next(BUCKETS)}")


@pytest.fixture
def origin(seaweed: s3.S3) -> Iterator[Origin]:
    """SeaweedFS, counted."""
    with Origin(Forward("127.0.0.1", seaweed.port)) as served:
        yield served


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Callable[..., Origin]]:
    """Makes web servers of directories: `web(directory, etags=False, ...)`."""
    with contextlib.ExitStack() as stack:
        yield lambda directory, **faults: stack.enter_context(Origin(Directory(directory, **faults)))


@pytest.fixture(scope="session")
def tpch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All TPC-H tables, scale 0.05."""
    return data.tpch(tmp_path_factory.mktemp("tpch"), 0.05)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four objects with photos' sizes, 24 MB."""
    return data.images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One object, one row group, 20 columns of 1.6 MB."""
    return data.wide(tmp_path_factory.mktemp("wide") / "wide.parquet")


@pytest.fixture(scope="session")
def zoo_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("zoo")
    return lambda name: zoo.write(zoo.CASES[name], directory / f"{name}.parquet")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes filesystems of a given size in memory. Skips where the machine doesn't allow it."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        done: Any = None
        with contextlib.suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done is None or done.returncode:
            pytest.skip(f"can't mount a small filesystem: {done.stderr.strip() if done else 'no mount command'}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        # Lazily: a node of the test may have files open until it ends.
        subprocess.run(["umount", "--lazy", str(place)], check=True, stdin=subprocess.DEVNULL)
