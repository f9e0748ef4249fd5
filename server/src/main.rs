//! The `roost` executable: `serve`, and the client's commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use roost_server::error::Result;
use roost_server::settings::ServeArgs;
use roost_server::{logging, node};

// Page faults on fresh memory cost five times a copy: the allocator decides how fast decoding is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps Parquet data sets near the GPUs: decoded once, kept on local disk, served over Arrow Flight.
#[derive(Parser)]
#[command(name = "roost", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node: cache data sets on local disk and serve them.
    Serve(Box<ServeArgs>),
    #[command(flatten)]
    Client(roost_client::cli::Command),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("roost: can't start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match args.command {
        Command::Serve(args) => match runtime.block_on(serve(*args)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("roost: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Client(command) => runtime.block_on(roost_client::cli::run(command)),
    };
    // Blocking reads that hang must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

async fn serve(args: ServeArgs) -> Result<()> {
    let settings = args.settings()?;
    logging::init(&settings)?;
    let node = node::start(settings).await?;
    {
        use std::io::Write;
        // Who started the node may not listen: that is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{}", node.ready_line());
    }
    stop_signal().await;
    node.drain().await
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}
