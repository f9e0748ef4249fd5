//! The Flight door: plans, streams, actions.
//!
//! Knows the protocol; leaves decisions to `plan` and bytes to `cache`. DoGet is answered in front of tonic by
//! [`front`], since tonic's codec would copy each body twice; everything else is an ordinary tonic service.

mod actions;
mod adapt;
pub mod ahead;
mod doget;
mod front;
pub mod local;
mod service;
mod warm;

use std::sync::Arc;

pub use self::front::DoGetLayer;
pub use self::service::FlightDoor;
use crate::cache::Cache;
use crate::dataset::Catalog;
use crate::metrics::Metrics;
use crate::plan::ticket::TicketKeys;

/// What the doors of a node share.
pub struct Node {
    pub catalog: Arc<Catalog>,
    pub cache: Cache,
    pub keys: TicketKeys,
    pub metrics: Arc<Metrics>,
    /// What jobs will read next.
    pub ahead: ahead::Ahead,
    /// Where clients reach this node, as Flight locations: first over TCP.
    pub locations: Vec<String>,
    /// The unix socket, if there is one.
    pub socket: Option<String>,
    /// Tickets mapped at a time; more are refused.
    pub maps: Arc<tokio::sync::Semaphore>,
    /// DoGet streams at a time; more are refused.
    pub streams: Arc<tokio::sync::Semaphore>,
    pub max_streams: usize,
    pub memory_limit: u64,
    pub started: std::time::Instant,
}
