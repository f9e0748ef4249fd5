"""Types of the messages of `roost.v1`. Written by `scripts/update_wire.py`."""

import builtins
from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class PlanRequest(Message):
    url: str
    columns: Projection
    limit: int
    count: int
    job: str
    refresh: bool
    def __init__(
        self,
        *,
        url: str | None = ...,
        columns: Projection | None = ...,
        limit: int | None = ...,
        count: int | None = ...,
        job: str | None = ...,
        refresh: bool | None = ...,
    ) -> None: ...

class Projection(Message):
    names: RepeatedScalarFieldContainer[str]
    def __init__(
        self,
        *,
        names: Iterable[str] | None = ...,
    ) -> None: ...

class PlanInfo(Message):
    fingerprint: builtins.bytes
    rows: int
    bytes: int
    tickets: int
    next: int
    job: str
    objects: int
    row_groups: int
    url: str
    def __init__(
        self,
        *,
        fingerprint: builtins.bytes | None = ...,
        rows: int | None = ...,
        bytes: int | None = ...,
        tickets: int | None = ...,
        next: int | None = ...,
        job: str | None = ...,
        objects: int | None = ...,
        row_groups: int | None = ...,
        url: str | None = ...,
    ) -> None: ...

class EndpointInfo(Message):
    rows: int
    bytes: int
    pieces: RepeatedCompositeFieldContainer[Piece]
    def __init__(
        self,
        *,
        rows: int | None = ...,
        bytes: int | None = ...,
        pieces: Iterable[Piece] | None = ...,
    ) -> None: ...

class Piece(Message):
    url: str
    row_group: int
    row_groups: int
    rows: int
    rows_cut: int
    def __init__(
        self,
        *,
        url: str | None = ...,
        row_group: int | None = ...,
        row_groups: int | None = ...,
        rows: int | None = ...,
        rows_cut: int | None = ...,
    ) -> None: ...

class BatchPosition(Message):
    piece: int
    batch: int
    row_group: int
    def __init__(
        self,
        *,
        piece: int | None = ...,
        batch: int | None = ...,
        row_group: int | None = ...,
    ) -> None: ...

class SignedTicket(Message):
    key_id: int
    mac: builtins.bytes
    payload: builtins.bytes
    after: BatchPosition
    def __init__(
        self,
        *,
        key_id: int | None = ...,
        mac: builtins.bytes | None = ...,
        payload: builtins.bytes | None = ...,
        after: BatchPosition | None = ...,
    ) -> None: ...

class TicketPayload(Message):
    dataset: str
    base: str
    pieces: RepeatedCompositeFieldContainer[TicketPiece]
    columns: Projection
    schema: builtins.bytes
    job: str
    def __init__(
        self,
        *,
        dataset: str | None = ...,
        base: str | None = ...,
        pieces: Iterable[TicketPiece] | None = ...,
        columns: Projection | None = ...,
        schema: builtins.bytes | None = ...,
        job: str | None = ...,
    ) -> None: ...

class TicketPiece(Message):
    suffix: str
    object: builtins.bytes
    size: int
    row_group: int
    row_groups: int
    rows: int
    rows_cut: int
    def __init__(
        self,
        *,
        suffix: str | None = ...,
        object: builtins.bytes | None = ...,
        size: int | None = ...,
        row_group: int | None = ...,
        row_groups: int | None = ...,
        rows: int | None = ...,
        rows_cut: int | None = ...,
    ) -> None: ...

class WarmRequest(Message):
    plan: PlanRequest
    pin: bool
    def __init__(
        self,
        *,
        plan: PlanRequest | None = ...,
        pin: bool | None = ...,
    ) -> None: ...

class WarmProgress(Message):
    row_groups_total: int
    row_groups_done: int
    bytes_total: int
    bytes_done: int
    rows_total: int
    rows_done: int
    row_groups_hit: int
    row_groups_bypassed: int
    origin_bytes: int
    failures: RepeatedCompositeFieldContainer[Failure]
    row_groups_failed: int
    finished: bool
    def __init__(
        self,
        *,
        row_groups_total: int | None = ...,
        row_groups_done: int | None = ...,
        bytes_total: int | None = ...,
        bytes_done: int | None = ...,
        rows_total: int | None = ...,
        rows_done: int | None = ...,
        row_groups_hit: int | None = ...,
        row_groups_bypassed: int | None = ...,
        origin_bytes: int | None = ...,
        failures: Iterable[Failure] | None = ...,
        row_groups_failed: int | None = ...,
        finished: bool | None = ...,
    ) -> None: ...

class Failure(Message):
    row_group: str
    message: str
    def __init__(
        self,
        *,
        row_group: str | None = ...,
        message: str | None = ...,
    ) -> None: ...

class DatasetRequest(Message):
    url: str
    def __init__(
        self,
        *,
        url: str | None = ...,
    ) -> None: ...

class EvictResult(Message):
    fragments: int
    bytes: int
    def __init__(
        self,
        *,
        fragments: int | None = ...,
        bytes: int | None = ...,
    ) -> None: ...

class PinResult(Message):
    pinned: RepeatedScalarFieldContainer[str]
    def __init__(
        self,
        *,
        pinned: Iterable[str] | None = ...,
    ) -> None: ...

class CacheStats(Message):
    version: str
    uptime_seconds: int
    capacity_bytes: int
    used_bytes: int
    held_bytes: int
    pinned_bytes: int
    evictable_bytes: int
    fragments: int
    row_groups: int
    hits: int
    misses: int
    bypasses: int
    evictions: int
    origin_requests: int
    origin_bytes: int
    served_bytes: int
    served_rows: int
    damaged: int
    recovering: bool
    memory_limit_bytes: int
    memory_used_bytes: int
    directories: RepeatedCompositeFieldContainer[CacheDirectory]
    jobs: RepeatedCompositeFieldContainer[Job]
    pinned: RepeatedScalarFieldContainer[str]
    def __init__(
        self,
        *,
        version: str | None = ...,
        uptime_seconds: int | None = ...,
        capacity_bytes: int | None = ...,
        used_bytes: int | None = ...,
        held_bytes: int | None = ...,
        pinned_bytes: int | None = ...,
        evictable_bytes: int | None = ...,
        fragments: int | None = ...,
        row_groups: int | None = ...,
        hits: int | None = ...,
        misses: int | None = ...,
        bypasses: int | None = ...,
        evictions: int | None = ...,
        origin_requests: int | None = ...,
        origin_bytes: int | None = ...,
        served_bytes: int | None = ...,
        served_rows: int | None = ...,
        damaged: int | None = ...,
        recovering: bool | None = ...,
        memory_limit_bytes: int | None = ...,
        memory_used_bytes: int | None = ...,
        directories: Iterable[CacheDirectory] | None = ...,
        jobs: Iterable[Job] | None = ...,
        pinned: Iterable[str] | None = ...,
    ) -> None: ...

class CacheDirectory(Message):
    path: str
    used_bytes: int
    free_bytes: int
    min_free_bytes: int
    error: str
    def __init__(
        self,
        *,
        path: str | None = ...,
        used_bytes: int | None = ...,
        free_bytes: int | None = ...,
        min_free_bytes: int | None = ...,
        error: str | None = ...,
    ) -> None: ...

class Job(Message):
    name: str
    dataset: str
    idle_seconds: int
    held_bytes: int
    share_bytes: int
    def __init__(
        self,
        *,
        name: str | None = ...,
        dataset: str | None = ...,
        idle_seconds: int | None = ...,
        held_bytes: int | None = ...,
        share_bytes: int | None = ...,
    ) -> None: ...

class CachedDataset(Message):
    url: str
    objects: int
    row_groups: int
    fragments: int
    bytes: int
    pinned: bool
    held: bool
    row_groups_total: int
    bytes_total: int
    def __init__(
        self,
        *,
        url: str | None = ...,
        objects: int | None = ...,
        row_groups: int | None = ...,
        fragments: int | None = ...,
        bytes: int | None = ...,
        pinned: bool | None = ...,
        held: bool | None = ...,
        row_groups_total: int | None = ...,
        bytes_total: int | None = ...,
    ) -> None: ...
