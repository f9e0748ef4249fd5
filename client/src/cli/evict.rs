//! `roost evict`: removes a data set from the cache.

use serde::Serialize;

use super::args::{DatasetUrl, NodeArgs};
use super::console::{Console, Failure};
use super::{Exit, units};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  roost evict s3://bucket/old/

The origin is not touched. Readers that are reading the data set go on; what they read next is \
fetched again.

JSON: one document.
  url, fragments (removed), bytes (of disk)")]
pub struct Evict {
    /// A Parquet object, a prefix (ends with /), or a glob
    url: DatasetUrl,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    url: &'a str,
    fragments: u64,
    bytes: u64,
}

impl Evict {
    pub(super) async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        let client = self.node.connect().await?;
        let url = self.url.0.as_str();
        let evicted = client.evict(url).await?;
        if self.node.json {
            console.json(&Report { url, fragments: evicted.fragments, bytes: evicted.bytes })?;
        } else {
            let fragments = units::count(evicted.fragments, "fragment");
            console.line(format_args!("evicted {fragments}, {} of {url}", units::bytes(evicted.bytes)))?;
        }
        Ok(Exit::Success)
    }
}
