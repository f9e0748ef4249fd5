//! The flags and environment variables of `roost serve`, and how they are laid over the settings file.
//!
//! Each flag is optional: one that is absent leaves the file's value, so that defaults stand in [`Settings`] alone. Their
//! text is repeated in the help for the reader; a test compares the two.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::units::parse_duration;
use super::{Amount, Compression, LogFormat, Settings, Verify, parse_bytes};
use crate::error::Result;

const NOTES: &str = "\
Sizes:      plain bytes, or 64KiB, 1.5GiB (powers of 1024), 500MB (powers of 1000)
Durations:  500ms, 30s, 10m, 1h 30m
Settings:   flags win over the environment, which wins over the settings file, which wins over the defaults.
            In the file each setting is called as its flag, without the dashes: job-grace = \"10m\"

Examples:
  roost serve
      A node on this machine alone, with its cache in the home directory.
  roost serve --cache-dir /mnt/nvme0/roost,/mnt/nvme1/roost --capacity 90% --min-free 50GiB
      Keep fragments on two disks, and always leave 50 GiB free on each.
  roost serve --listen 0.0.0.0:8815 --advertise gpu-7.example.net --insecure
      Serve other machines of a trusted network. Nothing asks callers who they are.
  roost serve --allow s3://training,https://data.example.org/v2 --origin-concurrency 128
      Read these places only, with more requests at once.
  roost serve --listen 127.0.0.1:0 --http off
      Take a free port, and print it when ready.
  ROOST_MEMORY=4GiB roost serve --config /etc/roost.toml
      Settings from a file, one of them from the environment.";

/// Run a node: cache decoded row groups on local disks and serve them over Arrow Flight
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_long_help = NOTES, after_help = "--help tells more, with examples.")]
pub struct ServeArgs {
    /// Settings file, in TOML
    #[arg(long, env = "ROOST_CONFIG", value_name = "FILE", help_heading = "Settings file")]
    pub config: Option<PathBuf>,

    /// Where to serve Flight; port 0 takes a free one [default: 127.0.0.1:8815]
    #[arg(long, env = "ROOST_LISTEN", value_name = "HOST:PORT", help_heading = "Addresses")]
    pub listen: Option<String>,

    /// Where to serve metrics, health and the status page, or "off" [default: 127.0.0.1:8816]
    #[arg(long, env = "ROOST_HTTP", value_name = "HOST:PORT|off", help_heading = "Addresses")]
    pub http: Option<String>,

    /// Where clients are told to connect [default: the address listened on, or the host name where that is 0.0.0.0]
    #[arg(long, env = "ROOST_ADVERTISE", value_name = "HOST[:PORT]", help_heading = "Addresses")]
    pub advertise: Option<String>,

    /// Unix socket for clients on this host, "auto" or "off" [default: auto]
    ///
    /// "auto" is roost.sock in the first cache directory. Clients on the host map cached data through it, or stream over
    /// it, and find it by themselves.
    #[arg(long, env = "ROOST_SOCKET", value_name = "PATH|auto|off", help_heading = "Addresses")]
    pub socket: Option<String>,

    /// Permissions of the unix socket, in octal [default: 666]
    ///
    /// Whoever may write to the socket can read all that the node can read.
    #[arg(long, env = "ROOST_SOCKET_MODE", value_name = "MODE", help_heading = "Access")]
    pub socket_mode: Option<String>,

    /// Allow addresses that other machines reach [default: false]
    ///
    /// Nothing asks callers who they are: whoever reaches the node can read all that the node can read.
    #[arg(
        long, env = "ROOST_INSECURE", value_name = "true|false", help_heading = "Access",
        num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_parser = BoolishValueParser::new(), hide_possible_values = true
    )]
    pub insecure: Option<bool>,

    /// File with the key that signs tickets [default: made in the first cache directory]
    #[arg(long, env = "ROOST_SECRET_FILE", value_name = "FILE", help_heading = "Access")]
    pub secret_file: Option<PathBuf>,

    /// Directory for fragments, one for each disk; repeat it or separate by commas [default: $XDG_CACHE_HOME/roost, else
    /// ~/.cache/roost]
    #[arg(long, env = "ROOST_CACHE_DIR", value_name = "DIR", help_heading = "Cache", value_delimiter = ',')]
    pub cache_dir: Option<Vec<PathBuf>>,

    /// The most that fragments may take on disk [default: 80%]
    ///
    /// 1MiB or more, or more than 0% up to 100%. A size is for all cache directories together, a share is of their
    /// filesystems.
    #[arg(long, env = "ROOST_CAPACITY", value_name = "SIZE|PERCENT", help_heading = "Cache")]
    pub capacity: Option<Amount>,

    /// What stays free on each filesystem of a cache directory [default: 5%]
    ///
    /// When something else fills the disk, the cache gives space back. Less than 100%.
    #[arg(long, env = "ROOST_MIN_FREE", value_name = "SIZE|PERCENT", help_heading = "Cache")]
    pub min_free: Option<Amount>,

    /// Compare a fragment's checksums on its first use after a start, or on every use [default: first]
    #[arg(long, env = "ROOST_VERIFY", value_name = "WHEN", help_heading = "Cache")]
    pub verify: Option<Verify>,

    /// How new fragments are compressed [default: none]
    ///
    /// Without compression reads copy nothing, and nothing is faster as long as the page cache or the disk keep up.
    /// "lz4" and "zstd" are for slower or smaller disks. Fragments that are there already stay as they are.
    #[arg(long, env = "ROOST_COMPRESSION", value_name = "CODEC", help_heading = "Cache")]
    pub compression: Option<Compression>,

    /// How long a job that stopped reading still holds what it read [default: 10m]
    ///
    /// 0s to 30days. What a job holds is not evicted: make it longer than the pause between two epochs.
    #[arg(
        long, env = "ROOST_JOB_GRACE", value_name = "DURATION", help_heading = "Cache",
        value_parser = parse_duration
    )]
    pub job_grace: Option<Duration>,

    /// Age at which a listing is compared with the origin again [default: 1m]
    ///
    /// 0s to 30days; 0s compares at every plan.
    #[arg(
        long, env = "ROOST_REVALIDATE", value_name = "DURATION", help_heading = "Cache",
        value_parser = parse_duration
    )]
    pub revalidate: Option<Duration>,

    /// Parquet footers kept in memory [default: 256MiB]
    ///
    /// 1MiB or more, beside --memory.
    #[arg(
        long, env = "ROOST_FOOTER_CACHE", value_name = "SIZE", help_heading = "Memory and load",
        value_parser = parse_bytes
    )]
    pub footer_cache: Option<u64>,

    /// The most that buffers of fetching and decoding take [default: 1GiB]
    ///
    /// 64MiB or more. Readers wait for room when it is used up.
    #[arg(long, env = "ROOST_MEMORY", value_name = "SIZE", help_heading = "Memory and load", value_parser = parse_bytes)]
    pub memory: Option<u64>,

    /// Threads that decode [default: one for each core]
    ///
    /// 1 to 1024.
    #[arg(long, env = "ROOST_DECODE_THREADS", value_name = "COUNT", help_heading = "Memory and load")]
    pub decode_threads: Option<usize>,

    /// DoGet streams served at once; more are told to come back [default: 256]
    ///
    /// 1 to 65536.
    #[arg(long, env = "ROOST_MAX_STREAMS", value_name = "COUNT", help_heading = "Memory and load")]
    pub max_streams: Option<usize>,

    /// Tickets that clients on this host have mapped at once; more are told to stream [default: 8192]
    ///
    /// 1 to 1048576. Each takes a file descriptor.
    #[arg(long, env = "ROOST_MAX_MAPS", value_name = "COUNT", help_heading = "Memory and load")]
    pub max_maps: Option<usize>,

    /// How long open streams may go on after SIGTERM [default: 30s]
    ///
    /// 0s to 1h.
    #[arg(
        long, env = "ROOST_DRAIN_TIMEOUT", value_name = "DURATION", help_heading = "Memory and load",
        value_parser = parse_duration
    )]
    pub drain_timeout: Option<Duration>,

    /// Read only this URL and what is below it; repeat it or separate by commas [default: all may be read]
    #[arg(long, env = "ROOST_ALLOW", value_name = "URL", help_heading = "Origins", value_delimiter = ',')]
    pub allow: Option<Vec<String>>,

    /// Requests under way at once, over all origins [default: 64]
    ///
    /// 1 to 4096.
    #[arg(long, env = "ROOST_ORIGIN_CONCURRENCY", value_name = "COUNT", help_heading = "Origins")]
    pub origin_concurrency: Option<usize>,

    /// How long one request may take, its body included [default: 30s]
    ///
    /// 100ms to 1h.
    #[arg(
        long, env = "ROOST_REQUEST_TIMEOUT", value_name = "DURATION", help_heading = "Origins",
        value_parser = parse_duration
    )]
    pub request_timeout: Option<Duration>,

    /// How long a connection may take to open [default: 5s]
    ///
    /// 10ms to 10m.
    #[arg(
        long, env = "ROOST_CONNECT_TIMEOUT", value_name = "DURATION", help_heading = "Origins",
        value_parser = parse_duration
    )]
    pub connect_timeout: Option<Duration>,

    /// How often a failed request is tried again [default: 8]
    ///
    /// 0 to 100.
    #[arg(long, env = "ROOST_RETRIES", value_name = "COUNT", help_heading = "Origins")]
    pub retries: Option<usize>,

    /// Time after which a failed request is not tried again [default: 1m]
    ///
    /// 0s to 1h.
    #[arg(
        long, env = "ROOST_RETRY_TIMEOUT", value_name = "DURATION", help_heading = "Origins",
        value_parser = parse_duration
    )]
    pub retry_timeout: Option<Duration>,

    /// Read from the end of an object to find its footer at once [default: 64KiB]
    ///
    /// 1KiB to 16MiB. A longer footer costs a second read.
    #[arg(long, env = "ROOST_FOOTER_READ", value_name = "SIZE", help_heading = "Origins", value_parser = parse_bytes)]
    pub footer_read: Option<u64>,

    /// Largest range asked for at once; longer reads are split and run in parallel [default: 4MiB]
    ///
    /// 64KiB to 1GiB, and at most --memory.
    #[arg(long, env = "ROOST_PIECE_BYTES", value_name = "SIZE", help_heading = "Origins", value_parser = parse_bytes)]
    pub piece_bytes: Option<u64>,

    /// Join reads no further apart than this [default: 32KiB]
    ///
    /// 0 to 64MiB. The bytes between are fetched and dropped: fewer requests for more traffic.
    #[arg(long, env = "ROOST_COALESCE_GAP", value_name = "SIZE", help_heading = "Origins", value_parser = parse_bytes)]
    pub coalesce_gap: Option<u64>,

    /// Fetch at most so much a second to warm the start of jobs' next epochs; 0 warms none [default: 100MiB]
    ///
    /// While readers wait for the origin it takes at most a twentieth of what they fetch, whatever is given here.
    #[arg(
        long, env = "ROOST_AHEAD_BANDWIDTH", value_name = "SIZE", help_heading = "Origins", value_parser = parse_bytes
    )]
    pub ahead_bandwidth: Option<u64>,

    /// What to log: error, warn, info, debug, trace, or target=level directives [default: info]
    #[arg(long, env = "ROOST_LOG", value_name = "FILTER", help_heading = "Logs, on standard error")]
    pub log: Option<String>,

    /// Log lines for people, or one JSON object a line [default: text]
    #[arg(long, env = "ROOST_LOG_FORMAT", value_name = "FORMAT", help_heading = "Logs, on standard error")]
    pub log_format: Option<LogFormat>,
}

impl ServeArgs {
    /// The settings these flags and the settings file they name come to, checked.
    pub fn settings(self) -> Result<Settings> {
        // Each field is named once and in full: one that is added and forgotten here does not compile.
        macro_rules! overlay {
            ($settings:ident, { $($plain:ident),* }, { $($optional:ident),* }) => {
                let Self { config: _, $($plain),*, $($optional),* } = self;
                $(if let Some(value) = $plain { $settings.$plain = value; })*
                $(if let Some(value) = $optional { $settings.$optional = Some(value); })*
            };
        }

        let mut settings = match &self.config {
            Some(path) => Settings::from_file(path)?,
            None => Settings::default(),
        };
        overlay!(
            settings,
            {
                listen, http, socket, socket_mode, insecure, cache_dir, capacity, min_free, verify, compression, job_grace, revalidate, footer_cache,
                memory, decode_threads, max_streams, max_maps, drain_timeout, allow, origin_concurrency, request_timeout,
                connect_timeout, retries, retry_timeout, footer_read, piece_bytes, coalesce_gap, ahead_bandwidth, log, log_format
            },
            { advertise, secret_file }
        );
        settings.check()?;
        Ok(settings)
    }
}
