//! URLs of data sets: one spelling each, what they name, and whether they may be read. Pure.
//!
//! In `file:` and `s3:` URLs `%41` is the byte it encodes, a `%` without two hex digits stands for itself, and `#` is a
//! character of the name, since these schemes have no fragments. `*`, `?` and `[` make a glob; a name that holds one
//! writes it as `%2A`, `%3F` or `%5B`. A bare absolute path is taken as it is, globs aside. `http:` URLs follow the web's rules.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use ::url::Url;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

use super::filter::Filter;
use crate::error::{Error, ErrorKind, Result};

/// What a canonical path encodes: what could end a path, be mistaken for a glob or an escape, or break a log line.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'*')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Canonical text of a decoded path. `/` stays.
pub(super) fn encode(path: &[u8]) -> String {
    percent_encode(path, PATH).to_string()
}

#[derive(Debug, Clone)]
pub(super) enum Target {
    File(Path),
    S3 { bucket: String, key: Path },
    Http(Url),
}

/// The path of a file or key: parsed, decoded.
#[derive(Debug, Clone)]
pub(super) struct Path {
    segments: Vec<Segment>,
    /// It ended with `/`, or is the root.
    directory: bool,
}

#[derive(Debug, Clone)]
struct Segment {
    canonical: String,
    meaning: Meaning,
}

#[derive(Debug, Clone)]
enum Meaning {
    Literal(Vec<u8>),
    /// In the syntax of `globset`, literal characters escaped.
    Pattern(String),
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self> {
        parse(url).map_err(|(kind, why)| Error::new(kind, format!("{}: {why}", shown(url))))
    }

    pub(super) fn canonical(&self) -> String {
        match self {
            Self::File(path) => format!("file:///{}", path.canonical()),
            Self::S3 { bucket, key } => format!("s3://{bucket}/{}", key.canonical()),
            Self::Http(url) => url.to_string(),
        }
    }

    /// The path, for schemes that have directories.
    fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::S3 { key: path, .. } => Some(path),
            Self::Http(_) => None,
        }
    }

    fn with_path(&self, path: Path) -> Self {
        match self {
            Self::File(_) => Self::File(path),
            Self::S3 { bucket, .. } => Self::S3 { bucket: bucket.clone(), key: path },
            Self::Http(url) => Self::Http(url.clone()),
        }
    }

    pub(super) fn is_glob(&self) -> bool {
        self.path().is_some_and(|path| path.literal_segments() < path.segments.len())
    }

    /// Whether the URL says by its form that it names what is below it.
    pub(super) fn is_directory(&self) -> bool {
        match self {
            Self::Http(url) => url.path().ends_with('/'),
            Self::File(path) | Self::S3 { key: path, .. } => path.directory,
        }
    }

    /// The same, said to be a directory.
    pub(super) fn directory(&self) -> Self {
        match self.path() {
            Some(path) => self.with_path(Path { directory: true, ..path.clone() }),
            None => self.clone(),
        }
    }

    /// The directory below which a glob searches; `None` if this is no glob.
    pub(super) fn base(&self) -> Option<Self> {
        let path = self.path().filter(|_| self.is_glob())?;
        let segments = path.segments[..path.literal_segments()].to_vec();
        Some(self.with_path(Path { segments, directory: true }))
    }

    /// Which of the paths below the base belong to the data set.
    pub(super) fn filter(&self) -> Result<Filter> {
        let Some(path) = self.path().filter(|_| self.is_glob()) else { return Ok(Filter::visible()) };
        if path.directory {
            return Err(Error::invalid(format!(
                "{}: a glob matches objects, not directories: end it with `*`, or with `**` for all that lies below",
                shown(&self.canonical())
            )));
        }
        let patterns: Vec<String> = path.segments[path.literal_segments()..].iter().map(Segment::pattern).collect();
        Filter::glob(&patterns)
            .map_err(|why| Error::invalid(format!("{}: not a glob: {why}", shown(&self.canonical()))))
    }

    /// The decoded path without its leading `/`; of a glob, of its base.
    pub(super) fn key(&self) -> Vec<u8> {
        match self {
            Self::File(path) | Self::S3 { key: path, .. } => path.decoded(),
            Self::Http(url) => percent_decode_str(url.path().trim_start_matches('/')).collect(),
        }
    }

    /// The path in the file system.
    pub(super) fn file(&self) -> PathBuf {
        let mut bytes = vec![b'/'];
        bytes.extend(self.key());
        PathBuf::from(OsStr::from_bytes(&bytes))
    }
}

impl Path {
    fn canonical(&self) -> String {
        let mut text = self.segments.iter().map(|s| s.canonical.as_str()).collect::<Vec<_>>().join("/");
        if self.directory && !text.is_empty() {
            text.push('/');
        }
        text
    }

    fn literal_segments(&self) -> usize {
        self.segments.iter().take_while(|s| matches!(s.meaning, Meaning::Literal(_))).count()
    }

    fn decoded(&self) -> Vec<u8> {
        let literal = self.segments.iter().map_while(|s| match &s.meaning {
            Meaning::Literal(bytes) => Some(bytes.as_slice()),
            Meaning::Pattern(_) => None,
        });
        literal.collect::<Vec<_>>().join(&b'/')
    }
}

impl Segment {
    fn pattern(&self) -> String {
        match &self.meaning {
            Meaning::Pattern(pattern) => pattern.clone(),
            Meaning::Literal(bytes) => escape(&String::from_utf8_lossy(bytes)),
        }
    }
}

type Parsed<T> = Result<T, (ErrorKind, String)>;

fn wrong<T>(why: impl Into<String>) -> Parsed<T> {
    Err((ErrorKind::Invalid, why.into()))
}

const SCHEMES: &str = "supported are file:///PATH (or an absolute path), s3://BUCKET/KEY and http(s)://HOST/PATH";

fn parse(url: &str) -> Parsed<Target> {
    if url.starts_with('/') {
        return Ok(Target::File(parse_path(url, Names::Files, Escapes::None)?));
    }
    let Some((scheme, rest)) = url.split_once(':') else {
        return wrong(format!("neither a URL nor an absolute path: {SCHEMES}"));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => {
            let path = match rest.strip_prefix("//") {
                Some(rest) => {
                    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                    if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
                        return wrong(format!(
                            "a file URL names no host, but this one names `{host}`: write file:///PATH"
                        ));
                    }
                    path
                }
                None => rest,
            };
            if !path.starts_with('/') {
                return wrong("a file URL needs an absolute path: write file:///PATH");
            }
            Ok(Target::File(parse_path(path, Names::Files, Escapes::Percent)?))
        }
        "s3" | "s3a" => {
            let Some(rest) = rest.strip_prefix("//") else { return wrong("write s3://BUCKET/KEY") };
            let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if bucket.is_empty() || !bucket.bytes().all(fits) || bucket.bytes().all(|b| b == b'.') {
                return wrong(format!("`{bucket}` is no bucket name: write s3://BUCKET/KEY"));
            }
            Ok(Target::S3 { bucket: bucket.to_owned(), key: parse_path(key, Names::Keys, Escapes::Percent)? })
        }
        "http" | "https" => Ok(Target::Http(parse_http(url)?)),
        scheme => wrong(format!("the scheme `{scheme}:` is not supported: {SCHEMES}")),
    }
}

fn parse_http(text: &str) -> Parsed<Url> {
    // `Url` resolves `..` and its disguises; what asks for that is up to no good.
    let path = text.split(['?', '#']).next().unwrap_or(text);
    if path.split(['/', '\\']).any(|segment| percent_decode_str(segment).eq("..".bytes())) {
        return wrong("`..` is not allowed in a path");
    }
    let mut url = match Url::parse(text) {
        Ok(url) => url,
        Err(e) => return wrong(format!("not a URL: {e}")),
    };
    if url.host_str().is_none_or(str::is_empty) {
        return wrong("a URL without a host: write http(s)://HOST/PATH");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("credentials in a URL end up in logs and caches: use a presigned URL");
    }
    url.set_fragment(None);
    if url.path().contains(['*', '[']) {
        return Err((
            ErrorKind::Unsupported,
            "HTTP has no listings, so a glob can't be resolved: name one object (and write `*` in a name as %2A)"
                .into(),
        ));
    }
    // The HTTP client is stricter than `Url`, and takes for granted that this was checked.
    if let Err(e) = url.as_str().parse::<::http::Uri>() {
        return wrong(format!("not to be sent over HTTP: {e}"));
    }
    Ok(url)
}

#[derive(Clone, Copy, PartialEq)]
enum Names {
    Files,
    Keys,
}

#[derive(Clone, Copy, PartialEq)]
enum Escapes {
    None,
    Percent,
}

fn parse_path(text: &str, names: Names, escapes: Escapes) -> Parsed<Path> {
    let directory = text.is_empty() || text.ends_with('/');
    let inner = if names == Names::Keys { text.strip_suffix('/').unwrap_or(text) } else { text };
    let mut segments = Vec::new();
    if !inner.is_empty() {
        for part in inner.split('/') {
            let segment = parse_segment(part, escapes)?;
            let bytes = match &segment.meaning {
                Meaning::Literal(bytes) => bytes.as_slice(),
                Meaning::Pattern(_) => {
                    segments.push(segment);
                    continue;
                }
            };
            match (bytes, names) {
                (b"..", _) => return wrong("`..` is not allowed in a path"),
                (b"" | b".", Names::Files) => continue,
                (b"" | b".", Names::Keys) => {
                    return wrong("keys with an empty segment (`//`) or the segment `.` are not supported");
                }
                _ => {}
            }
            if bytes.contains(&b'/') {
                return wrong("%2F is not allowed: no name holds a `/`");
            }
            match names {
                Names::Files if bytes.contains(&0) => return wrong("no file name holds a zero byte"),
                Names::Keys if bytes.iter().any(u8::is_ascii_control) => {
                    return wrong("keys with control characters are not supported");
                }
                Names::Keys if std::str::from_utf8(bytes).is_err() => {
                    return wrong("keys are UTF-8, and this one is not");
                }
                _ => segments.push(segment),
            }
        }
    }
    Ok(Path { directory: directory || segments.is_empty(), segments })
}

fn parse_segment(text: &str, escapes: Escapes) -> Parsed<Segment> {
    let decode = |text: &str| match escapes {
        Escapes::None => text.as_bytes().to_vec(),
        Escapes::Percent => percent_decode_str(text).collect(),
    };
    let utf8 = |bytes: Vec<u8>| match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => wrong("a glob must be UTF-8"),
    };
    if !text.contains(['*', '?', '[']) {
        let bytes = decode(text);
        return Ok(Segment { canonical: encode(&bytes), meaning: Meaning::Literal(bytes) });
    }
    let (mut canonical, mut pattern) = (String::new(), String::new());
    let mut rest = text;
    while let Some(at) = rest.find(['*', '?', '[']) {
        let literal = utf8(decode(&rest[..at]))?;
        canonical.push_str(&encode(literal.as_bytes()));
        pattern.push_str(&escape(&literal));
        rest = &rest[at..];
        let meta = if rest.starts_with('[') { class(rest)? } else { &rest[..1] };
        rest = &rest[meta.len()..];
        if meta.len() == 1 {
            canonical.push_str(meta);
            pattern.push_str(meta);
        } else {
            let inner = utf8(decode(&meta[1..meta.len() - 1]))?;
            // globset reads `[:alpha:]` and the like in a class; a class of single characters and ranges is enough.
            if inner.contains(['[', '/']) || inner.trim_start_matches(['!', '^']).chars().skip(1).any(|c| c == ']') {
                return wrong(format!("the class `{meta}` is not supported: it may not hold `[`, `/` or a later `]`"));
            }
            canonical.push_str(&format!("[{}]", encode(inner.as_bytes())));
            pattern.push_str(&format!("[{inner}]"));
        }
    }
    let literal = utf8(decode(rest))?;
    canonical.push_str(&encode(literal.as_bytes()));
    pattern.push_str(&escape(&literal));
    Ok(Segment { canonical, meaning: Meaning::Pattern(pattern) })
}

/// The class that `text` begins with. A `]` that comes first is a member of it.
fn class(text: &str) -> Parsed<&str> {
    let first = if text[1..].starts_with(['!', '^']) { 2 } else { 1 };
    let from = if text[first..].starts_with(']') { first + 1 } else { first };
    match text[from..].find(']') {
        Some(at) => Ok(&text[..from + at + 1]),
        None => wrong("`[` opens a class that no `]` closes: write %5B for a `[` in a name"),
    }
}

/// `text` for globset, standing for itself.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' => escaped.extend(['[', c, ']']),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A URL prefix, for the allow-list and for stores that tests give: canonical, without a last `/`, or `scheme://`.
pub(super) fn allowed_prefix(text: &str) -> Result<String> {
    if let Some(scheme) = text.strip_suffix("://") {
        return match scheme.to_ascii_lowercase().as_str() {
            scheme @ ("file" | "s3" | "http" | "https") => Ok(format!("{scheme}://")),
            _ => Err(Error::invalid(format!("the URL prefix `{text}`: {SCHEMES}"))),
        };
    }
    let target = Target::parse(text).map_err(|e| e.context("URL prefix"))?;
    if target.is_glob() {
        return Err(Error::invalid(format!("the URL prefix `{}` may not hold a glob", shown(text))));
    }
    let canonical = target.canonical();
    Ok(if canonical == "file:///" {
        "file://".to_owned()
    } else {
        without_query(&canonical).trim_end_matches('/').to_owned()
    })
}

/// Whether `url`, canonical, is at or below `prefix`, which [`allowed_prefix`] made.
pub(super) fn covers(prefix: &str, url: &str) -> bool {
    let url = without_query(url);
    match url.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix.ends_with("://"),
        None => false,
    }
}

fn is_http(url: &str) -> bool {
    let scheme = url.split(':').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
}

/// Only in `http:` URLs a `?` begins a query.
fn without_query(url: &str) -> &str {
    if is_http(url) { url.split('?').next().unwrap_or(url) } else { url }
}

pub(super) fn decoded_path(url: &str) -> String {
    let url = without_query(url);
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// A URL for people: without its query, which may be a signature, and without credentials.
pub(super) fn shown(url: &str) -> String {
    if !is_http(url) {
        return url.to_owned();
    }
    let (head, query) = match url.split_once('?') {
        Some((head, _)) => (head, "?…"),
        None => (url, ""),
    };
    let authority = head.find("://").map_or(0, |at| at + 3);
    let end = head[authority..].find('/').map_or(head.len(), |at| authority + at);
    match head[authority..end].rfind('@') {
        Some(at) => format!("{}…{}{query}", &head[..authority], &head[authority + at..]),
        None => format!("{head}{query}"),
    }
}
