//! A small HTTP server for tests: it answers as it is told, and can break off.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    /// With its query.
    pub(super) path: String,
    head: String,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn range(&self) -> Option<(usize, usize)> {
        let (start, end) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, end.parse::<usize>().ok()? + 1))
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    pub(super) cut: Option<usize>,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// What a well-behaved server answers about `object`, which has these headers.
    pub(super) fn object(request: &Request, object: &[u8], headers: &[(&'static str, &str)]) -> Self {
        let reply = match request.range() {
            Some((start, _)) if start >= object.len() => {
                Self::new(416, "").with("content-range", format!("bytes */{}", object.len()))
            }
            Some((start, end)) => {
                let end = end.min(object.len());
                let range = format!("bytes {start}-{}/{}", end - 1, object.len());
                Self::new(206, &object[start..end]).with("content-range", range)
            }
            None => Self::new(200, object),
        };
        headers.iter().fold(reply, |reply, (name, value)| reply.with(name, *value))
    }
}

pub(super) struct Server {
    pub(super) url: String,
    log: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// `answer` is given each request and how many came before.
    pub(super) async fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, seen) = (Arc::new(answer), Arc::clone(&log));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                tokio::spawn(async move { serve(stream, &*answer, &seen).await });
            }
        });
        Self { url, log, task }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.log.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request a connection: an error here is the client's affair.
async fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&Request, usize) -> Reply + Send + Sync),
    seen: &Mutex<Vec<Request>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let request = Request { method, path, head };
    let before = {
        let mut seen = seen.lock();
        seen.push(request.clone());
        seen.len() - 1
    };
    let reply = answer(&request, before);
    let mut text = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| *name == "content-length" || *name == "transfer-encoding") {
        text.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if request.method != "HEAD" {
        bytes.extend(&reply.body[..reply.cut.unwrap_or(reply.body.len())]);
    }
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}
