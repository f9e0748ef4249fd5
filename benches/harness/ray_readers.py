"""The readers that are compared: each gives the record batches of one epoch after the other.

All end in one consumer, in this process, that copies each byte once, as a trainer does; `late, stages` consumes in
Ray's own tasks instead, all at a time, and says what it did.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import ray.data
import roost
import roost.ray

import data

from .consume import Consumer
from .node import Node
from .origin import KEY, REGION, SECRET, Origin
from .ray_cluster import Settings, settings


@dataclasses.dataclass(frozen=True)
class Consumed:
    """Rows that were consumed elsewhere."""

    rows: int
    bytes: int


Epoch = Iterator[pa.RecordBatch | Consumed]
Reader = Callable[[], Epoch]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one data set is read from."""

    origin: Origin
    node: Node
    dataset: data.DataSet
    columns: list[str] | None

    @property
    def path(self) -> str:
        return f"bench/{self.dataset.path.name}"

    @property
    def url(self) -> str:
        return self.origin.url(f"{self.path}/")


# What is tried for "tuned". Fields of DataContext, arguments of the reader.
_V1 = {"use_datasource_v2": False}
TUNINGS: dict[str, tuple[Settings, dict[str, Any]]] = {
    "V2, as it comes": ({}, {}),
    "V1, as it comes": (_V1, {}),
    "V2, as it comes, 4 tasks a CPU": ({}, {"num_cpus": 0.25}),
    "V1, 64 MiB blocks, 4 tasks a CPU": (_V1 | {"target_max_block_size": 64 << 20}, {"num_cpus": 0.25}),
    "V2, 16 MiB blocks": ({"target_max_block_size": 16 << 20}, {}),
    "V2, 32 MiB blocks": ({"target_max_block_size": 32 << 20}, {}),
    "V2, 16 MiB blocks, 4 tasks a CPU": ({"target_max_block_size": 16 << 20}, {"num_cpus": 0.25}),
    "V1, 16 MiB blocks": (_V1 | {"target_max_block_size": 16 << 20}, {}),
    "V1, 32 MiB blocks": (_V1 | {"target_max_block_size": 32 << 20}, {}),
    "V1, 16 MiB blocks, 2 tasks a CPU": (_V1 | {"target_max_block_size": 16 << 20}, {"num_cpus": 0.5}),
    "V1, 16 MiB blocks, 4 tasks a CPU": (_V1 | {"target_max_block_size": 16 << 20}, {"num_cpus": 0.25}),
    "V1, 32 MiB blocks, 4 tasks a CPU": (_V1 | {"target_max_block_size": 32 << 20}, {"num_cpus": 0.25}),
}


def ray_parquet(place: Place, *, local: bool = False, tuning: tuple[Settings, dict[str, Any]] = ({}, {})) -> Reader:
    """`ray.data.read_parquet` from S3*, or from the files themselves."""
    context, arguments = tuning
    with settings(context):
        if local:
            dataset = ray.data.read_parquet(str(place.dataset.path), columns=place.columns, **arguments)
        else:
            dataset = ray.data.read_parquet(
                place.path, filesystem=place.origin.filesystem(), columns=place.columns, **arguments
            )
    return lambda: _blocks(dataset)


def roost_blocks(place: Place) -> Reader:
    """`roost.ray.read_parquet`."""
    dataset = roost.ray.read_parquet(place.url, columns=place.columns, client=_client(place))
    return lambda: _blocks(dataset)


def late(place: Place, *, prefetch: int | None = None, maps: bool = True) -> Reader:
    """A shard of a data set of tickets, as a trainer reads it."""
    tickets = roost.ray.tickets(
        place.url, columns=place.columns, shuffle="row_groups", seed=7, client=_client(place, maps=maps)
    )
    (shard,) = tickets.streaming_split(1)
    return lambda: roost.ray.iter_batches(shard, batch_size=None, prefetch=prefetch)


def late_rows(place: Place) -> Reader:
    """Tickets through Ray, fetched by their consumer."""
    tickets = roost.ray.tickets(place.url, columns=place.columns, shuffle="row_groups", seed=7, client=_client(place))

    def epoch() -> Epoch:
        for rows in tickets.iter_batches(batch_size=None, batch_format="pyarrow"):
            for table in roost.ray.fetch(rows):
                yield from table.to_batches()

    return epoch


def late_stages(place: Place) -> Reader:
    """Tickets that Ray's tasks fetch and consume."""
    tickets = roost.ray.tickets(place.url, columns=place.columns, shuffle="row_groups", seed=7, client=_client(place))
    stage = tickets.map_batches(_consume)

    def epoch() -> Epoch:
        for table in stage.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield Consumed(sum(table["rows"].to_pylist()), sum(table["bytes"].to_pylist()))

    return epoch


def _consume(rows: Any) -> Iterator[dict[str, list[int]]]:
    consumer = Consumer()
    for table in roost.ray.fetch(rows):
        for batch in table.to_batches():
            consumer.take(batch)
    yield {"rows": [consumer.rows], "bytes": [consumer.bytes]}


def roost_plain(place: Place) -> Reader:
    """Roost's own client, without Ray."""
    client = _client(place)
    return lambda: client.plan(place.url, place.columns).batches()


def pyarrow_s3(place: Place) -> Reader:
    """pyarrow's data set, from S3*."""

    def epoch() -> Epoch:
        yield from _scan(place.path, place.origin.filesystem(), place.columns)

    return epoch


def filecache(place: Place, scratch: Path) -> Reader:
    """pyarrow's data set over fsspec's `filecache` of whole files."""
    import fsspec

    directory = tempfile.mkdtemp(prefix="filecache-", dir=scratch)
    file_system = fsspec.filesystem(
        "filecache",
        target_protocol="s3",
        target_options={
            "key": KEY,
            "secret": SECRET,
            "client_kwargs": {
                "endpoint_url": place.origin.environment["AWS_ENDPOINT_URL"],
                "region_name": REGION,
            },
        },
        cache_storage=directory,
    )

    def epoch() -> Epoch:
        yield from _scan(place.path, file_system, place.columns)

    epoch.close = lambda: shutil.rmtree(directory, ignore_errors=True)  # type: ignore[attr-defined]
    return epoch


def _scan(path: str, file_system: Any, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    dataset = ds.dataset(path, filesystem=file_system, format="parquet")
    yield from dataset.scanner(columns=columns).to_batches()


def _client(place: Place, *, maps: bool = True) -> roost.Client:
    return roost.connect(place.node.address, fallback=False, maps=maps)


def _blocks(dataset: ray.data.Dataset) -> Epoch:
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_batches()
