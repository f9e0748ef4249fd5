//! Node addresses as people write them: `grpc://HOST:PORT`, or a comma-separated list of them.

use std::fmt;
use std::str::FromStr;

use url::Url;

use crate::error::{Error, ErrorKind};

/// Where clients look when nobody says otherwise.
pub const DEFAULT_NODE: &str = "grpc://127.0.0.1:8815";

/// One node's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    host: String,
    port: u16,
}

/// One or more addresses, in the order in which they are tried. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeList(Vec<NodeAddress>);

// === impl NodeAddress ===

impl NodeAddress {
    /// What the HTTP/2 layer connects to.
    pub(crate) fn http_uri(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grpc://{}:{}", self.host, self.port)
    }
}

impl FromStr for NodeAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
        match scheme {
            "grpc" | "grpc+tcp" => {}
            "grpc+tls" | "grpc+unix" | "etcd" => {
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
        Ok(Self { host: host.to_owned(), port })
    }
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
        Self(vec![NodeAddress { host: "127.0.0.1".into(), port: 8815 }])
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
