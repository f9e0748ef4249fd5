//! The one public error. Its kind says what the caller should do; the mapping from gRPC stands here and nowhere else.

use std::error::Error as StdError;
use std::fmt;

use tonic::{Code, Status};

/// What the caller should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong: change it. Retrying is useless.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The origin or the node refuses the caller.
    PermissionDenied,
    /// Credentials are missing or wrong.
    Unauthenticated,
    /// The object changed since the plan, or the ticket's key was retired: make a new plan.
    Stale,
    /// A limit of the node was reached: ask again later, or for less.
    Exhausted,
    /// A node answered that it, or the origin, can't serve now: retry.
    Unavailable,
    /// No node of the list answers: start one, or name another.
    NoNode,
    /// No answer in time: retry.
    Timeout,
    /// Valid, but not supported by this version.
    Unsupported,
    /// The origin's bytes are not the Parquet they claim to be: mend the object.
    Corrupt,
    /// The request was cancelled.
    Cancelled,
    /// A defect in Roost: report it.
    Internal,
}

impl ErrorKind {
    /// A stable lower-case name, for logs and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::Stale => "stale",
            Self::Exhausted => "exhausted",
            Self::Unavailable => "unavailable",
            Self::NoNode => "no_node",
            Self::Timeout => "timeout",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }

    fn from_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid,
            Code::NotFound => Self::NotFound,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::FailedPrecondition | Code::Aborted => Self::Stale,
            Code::ResourceExhausted => Self::Exhausted,
            Code::Unavailable => Self::Unavailable,
            Code::DeadlineExceeded => Self::Timeout,
            Code::Unimplemented => Self::Unsupported,
            Code::DataLoss => Self::Corrupt,
            Code::Cancelled => Self::Cancelled,
            Code::Ok | Code::Unknown | Code::AlreadyExists | Code::Internal => Self::Internal,
        }
    }
}

/// An error with its kind and a message that names the thing: URL, row group, column, node.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    link: Link,
}

/// How far a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// To an answer of a node, or not on its way at all.
    Answered,
    /// The connection broke before the answer was whole.
    Broken,
    /// No connection was made.
    Refused,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), link: Link::Answered }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The failure of a call or stream to `node`.
    pub(crate) fn from_status(status: Status, node: &dyn fmt::Display) -> Self {
        let link = link_of(&status);
        let happened = match link {
            Link::Answered => None,
            Link::Broken => Some(format!("the connection to {node} broke")),
            Link::Refused => Some(format!("{node} can't be connected to")),
        };
        if let Some(happened) = happened {
            let message = format!("{happened}: {}", innermost(&status));
            return Self { kind: ErrorKind::Unavailable, message, link };
        }
        let message = match status.message() {
            "" => format!("{node} answered {:?} without saying why", status.code()),
            said => said.to_owned(),
        };
        Self::new(ErrorKind::from_code(status.code()), message)
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The node is gone, not unwilling.
    pub(crate) fn is_broken(&self) -> bool {
        self.link != Link::Answered
    }

    /// Nobody listens at the node's address.
    pub(crate) fn is_refused(&self) -> bool {
        self.link == Link::Refused
    }

    /// Whether another node, or the same a moment later, may well answer.
    pub(crate) fn is_worth_another_node(&self) -> bool {
        self.is_broken() || self.kind == ErrorKind::Unavailable
    }

    /// Puts what was being done, to what, in front of a message that doesn't name it already; the kind stays.
    pub(crate) fn about(mut self, doing: &str, subject: &str) -> Self {
        if subject.is_empty() {
            self.message = format!("{doing}: {}", self.message);
        } else if !self.message.contains(subject) {
            self.message = format!("{doing} {subject}: {}", self.message);
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {}

/// A status the server sent has no source: tonic sets one only where it turned a failure of the transport into a status.
/// `Unknown` is tonic's word for a stream that ended without any status, which hyper makes of some resets.
fn link_of(status: &Status) -> Link {
    let mut causes = std::iter::successors(status.source(), |&cause| cause.source());
    if causes.any(|cause| cause.is::<tonic::ConnectError>()) {
        Link::Refused
    } else if status.source().is_some() || status.code() == Code::Unknown {
        Link::Broken
    } else {
        Link::Answered
    }
}

/// The cause at the bottom says "connection refused" where the layers above say "transport error".
fn innermost(status: &Status) -> String {
    let mut cause: &dyn StdError = status;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match status.source() {
        Some(_) => cause.to_string(),
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
