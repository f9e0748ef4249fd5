//! Node addresses as people write them: `grpc://HOST:PORT`, `grpc+unix:///PATH`, or a comma-separated list of them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use crate::error::{Error, ErrorKind};

/// Where clients look when nobody says otherwise.
pub const DEFAULT_NODE: &str = "grpc://127.0.0.1:8815";

const UNIX: &str = "grpc+unix://";
/// What stands in a socket's path as it is; all else is percent-encoded.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// One node's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress(Kind);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    Tcp {
        host: String,
        port: u16,
    },
    /// The absolute path of a socket on this host.
    Unix(String),
}

/// One or more addresses, in the order in which they are tried. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeList(Vec<NodeAddress>);

// === impl NodeAddress ===

impl NodeAddress {
    /// What the HTTP/2 layer connects to.
    pub(crate) fn http_uri(&self) -> String {
        match &self.0 {
            Kind::Tcp { host, port } => format!("http://{host}:{port}"),
            Kind::Unix(path) => format!("unix:{path}"),
        }
    }

    /// Where its unix socket is.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Tcp { .. } => None,
            Kind::Unix(path) => Some(Path::new(path)),
        }
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp { host, port } => write!(f, "grpc://{host}:{port}"),
            Kind::Unix(path) => write!(f, "{UNIX}{}", utf8_percent_encode(path, KEPT)),
        }
    }
}

impl FromStr for NodeAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
        match scheme {
            "grpc" | "grpc+tcp" => {}
            "grpc+unix" => return unix(text, rest),
            "grpc+tls" | "etcd" => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "node address {text:?}: {scheme}:// is not supported by this version; use grpc://HOST:PORT"
                    ),
                ));
            }
            _ => return Err(malformed(text, &format!("unknown scheme {scheme}://"))),
        }
        let url = Url::parse(&format!("grpc://{rest}")).map_err(|why| malformed(text, &why.to_string()))?;
        let only_host_and_port = matches!(url.path(), "" | "/")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !only_host_and_port {
            return Err(malformed(text, "there is more than a host and a port"));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| malformed(text, "no host"))?;
        let port = url.port().filter(|&port| port != 0).ok_or_else(|| malformed(text, "no port"))?;
        Ok(Self(Kind::Tcp { host: host.to_owned(), port }))
    }
}

fn unix(text: &str, path: &str) -> Result<NodeAddress, Error> {
    let wrong = |why: &str| {
        Error::invalid(format!("node address {text:?}: {why}; write grpc+unix:///PATH, special characters as %XX"))
    };
    let path = percent_decode_str(path).decode_utf8().map_err(|_| wrong("the path is no UTF-8"))?;
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(wrong("no absolute path of a socket"));
    }
    if path.contains('\0') {
        return Err(wrong("no path has a NUL in it"));
    }
    Ok(NodeAddress(Kind::Unix(path.into_owned())))
}

fn malformed(text: &str, why: &str) -> Error {
    Error::invalid(format!("node address {text:?}: {why}; write grpc://HOST:PORT, for example {DEFAULT_NODE}"))
}

// === impl NodeList ===

impl NodeList {
    pub fn addresses(&self) -> &[NodeAddress] {
        &self.0
    }
}

impl Default for NodeList {
    fn default() -> Self {
        Self(vec![NodeAddress(Kind::Tcp { host: "127.0.0.1".into(), port: 8815 })])
    }
}

impl From<NodeAddress> for NodeList {
    fn from(address: NodeAddress) -> Self {
        Self(vec![address])
    }
}

impl FromStr for NodeList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // An etcd address has commas of its own: let it be refused whole.
        if text.trim().starts_with("etcd://") {
            return text.trim().parse::<NodeAddress>().map(Self::from);
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let addresses = parts.map(str::parse).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(malformed(text, "no address"));
        }
        Ok(Self(addresses))
    }
}

impl fmt::Display for NodeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, address) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
