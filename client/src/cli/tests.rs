//! The commands against a fake node: exit codes, what goes where, and the shapes of JSON.

mod cat;
mod read;
mod small;
mod warm;

use std::io::{self, Write};
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use parking_lot::Mutex;
use serde_json::Value;

use super::*;
use crate::testing::{Fake, Running, nobody, within};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What a command left behind.
struct Ended {
    exit: Exit,
    out: Vec<u8>,
    err: String,
}

impl Ended {
    fn out(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    /// One JSON document a line.
    fn json(&self) -> Vec<Value> {
        self.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader has gone after so many bytes.
struct BrokenPipe(usize);

impl Write for BrokenPipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn parse(line: &str, node: &str) -> Command {
    let words = ["roost"].into_iter().chain(line.split_whitespace()).chain(["--node", node]);
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).command
}

async fn roost_to(out: impl Write + Send + 'static, line: &str, node: &str) -> (Exit, String) {
    let err = Buffer::default();
    let mut console = Console::of(out, err.clone());
    let exit = within(run_until(parse(line, node), &mut console, std::future::pending())).await;
    drop(console);
    let err = String::from_utf8(err.0.lock().clone()).unwrap();
    (exit, err)
}

async fn roost_at(line: &str, node: &str) -> Ended {
    let out = Buffer::default();
    let (exit, err) = roost_to(out.clone(), line, node).await;
    let out = out.0.lock().clone();
    Ended { exit, out, err }
}

/// `roost LINE` against the fake.
async fn roost(line: &str, fake: &Fake) -> Ended {
    let node: Running = fake.serve().await;
    roost_at(line, &node.address.to_string()).await
}

fn keys(document: &Value) -> Vec<&str> {
    document.as_object().unwrap().keys().map(String::as_str).collect()
}

const COMMANDS: [&str; 9] = ["warm", "plan", "ls", "cat", "stat", "evict", "pin", "unpin", "read"];

fn line_of(command: &str) -> String {
    match command {
        "ls" | "stat" => command.to_owned(),
        _ => format!("{command} s3://bucket/train/"),
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn help_teaches_with_examples_and_lists_the_fields_of_json() {
    let mut cli = Cli::command();
    for name in COMMANDS {
        let help = cli.find_subcommand_mut(name).unwrap().render_long_help().to_string();
        for part in ["Examples:", &format!("roost {name}"), "JSON:", "--node", "ROOST_NODE", "grpc://127.0.0.1:8815"] {
            assert!(help.contains(part), "{name} lacks {part:?}:\n{help}");
        }
        // A list that clap must wrap loses its indentation.
        let (_, fields) = help.split_once("JSON:").unwrap();
        assert!(fields.lines().all(|line| line.len() <= 98), "{name}:\n{help}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for line in [
        "warm",
        "read s3://b/ --epochs 0",
        "read s3://b/ --parallel 0",
        "cat s3://b/ --format xml",
        "cat s3://b/ --format csv --json",
        "stat --node http://a:1",
        "stat --node etcd://a:1/c",
        "plan s3://b/ --columns a,,b",
        "plan s3://b/ --limit -1",
    ] {
        let words = ["roost"].into_iter().chain(line.split_whitespace());
        let error = Cli::try_parse_from(words).err().unwrap_or_else(|| panic!("{line} is no error"));
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{line}");
    }
}

#[tokio::test]
async fn every_command_exits_with_3_when_no_node_answers() {
    let gone = nobody().await.to_string();
    for name in COMMANDS {
        let ended = roost_at(&line_of(name), &gone).await;
        assert_eq!((ended.exit, ended.exit.code()), (Exit::NoNode, 3), "{name}");
        assert!(ended.out.is_empty(), "{name}");
        assert!(
            ended.err.starts_with("roost: no node answers: ") && ended.err.contains(&gone),
            "{name}: {}",
            ended.err
        );
    }
}

#[tokio::test]
async fn every_command_exits_with_1_when_the_request_fails() {
    let fake = Fake::new(1, 1);
    fake.state().refuse = Some(tonic::Status::not_found("s3://bucket/train/: no such objects"));
    for name in COMMANDS {
        let ended = roost(&line_of(name), &fake).await;
        assert_eq!((ended.exit, ended.exit.code()), (Exit::Failed, 1), "{name}");
        assert!(ended.out.is_empty(), "{name}");
        assert!(ended.err.starts_with("roost: ") && ended.err.contains("no such objects"), "{name}: {}", ended.err);

        let ended = roost(&format!("{} --json", line_of(name)), &fake).await;
        assert_eq!(ended.exit, Exit::Failed);
        let error: Value = serde_json::from_str(&ended.err).unwrap();
        assert_eq!(error["error"]["kind"], "not_found", "{name}");
        assert!(error["error"]["message"].as_str().unwrap().contains("no such objects"));
    }
}

#[tokio::test]
async fn ctrl_c_ends_with_130() {
    let fake = Fake::new(1, 1);
    fake.state().warm_hangs = true;
    let node = fake.serve().await;
    let interrupt = async {
        // As soon as the warm is under way.
        while fake.state().warms.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let err = Buffer::default();
    let mut console = Console::of(io::sink(), err.clone());
    let command = parse("warm s3://bucket/train/", &node.address.to_string());
    let exit = within(run_until(command, &mut console, interrupt)).await;
    assert_eq!((exit, exit.code()), (Exit::Interrupted, 130));
    assert_eq!(*err.0.lock(), b"roost: interrupted\n");
}
