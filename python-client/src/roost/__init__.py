"""Read Parquet data sets through Roost, a cache that keeps them decoded and close.

    import roost

    client = roost.connect("grpc://127.0.0.1:8815")       # or ROOST_NODE; nothing is asked yet
    client.warm("s3://bucket/train/")                     # optional: fill the cache ahead
    table = client.read_table("s3://bucket/train/", columns=["label", "image"])

    plan = client.plan("s3://bucket/train/")              # tickets, to read as a stream or in other processes
    for batch in plan.batches():
        ...

    plan = client.plan("s3://bucket/train/", seed=7, epoch=3, rank=0, world_size=8)   # one order, shared by ranks
    for batch in (reader := plan.batches(batch_size=256)):
        state = reader.state_dict()                       # goes on here, also with other ranks

Where no node answers, the same rows come straight from the origin, and one `DirectReadWarning` says so.
"""

from roost import order
from roost._epoch import merge as merge_states
from roost._epoch_read import Batches
from roost.client import Client, connect
from roost.errors import (
    CancelledError,
    CorruptDataError,
    DirectReadWarning,
    ExhaustedError,
    InternalError,
    InvalidRequestError,
    NotCachedError,
    NotFoundError,
    PermissionDeniedError,
    RoostError,
    RoostTimeoutError,
    StalePlanError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from roost.explain import Explanation, NodeShare
from roost.plan import Piece, Plan, Ticket
from roost.results import (
    CachedDataset,
    CacheDirectory,
    CacheStats,
    EvictResult,
    Failure,
    Job,
    WarmProgress,
    WarmResult,
)

__version__ = "0.1.0"

__all__ = [
    "Batches",
    "CacheDirectory",
    "CacheStats",
    "CachedDataset",
    "CancelledError",
    "Client",
    "CorruptDataError",
    "DirectReadWarning",
    "EvictResult",
    "ExhaustedError",
    "Explanation",
    "Failure",
    "InternalError",
    "InvalidRequestError",
    "Job",
    "NodeShare",
    "NotCachedError",
    "NotFoundError",
    "PermissionDeniedError",
    "Piece",
    "Plan",
    "RoostError",
    "RoostTimeoutError",
    "StalePlanError",
    "Ticket",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "WarmProgress",
    "WarmResult",
    "connect",
    "merge_states",
    "order",
]
