//! The `roost` executable: `serve`, and the client's commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use roost_server::error::{Error, Result};
use roost_server::settings::{ServeArgs, Settings};
use roost_server::{logging, node};
use tokio::signal::unix::{SignalKind, signal};

// Page faults on fresh memory cost five times a copy: the allocator decides how fast decoding is.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BLOCKING_THREADS: usize = 16;

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

/// Raises the limit of open files to what the system allows: each connection and each map takes one, and the usual
/// limit of 1024 is for programs that use `select`.
fn allow_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is refused, the node works with what it has.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// `mi_option_purge_delay`, which the bindings do not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Limits from here on have room for what the allocator holds back.
const ROOMY: u64 = 512 << 20;

fn main() -> ExitCode {
    let args = Args::parse();
    let settings = match args.command {
        Command::Serve(args) => match args.settings() {
            Ok(settings) => settings,
            Err(error) => return failed(&error),
        },
        Command::Client(command) => return run(roost_client::cli::run(command)),
    };
    // mimalloc keeps freed memory for a second, which doubles what a node that streams holds. Giving it back at once
    // costs page faults: only small limits pay that.
    let delay_ms = if settings.memory < ROOMY { 0 } else { 200 };
    // SAFETY: called before there is a second thread, as the function asks; `MIMALLOC_PURGE_DELAY` still wins.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, delay_ms) };
    allow_files();
    run(async {
        match serve(settings).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    })
}

fn failed(error: &Error) -> ExitCode {
    eprintln!("roost: {error}");
    ExitCode::FAILURE
}

fn run(work: impl Future<Output = ExitCode>) -> ExitCode {
    // Blocking work is short disk I/O: more threads would only hold more memory back.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("roost: can't start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(work);
    // Blocking reads that hang must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

async fn serve(settings: Settings) -> Result<()> {
    logging::init(&settings)?;
    // Before the ready line: who reads it may signal at once.
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let node = node::start(settings).await?;
    {
        use std::io::Write;
        // Who started the node may not listen: that is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{}", node.ready_line());
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    node.drain().await
}

fn no_signals(error: std::io::Error) -> Error {
    Error::unavailable(format!("can't listen for signals: {error}"))
}
