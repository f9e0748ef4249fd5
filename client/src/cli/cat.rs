//! `roost cat`: rows of a data set on standard output.

mod format;

use clap::ValueEnum;
use futures::TryStreamExt;
use indicatif::ProgressBar;
use roost_proto::v1::PlanRequest;

use super::args::{Columns, DatasetUrl, NodeArgs, ReadArgs};
use super::console::{Console, Failure};
use super::{Exit, progress};
use crate::client::Client;
use crate::plan::Plan;
use format::Writer;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  roost cat s3://bucket/train/                             the first 20 rows, as a table
  roost cat s3://bucket/train/ --columns label --limit 5
  roost cat s3://bucket/train/ --limit 0 --format jsonl | jq -r .caption
  roost cat s3://bucket/train/ --limit 0 --format csv | head
  roost cat s3://bucket/train/ --limit 0 --format arrow > train.arrows

Rows come in the plan's order, which is the order of the objects' names and of the rows in them. \
A table is printed 1,000 rows at a time, and long values are cut (…); the other formats are whole. \
An arrow stream is read by pyarrow.ipc.open_stream(\"train.arrows\").read_all().

JSON: --json is --format jsonl: one line a row, the columns are its fields.")]
pub struct Cat {
    /// A Parquet object, a prefix (ends with /), or a glob
    url: DatasetUrl,
    /// Only these columns, in this order, separated by commas
    #[arg(long, value_name = "A,B")]
    columns: Option<Columns>,
    /// At most this many rows; 0 is all
    #[arg(long, value_name = "ROWS", default_value_t = 20)]
    limit: u64,
    /// How to write the rows [default: table]
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<Format>,
    #[command(flatten)]
    reading: ReadArgs,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people; long values are cut
    Table,
    /// A line of names, then a line a row; no nested columns
    Csv,
    /// A JSON object a line
    Jsonl,
    /// An Arrow IPC stream
    Arrow,
}

impl Cat {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let format = self.format.unwrap_or(if self.node.json { Format::Jsonl } else { Format::Table });
        if format == Format::Arrow && console.out_is_terminal() {
            let message =
                "an arrow stream is not for a terminal; write it to a file or a pipe: roost cat ... > rows.arrows";
            return Err(Failure::Usage(message.into()));
        }
        let client = self.node.connect_to_read(&self.reading).await?;
        let request = PlanRequest {
            url: self.url.0,
            columns: self.columns.map(Into::into),
            limit: (self.limit > 0).then_some(self.limit),
            ..Default::default()
        };
        let plan = client.plan(request).await?;
        // A bar would be drawn among the rows.
        let bar = match console.out_is_terminal() {
            true => ProgressBar::hidden(),
            false => console.start_bar(|| progress::bar("cat".into(), plan.info.bytes)),
        };
        write_all(&client, &plan, format, &bar, console).await?;
        console.end_bar();
        Ok(Exit::Success)
    }
}

async fn write_all(
    client: &Client,
    plan: &Plan,
    format: Format,
    bar: &ProgressBar,
    console: &mut Console,
) -> Result<(), Failure> {
    let mut writer = Writer::new(format, &plan.schema, console.out())?;
    let mut rows = 0;
    for ticket in &plan.tickets {
        let mut batches = std::pin::pin!(client.read(ticket));
        while let Some(batch) = batches.try_next().await? {
            writer.write(&batch, console.out())?;
            // `| head` has its rows, and we learn that it needs no more.
            console.flush()?;
            rows += batch.num_rows() as u64;
            // By rows: the buffers of a received batch are slices of one body, whose size each column would count again.
            let share = rows as f64 / plan.info.rows.max(1) as f64;
            progress::show(bar, (plan.info.bytes as f64 * share) as u64, rows);
        }
    }
    writer.finish(console.out())?;
    console.flush()
}
