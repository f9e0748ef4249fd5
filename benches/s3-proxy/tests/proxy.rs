//! Runs the real executable between a client and a small HTTP/1.1 server, and looks at its counters. Times are only ever
//! checked from below: a slow machine can't make these tests fail.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Guards against hanging only.
const GUARD: Duration = Duration::from_secs(30);

struct Proxy {
    process: Child,
    stdout: BufReader<ChildStdout>,
    address: String,
    counters: String,
}

impl Proxy {
    fn start(upstream: &str, flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_s3-proxy"))
            .args(["--upstream", upstream])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("s3-proxy starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        let mut ready = String::new();
        stdout.read_line(&mut ready).expect("a line when ready");
        let words: Vec<_> = ready.split_whitespace().collect();
        let ["s3-proxy:", "listening", "on", address, "counters", "at", counters] = words[..] else {
            panic!("unexpected first line: {ready:?}")
        };
        let counters = counters.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Self { process, stdout, address: address.to_owned(), counters }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("the proxy accepts");
        stream.set_read_timeout(Some(GUARD)).expect("a timeout can be set");
        stream
    }

    fn counters(&self) -> String {
        let mut stream = TcpStream::connect(&self.counters).expect("the counters' address accepts");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request can be sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split("\r\n\r\n").nth(1).expect("a body").to_owned()
    }

    fn count(&self, name: &str) -> u64 {
        count(&self.counters(), name)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn count(json: &str, name: &str) -> u64 {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {json}"));
    rest[..rest.find([',', '}']).expect("the end of a number")].parse().expect("a number")
}

/// A server that keeps connections alive and answers each request with `length` bytes.
fn serve(length: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut writer = stream.expect("a connection");
            let mut lines = BufReader::new(writer.try_clone().expect("a second handle")).lines();
            std::thread::spawn(move || {
                while let Some(Ok(line)) = lines.next() {
                    if line.is_empty() {
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                        writer
                            .write_all(&[head.into_bytes(), vec![b'x'; length]].concat())
                            .expect("a response can be sent");
                    }
                }
            });
        }
    });
    address
}

/// One request on a connection that stays open; answers the bytes of the whole response.
fn get(stream: &mut TcpStream, length: usize) -> usize {
    stream.write_all(b"GET /o HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request can be sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("more of the head");
        head.push(byte[0]);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("the whole body");
    assert!(body.iter().all(|&b| b == b'x'), "the body came through unchanged");
    head.len() + length
}

#[test]
fn every_response_of_a_kept_connection_is_held_back_once() {
    // Long enough to come in many chunks: each response must be delayed once, not once a chunk.
    const LENGTH: usize = 3_000_000;
    let proxy = Proxy::start(&serve(LENGTH), &["--delay-ms", "40", "--mbps", "0"]);
    let mut stream = proxy.connect();
    let start = Instant::now();
    let received: usize = (0..5).map(|_| get(&mut stream, LENGTH)).sum();
    assert!(start.elapsed() >= Duration::from_millis(5 * 40));
    for (name, wanted) in [("connections", 1), ("requests", 5), ("delays", 5), ("failures", 0)] {
        assert_eq!(proxy.count(name), wanted, "{name}");
    }
    assert_eq!(proxy.count("response_bytes"), received as u64);
}

#[test]
fn each_connection_is_paced() {
    const LENGTH: usize = 2_000_000;
    let proxy = Proxy::start(&serve(LENGTH), &["--delay-ms", "0", "--mbps", "10"]);
    let start = Instant::now();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = proxy.connect();
            std::thread::spawn(move || get(&mut stream, LENGTH))
        })
        .collect();
    for reader in readers {
        reader.join().expect("a reader");
    }
    // 0.2 s at 10 MB/s, less what a connection may catch up.
    assert!(start.elapsed() >= Duration::from_millis(190));
    assert_eq!(proxy.count("connections"), 2);
}

#[test]
fn a_dead_upstream_closes_the_connection_and_is_counted() {
    let dead = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port that nobody listens on");
    let proxy = Proxy::start(&dead.to_string(), &[]);
    let mut stream = proxy.connect();
    let read = stream.read(&mut [0]);
    assert!(
        matches!(read, Ok(0)) || read.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset),
        "{read:?}"
    );
    assert_eq!(proxy.count("failures"), 1);
}

#[test]
fn the_counters_are_printed_at_the_end() {
    const LENGTH: usize = 1000;
    let mut proxy = Proxy::start(&serve(LENGTH), &["--delay-ms", "0"]);
    get(&mut proxy.connect(), LENGTH);
    let id = proxy.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    let mut last = String::new();
    proxy.stdout.read_to_string(&mut last).expect("its last words");
    assert_eq!(count(&last, "requests"), 1);
    assert!(proxy.process.wait().expect("an end").success());
}
