//! `roost stat`: what the cache holds and has done.

use std::fmt::Write as _;

use roost_proto::v1::CacheStats;
use serde::Serialize;

use super::args::NodeArgs;
use super::console::{Console, Failure};
use super::table::{self, Heading};
use super::{Exit, units};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  roost stat
  roost stat --node grpc://node-7:8815
  roost stat --json | jq '.used_bytes / .capacity_bytes'

Hits, misses and bypasses count row groups read since the node started. A bypass is a row group \
that was read but not kept, because everything in the cache is pinned or held.

JSON: one document.
  node, version, uptime_seconds, recovering,
  capacity_bytes, used_bytes, held_bytes, pinned_bytes, evictable_bytes,
  memory_limit_bytes, memory_used_bytes,
  fragments, row_groups, hits, misses, bypasses, evictions, damaged,
  origin_requests, origin_bytes, served_bytes, served_rows,
  directories: [{path, used_bytes, free_bytes, min_free_bytes, error (empty: it works)}],
  jobs: [{name, dataset, idle_seconds, held_bytes, share_bytes}],
  pinned: [URL]")]
pub struct Stat {
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    node: String,
    version: &'a str,
    uptime_seconds: u64,
    recovering: bool,
    capacity_bytes: u64,
    used_bytes: u64,
    held_bytes: u64,
    pinned_bytes: u64,
    evictable_bytes: u64,
    memory_limit_bytes: u64,
    memory_used_bytes: u64,
    fragments: u64,
    row_groups: u64,
    hits: u64,
    misses: u64,
    bypasses: u64,
    evictions: u64,
    damaged: u64,
    origin_requests: u64,
    origin_bytes: u64,
    served_bytes: u64,
    served_rows: u64,
    directories: Vec<Directory<'a>>,
    jobs: Vec<Job<'a>>,
    pinned: &'a [String],
}

#[derive(Serialize)]
struct Directory<'a> {
    path: &'a str,
    used_bytes: u64,
    free_bytes: u64,
    min_free_bytes: u64,
    error: &'a str,
}

#[derive(Serialize)]
struct Job<'a> {
    name: &'a str,
    dataset: &'a str,
    idle_seconds: u64,
    held_bytes: u64,
    share_bytes: u64,
}

impl Stat {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let client = self.node.connect().await?;
        let stats = client.stat().await?;
        let node = client.node().to_string();
        if self.node.json {
            console.json(&report(node, &stats))?;
        } else {
            write!(console.out(), "{}", text(&node, &stats))?;
            console.flush()?;
        }
        Ok(Exit::Success)
    }
}

fn report(node: String, stats: &CacheStats) -> Report<'_> {
    let directories = stats.directories.iter().map(|d| Directory {
        path: &d.path,
        used_bytes: d.used_bytes,
        free_bytes: d.free_bytes,
        min_free_bytes: d.min_free_bytes,
        error: &d.error,
    });
    let jobs = stats.jobs.iter().map(|j| Job {
        name: &j.name,
        dataset: &j.dataset,
        idle_seconds: j.idle_seconds,
        held_bytes: j.held_bytes,
        share_bytes: j.share_bytes,
    });
    Report {
        node,
        version: &stats.version,
        uptime_seconds: stats.uptime_seconds,
        recovering: stats.recovering,
        capacity_bytes: stats.capacity_bytes,
        used_bytes: stats.used_bytes,
        held_bytes: stats.held_bytes,
        pinned_bytes: stats.pinned_bytes,
        evictable_bytes: stats.evictable_bytes,
        memory_limit_bytes: stats.memory_limit_bytes,
        memory_used_bytes: stats.memory_used_bytes,
        fragments: stats.fragments,
        row_groups: stats.row_groups,
        hits: stats.hits,
        misses: stats.misses,
        bypasses: stats.bypasses,
        evictions: stats.evictions,
        damaged: stats.damaged,
        origin_requests: stats.origin_requests,
        origin_bytes: stats.origin_bytes,
        served_bytes: stats.served_bytes,
        served_rows: stats.served_rows,
        directories: directories.collect(),
        jobs: jobs.collect(),
        pinned: &stats.pinned,
    }
}

fn text(node: &str, stats: &CacheStats) -> String {
    use units::{bytes, count, grouped, percent, rows, span};
    let mut out = String::new();
    let recovering = if stats.recovering { ", still taking stock of its disks" } else { "" };
    let reads = stats.hits.saturating_add(stats.misses);
    let lines = [
        ("node", format!("{node}, roost {}, up {}{recovering}", stats.version, span(stats.uptime_seconds))),
        (
            "disk",
            format!(
                "{} of {} used ({}): {} held, {} pinned, {} evictable",
                bytes(stats.used_bytes),
                bytes(stats.capacity_bytes),
                percent(stats.used_bytes, stats.capacity_bytes),
                bytes(stats.held_bytes),
                bytes(stats.pinned_bytes),
                bytes(stats.evictable_bytes),
            ),
        ),
        ("memory", format!("{} of {} used", bytes(stats.memory_used_bytes), bytes(stats.memory_limit_bytes))),
        ("cached", format!("{} in {}", count(stats.row_groups, "row group"), count(stats.fragments, "fragment"))),
        (
            "reads",
            format!(
                "{} hits, {} misses ({} hit); {} bypassed, {} evicted, {} damaged",
                grouped(stats.hits),
                grouped(stats.misses),
                percent(stats.hits, reads),
                grouped(stats.bypasses),
                grouped(stats.evictions),
                grouped(stats.damaged),
            ),
        ),
        ("origin", format!("{} in {}", bytes(stats.origin_bytes), count(stats.origin_requests, "request"))),
        ("served", format!("{}, {}", bytes(stats.served_bytes), rows(stats.served_rows))),
        ("pinned", if stats.pinned.is_empty() { "-".to_owned() } else { stats.pinned.join(" ") }),
    ];
    for (name, value) in lines {
        let _ = writeln!(out, "{name:<8}{value}");
    }
    if !stats.directories.is_empty() {
        let _ = write!(out, "\n{}", table::text(&directories(stats)));
    }
    if !stats.jobs.is_empty() {
        let _ = write!(out, "\n{}", table::text(&jobs(stats)));
    }
    out
}

fn directories(stats: &CacheStats) -> comfy_table::Table {
    let mut table = table::table(&[
        Heading::Text("DIRECTORY"),
        Heading::Number("USED"),
        Heading::Number("FREE"),
        Heading::Number("KEPT FREE"),
        Heading::Text("STATE"),
    ]);
    for directory in &stats.directories {
        table.add_row([
            directory.path.clone(),
            units::bytes(directory.used_bytes),
            units::bytes(directory.free_bytes),
            units::bytes(directory.min_free_bytes),
            if directory.error.is_empty() { "ok".to_owned() } else { directory.error.clone() },
        ]);
    }
    table
}

fn jobs(stats: &CacheStats) -> comfy_table::Table {
    let mut table = table::table(&[
        Heading::Text("JOB"),
        Heading::Text("DATA SET"),
        Heading::Number("IDLE"),
        Heading::Number("HELD"),
        Heading::Number("FAIR SHARE"),
    ]);
    for job in &stats.jobs {
        table.add_row([
            job.name.clone(),
            job.dataset.clone(),
            units::span(job.idle_seconds),
            units::bytes(job.held_bytes),
            units::bytes(job.share_bytes),
        ]);
    }
    table
}
