//! Every metric of a node: name, unit, meaning. `docs/METRICS.md` is the same list for people.
//!
//! A name says its unit (`_bytes`, `_seconds`); what only grows ends in `_total`. Labels take few values, all from this
//! code: never a URL, a job or a caller.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::{
    Counter, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// The handles through which the node counts. A handle may be cloned: all clones count together.
#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,

    // What the cache answered.
    pub hits: IntCounter,
    pub misses: IntCounter,
    pub bypasses: IntCounter,
    pub direct_reads: IntCounter,

    // What it did to answer.
    pub fills: IntCounter,
    pub fill_errors: IntCounter,
    pub fills_active: IntGauge,
    pub fetch_seconds: Counter,
    pub decode_seconds: Counter,
    pub write_seconds: Counter,
    pub write_errors: IntCounter,
    pub evictions: IntCounter,
    pub damaged: IntCounter,
    pub recovered_fragments: IntCounter,
    pub recovering: IntGauge,

    // What it holds.
    pub used_bytes: IntGauge,
    pub held_bytes: IntGauge,
    pub pinned_bytes: IntGauge,
    pub evictable_bytes: IntGauge,
    pub waiting_bytes: IntGauge,
    pub capacity_bytes: IntGauge,
    pub fragments: IntGauge,
    pub row_groups: IntGauge,
    pub jobs: IntGauge,
    pub memory_used_bytes: IntGauge,
    pub memory_limit_bytes: IntGauge,

    // What it asked of origins. The first three are one metric, told apart by its label.
    pub origin_list: IntCounter,
    pub origin_head: IntCounter,
    pub origin_read: IntCounter,
    pub origin_bytes: IntCounter,
    pub origin_errors: IntCounter,

    // What it served.
    pub served_bytes: IntCounter,
    pub served_rows: IntCounter,
    pub served_batches: IntCounter,
    pub streams_active: IntGauge,
    pub maps_open: IntGauge,
    pub mapped_rows: IntCounter,
    pub map_errors: IntCounter,
    pub ahead_bytes: IntCounter,
    pub request_seconds: HistogramVec,
    pub errors: IntCounterVec,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::build().0)
    }

    /// All metrics in the Prometheus text format.
    pub fn encode(&self) -> String {
        // Writing to a string cannot fail, and the names were checked on registering; a scraper shows a comment at least.
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# encoding failed: {error}\n"))
    }

    fn build() -> (Self, Vec<Desc>) {
        let mut new = Builder::default();
        new.build_info();
        let requests = new.counter_vec(
            "roost_origin_requests_total",
            "Listings begun, heads, and ranged reads sent, repeated ones included.",
            &["kind"],
        );
        let metrics = Self {
            registry: new.registry.clone(),
            hits: new.counter("roost_cache_hits_total", "Reads of a row group answered from fragments alone."),
            misses: new
                .counter("roost_cache_misses_total", "Reads of a row group that lacked some column in the cache."),
            bypasses: new.counter(
                "roost_cache_bypasses_total",
                "Fills whose fragment was not kept, as the cache was full of what jobs hold or of what is pinned.",
            ),
            direct_reads: new.counter(
                "roost_cache_direct_reads_total",
                "Reads of a row group decoded from the origin without the cache, as it could not keep a fragment.",
            ),
            fills: new
                .counter("roost_cache_fills_total", "Fills begun: a fetch and decode that concurrent misses share."),
            fill_errors: new
                .counter("roost_cache_fill_errors_total", "Fills that failed; their readers got the error."),
            fills_active: new.gauge("roost_cache_fills_active", "Fills under way."),
            fetch_seconds: new
                .seconds("roost_fetch_seconds_total", "Time spent fetching column chunks, over all requests."),
            decode_seconds: new.seconds("roost_decode_seconds_total", "Time spent decoding Parquet, over all threads."),
            write_seconds: new.seconds("roost_write_seconds_total", "Time spent writing fragments, over all threads."),
            write_errors: new.counter(
                "roost_cache_write_errors_total",
                "Fragments that could not be written, for want of space or by a failing disk.",
            ),
            evictions: new.counter("roost_cache_evictions_total", "Fragments deleted to make room."),
            damaged: new.counter("roost_cache_damaged_total", "Fragments found damaged and deleted."),
            recovered_fragments: new
                .counter("roost_cache_recovered_fragments_total", "Fragments found on disk at the start."),
            recovering: new
                .gauge("roost_cache_recovering", "1 while the cache directories are searched after a start, else 0."),
            used_bytes: new.gauge(
                "roost_cache_used_bytes",
                "Disk space that fragments take, evicted ones that readers still map included.",
            ),
            held_bytes: new.gauge("roost_cache_held_bytes", "Disk space of fragments that living jobs hold."),
            pinned_bytes: new.gauge("roost_cache_pinned_bytes", "Disk space of fragments that are pinned."),
            evictable_bytes: new.gauge("roost_cache_evictable_bytes", "Disk space of fragments that nobody holds."),
            waiting_bytes: new
                .gauge("roost_cache_waiting_bytes", "Bytes filled ahead that wait for jobs' next epochs."),
            capacity_bytes: new.gauge("roost_cache_capacity_bytes", "Disk space that fragments may take at present."),
            fragments: new.gauge("roost_cache_fragments", "Fragments kept."),
            row_groups: new.gauge("roost_cache_row_groups", "Row groups of which some column is kept."),
            jobs: new.gauge("roost_jobs", "Jobs that live."),
            memory_used_bytes: new
                .gauge("roost_memory_used_bytes", "Memory that buffers of fetching and decoding take."),
            memory_limit_bytes: new
                .gauge("roost_memory_limit_bytes", "Memory that these buffers may take: the setting memory."),
            origin_list: requests.with_label_values(&["list"]),
            origin_head: requests.with_label_values(&["head"]),
            origin_read: requests.with_label_values(&["read"]),
            origin_bytes: new.counter("roost_origin_bytes_total", "Bytes that successful reads of objects returned."),
            origin_errors: new.counter("roost_origin_errors_total", "Listings, heads and reads that failed for good."),
            served_bytes: new.counter("roost_served_bytes_total", "Bytes of record batches sent to readers."),
            served_rows: new.counter("roost_served_rows_total", "Rows sent to readers."),
            served_batches: new.counter("roost_served_batches_total", "Record batches sent to readers."),
            streams_active: new.gauge("roost_streams_active", "DoGet streams open."),
            maps_open: new.gauge("roost_maps_open", "Tickets that clients on this host have mapped."),
            mapped_rows: new.counter("roost_mapped_rows_total", "Rows handed to clients on this host as maps."),
            ahead_bytes: new.counter("roost_ahead_bytes_total", "Decoded bytes filled ahead of jobs' next epochs."),
            map_errors: new.counter(
                "roost_map_errors_total",
                "Map requests that were refused or ended early; most of these clients go on over Flight.",
            ),
            request_seconds: new.histogram_vec(
                "roost_request_seconds",
                "Time from a Flight call to its last message, by method and gRPC code.",
                &["method", "code"],
            ),
            errors: new.counter_vec("roost_errors_total", "Calls that failed, by kind of error.", &["kind"]),
        };
        (metrics, new.described)
    }
}

/// Makes metrics, and remembers what it made: a family without a sample doesn't show in the registry.
#[derive(Default)]
struct Builder {
    registry: Registry,
    described: Vec<Desc>,
}

/// Seconds. Plans take milliseconds, warm reads tenths of a second, cold ones and slow readers minutes.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 300.0, 1800.0];

impl Builder {
    // Names and labels are constants of this file, and the tests make every one of them: what fails here fails there.
    fn register<C: Collector + Clone + 'static>(&mut self, made: prometheus::Result<C>) -> C {
        let metric = made.expect("metrics have valid names");
        self.described.extend(metric.desc().into_iter().cloned());
        self.registry.register(Box::new(metric.clone())).expect("metrics have names of their own");
        metric
    }

    fn counter(&mut self, name: &str, meaning: &str) -> IntCounter {
        self.register(IntCounter::new(name, meaning))
    }

    fn seconds(&mut self, name: &str, meaning: &str) -> Counter {
        self.register(Counter::new(name, meaning))
    }

    fn gauge(&mut self, name: &str, meaning: &str) -> IntGauge {
        self.register(IntGauge::new(name, meaning))
    }

    fn counter_vec(&mut self, name: &str, meaning: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, meaning), labels))
    }

    fn histogram_vec(&mut self, name: &str, meaning: &str, labels: &[&str]) -> HistogramVec {
        self.register(HistogramVec::new(HistogramOpts::new(name, meaning).buckets(BUCKETS.to_vec()), labels))
    }

    fn build_info(&mut self) {
        let opts = Opts::new("roost_build_info", "Always 1; the label tells the node's version.");
        self.register(IntGauge::with_opts(opts.const_label("version", env!("CARGO_PKG_VERSION")))).set(1);
    }
}

#[cfg(test)]
mod tests;
