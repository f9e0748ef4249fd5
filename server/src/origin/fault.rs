//! What a failure means to the caller.

use std::error::Error as StdError;
use std::time::Duration;

use object_store::client::{HttpError, HttpErrorKind};
use rustix::io::Errno;

use super::store::Kind;
use super::url::shown;
use crate::error::{Error, ErrorKind};

/// Why a redirect was not followed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RedirectRefused(pub(super) String);

/// The longest cause that is quoted: servers answer errors with whole pages.
const QUOTED: usize = 600;

/// `doing` completes "while …".
pub(super) fn explain(error: &object_store::Error, kind: &Kind, doing: &str, url: &str) -> Error {
    use object_store::Error as E;
    let name = shown(url);
    if let Some(RedirectRefused(why)) = cause(error) {
        return Error::new(ErrorKind::PermissionDenied, format!("{name}: the server was not followed: {why}"));
    }
    let status = status(error);
    let why = quoted(error, url);
    let (kind, what) = match (error, status) {
        (E::NotFound { .. }, _) | (_, Some(404 | 410)) => (ErrorKind::NotFound, "does not exist".to_owned()),
        (E::PermissionDenied { .. } | E::Unauthenticated { .. }, _) | (_, Some(401 | 403)) => {
            (ErrorKind::PermissionDenied, format!("access was refused while {doing}: {}", credentials(kind)))
        }
        // S3 answers 400 to credentials that have expired or are signed for another region.
        (_, Some(400))
            if ["ExpiredToken", "InvalidToken", "AuthorizationHeaderMalformed"].iter().any(|c| why.contains(c)) =>
        {
            (ErrorKind::PermissionDenied, format!("access was refused while {doing}: {}", credentials(kind)))
        }
        (E::Precondition { .. } | E::NotModified { .. }, _) | (_, Some(412)) => {
            return changed(url, "the origin says so");
        }
        (E::NotSupported { .. }, _) if matches!(kind, Kind::Http { .. }) => (
            ErrorKind::Unsupported,
            "the server does not answer range requests, which reading a part of an object takes".to_owned(),
        ),
        (E::NotSupported { .. } | E::NotImplemented { .. }, _) => {
            (ErrorKind::Unsupported, format!("not supported by this origin while {doing}"))
        }
        (E::InvalidPath { .. }, _) => (
            ErrorKind::Unsupported,
            "an object here has a name that can't be used: with an empty segment (`//`), `.`, `..` or a control \
             character; narrow the prefix to leave it out"
                .to_owned(),
        ),
        (E::UnknownConfigurationKey { .. }, _) => (ErrorKind::Invalid, "this node's configuration is wrong".to_owned()),
        (E::JoinError { .. }, _) => (ErrorKind::Internal, format!("broke off while {doing}")),
        (_, Some(300..=399)) if !matches!(kind, Kind::Http { .. }) => (
            ErrorKind::Invalid,
            "the bucket is in another region or at another endpoint: set AWS_REGION or AWS_ENDPOINT_URL of the node"
                .to_owned(),
        ),
        (_, Some(status @ 400..=499)) if !matches!(status, 408 | 409 | 425 | 429) => {
            (ErrorKind::Invalid, format!("the origin rejected the request while {doing}"))
        }
        _ if is_timeout(error) => (ErrorKind::Timeout, format!("no answer in time while {doing}")),
        _ => (ErrorKind::Unavailable, format!("failed while {doing}")),
    };
    Error::new(kind, format!("{name}: {what} ({why})"))
}

fn credentials(kind: &Kind) -> &'static str {
    match kind {
        Kind::S3 { credentials: Some(_) } => {
            "check this node's AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION and \
             AWS_ENDPOINT_URL, and what they may read; for a public bucket set AWS_SKIP_SIGNATURE=true"
        }
        Kind::S3 { credentials: None } => {
            "AWS_SKIP_SIGNATURE is set on this node, so its requests are not signed: unset it and set \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        }
        Kind::Http { .. } => "nodes send no credentials over HTTP: use a presigned URL",
        Kind::Given => "check the credentials of this node",
    }
}

/// The object is not the one that was planned.
pub(super) fn changed(url: &str, how: &str) -> Error {
    Error::stale(format!("object changed: {} is no longer what was planned ({how}): make a new plan", shown(url)))
}

pub(super) fn too_slow(limit: Duration, doing: &str, url: &str) -> Error {
    let limit = humantime::format_duration(limit);
    Error::new(ErrorKind::Timeout, format!("{}: no answer within {limit} while {doing}", shown(url)))
}

pub(super) fn file(error: &std::io::Error, doing: &str, url: &str) -> Error {
    use std::io::ErrorKind as Io;
    let (kind, what) = match error.kind() {
        Io::NotFound | Io::NotADirectory => (ErrorKind::NotFound, "does not exist".to_owned()),
        Io::PermissionDenied => {
            (ErrorKind::PermissionDenied, format!("the user this node runs as may not, while {doing}"))
        }
        Io::IsADirectory => (ErrorKind::Invalid, "is a directory, not a file".to_owned()),
        Io::InvalidFilename => (ErrorKind::Invalid, "no file has such a name".to_owned()),
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            (ErrorKind::Invalid, "symbolic links go in a circle".to_owned())
        }
        Io::TimedOut => (ErrorKind::Timeout, format!("no answer in time while {doing}")),
        _ => (ErrorKind::Unavailable, format!("failed while {doing}")),
    };
    Error::new(kind, format!("{}: {what} ({error})", shown(url)))
}

/// Whether the answer to a request for a range was that the object is shorter.
pub(super) fn is_out_of_range(error: &object_store::Error) -> bool {
    status(error) == Some(416)
}

/// Whether a listing broke while its answer was read. `object_store` repeats what fails earlier, but not this.
pub(super) fn broke_in_listing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. })
        && error.to_string().contains("Error getting list response body")
}

/// `object_store` turns only some statuses into variants and keeps its type of the others to itself; its text names them.
fn status(error: &object_store::Error) -> Option<u16> {
    if !matches!(error, object_store::Error::Generic { .. }) {
        return None;
    }
    let text = error.to_string();
    if text.contains("Received redirect without LOCATION") {
        return Some(301);
    }
    let (_, rest) = text.split_once("non-2xx status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn is_timeout(error: &object_store::Error) -> bool {
    cause::<HttpError>(error).is_some_and(|e| e.kind() == HttpErrorKind::Timeout)
        || cause::<std::io::Error>(error).is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut)
}

/// The first cause of this type.
fn cause<T: StdError + 'static>(error: &object_store::Error) -> Option<&T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The error's own words, short, on one line and without the URL's query.
fn quoted(error: &object_store::Error, url: &str) -> String {
    let mut text = error.to_string();
    let is_http = shown(url) != url;
    if let Some((_, query)) = url.split_once('?').filter(|(_, query)| is_http && !query.is_empty()) {
        text = text.replace(query, "…");
    }
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > QUOTED {
        let end = (0..=QUOTED).rev().find(|&i| line.is_char_boundary(i)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}
