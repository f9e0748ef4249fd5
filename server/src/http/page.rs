//! The status page: what a person asks first, from the same figures that scrapers get.

use bytesize::ByteSize;

use super::Readiness;
use crate::metrics::Metrics;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:normal;color:#666;width:14rem}\
    td,th{padding:.2rem 0;border-bottom:1px solid #8883}td{font-variant-numeric:tabular-nums}";

pub(super) fn render(metrics: &Metrics, readiness: Readiness) -> String {
    let figures = figures(metrics);
    let rows: String = figures.iter().map(|(name, value)| format!("<tr><th>{name}<td>{value}\n")).collect();
    // Every value is a number or a word of this code's own: nothing needs escaping.
    format!(
        "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\n\
         <meta http-equiv=refresh content=5><title>Roost: {readiness}</title><style>{STYLE}</style>\n\
         <h1>Roost</h1>\n<p>Version {version}, {readiness}. \
         <a href=/metrics>Metrics</a> · <a href=/healthz>health</a> · <a href=/readyz>readiness</a></p>\n\
         <table>\n{rows}</table>\n</html>\n",
        readiness = readiness.name(),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn figures(metrics: &Metrics) -> Vec<(&'static str, String)> {
    let m = metrics;
    let recovering = if m.recovering.get() != 0 { ", still searching the cache directories" } else { "" };
    vec![
        ("Hits", format!("{} of {}", m.hits.get(), share(m.hits.get(), m.hits.get().saturating_add(m.misses.get())))),
        ("Cache used", format!("{} of {}", bytes(m.used_bytes.get()), bytes(m.capacity_bytes.get()))),
        (
            "Held, pinned, evictable",
            [&m.held_bytes, &m.pinned_bytes, &m.evictable_bytes].map(|gauge| bytes(gauge.get()).to_string()).join(", "),
        ),
        ("Row groups, fragments", format!("{}, {}{recovering}", m.row_groups.get(), m.fragments.get())),
        ("Evictions, bypasses", format!("{}, {}", m.evictions.get(), m.bypasses.get())),
        ("Served", format!("{} rows, {}", m.served_rows.get(), ByteSize(m.served_bytes.get()))),
        ("Read from origins", format!("{}, {} errors", ByteSize(m.origin_bytes.get()), m.origin_errors.get())),
        ("Streams, fills, jobs", [&m.streams_active, &m.fills_active, &m.jobs].map(|g| g.get().to_string()).join(", ")),
        ("Buffers", format!("{} of {}", bytes(m.memory_used_bytes.get()), bytes(m.memory_limit_bytes.get()))),
    ]
}

/// A gauge is signed, and one that is lowered before it is raised may be below zero for a moment.
fn bytes(gauge: i64) -> ByteSize {
    ByteSize(gauge.max(0).unsigned_abs())
}

/// The percentage is left out where there is nothing to take it of.
fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "0 reads".into() } else { format!("{whole} reads ({:.1} %)", part as f64 * 100.0 / whole as f64) }
}
