"""Types of the messages of `roost.v1`. Written by `scripts/update_wire.py`."""

import builtins
from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

SHUFFLE_NONE: int
SHUFFLE_ROW_GROUPS: int
SHUFFLE_ROWS: int
EVEN_NONE: int
EVEN_DROP: int
EVEN_REPEAT: int

class PlanRequest(Message):
    url: str
    columns: Projection
    limit: int
    count: int
    job: str
    refresh: bool
    shuffle: int
    seed: int
    epoch: int
    block: int
    skip: int
    rank: int
    world_size: int
    even: int
    blocks: RepeatedScalarFieldContainer[int]
    want_block_rows: bool
    want_explain: bool
    def __init__(
        self,
        *,
        url: str | None = ...,
        columns: Projection | None = ...,
        limit: int | None = ...,
        count: int | None = ...,
        job: str | None = ...,
        refresh: bool | None = ...,
        shuffle: int | None = ...,
        seed: int | None = ...,
        epoch: int | None = ...,
        block: int | None = ...,
        skip: int | None = ...,
        rank: int | None = ...,
        world_size: int | None = ...,
        even: int | None = ...,
        blocks: Iterable[int] | None = ...,
        want_block_rows: bool | None = ...,
        want_explain: bool | None = ...,
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
    blocks: int
    block: int
    plan_rows: int
    first_block: int
    end_block: int
    first_row: int
    end_row: int
    rank_rows: int
    snapshot: builtins.bytes
    layout: builtins.bytes
    block_rows: RepeatedScalarFieldContainer[int]
    explain: Explain
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
        blocks: int | None = ...,
        block: int | None = ...,
        plan_rows: int | None = ...,
        first_block: int | None = ...,
        end_block: int | None = ...,
        first_row: int | None = ...,
        end_row: int | None = ...,
        rank_rows: int | None = ...,
        snapshot: builtins.bytes | None = ...,
        layout: builtins.bytes | None = ...,
        block_rows: Iterable[int] | None = ...,
        explain: Explain | None = ...,
    ) -> None: ...

class Explain(Message):
    row_groups_total: int
    row_groups: int
    bytes: int
    nodes: RepeatedCompositeFieldContainer[NodeShare]
    origin_bytes: int
    def __init__(
        self,
        *,
        row_groups_total: int | None = ...,
        row_groups: int | None = ...,
        bytes: int | None = ...,
        nodes: Iterable[NodeShare] | None = ...,
        origin_bytes: int | None = ...,
    ) -> None: ...

class NodeShare(Message):
    node: str
    row_groups: int
    bytes: int
    row_groups_cached: int
    bytes_cached: int
    def __init__(
        self,
        *,
        node: str | None = ...,
        row_groups: int | None = ...,
        bytes: int | None = ...,
        row_groups_cached: int | None = ...,
        bytes_cached: int | None = ...,
    ) -> None: ...

class EndpointInfo(Message):
    rows: int
    bytes: int
    pieces: RepeatedCompositeFieldContainer[Piece]
    block: int
    member: int
    members: int
    from_row: int
    until_row: int
    def __init__(
        self,
        *,
        rows: int | None = ...,
        bytes: int | None = ...,
        pieces: Iterable[Piece] | None = ...,
        block: int | None = ...,
        member: int | None = ...,
        members: int | None = ...,
        from_row: int | None = ...,
        until_row: int | None = ...,
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

class MapRequest(Message):
    ticket: builtins.bytes
    authorization: str
    def __init__(
        self,
        *,
        ticket: builtins.bytes | None = ...,
        authorization: str | None = ...,
    ) -> None: ...

class MapReply(Message):
    header: MapHeader
    piece: MappedPiece
    error: MapError
    def __init__(
        self,
        *,
        header: MapHeader | None = ...,
        piece: MappedPiece | None = ...,
        error: MapError | None = ...,
    ) -> None: ...

class MapHeader(Message):
    schema: builtins.bytes
    pieces: int
    first: int
    def __init__(
        self,
        *,
        schema: builtins.bytes | None = ...,
        pieces: int | None = ...,
        first: int | None = ...,
    ) -> None: ...

class MappedPiece(Message):
    piece: int
    batches: int
    rows: int
    rows_cut: int
    files: int
    columns: RepeatedCompositeFieldContainer[MappedColumn]
    def __init__(
        self,
        *,
        piece: int | None = ...,
        batches: int | None = ...,
        rows: int | None = ...,
        rows_cut: int | None = ...,
        files: int | None = ...,
        columns: Iterable[MappedColumn] | None = ...,
    ) -> None: ...

class MappedColumn(Message):
    file: FileColumn
    constant: builtins.bytes
    null: bool
    def __init__(
        self,
        *,
        file: FileColumn | None = ...,
        constant: builtins.bytes | None = ...,
        null: bool | None = ...,
    ) -> None: ...

class FileColumn(Message):
    file: int
    column: int
    def __init__(
        self,
        *,
        file: int | None = ...,
        column: int | None = ...,
    ) -> None: ...

class MapError(Message):
    code: int
    message: str
    use_flight: bool
    def __init__(
        self,
        *,
        code: int | None = ...,
        message: str | None = ...,
        use_flight: bool | None = ...,
    ) -> None: ...

class MapDoor(Message):
    socket: str
    def __init__(
        self,
        *,
        socket: str | None = ...,
    ) -> None: ...
