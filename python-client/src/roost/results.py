"""What the node tells: statistics, cached data sets, and the results of warming, evicting and pinning."""

from __future__ import annotations

from dataclasses import dataclass

from roost.plan import human_bytes

__all__ = [
    "CacheDirectory",
    "CacheStats",
    "CachedDataset",
    "EvictResult",
    "Failure",
    "Job",
    "WarmProgress",
    "WarmResult",
]


@dataclass(frozen=True, slots=True)
class Failure:
    """A row group that could not be cached."""

    #: `<object url>#rg<N>`
    row_group: str
    message: str


@dataclass(frozen=True, slots=True)
class WarmProgress:
    """How far a warm has come. Byte counts are of decoded Arrow data; the total is an estimate until the end."""

    row_groups_total: int
    row_groups_done: int
    bytes_total: int
    bytes_done: int
    rows_total: int
    rows_done: int
    #: Row groups that were cached already, that were read but for which nothing could make room, and that failed.
    row_groups_hit: int
    row_groups_bypassed: int
    row_groups_failed: int
    #: Bytes read from the origin for this warm.
    origin_bytes: int


@dataclass(frozen=True, slots=True)
class WarmResult:
    """How a warm ended. Byte counts are of decoded Arrow data."""

    url: str
    row_groups: int
    rows: int
    nbytes: int
    #: Of `row_groups`: cached already before, read but not kept because nothing could make room, and failed.
    row_groups_hit: int
    row_groups_bypassed: int
    row_groups_failed: int
    #: Bytes read from the origin for this warm.
    origin_bytes: int
    #: What failed; a node names only the first ones, `row_groups_failed` counts all.
    failures: tuple[Failure, ...]
    pinned: bool

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is cached now."""
        return self.row_groups_failed == 0 and self.row_groups_bypassed == 0

    def __str__(self) -> str:
        cached = self.row_groups - self.row_groups_bypassed - self.row_groups_failed
        return (
            f"{self.url}: {cached:,} of {self.row_groups:,} row groups cached ({self.row_groups_hit:,} before),"
            f" {self.rows:,} rows, {human_bytes(self.nbytes)}; read {human_bytes(self.origin_bytes)} from the origin"
        )


@dataclass(frozen=True, slots=True)
class EvictResult:
    """What an evict removed from the cache."""

    fragments: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class CacheDirectory:
    """A directory of the cache. `error` is empty when it works."""

    path: str
    used_bytes: int
    free_bytes: int
    min_free_bytes: int
    error: str


@dataclass(frozen=True, slots=True)
class Job:
    """A reader of plans. What it reads is held in the cache while it lives."""

    name: str
    dataset: str
    idle_seconds: int
    held_bytes: int
    #: Its fair share of the cache.
    share_bytes: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """A node's cache: sizes now, and counts since the node started (hits and misses by row group read)."""

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
    directories: tuple[CacheDirectory, ...]
    jobs: tuple[Job, ...]
    pinned: tuple[str, ...]

    @property
    def hit_rate(self) -> float:
        """Hits over reads, 0 to 1; 0 before the first read."""
        reads = self.hits + self.misses + self.bypasses
        return self.hits / reads if reads else 0.0


@dataclass(frozen=True, slots=True)
class CachedDataset:
    """What the cache holds of one data set. The totals are 0 where the data set is not known in whole."""

    url: str
    objects: int
    row_groups: int
    fragments: int
    nbytes: int
    pinned: bool
    held: bool
    row_groups_total: int
    nbytes_total: int
