//! Roost's cache node. `docs/ARCHITECTURE.md` draws how the modules stand to each other.

pub mod cache;
pub mod dataset;
pub mod decode;
pub mod error;
pub mod flight;
pub mod http;
pub mod ipc;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod origin;
pub mod plan;
pub mod settings;
#[cfg(test)]
mod testing;
