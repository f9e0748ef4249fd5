//! Arguments that several commands share.

use std::str::FromStr;

use clap::ValueEnum;
use roost_proto::v1::Projection;

use super::console::Failure;
use crate::client::{Client, Options};
use crate::error::Error;
use crate::map::Maps;
use crate::nodes::{DEFAULT_NODE, NodeList};

/// Which node to ask, and for whom to answer.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    /// The node to ask: grpc://HOST:PORT or grpc+unix:///PATH, or a comma-separated list of which the first that answers
    /// is asked
    #[arg(long, env = "ROOST_NODE", default_value = DEFAULT_NODE, value_name = "ADDRESS")]
    pub(super) node: NodeList,
    /// Answer with JSON, for programs. The fields are listed below; errors become JSON on standard error
    #[arg(long)]
    pub(super) json: bool,
}

impl NodeArgs {
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.node).await?)
    }

    pub(super) async fn connect_to_read(&self, reading: &ReadArgs) -> Result<Client, Failure> {
        let options = Options { maps: reading.maps.into(), ..Options::default() };
        Ok(Client::connect_with(&self.node, options).await?)
    }
}

/// How tickets are read.
#[derive(Debug, clap::Args)]
pub(super) struct ReadArgs {
    /// Whether to map the node's files instead of streaming what is in them
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = MapsArg::Auto)]
    maps: MapsArg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MapsArg {
    /// Where the node is on this host
    Auto,
    /// Never
    Off,
}

impl From<MapsArg> for Maps {
    fn from(maps: MapsArg) -> Self {
        match maps {
            MapsArg::Auto => Self::Auto,
            MapsArg::Off => Self::Off,
        }
    }
}

/// A data set's URL. A path without a scheme is a local file's, made absolute here: the node's working directory is
/// another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DatasetUrl(pub(super) String);

impl FromStr for DatasetUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.contains("://") {
            return Ok(Self(text.to_owned()));
        }
        let path = std::path::absolute(text).map_err(|why| Error::invalid(format!("data set {text:?}: {why}")))?;
        let path = path.to_str().ok_or_else(|| Error::invalid(format!("data set {text:?}: the path is no UTF-8")))?;
        // `?` stays: it is more often a glob's than a file name's.
        Ok(Self(format!("file://{}", path.replace('%', "%25").replace('#', "%23").replace(' ', "%20"))))
    }
}

/// `a,b`: top-level columns in the order wanted. The empty text is no columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns(Vec<String>);

impl FromStr for Columns {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return Err(Error::invalid(format!("columns {text:?}: an empty name; write NAME,NAME,...")));
        }
        Ok(Self(names))
    }
}

impl From<Columns> for Projection {
    fn from(columns: Columns) -> Self {
        Self { names: columns.0 }
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
