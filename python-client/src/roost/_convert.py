"""PURE: messages of the protocol → the data of this package."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from roost import _wire, results
from roost._flight_info import Endpoint
from roost.errors import InternalError
from roost.plan import PackedSchema, Piece, Ticket


def ticket(
    endpoint: Endpoint, dataset: str, schema: PackedSchema, urls: dict[str, str], doing: str, number: int
) -> Ticket:
    """A ticket from an endpoint of a plan, its `number`-th. `urls` keeps one copy of each URL, which pickles once."""
    try:
        info = _wire.EndpointInfo.FromString(endpoint.app_metadata)
    except DecodeError as error:
        raise InternalError(f"{doing}: a ticket cannot be understood; is a Roost node there? ({error})") from error
    pieces = tuple(
        Piece(urls.setdefault(p.url, p.url), p.row_group, p.row_groups, p.rows, p.rows_cut) for p in info.pieces
    )
    if not endpoint.ticket or sum(piece.num_rows for piece in pieces) != info.rows:
        raise InternalError(f"{doing}: a ticket is empty, or the rows of its pieces do not add up to {info.rows}")
    locations = tuple(urls.setdefault(location, location) for location in endpoint.locations)
    return Ticket(
        endpoint.ticket,
        dataset,
        pieces,
        info.rows,
        info.bytes,
        locations,
        schema,
        # A node that knows of no blocks plans in the order of the data, where each ticket is one.
        block=info.block if info.members else number,
        members=info.members or 1,
        from_row=info.from_row,
        until_row=info.until_row if info.HasField("until_row") else None,
    )


def warm_progress(message: _wire.WarmProgress) -> results.WarmProgress:
    """How far a warm has come."""
    return results.WarmProgress(
        row_groups_total=message.row_groups_total,
        row_groups_done=message.row_groups_done,
        bytes_total=message.bytes_total,
        bytes_done=message.bytes_done,
        rows_total=message.rows_total,
        rows_done=message.rows_done,
        row_groups_hit=message.row_groups_hit,
        row_groups_bypassed=message.row_groups_bypassed,
        row_groups_failed=message.row_groups_failed,
        origin_bytes=message.origin_bytes,
    )


def warm_result(message: _wire.WarmProgress, url: str, pinned: bool) -> results.WarmResult:
    """How a warm ended, from its last message."""
    failures = tuple(results.Failure(f.row_group, f.message) for f in message.failures)
    return results.WarmResult(
        url=url,
        row_groups=message.row_groups_total,
        rows=message.rows_done,
        nbytes=message.bytes_done,
        row_groups_hit=message.row_groups_hit,
        row_groups_bypassed=message.row_groups_bypassed,
        row_groups_failed=max(message.row_groups_failed, len(failures)),
        origin_bytes=message.origin_bytes,
        failures=failures,
        pinned=pinned,
    )


def missing(result: results.WarmResult) -> str:
    """Says what a warm did not cache, and what to do."""
    parts = []
    if result.row_groups_failed:
        named = "; ".join(f"{f.row_group}: {f.message}" for f in result.failures[:5])
        more = result.row_groups_failed - min(5, len(result.failures))
        named += f"; and {more} more" if more and named else ""
        parts.append(f"{result.row_groups_failed} failed" + (f" ({named})" if named else ""))
    if result.row_groups_bypassed:
        parts.append(
            f"{result.row_groups_bypassed} found no room: give the node more --capacity, or warm fewer columns"
        )
    return f"{result.url}: of {result.row_groups} row groups, " + ", and ".join(parts)


def cache_stats(message: _wire.CacheStats) -> results.CacheStats:
    """A node's statistics."""
    return results.CacheStats(
        version=message.version,
        uptime_seconds=message.uptime_seconds,
        capacity_bytes=message.capacity_bytes,
        used_bytes=message.used_bytes,
        held_bytes=message.held_bytes,
        pinned_bytes=message.pinned_bytes,
        evictable_bytes=message.evictable_bytes,
        fragments=message.fragments,
        row_groups=message.row_groups,
        hits=message.hits,
        misses=message.misses,
        bypasses=message.bypasses,
        evictions=message.evictions,
        origin_requests=message.origin_requests,
        origin_bytes=message.origin_bytes,
        served_bytes=message.served_bytes,
        served_rows=message.served_rows,
        damaged=message.damaged,
        recovering=message.recovering,
        memory_limit_bytes=message.memory_limit_bytes,
        memory_used_bytes=message.memory_used_bytes,
        directories=tuple(
            results.CacheDirectory(d.path, d.used_bytes, d.free_bytes, d.min_free_bytes, d.error)
            for d in message.directories
        ),
        jobs=tuple(
            results.Job(job.name, job.dataset, job.idle_seconds, job.held_bytes, job.share_bytes)
            for job in message.jobs
        ),
        pinned=tuple(message.pinned),
    )


def cached_dataset(message: _wire.CachedDataset) -> results.CachedDataset:
    """What the cache holds of one data set."""
    return results.CachedDataset(
        url=message.url,
        objects=message.objects,
        row_groups=message.row_groups,
        fragments=message.fragments,
        nbytes=message.bytes,
        pinned=message.pinned,
        held=message.held,
        row_groups_total=message.row_groups_total,
        nbytes_total=message.bytes_total,
    )
