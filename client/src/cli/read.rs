//! `roost read`: pulls every ticket of a data set and reports each epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use roost_proto::v1::{CacheStats, PlanRequest};
use serde::Serialize;
use tokio::task::JoinSet;

use super::args::{Columns, DatasetUrl, NodeArgs, ReadArgs};
use super::console::{Console, Failure};
use super::{Exit, progress, units};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::plan::Ticket;
use crate::read::Part;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  roost read s3://bucket/train/                            one epoch: how fast does it come?
  roost read s3://bucket/train/ --epochs 3 --shuffle-seed 7
  roost read s3://bucket/train/ --columns label --parallel 16 --json | jq .gb_per_second
  roost read s3://bucket/train/ --maps off                 as a reader on another host would

On the node's own host the files are mapped, elsewhere what is in them is streamed. Rows and bytes \
are counted as they arrive and thrown away; what is mapped is brought into memory and not looked at. \
Exit code 0 means that every epoch had exactly the rows of the plan. Hits, misses and origin bytes \
are what the node counted meanwhile, for all its readers.

JSON: one line an epoch.
  epoch (from 1), url, tickets, tickets_mapped, tickets_streamed (also in part),
  rows, rows_planned, complete (they are equal),
  bytes (Arrow data received or mapped), seconds, gb_per_second,
  hits, misses, bypasses, origin_requests, origin_bytes")]
pub struct Read {
    /// A Parquet object, a prefix (ends with /), or a glob
    url: DatasetUrl,
    /// Read the data set this often
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Pull this many tickets at the same time
    #[arg(long, value_name = "P", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Only these columns, in this order, separated by commas; "" is none
    #[arg(long, value_name = "A,B")]
    columns: Option<Columns>,
    /// Pull the tickets in an order drawn from this seed and the epoch, instead of the plan's
    #[arg(long, value_name = "SEED")]
    shuffle_seed: Option<u64>,
    /// The name of the job that reads; the node makes one up if there is none
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    job: String,
    #[command(flatten)]
    reading: ReadArgs,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    epoch: u32,
    url: &'a str,
    tickets: u64,
    tickets_mapped: u64,
    tickets_streamed: u64,
    rows: u64,
    rows_planned: u64,
    complete: bool,
    bytes: u64,
    seconds: f64,
    gb_per_second: f64,
    hits: u64,
    misses: u64,
    bypasses: u64,
    origin_requests: u64,
    origin_bytes: u64,
}

impl Read {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let client = self.node.connect_to_read(&self.reading).await?;
        let request = PlanRequest {
            url: self.url.0.clone(),
            columns: self.columns.clone().map(Into::into),
            job: self.job.clone(),
            ..Default::default()
        };
        let plan = client.plan(request).await?;
        let mut exit = Exit::Success;
        for epoch in 1..=self.epochs {
            let tickets = self.order(&plan.tickets, epoch);
            let bar = console.start_bar(|| progress::bar(format!("epoch {epoch}"), plan.info.bytes));
            let before = client.stat().await?;
            let started = Instant::now();
            let pulled = pull(&client, tickets, self.parallel.into(), &bar).await?;
            let elapsed = started.elapsed();
            let node = Difference::between(&before, &client.stat().await?);
            console.end_bar();
            let report = Report {
                epoch,
                url: &plan.info.url,
                tickets: plan.tickets.len() as u64,
                tickets_mapped: pulled.mapped,
                tickets_streamed: pulled.streamed,
                rows: pulled.rows,
                rows_planned: plan.info.rows,
                complete: pulled.rows == plan.info.rows,
                bytes: pulled.bytes,
                seconds: elapsed.as_secs_f64(),
                gb_per_second: units::gb_per_second(pulled.bytes, elapsed),
                hits: node.hits,
                misses: node.misses,
                bypasses: node.bypasses,
                origin_requests: node.origin_requests,
                origin_bytes: node.origin_bytes,
            };
            if !report.complete {
                exit = Exit::Failed;
                console.say(format_args!(
                    "roost: {}: epoch {epoch} read {} rows where the plan has {}; report this defect",
                    report.url, report.rows, report.rows_planned,
                ));
            }
            let printed = if self.node.json { console.json(&report) } else { console.line(line(&report, elapsed)) };
            match printed {
                // Nobody reads the report; whether all rows came still counts.
                Ok(()) | Err(Failure::BrokenPipe) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(exit)
    }

    fn order(&self, tickets: &[Ticket], epoch: u32) -> Vec<Ticket> {
        let mut tickets = tickets.to_vec();
        if let Some(seed) = self.shuffle_seed {
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed.wrapping_add(u64::from(epoch) << 32));
            tickets.shuffle(&mut rng);
        }
        tickets
    }
}

fn line(report: &Report<'_>, elapsed: Duration) -> String {
    let bypassed = match report.bypasses {
        0 => String::new(),
        n => format!(", {} bypassed", units::grouped(n)),
    };
    format!(
        "epoch {}: {}, {} in {}, {}; {} mapped, {} streamed; {} hits, {} misses{bypassed}; {} from the origin",
        report.epoch,
        units::rows(report.rows),
        units::bytes(report.bytes),
        units::seconds(elapsed),
        units::rate(report.bytes, elapsed),
        units::count(report.tickets_mapped, "ticket"),
        units::grouped(report.tickets_streamed),
        units::grouped(report.hits),
        units::grouped(report.misses),
        units::bytes(report.origin_bytes),
    )
}

/// What a node did between two looks at its counters. A node that started anew in between counts from zero.
struct Difference {
    hits: u64,
    misses: u64,
    bypasses: u64,
    origin_requests: u64,
    origin_bytes: u64,
}

impl Difference {
    fn between(before: &CacheStats, after: &CacheStats) -> Self {
        let since = |before: u64, after: u64| after.checked_sub(before).unwrap_or(after);
        Self {
            hits: since(before.hits, after.hits),
            misses: since(before.misses, after.misses),
            bypasses: since(before.bypasses, after.bypasses),
            origin_requests: since(before.origin_requests, after.origin_requests),
            origin_bytes: since(before.origin_bytes, after.origin_bytes),
        }
    }
}

#[derive(Debug, Default)]
struct Pulled {
    rows: u64,
    bytes: u64,
    /// Tickets.
    mapped: u64,
    streamed: u64,
}

#[derive(Default)]
struct Counts {
    rows: AtomicU64,
    bytes: AtomicU64,
    mapped: AtomicU64,
    streamed: AtomicU64,
}

/// Pulls all tickets, `parallel` at a time, each in a task of its own so that all cores work. The first failure ends all.
async fn pull(client: &Client, tickets: Vec<Ticket>, parallel: usize, bar: &ProgressBar) -> Result<Pulled> {
    let tickets = Arc::new(tickets);
    let next = Arc::new(AtomicUsize::new(0));
    let counts = Arc::new(Counts::default());
    // Dropped on failure or Ctrl-C, and all tasks with it.
    let mut tasks = JoinSet::new();
    for _ in 0..parallel.min(tickets.len()) {
        let (client, tickets, next) = (client.clone(), Arc::clone(&tickets), Arc::clone(&next));
        let (counts, bar) = (Arc::clone(&counts), bar.clone());
        tasks.spawn(async move {
            while let Some(ticket) = tickets.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut reader = client.parts(ticket)?;
                while let Some(part) = reader.next().await? {
                    let (rows, bytes) = match part {
                        Part::Schema(_) => continue,
                        Part::Mapped(mapped) => (mapped.batch.num_rows() as u64, mapped.bytes),
                        Part::Streamed(message) => (message.rows, message.flight.data_body.len() as u64),
                    };
                    let all_bytes = counts.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
                    let all_rows = counts.rows.fetch_add(rows, Ordering::Relaxed) + rows;
                    if rows > 0 {
                        progress::show(&bar, all_bytes, all_rows);
                    }
                }
                let way = if reader.is_streamed() { &counts.streamed } else { &counts.mapped };
                way.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.map_err(|why| Error::internal(format!("a reading task ended early: {why}")))??;
    }
    Ok(Pulled {
        rows: counts.rows.load(Ordering::Relaxed),
        bytes: counts.bytes.load(Ordering::Relaxed),
        mapped: counts.mapped.load(Ordering::Relaxed),
        streamed: counts.streamed.load(Ordering::Relaxed),
    })
}
