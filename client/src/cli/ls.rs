//! `roost ls`: the data sets that the cache holds.

use roost_proto::v1::CachedDataset;
use serde::Serialize;

use super::args::{DatasetUrl, NodeArgs};
use super::console::{Console, Failure};
use super::table::{self, Heading};
use super::{Exit, units};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  roost ls                            everything that is cached on the node
  roost ls s3://bucket/train/         only what lies at or below a URL
  roost ls --json | jq -r 'select(.pinned) | .url'

CACHED is row groups cached, of those of the data set where that is known. HELD is data that a \
living job reads: it is not evicted while the job lives.

JSON: one line a data set.
  url, objects, row_groups (cached), row_groups_total (null if unknown), fragments,
  bytes (on disk), bytes_total (decoded, null if unknown), pinned, held")]
pub struct Ls {
    /// List only what lies at or below this URL
    url: Option<DatasetUrl>,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    url: &'a str,
    objects: u64,
    row_groups: u64,
    row_groups_total: Option<u64>,
    fragments: u64,
    bytes: u64,
    bytes_total: Option<u64>,
    pinned: bool,
    held: bool,
}

impl Ls {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let client = self.node.connect().await?;
        let mut datasets = client.list_flights(self.url.as_ref().map(|url| url.0.as_str())).await?;
        datasets.sort_by(|a, b| a.url.cmp(&b.url));
        if self.node.json {
            for dataset in &datasets {
                console.json(&report(dataset))?;
            }
            return Ok(Exit::Success);
        }
        if datasets.is_empty() {
            let below = self.url.map(|url| format!(" of {}", url.0)).unwrap_or_default();
            console.say(format_args!(
                "roost: nothing{below} is cached on {}; fill the cache with `roost warm URL`",
                client.node()
            ));
            return Ok(Exit::Success);
        }
        write!(console.out(), "{}", table::text(&table_of(&datasets)))?;
        console.flush()?;
        Ok(Exit::Success)
    }
}

fn report(dataset: &CachedDataset) -> Report<'_> {
    Report {
        url: &dataset.url,
        objects: dataset.objects,
        row_groups: dataset.row_groups,
        row_groups_total: known(dataset.row_groups_total),
        fragments: dataset.fragments,
        bytes: dataset.bytes,
        bytes_total: known(dataset.bytes_total),
        pinned: dataset.pinned,
        held: dataset.held,
    }
}

fn table_of(datasets: &[CachedDataset]) -> comfy_table::Table {
    let mut table = table::table(&[
        Heading::Text("URL"),
        Heading::Number("OBJECTS"),
        Heading::Number("CACHED"),
        Heading::Number("BYTES"),
        Heading::Text("PINNED"),
        Heading::Text("HELD"),
    ]);
    for dataset in datasets {
        let cached = units::grouped(dataset.row_groups);
        table.add_row([
            dataset.url.clone(),
            units::grouped(dataset.objects),
            match known(dataset.row_groups_total) {
                Some(total) => format!("{cached}/{}", units::grouped(total)),
                None => cached,
            },
            units::bytes(dataset.bytes),
            yes(dataset.pinned),
            yes(dataset.held),
        ]);
    }
    table
}

/// The protocol's 0 for what isn't known.
fn known(total: u64) -> Option<u64> {
    (total > 0).then_some(total)
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "-" }.to_owned()
}
