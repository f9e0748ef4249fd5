//! What a node can be told: plain data, its defaults, its bounds.
//!
//! A setting comes from the settings file, the environment or a flag; the later of these wins. [`ServeArgs`] knows the
//! flags and the merging, this module what a valid setting is. Nothing here looks at a disk or a network except to read
//! the settings file: whether a directory can be written to is found out where it is used.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::{GIB, KIB, MIB};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod args;
mod units;

pub use args::ServeArgs;
pub use units::{Amount, format_bytes, parse_bytes};

use units::{bytes_text, duration_text};

/// Every setting of a node. `docs/SETTINGS.md` is the same list for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// Where Flight is served, `HOST:PORT`; port 0 takes a free one. Default `127.0.0.1:8815`.
    pub listen: String,
    /// Where metrics, health and the status page are served, `HOST:PORT` or `off`. Default `127.0.0.1:8816`.
    /// Use [`Settings::http_address`].
    pub http: String,
    /// The `HOST` or `HOST:PORT` that clients are told to connect to. Default: what [`Settings::advertised`] finds.
    pub advertise: Option<String>,
    /// The unix socket for clients on this host, an absolute path, `off` or `auto`. Default `auto`: in the first cache
    /// directory. Use [`Settings::socket_path`].
    pub socket: String,
    /// Who on this host may connect to the socket: its permissions, in octal. Default `666`.
    pub socket_mode: String,
    /// Lets `listen` and `http` name addresses that other machines can reach, though nothing asks callers who they
    /// are. Default `false`.
    pub insecure: bool,
    /// The key that signs tickets. Default: a file that the node makes in its first cache directory.
    pub secret_file: Option<PathBuf>,

    /// Where fragments are kept, one directory for each disk. Default `$XDG_CACHE_HOME/roost`, else `~/.cache/roost`.
    pub cache_dir: Vec<PathBuf>,
    /// The most that fragments may take: bytes for all directories together, or a share of their filesystems, each
    /// counted once. Default `80%`; 1MiB or more, or more than 0% up to 100%.
    pub capacity: Amount,
    /// What stays free on each filesystem of a cache directory, whoever fills it. Default `5%`, less than 100%.
    pub min_free: Amount,
    /// When the checksums of a fragment's buffers are compared. Default `first`.
    pub verify: Verify,
    /// How the bodies of new fragments are compressed. Default `none`.
    pub compression: Compression,
    /// How long a job that stopped reading still holds what it read. Default 10m, 0s to 30days.
    #[serde(with = "duration_text")]
    pub job_grace: Duration,
    /// The age at which a snapshot's listing is compared with the origin again. Default 1m, 0s to 30days.
    #[serde(with = "duration_text")]
    pub revalidate: Duration,
    /// The bytes of Parquet footers kept in memory. Default 256MiB, 1MiB or more.
    #[serde(with = "bytes_text")]
    pub footer_cache: u64,

    /// The most that buffers of fetching and decoding take. Default 1GiB, 64MiB or more.
    #[serde(with = "bytes_text")]
    pub memory: u64,
    /// Threads that decode. Default: one for each core; 1 to 1024.
    pub decode_threads: usize,
    /// DoGet streams served at once; more are told to come back. Default 256, 1 to 65536.
    pub max_streams: usize,
    /// Tickets that clients on this host have mapped at once; more are told to stream. Default 8192, 1 to 1048576.
    pub max_maps: usize,
    /// How long open streams may go on after the node was told to stop. Default 30s, 0s to 1h.
    #[serde(with = "duration_text")]
    pub drain_timeout: Duration,

    /// What may be read: these URLs and what is below them. Default: none given, everything may be read.
    pub allow: Vec<String>,
    /// Requests under way at once, over all origins. Default 64, 1 to 4096.
    pub origin_concurrency: usize,
    /// How long one request may take, its body included. Default 30s, 100ms to 1h.
    #[serde(with = "duration_text")]
    pub request_timeout: Duration,
    /// How long a connection may take to open. Default 5s, 10ms to 10m.
    #[serde(with = "duration_text")]
    pub connect_timeout: Duration,
    /// How often a failed request is tried again. Default 8, 0 to 100.
    pub retries: usize,
    /// After this time a failed request is not tried again. Default 1m, 0s to 1h.
    #[serde(with = "duration_text")]
    pub retry_timeout: Duration,
    /// The bytes read from the end of an object to find its footer at once. Default 64KiB, 1KiB to 16MiB.
    #[serde(with = "bytes_text")]
    pub footer_read: u64,
    /// The largest range asked for at once: longer reads are split and run in parallel. Default 4MiB, 64KiB to 1GiB, at most `memory`.
    #[serde(with = "bytes_text")]
    pub piece_bytes: u64,
    /// Reads no further apart than this are joined. Default 32KiB, 0 to 64MiB.
    #[serde(with = "bytes_text")]
    pub coalesce_gap: u64,

    /// The most that is fetched a second to warm the start of next epochs; 0 warms none. Default 100MiB.
    #[serde(with = "bytes_text")]
    pub ahead_bandwidth: u64,

    /// What is logged: a level, or `target=level` directives. Default `info`.
    pub log: String,
    /// How a log line looks. Default `text`.
    pub log_format: LogFormat,
}

/// When the checksums of a fragment's buffers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// On the first use after a start.
    First,
    /// On every use.
    Always,
}

/// How the bodies of fragments are compressed: served, and mapped, as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all: reads copy nothing.
    None,
    /// LZ4 frames: for disks that are slower than a core decompresses.
    Lz4,
    /// Zstandard: for disks that are slower still, or too small.
    Zstd,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8815".into(),
            http: "127.0.0.1:8816".into(),
            advertise: None,
            socket: "auto".into(),
            socket_mode: "666".into(),
            insecure: false,
            secret_file: None,
            cache_dir: default_cache_dir(|name| std::env::var_os(name).map(PathBuf::from)).into_iter().collect(),
            capacity: Amount::Percent(80.0),
            min_free: Amount::Percent(5.0),
            verify: Verify::First,
            compression: Compression::None,
            job_grace: Duration::from_mins(10),
            revalidate: Duration::from_mins(1),
            footer_cache: 256 * MIB,
            memory: GIB,
            decode_threads: std::thread::available_parallelism().map_or(1, usize::from).min(1024),
            max_streams: 256,
            max_maps: 8192,
            drain_timeout: Duration::from_secs(30),
            allow: Vec::new(),
            origin_concurrency: 64,
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            retries: 8,
            retry_timeout: Duration::from_mins(1),
            footer_read: 64 * KIB,
            piece_bytes: 4 * MIB,
            coalesce_gap: 32 * KIB,
            ahead_bandwidth: 100 * MIB,
            log: "info".into(),
            log_format: LogFormat::Text,
        }
    }
}

/// The XDG rule: relative paths in `XDG_CACHE_HOME` are to be ignored. `None` where there is no home either.
fn default_cache_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(base.join("roost"))
}

impl Settings {
    /// Reads a settings file; what it doesn't mention keeps its default. Does not [`check`](Self::check).
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::invalid(format!("settings file {}: {error}", path.display())))?;
        Self::from_toml(&text).map_err(|error| error.context(format!("settings file {}", path.display())))
    }

    fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::invalid(error.to_string().trim_end()))
    }

    /// The address of the HTTP service, or `None` where it is switched off.
    pub fn http_address(&self) -> Option<&str> {
        (self.http != "off").then_some(self.http.as_str())
    }

    /// Where the unix socket of a node with this first cache root is to be, or `None` where it is switched off.
    pub fn socket_path(&self, root: &Path) -> Option<PathBuf> {
        match self.socket.as_str() {
            "off" => None,
            "auto" => Some(root.join("roost.sock")),
            path => Some(path.into()),
        }
    }

    /// The permissions of the unix socket.
    pub fn socket_permissions(&self) -> u32 {
        u32::from_str_radix(&self.socket_mode, 8).unwrap_or(0o600)
    }

    /// The `HOST:PORT` to tell clients, for a Flight service bound to `bound`. Without `advertise` that is the bound
    /// address, or where all of a machine's addresses are bound, its host name.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        let port = bound.port();
        match &self.advertise {
            Some(address) if split_address(address).is_ok() => address.clone(),
            Some(host) => format!("{host}:{port}"),
            None if bound.ip().is_unspecified() => {
                format!("{}:{port}", rustix::system::uname().nodename().to_string_lossy())
            }
            None => bound.to_string(),
        }
    }

    /// Compares every setting with its bounds, and names all that are wrong at once.
    pub fn check(&self) -> Result<()> {
        let mut wrong = Wrong::default();
        self.check_addresses(&mut wrong);
        self.check_cache(&mut wrong);
        self.check_origin(&mut wrong);
        if self.memory < 64 * MIB {
            wrong.add("memory", format_bytes(self.memory), "must be 64MiB or more");
        }
        wrong.unless_within("decode-threads", self.decode_threads, 1..=1024, usize::to_string);
        wrong.unless_within("max-streams", self.max_streams, 1..=65536, usize::to_string);
        wrong.unless_within("max-maps", self.max_maps, 1..=1 << 20, usize::to_string);
        wrong.unless_within("drain-timeout", self.drain_timeout, Duration::ZERO..=HOUR, duration);
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&self.log) {
            wrong.add("log", &self.log, format!("must be a level or target=level directives, but {error}"));
        }
        wrong.into_result()
    }

    fn check_addresses(&self, wrong: &mut Wrong) {
        let path = Path::new(&self.socket);
        if !matches!(self.socket.as_str(), "off" | "auto") && !path.is_absolute() {
            wrong.add("socket", &self.socket, "must be an absolute path, auto or off");
        } else if self.socket.len() > SOCKET_PATH_MAX {
            wrong.add("socket", &self.socket, format!("must have at most {SOCKET_PATH_MAX} bytes"));
        }
        if !u32::from_str_radix(&self.socket_mode, 8).is_ok_and(|mode| mode <= 0o777) {
            wrong.add("socket-mode", &self.socket_mode, "must be octal permissions, such as 660");
        }
        let doors = [("listen", Some(self.listen.as_str())), ("http", self.http_address())];
        for (field, address) in doors.into_iter().filter_map(|(field, address)| Some((field, address?))) {
            match split_address(address) {
                Err(reason) => wrong.add(field, address, format!("must be HOST:PORT, but {reason}")),
                Ok((host, _)) if !self.insecure && !is_loopback(host) => wrong.add(
                    field,
                    address,
                    "other machines could read all that this node can read, as it does not ask who they are: \
                     listen on 127.0.0.1, or allow it with insecure",
                ),
                Ok(_) => {}
            }
        }
        if self.http == self.listen && split_address(&self.http).is_ok_and(|(_, port)| port != 0) {
            wrong.add("http", &self.http, "must differ from listen");
        }
        if let Some(address) = &self.advertise {
            let named = match split_address(address) {
                Ok((_, port)) => port != 0,
                Err(_) => check_host(address).is_ok(),
            };
            if !named {
                wrong.add("advertise", address, "must be HOST or HOST:PORT, with a port other than 0");
            }
        }
        if self.secret_file.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            wrong.add("secret-file", "\"\"", "must be a path");
        }
    }

    fn check_cache(&self, wrong: &mut Wrong) {
        if self.cache_dir.is_empty() {
            wrong.add("cache-dir", "empty", "name a directory (HOME, which gives the default, may be unset)");
        }
        for (i, dir) in self.cache_dir.iter().enumerate() {
            if dir.as_os_str().is_empty() {
                wrong.add("cache-dir", "\"\"", "must be a path");
            } else if let Some(other) = self.cache_dir[..i].iter().find(|o| dir.starts_with(o) || o.starts_with(dir)) {
                let reason = format!("must be apart from {}: neither may hold the other", other.display());
                wrong.add("cache-dir", dir.display(), reason);
            }
        }
        match self.capacity {
            Amount::Bytes(bytes) if bytes >= MIB => {}
            Amount::Percent(percent) if percent > 0.0 && percent <= 100.0 => {}
            capacity => wrong.add("capacity", capacity, "must be 1MiB or more, or more than 0% up to 100%"),
        }
        if let Amount::Percent(percent) = self.min_free
            && !(0.0..100.0).contains(&percent)
        {
            wrong.add("min-free", self.min_free, "must be bytes, or less than 100%");
        }
        wrong.unless_within("job-grace", self.job_grace, Duration::ZERO..=MONTH, duration);
        wrong.unless_within("revalidate", self.revalidate, Duration::ZERO..=MONTH, duration);
        if self.footer_cache < MIB {
            wrong.add("footer-cache", format_bytes(self.footer_cache), "must be 1MiB or more");
        }
    }

    fn check_origin(&self, wrong: &mut Wrong) {
        for prefix in &self.allow {
            // What a URL may look like beyond this, each kind of origin knows.
            if !prefix.contains("://") && !prefix.starts_with('/') {
                wrong.add("allow", prefix, "must be a URL such as s3://bucket/path, or an absolute path");
            }
        }
        wrong.unless_within("origin-concurrency", self.origin_concurrency, 1..=4096, usize::to_string);
        let millis = Duration::from_millis;
        wrong.unless_within("request-timeout", self.request_timeout, millis(100)..=HOUR, duration);
        wrong.unless_within("connect-timeout", self.connect_timeout, millis(10)..=Duration::from_mins(10), duration);
        wrong.unless_within("retries", self.retries, 0..=100, usize::to_string);
        wrong.unless_within("retry-timeout", self.retry_timeout, Duration::ZERO..=HOUR, duration);
        let bytes = |bytes: &u64| format_bytes(*bytes);
        wrong.unless_within("footer-read", self.footer_read, KIB..=16 * MIB, bytes);
        wrong.unless_within("piece-bytes", self.piece_bytes, 64 * KIB..=GIB, bytes);
        wrong.unless_within("coalesce-gap", self.coalesce_gap, 0..=64 * MIB, bytes);
        // A piece that memory never has room for could never be read.
        if self.piece_bytes > self.memory {
            let reason = format!("must be at most memory, which is {}", format_bytes(self.memory));
            wrong.add("piece-bytes", format_bytes(self.piece_bytes), reason);
        }
    }
}

/// `sun_path` of the system, less its terminator.
pub const SOCKET_PATH_MAX: usize = 107;
const HOUR: Duration = Duration::from_hours(1);
const MONTH: Duration = Duration::from_hours(30 * 24);

fn duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

/// The settings found wrong, each as a sentence.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn add(&mut self, field: &str, value: impl Display, reason: impl Display) {
        self.0.push(format!("{field} is {value}: {reason}"));
    }

    fn unless_within<T: PartialOrd>(
        &mut self,
        field: &str,
        value: T,
        bounds: RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) {
        if !bounds.contains(&value) {
            let reason = format!("must be {} to {}", show(bounds.start()), show(bounds.end()));
            self.add(field, show(&value), reason);
        }
    }

    fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::invalid(self.0.join("; "))) }
    }
}

/// Splits `HOST:PORT`. A host is a name, an IPv4 address, or an IPv6 address in brackets, which stay on it.
fn split_address(address: &str) -> Result<(&str, u16), String> {
    if address.contains("://") {
        return Err("it has a scheme".into());
    }
    let (host, port) = address.rsplit_once(':').ok_or("it has no port")?;
    check_host(host)?;
    let port = port.parse().map_err(|_| format!("its port {port:?} is not a number from 0 to 65535"))?;
    Ok((host, port))
}

fn check_host(host: &str) -> Result<(), String> {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match bracketed {
        Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => Ok(()),
        None if host.is_empty() => Err("it has no host (all addresses are 0.0.0.0)".into()),
        None if host.chars().all(plain) => Ok(()),
        _ => Err(format!("{host:?} is no host name or address (an IPv6 address stands in brackets, such as [::1])")),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests;
