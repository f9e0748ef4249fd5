"""A Ray on this machine, with an object store of a given size."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("RAY_DEDUP_LOGS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
import ray.data
from ray._private.internal_api import memory_summary

# What a reader may set before its data set is made.
Settings = dict[str, Any]


@contextlib.contextmanager
def cluster(object_store: int, cpus: int, environment: dict[str, str]) -> Iterator[None]:
    """Starts Ray; its workers have `environment` too."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.update(environment)
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=object_store,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()


def spilled_bytes() -> int:
    """What the object store has written to disk so far, for want of room."""
    found = re.search(r"Spilled (\d+) MiB", memory_summary(stats_only=True))
    return int(found[1]) << 20 if found else 0


@contextlib.contextmanager
def settings(given: Settings) -> Iterator[None]:
    """Data sets made inside have these fields of Ray's `DataContext`."""
    context = ray.data.DataContext.get_current()
    before = {name: getattr(context, name) for name in given}
    try:
        for name, value in given.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
