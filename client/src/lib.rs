//! Rust client of Roost: connect to one node of a list, plan a data set, and read its tickets.
//!
//! ```no_run
//! # async fn example() -> Result<(), roost_client::Error> {
//! use futures::TryStreamExt;
//! use roost_client::{Client, NodeList, PlanRequest};
//!
//! let nodes: NodeList = "grpc://127.0.0.1:8815".parse()?;
//! let client = Client::connect(&nodes).await?;
//! let plan = client.plan(PlanRequest { url: "s3://bucket/train/".into(), ..Default::default() }).await?;
//! for ticket in &plan.tickets {
//!     let mut batches = std::pin::pin!(client.read(ticket));
//!     while let Some(batch) = batches.try_next().await? {
//!         println!("{} rows", batch.num_rows());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - [`nodes`]: addresses as people write them. [`client`]: the calls, and fail-over from node to node.
//! - [`plan`]: all pages of a plan as one. [`read`]: a ticket's batches, mapped where the node is on this host, else
//!   streamed and resumed where a stream broke.
//! - [`error`]: one error; its kind says what to do.
//! - [`cli`]: the client commands of the `roost` executable.

pub mod cli;
pub mod client;
pub mod error;
mod map;
pub mod nodes;
pub mod plan;
pub mod read;
mod retry;

#[cfg(test)]
mod testing;

pub use client::{Client, Options};
pub use error::{Error, ErrorKind, Result};
pub use map::Maps;
pub use nodes::{NodeAddress, NodeList};
pub use plan::{Plan, Ticket};
pub use read::Message;
pub use retry::Retry;
pub use roost_proto::v1::{
    CacheStats, CachedDataset, EndpointInfo, EvictResult, PinResult, PlanInfo, PlanRequest, Projection, WarmProgress,
    WarmRequest,
};
