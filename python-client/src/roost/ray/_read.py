"""`roost.ray.read_parquet` and `roost.ray.tickets`."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
import ray.data
from ray.data import Dataset
from ray.data.datasource import Datasource

from roost.client import Client
from roost.ray import _arguments, _counts, _placement, _request
from roost.ray._orders import Order
from roost.ray._source import RoostDatasource
from roost.ray._tickets import TicketDatasource

# A read task's bytes. Its rows become one block of Ray's object store, where each CPU must have room for some: else Ray
# spills them.
_TASK_BYTES = 64 << 20
_LEAST_TASK_BYTES = 8 << 20
_TASKS_IN_STORE = 8
# Of a data set of tickets a task moves next to nothing, so it is as large as keeps all busy to the end.
_TICKET_TASK_BYTES = 256 << 20
_TASKS_MAX = 4096
# Tasks for each CPU, so that none waits long for the last one.
_TASKS_A_CPU = 2


def read_parquet(
    paths: str | os.PathLike[str] | Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    shuffle: Any = None,
    seed: int | None = None,
    epoch: int | None = None,
    block: int | None = None,
    client: Client | str | Sequence[str] | None = None,
    job: str | None = None,
    late: bool = False,
    override_num_blocks: int | None = None,
    parallelism: int = -1,
    ignore_missing_paths: bool = False,
    **arguments: Any,
) -> Dataset:
    """`ray.data.read_parquet` through Roost: a data set of the rows, in blocks.

    Args:
        paths: an object, a prefix (`s3://bucket/dir/`), a glob, or a list of these. Nodes open them, with credentials
            of their own.
        columns: names of top-level columns. `ds.select_columns` does the same.
        shuffle: "rows": row groups in a drawn order, and rows mixed within blocks of `block` row groups. "row_groups":
            row groups in a drawn order. Ray's "files" and `FileShuffleConfig` are taken for "row_groups". None: "rows"
            if there is a `seed`, else none.
        seed: what orders are drawn from. Ray gives out blocks as they are done, unless
            `DataContext.get_current().execution_options.preserve_order` is set: then rows come in exactly this order.
        epoch: the epoch whose order is read. None: 0, and another one each time that Ray executes the data set.
        block: how many row groups are mixed with each other, with shuffle="rows".
        client: what `roost.connect` takes, or a client. None: `$ROOST_NODE`; else nodes that `start_nodes` started.
        job: a name for who reads; what a job reads is held in the cache while it lives.
        late: give a data set of tickets instead, as `roost.ray.tickets` does.
        override_num_blocks: how many read tasks there are; by default some 64 MiB are read by one.
        ignore_missing_paths: of several paths, leave out those that are not there.
        arguments: what `ray.data.read_parquet` takes for its tasks: `num_cpus`, `concurrency`, `memory`,
            `ray_remote_args`, ... Its other arguments are refused where they would do nothing here.

    Returns:
        A data set whose `count()`, `schema()` and `size_bytes()` read nothing.

    Raises:
        ValueError: an argument without meaning here, with the reason and what to do.
        NotFoundError, InvalidRequestError, UnavailableError: as `Client.plan` raises them.
    """
    scheduling = {name: arguments.pop(name) for name in _arguments.SCHEDULING if name in arguments}
    _arguments.check(arguments)
    shuffle, seed, epoch = _arguments.order_of(shuffle, seed, epoch)
    _begin()
    request = _request.make(
        paths,
        columns,
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
        block=block,
        client=_request.client_of(client),
        job=job,
        ignore_missing=ignore_missing_paths,
    )
    if late:
        return _dataset(request, TicketDatasource, _TICKET_TASK_BYTES, override_num_blocks, scheduling)
    if override_num_blocks is None and parallelism > 0:
        override_num_blocks = parallelism
    return _dataset(request, RoostDatasource, _TASK_BYTES, override_num_blocks, scheduling)


def tickets(
    paths: str | os.PathLike[str] | Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    shuffle: Any = None,
    seed: int | None = None,
    epoch: int | None = None,
    block: int | None = None,
    even: str = "none",
    client: Client | str | Sequence[str] | None = None,
    job: str | None = None,
    override_num_blocks: int | None = None,
    **scheduling: Any,
) -> Dataset:
    """A data set whose rows are tickets: Ray moves some hundred bytes for each, and the data stays where it is until
    somebody takes it.

    In stages, `roost.ray.fetch` does so; in trainers, `roost.ray.iter_batches`. Neither needs room in Ray's object
    store. Rows have the columns `rows` and `bytes` (what a ticket is for), `url` and `row_group` (where it begins), and
    two that `fetch` takes. With shuffle="rows" a row stands for a block of row groups, whose rows are mixed when they
    are fetched.

    Args:
        paths, columns, shuffle, seed, epoch, block, client, job: as for `read_parquet`.
        even: for `iter_batches`: "drop" or "repeat" make ranks equally long.
        override_num_blocks: into how many blocks of rows, and thus tasks, the tickets are cut.
        scheduling: what `ray.data.read_parquet` takes for its tasks: `num_cpus`, `concurrency`, ...

    Raises:
        ValueError: an argument without meaning here.
        NotFoundError, InvalidRequestError, UnavailableError: as `Client.plan` raises them.
    """
    unknown = [name for name in scheduling if name not in _arguments.SCHEDULING]
    if unknown:
        raise TypeError(f"tickets() has no argument {unknown[0]!r}")
    shuffle, seed, epoch = _arguments.order_of(shuffle, seed, epoch)
    _begin()
    request = _request.make(
        paths,
        columns,
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
        block=block,
        even=even,
        client=_request.client_of(client),
        job=job,
    )
    return _dataset(request, TicketDatasource, _TICKET_TASK_BYTES, override_num_blocks, scheduling)


def _begin() -> None:
    """Ray starts itself where it is not running yet, as it does for `ray.data.read_parquet`."""
    if not ray.is_initialized():
        ray.init()


def _dataset(
    request: _request.Request,
    source: Callable[..., Datasource],
    task_bytes: int,
    count: int | None,
    scheduling: dict[str, Any],
) -> Dataset:
    if count is not None and count < 1:
        raise ValueError(f"override_num_blocks is {count}: at least one task is needed")
    _known_to_ray(scheduling)
    _counts.begin()
    found = request.orders(request.epoch or 0)
    if count is None:
        count = _tasks(found, task_bytes, ray.cluster_resources())
    parts = _placement.parts(found, _free_to_place(scheduling))
    if len(parts) < 2:
        return _read(source(request), count, scheduling)
    whole = max(1, sum(order.nbytes for order in found))
    datasets = []
    for part in parts:
        share = max(1, round(count * part.nbytes / whole))
        datasets.append(_read(source(request, part.select), share, scheduling | part.scheduling(scheduling)))
    united: Dataset = datasets[0].union(*datasets[1:])
    return united


def _read(source: Datasource, count: int, scheduling: dict[str, Any]) -> Dataset:
    # A number that was asked for is kept: left alone, Ray cuts what tasks give into 200 blocks and more.
    return ray.data.read_datasource(source, override_num_blocks=count, **scheduling)


def _tasks(orders: Sequence[Order], task_bytes: int, resources: Mapping[str, float]) -> int:
    cpus = max(1.0, resources.get("CPU", 1))
    if task_bytes == _TASK_BYTES:
        room = int(resources.get("object_store_memory", task_bytes * _TASKS_IN_STORE * cpus) / cpus)
        task_bytes = min(task_bytes, max(_LEAST_TASK_BYTES, room // _TASKS_IN_STORE))
    by_size = math.ceil(sum(order.nbytes for order in orders) / task_bytes)
    return max(1, min(max(by_size, math.ceil(cpus * _TASKS_A_CPU)), len(orders), _TASKS_MAX))


def _known_to_ray(scheduling: dict[str, Any]) -> None:
    known = inspect.signature(ray.data.read_datasource).parameters
    for name, value in list(scheduling.items()):
        if value is None:
            del scheduling[name]
        elif name not in known:
            raise ValueError(f"{name}={value!r}: Ray {ray.__version__} has no such argument; give ray_remote_args")


def _free_to_place(scheduling: dict[str, Any]) -> bool:
    """Whether neither the user nor an order that is kept says where tasks run."""
    if ray.data.DataContext.get_current().execution_options.preserve_order:
        return False
    given = {**scheduling, **(scheduling.get("ray_remote_args") or {})}
    return not any(name in given for name in (*_arguments.PLACING, "scheduling_strategy"))
