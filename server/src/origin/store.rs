//! Which store answers a URL, and how stores are built.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use ::http::header::{CONTENT_RANGE, RANGE};
use ::url::Url;
use async_trait::async_trait;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use parking_lot::{Mutex, RwLock};

use super::url::{Target, covers, encode, shown};
use super::{OriginSettings, fault};
use crate::error::{Error, ErrorKind, Result};

/// Buckets whose connections are kept. URLs come from users, so there must be an end to it.
const MAX_BUCKETS: usize = 256;
const MAX_REDIRECTS: usize = 10;

pub(super) enum Place {
    /// Files are read by this module itself: `object_store` leaves out files with names like `a#1`, tells identities
    /// apart by less than an inode, and clears each buffer before it reads into it.
    File(PathBuf),
    Store(Access),
}

/// A location in a store.
pub(super) struct Access {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) location: Path,
    pub(super) kind: Kind,
    /// The canonical URL of the store's root; ends with `/`, except for HTTP, where each object has its own store.
    root: String,
}

#[derive(Clone)]
pub(super) enum Kind {
    /// Credentials are fetched apart from requests, so that their lack is told from the bucket's refusal. `None`:
    /// requests are not signed.
    S3 { credentials: Option<AwsCredentialProvider> },
    /// `once` is the same store, except that it does not repeat what fails.
    Http { once: Arc<dyn ObjectStore> },
    /// From [`super::Origins::with_store`].
    Given,
}

impl Kind {
    /// Whether the store speaks HTTP, with its headers, and repeats failed requests by itself.
    pub(super) fn is_remote(&self) -> bool {
        !matches!(self, Self::Given)
    }
}

impl Access {
    /// The canonical URL of an object of this store.
    pub(super) fn url(&self, location: &Path) -> Arc<str> {
        match self.kind {
            Kind::Http { .. } => Arc::from(self.root.as_str()),
            _ => Arc::from(format!("{}{}", self.root, encode(location.as_ref().as_bytes()))),
        }
    }

    /// Another location of the same store.
    pub(super) fn at(&self, location: Path) -> Self {
        Self { store: Arc::clone(&self.store), location, kind: self.kind.clone(), root: self.root.clone() }
    }
}

pub(super) struct Stores {
    aws: AmazonS3Builder,
    limits: Limits,
    /// By prefix, the longest first.
    given: RwLock<Vec<(String, Arc<dyn ObjectStore>)>>,
    buckets: Mutex<HashMap<String, Bucket>>,
    /// All HTTP hosts share one client, that is one pool of connections. Made when first needed: it loads certificates.
    http: Mutex<Option<HttpClient>>,
}

#[derive(Clone)]
struct Bucket {
    store: Arc<AmazonS3>,
    kind: Kind,
}

struct Limits {
    request_timeout: Duration,
    connect_timeout: Duration,
    retry: RetryConfig,
    allow: Arc<[String]>,
}

/// What the `AWS_…` variables of this process say.
pub(super) fn aws_from_env() -> AmazonS3Builder {
    AmazonS3Builder::from_env()
}

impl Stores {
    pub(super) fn new(settings: &OriginSettings, aws: AmazonS3Builder) -> Self {
        let limits = Limits {
            request_timeout: settings.request_timeout,
            connect_timeout: settings.connect_timeout,
            retry: RetryConfig {
                max_retries: settings.retries,
                retry_timeout: settings.retry_timeout,
                ..RetryConfig::default()
            },
            allow: settings.allow.as_slice().into(),
        };
        Self { aws, limits, given: RwLock::default(), buckets: Mutex::default(), http: Mutex::default() }
    }

    pub(super) fn give(&self, prefix: String, store: Arc<dyn ObjectStore>) {
        let mut given = self.given.write();
        given.retain(|(other, _)| *other != prefix);
        given.push((prefix, store));
        given.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    }

    /// The place of an object, of a prefix, or of the base of a glob.
    pub(super) fn place(&self, target: &Target) -> Result<Place> {
        let canonical = target.base().unwrap_or_else(|| target.clone()).canonical();
        let given = self.given.read().iter().find(|(prefix, _)| covers(prefix, &canonical)).cloned();
        if let Some((prefix, store)) = given {
            let below = super::url::decoded_path(&canonical);
            let above = super::url::decoded_path(&prefix);
            let location = parse_location(&canonical, below.strip_prefix(&above).unwrap_or_default().as_bytes())?;
            return Ok(Place::Store(Access { store, location, kind: Kind::Given, root: format!("{prefix}/") }));
        }
        match target {
            Target::File(_) => Ok(Place::File(target.file())),
            Target::S3 { bucket, .. } => {
                let location = parse_location(&canonical, &target.key())?;
                let Bucket { store, kind } = self.bucket(bucket)?;
                Ok(Place::Store(Access { store, location, kind, root: format!("s3://{bucket}/") }))
            }
            Target::Http(url) => {
                let store = self.http(url, self.limits.retry.clone())?;
                let once = self.http(url, RetryConfig { max_retries: 0, ..self.limits.retry.clone() })?;
                Ok(Place::Store(Access { store, location: Path::ROOT, kind: Kind::Http { once }, root: canonical }))
            }
        }
    }

    fn bucket(&self, name: &str) -> Result<Bucket> {
        let mut buckets = self.buckets.lock();
        if let Some(bucket) = buckets.get(name) {
            return Ok(bucket.clone());
        }
        let bucket = self.limits.s3(self.aws.clone(), name).map_err(|e| e.context(format!("s3://{name}/")))?;
        if buckets.len() >= MAX_BUCKETS {
            buckets.clear();
        }
        buckets.insert(name.to_owned(), bucket.clone());
        Ok(bucket)
    }

    /// A store with `url` as its root, and nothing else: `object_store` could not spell every path and query below a
    /// host as its owner does.
    fn http(&self, url: &Url, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>> {
        let mut shared = self.http.lock();
        let client = match shared.as_ref() {
            Some(client) => client.clone(),
            None => shared.insert(self.limits.http_client()?).clone(),
        };
        drop(shared);
        let built =
            HttpBuilder::new().with_url(url.as_str()).with_http_connector(Shared(client)).with_retry(retry).build();
        Ok(Arc::new(built.map_err(|e| Error::invalid(format!("{}: {e}", shown(url.as_str()))))?))
    }
}

fn parse_location(url: &str, key: &[u8]) -> Result<Path> {
    let text = String::from_utf8_lossy(key);
    Path::parse(text).map_err(|e| Error::invalid(format!("{}: no name for an object: {e}", shown(url))))
}

impl Limits {
    fn s3(&self, mut aws: AmazonS3Builder, bucket: &str) -> Result<Bucket> {
        // `object_store` takes for granted that these fit into a request, and panics on each request where they don't.
        for (key, variable) in [
            (AmazonS3ConfigKey::Region, "AWS_REGION"),
            (AmazonS3ConfigKey::AccessKeyId, "AWS_ACCESS_KEY_ID"),
            (AmazonS3ConfigKey::Token, "AWS_SESSION_TOKEN"),
        ] {
            if aws.get_config_value(&key).is_some_and(|value| ::http::HeaderValue::from_str(&value).is_err()) {
                return Err(Error::invalid(format!(
                    "{variable} holds a character that no header can carry, perhaps a line break"
                )));
            }
        }
        let endpoint = aws
            .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| aws.get_config_value(&AmazonS3ConfigKey::Endpoint));
        if let Some(endpoint) = endpoint {
            let hosted = aws.get_config_value(&AmazonS3ConfigKey::VirtualHostedStyleRequest).is_some_and(is_true);
            let endpoint = bucket_endpoint(&endpoint, bucket, hosted)?;
            if endpoint.starts_with("http://") {
                aws = aws.with_allow_http(true);
            }
            aws = aws.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
        }
        let signed = !aws.get_config_value(&AmazonS3ConfigKey::SkipSignature).is_some_and(is_true);
        let limit = |limit: Duration| humantime::format_duration(limit).to_string();
        let store = aws
            .with_bucket_name(bucket)
            .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), limit(self.request_timeout))
            .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), limit(self.connect_timeout))
            .with_retry(self.retry.clone())
            .with_http_connector(MendingConnector)
            .build()
            .map_err(|e| Error::invalid(format!("the AWS_… variables of this node don't fit together: {e}")))?;
        let credentials = signed.then(|| Arc::clone(store.credentials()));
        Ok(Bucket { store: Arc::new(store), kind: Kind::S3 { credentials } })
    }

    fn http_client(&self) -> Result<HttpClient> {
        let allow = Arc::clone(&self.allow);
        let policy = reqwest::redirect::Policy::custom(move |attempt| {
            let next = attempt.url();
            let downgrade = next.scheme() == "http" && attempt.previous().last().is_some_and(|u| u.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error(fault::RedirectRefused("too many redirects".into()))
            } else if downgrade {
                attempt.error(fault::RedirectRefused("it redirects from https to http".into()))
            } else if !allow.is_empty() && !allow.iter().any(|prefix| covers(prefix, next.as_str())) {
                let to = shown(next.as_str());
                attempt.error(fault::RedirectRefused(format!("it redirects to {to}, which the allow-list leaves out")))
            } else {
                attempt.follow()
            }
        });
        // HTTP/1.1 on purpose: one HTTP/2 connection carries parallel ranges slower than several of HTTP/1.1. Nothing
        // is unpacked: a range is a range of the object as stored.
        let client = reqwest::Client::builder()
            .user_agent(concat!("roost/", env!("CARGO_PKG_VERSION")))
            .timeout(self.request_timeout)
            .connect_timeout(self.connect_timeout)
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .redirect(policy)
            .build()
            .map_err(|e| Error::internal(format!("the HTTP client can't be made: {e}")))?;
        Ok(HttpClient::new(Mending(HttpClient::new(client))))
    }
}

/// The endpoint to name to `object_store`, which wants the bucket in it when hosts are named after buckets.
fn bucket_endpoint(endpoint: &str, bucket: &str, hosted: bool) -> Result<String> {
    let endpoint = endpoint.trim().trim_end_matches('/');
    let wrong = || Error::invalid(format!("AWS_ENDPOINT_URL is `{endpoint}`: it must be like http(s)://HOST:PORT"));
    let (scheme, rest) = endpoint.split_once("://").ok_or_else(wrong)?;
    let uri: ::http::Uri = endpoint.parse().map_err(|_| wrong())?;
    if !matches!(scheme, "http" | "https") || uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
        return Err(wrong());
    }
    let named = rest.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.'));
    Ok(if hosted && !named { format!("{scheme}://{bucket}.{rest}") } else { endpoint.to_owned() })
}

/// As `object_store` reads booleans.
fn is_true(value: String) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "on" | "yes" | "y")
}

/// Gives every store the same client, whatever its options say.
#[derive(Debug)]
struct Shared(HttpClient);

impl HttpConnector for Shared {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

/// What `object_store` uses by itself, with [`Mending`] around it.
#[derive(Debug)]
struct MendingConnector;

impl HttpConnector for MendingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Mending(ReqwestConnector::default().connect(options)?)))
    }
}

/// Some servers (`rclone serve s3` among them) answer a range with status 200 instead of 206. `object_store` takes that
/// for the whole object and gives up, although `Content-Range` says which part it is, and is checked.
#[derive(Debug)]
struct Mending(HttpClient);

#[async_trait]
impl HttpService for Mending {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let ranged = request.headers().contains_key(RANGE);
        let mut response = self.0.execute(request).await?;
        if ranged && response.status() == StatusCode::OK && response.headers().contains_key(CONTENT_RANGE) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(response)
    }
}

impl Access {
    /// Sees to it that there are credentials, where requests are signed. They are cached by their provider.
    pub(super) async fn ready(&self, url: &str) -> Result<()> {
        let Kind::S3 { credentials: Some(credentials) } = &self.kind else { return Ok(()) };
        // Off AWS, nobody answers for the instance's metadata, and the default patience would last a minute.
        let fetched = tokio::time::timeout(Duration::from_secs(10), credentials.get_credential()).await;
        let why = match fetched {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "nobody answered in 10 s".to_owned(),
        };
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "{}: this node has no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                 AWS_SKIP_SIGNATURE=true for a public bucket ({why})",
                shown(url)
            ),
        ))
    }
}

#[cfg(test)]
impl Stores {
    pub(super) fn buckets(&self) -> usize {
        self.buckets.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::bucket_endpoint;

    #[test]
    fn the_endpoint_names_the_bucket_where_hosts_do() {
        let endpoint = |endpoint, hosted| bucket_endpoint(endpoint, "bee", hosted).map_err(|e| e.to_string());
        assert_eq!(endpoint("http://127.0.0.1:8333/", false).unwrap(), "http://127.0.0.1:8333");
        assert_eq!(endpoint("https://s3.example.com", true).unwrap(), "https://bee.s3.example.com");
        assert_eq!(endpoint("https://bee.s3.example.com", true).unwrap(), "https://bee.s3.example.com");
        assert_eq!(endpoint("https://beehive.example.com", true).unwrap(), "https://bee.beehive.example.com");
        for bad in ["localhost:9000", "localhost 9000", "ftp://host", "http://", "http://host/?x=1", ""] {
            let error = endpoint(bad, false).unwrap_err();
            assert!(error.contains("AWS_ENDPOINT_URL"), "{bad}: {error}");
        }
    }
}
