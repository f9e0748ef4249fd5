//! `roost warm`: fills the cache. Its exit code says whether everything asked for is cached.

use std::time::{Duration, Instant};

use futures::TryStreamExt;
use roost_proto::v1::{PlanRequest, WarmProgress, WarmRequest};
use serde::Serialize;

use super::args::{Columns, DatasetUrl, NodeArgs};
use super::console::{Console, Failure};
use super::{Exit, progress, units};

/// Failures told one by one; the rest is counted.
const FAILURES_TOLD: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  roost warm s3://bucket/train/                          the whole data set
  roost warm 's3://bucket/train/part-*.parquet' --columns image,label
  roost warm s3://bucket/train/ --pin                    and keep it until `roost unpin`
  roost warm s3://bucket/train/ && python train.py       train only if all is cached

Exit code 0 means that every row group asked for is cached. Else it is 1, and standard error says \
what is missing, why, and what to do. Warming again fetches only what is missing.

JSON: one document.
  url, complete (all is cached), pinned, seconds,
  row_groups, row_groups_cached, row_groups_hit (cached before),
  row_groups_bypassed (read, but no room to keep them), row_groups_failed,
  rows, bytes, origin_bytes, failures: [{row_group, message}] (the first ones)")]
pub struct Warm {
    /// A Parquet object, a prefix (ends with /), or a glob
    url: DatasetUrl,
    /// Only these columns, separated by commas
    #[arg(long, value_name = "A,B")]
    columns: Option<Columns>,
    /// Pin the data set too: nothing evicts it until it is unpinned
    #[arg(long)]
    pin: bool,
    /// List the origin again, even if the last listing is still fresh
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    url: &'a str,
    complete: bool,
    pinned: bool,
    seconds: f64,
    row_groups: u64,
    row_groups_cached: u64,
    row_groups_hit: u64,
    row_groups_bypassed: u64,
    row_groups_failed: u64,
    rows: u64,
    bytes: u64,
    origin_bytes: u64,
    failures: Vec<FailureReport<'a>>,
}

#[derive(Serialize)]
struct FailureReport<'a> {
    row_group: &'a str,
    message: &'a str,
}

impl Warm {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let client = self.node.connect().await?;
        let request = WarmRequest {
            plan: Some(PlanRequest {
                url: self.url.0.clone(),
                columns: self.columns.clone().map(Into::into),
                refresh: self.refresh,
                ..Default::default()
            }),
            pin: self.pin,
        };
        let started = Instant::now();
        let bar = console.start_bar(|| progress::bar("warm".into(), 0));
        let mut messages = std::pin::pin!(client.warm(request).await?);
        let mut last = WarmProgress::default();
        // Each message tells of the failures since the last one, or of all so far: both are kept once.
        let mut failures = Vec::new();
        while let Some(mut now) = messages.try_next().await? {
            for failure in std::mem::take(&mut now.failures) {
                if failures.len() < FAILURES_TOLD && !failures.contains(&failure) {
                    failures.push(failure);
                }
            }
            bar.set_length(now.bytes_total);
            progress::show(&bar, now.bytes_done, now.rows_done);
            last = now;
        }
        console.end_bar();
        last.failures = failures;
        self.report(console, &last, started.elapsed())
    }

    fn report(&self, console: &mut Console, warm: &WarmProgress, elapsed: Duration) -> Result<Exit, Failure> {
        let complete = is_complete(warm);
        let numbers = numbers(warm, elapsed);
        if !complete {
            for line in self.missing(warm) {
                console.say(line);
            }
        }
        let printed = if self.node.json {
            console.json(&self.json(warm, elapsed))
        } else if complete {
            console.line(numbers)
        } else {
            console.say(numbers);
            Ok(())
        };
        match printed {
            // Nobody reads the line; the exit code still counts.
            Ok(()) | Err(Failure::BrokenPipe) => Ok(if complete { Exit::Success } else { Exit::Failed }),
            Err(failure) => Err(failure),
        }
    }

    /// What is missing, why, and what to do.
    fn missing(&self, warm: &WarmProgress) -> Vec<String> {
        let url = &self.url.0;
        let missing = warm.row_groups_total.saturating_sub(cached(warm));
        let mut lines = vec![format!(
            "roost: {url}: {} of {} not cached",
            units::grouped(missing),
            units::count(warm.row_groups_total, "row group")
        )];
        for failure in &warm.failures {
            lines.push(format!("  failed: {}: {}", failure.row_group, failure.message));
        }
        let untold = warm.row_groups_failed.saturating_sub(warm.failures.len() as u64);
        if untold > 0 {
            lines.push(format!("  failed: {} more", units::grouped(untold)));
        }
        if warm.row_groups_failed > 0 {
            lines.push("  mend what failed, then warm again: what is cached stays cached".into());
        }
        if warm.row_groups_bypassed > 0 {
            let bypassed = units::count(warm.row_groups_bypassed, "row group");
            lines
                .push(format!("  no room: {bypassed} read but not kept, because other data is pinned or held by jobs"));
            lines.push(
                "  see `roost stat`; make room with `roost unpin`, `roost evict` or a greater --capacity of the node, or \
                 warm fewer --columns"
                    .into(),
            );
        }
        lines
    }

    fn json<'a>(&'a self, warm: &'a WarmProgress, elapsed: Duration) -> Report<'a> {
        let failures = warm.failures.iter();
        Report {
            url: &self.url.0,
            complete: is_complete(warm),
            pinned: self.pin,
            seconds: elapsed.as_secs_f64(),
            row_groups: warm.row_groups_total,
            row_groups_cached: cached(warm),
            row_groups_hit: warm.row_groups_hit,
            row_groups_bypassed: warm.row_groups_bypassed,
            row_groups_failed: warm.row_groups_failed,
            rows: warm.rows_done,
            bytes: warm.bytes_done,
            origin_bytes: warm.origin_bytes,
            failures: failures.map(|f| FailureReport { row_group: &f.row_group, message: &f.message }).collect(),
        }
    }
}

/// Everything that was asked for is cached.
fn is_complete(warm: &WarmProgress) -> bool {
    warm.finished
        && warm.row_groups_failed == 0
        && warm.row_groups_bypassed == 0
        && warm.row_groups_done == warm.row_groups_total
}

/// Row groups that are cached now, whether or not the node counts the others as done.
fn cached(warm: &WarmProgress) -> u64 {
    let missing = warm.row_groups_bypassed.saturating_add(warm.row_groups_failed);
    warm.row_groups_done.min(warm.row_groups_total.saturating_sub(missing))
}

fn numbers(warm: &WarmProgress, elapsed: Duration) -> String {
    let before = match warm.row_groups_hit {
        0 => String::new(),
        hit => format!("; {} cached before", units::grouped(hit)),
    };
    format!(
        "cached {} of {}, {}, {} in {}; {} bypassed, {} failed; {} from the origin{before}",
        units::grouped(cached(warm)),
        units::count(warm.row_groups_total, "row group"),
        units::bytes(warm.bytes_done),
        units::rows(warm.rows_done),
        units::seconds(elapsed),
        units::grouped(warm.row_groups_bypassed),
        units::grouped(warm.row_groups_failed),
        units::bytes(warm.origin_bytes),
    )
}
