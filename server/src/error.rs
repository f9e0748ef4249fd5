//! The one public error: what went wrong, and what the caller should do about it.
//!
//! Modules keep their own detail in the message; callers branch on [`ErrorKind`] alone. The mapping to gRPC stands here
//! and nowhere else.

use std::fmt;

/// What the caller should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong: change it. Retrying is useless.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The origin or this node refuses the caller.
    PermissionDenied,
    /// Who is calling? Credentials are missing or wrong.
    Unauthenticated,
    /// The object changed since the plan, or the ticket's key was retired: make a new plan.
    Stale,
    /// A limit of this node was reached: ask again later, or for less.
    Exhausted,
    /// The origin or this node can't answer now: retry, here or on another node.
    Unavailable,
    /// The origin or this node did not answer in time: retry.
    Timeout,
    /// Valid, but not supported by this version.
    Unsupported,
    /// The origin's bytes are not the Parquet they claim to be: mend the object.
    Corrupt,
    /// The caller went away.
    Cancelled,
    /// A defect in Roost: report it.
    Internal,
}

impl ErrorKind {
    /// Whether the same request can succeed later without being changed.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::Exhausted)
    }

    /// A stable lower-case name, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Stale => "stale",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// An error with its kind and a message that names the thing: URL, row group, column, limit.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn stale(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Stale, message)
    }

    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub fn exhausted(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Exhausted, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// Puts what was being done in front of the message; the kind stays.
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        use tonic::Code;
        let code = match error.kind {
            ErrorKind::Invalid => Code::InvalidArgument,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::PermissionDenied => Code::PermissionDenied,
            ErrorKind::Unauthenticated => Code::Unauthenticated,
            ErrorKind::Stale => Code::FailedPrecondition,
            ErrorKind::Exhausted => Code::ResourceExhausted,
            ErrorKind::Unavailable => Code::Unavailable,
            ErrorKind::Timeout => Code::DeadlineExceeded,
            ErrorKind::Unsupported => Code::Unimplemented,
            ErrorKind::Corrupt => Code::DataLoss,
            ErrorKind::Cancelled => Code::Cancelled,
            ErrorKind::Internal => Code::Internal,
        };
        // gRPC carries the message in a header that many proxies cut at 8 KiB.
        let mut message = error.message;
        if message.len() > 4096 {
            let end = (0..=4096).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        tonic::Status::new(code, message)
    }
}
