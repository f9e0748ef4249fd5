//! `roost pin` and `roost unpin`: what nothing evicts.

use roost_proto::v1::PinResult;
use serde::Serialize;

use super::Exit;
use super::args::{DatasetUrl, NodeArgs};
use super::console::{Console, Failure};

const JSON_HELP: &str = "\
JSON: one document.
  url, pinned: [URL] (all that is pinned on the node now)";

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  roost pin s3://bucket/train/           what is cached of it, and what will be, stays
  roost warm s3://bucket/train/ --pin    fills the cache too

{JSON_HELP}"))]
pub struct Pin {
    /// A Parquet object, a prefix (ends with /), or a glob
    url: DatasetUrl,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  roost unpin s3://bucket/train/         it stays cached until the space is needed

{JSON_HELP}"))]
pub struct Unpin {
    /// The URL as it was pinned; `roost stat` lists them
    url: DatasetUrl,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    url: &'a str,
    pinned: &'a [String],
}

impl Pin {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let client = self.node.connect().await?;
        let result = client.pin(&self.url.0).await?;
        report(console, &self.node, "pinned", &self.url.0, &result)
    }
}

impl Unpin {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let client = self.node.connect().await?;
        let result = client.unpin(&self.url.0).await?;
        report(console, &self.node, "unpinned", &self.url.0, &result)
    }
}

fn report(console: &mut Console, node: &NodeArgs, done: &str, url: &str, result: &PinResult) -> Result<Exit, Failure> {
    if node.json {
        console.json(&Report { url, pinned: &result.pinned })?;
        return Ok(Exit::Success);
    }
    let pinned = match result.pinned.as_slice() {
        [] => "nothing".to_owned(),
        urls => urls.join(" "),
    };
    console.line(format_args!("{done} {url}; pinned on this node now: {pinned}"))?;
    Ok(Exit::Success)
}
