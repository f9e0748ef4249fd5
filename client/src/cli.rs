//! The client commands of the `roost` executable.
//!
//! Data and results go to standard output, everything else to standard error. Exit codes are a contract:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | success: everything asked for was done |
//! | 1 | the request failed, or not everything was cached or read |
//! | 2 | wrong usage |
//! | 3 | no node answers |
//! | 130 | interrupted by Ctrl-C |

mod args;
mod cat;
mod console;
mod evict;
mod explain;
mod ls;
mod pin;
mod plan;
mod progress;
mod read;
mod stat;
mod table;
mod units;
mod warm;

use std::future::Future;
use std::process::ExitCode;

use clap::Subcommand;

use console::{Console, Failure};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fill the cache with a data set, ahead of its readers
    Warm(warm::Warm),
    /// Show the tickets that read a data set, without reading it
    Plan(Box<plan::Plan>),
    /// List the data sets that the cache holds
    Ls(ls::Ls),
    /// Print rows of a data set
    Cat(cat::Cat),
    /// Show what the cache holds and has done since the node started
    Stat(stat::Stat),
    /// Remove a data set from the cache
    Evict(evict::Evict),
    /// Keep a data set in the cache until it is unpinned
    Pin(pin::Pin),
    /// Let a pinned data set be evicted again
    Unpin(pin::Unpin),
    /// Read a data set as fast as it comes and report each epoch
    Read(read::Read),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Success,
    Failed,
    Usage,
    NoNode,
    Interrupted,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoNode => 3,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Runs a command against standard output and standard error, until it ends or Ctrl-C.
pub async fn run(command: Command) -> ExitCode {
    let (interrupted, interrupt) = tokio::sync::oneshot::channel();
    // In a task of its own, because the command may be blocked in a write to a pipe that nobody reads: then only a second
    // Ctrl-C ends it.
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = interrupted.send(());
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(Exit::Interrupted.code().into());
        }
    });
    let mut console = Console::standard();
    let interrupt = async move {
        if interrupt.await.is_err() {
            // Signals can't be caught here: run on without them.
            std::future::pending::<()>().await;
        }
    };
    run_until(command, &mut console, interrupt).await.into()
}

async fn run_until(command: Command, console: &mut Console, interrupt: impl Future<Output = ()>) -> Exit {
    let json = command.json();
    let ended = tokio::select! {
        ended = Box::pin(command.run(console)) => Some(ended),
        () = interrupt => None,
    };
    match ended {
        Some(Ok(exit)) => exit,
        Some(Err(failure)) => console.report(&failure, json),
        None => console.interrupted(),
    }
}

impl Command {
    async fn run(self, console: &mut Console) -> Result<Exit, Failure> {
        match self {
            Self::Warm(command) => command.run(console).await,
            Self::Plan(command) => command.run(console).await,
            Self::Ls(command) => command.run(console).await,
            Self::Cat(command) => command.run(console).await,
            Self::Stat(command) => command.run(console).await,
            Self::Evict(command) => command.run(console).await,
            Self::Pin(command) => command.run(console).await,
            Self::Unpin(command) => command.run(console).await,
            Self::Read(command) => command.run(console).await,
        }
    }

    fn json(&self) -> bool {
        match self {
            Self::Warm(command) => command.node.json,
            Self::Plan(command) => command.node.json,
            Self::Ls(command) => command.node.json,
            Self::Cat(command) => command.node.json,
            Self::Stat(command) => command.node.json,
            Self::Evict(command) => command.node.json,
            Self::Pin(command) => command.node.json,
            Self::Unpin(command) => command.node.json,
            Self::Read(command) => command.node.json,
        }
    }
}

#[cfg(test)]
mod tests;
