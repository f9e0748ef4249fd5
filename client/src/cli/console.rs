//! Where a command writes: data to standard output, messages to standard error, progress only to a terminal.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};

use indicatif::ProgressBar;
use serde::Serialize;

use super::Exit;
use crate::error::{Error, ErrorKind};

/// Why a command stopped.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request failed.
    Request(Error),
    /// The command line asks for something that makes no sense here.
    Usage(String),
    /// Whoever read standard output has read enough.
    BrokenPipe,
    /// Standard output can't be written.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Request(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Output(error),
        }
    }
}

pub(super) struct Console {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    out_is_terminal: bool,
    /// Whether somebody watches standard error.
    live: bool,
    bar: Option<ProgressBar>,
}

#[derive(Serialize)]
struct JsonError<'a> {
    error: JsonErrorBody<'a>,
}

#[derive(Serialize)]
struct JsonErrorBody<'a> {
    kind: &'a str,
    message: &'a str,
}

impl Console {
    pub(super) fn standard() -> Self {
        Self {
            out: Box::new(BufWriter::with_capacity(1 << 16, io::stdout())),
            err: Box::new(io::stderr()),
            out_is_terminal: io::stdout().is_terminal(),
            live: io::stderr().is_terminal(),
            bar: None,
        }
    }

    /// A console that nobody watches.
    #[cfg(test)]
    pub(super) fn of(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        Self { out: Box::new(out), err: Box::new(err), out_is_terminal: false, live: false, bar: None }
    }

    pub(super) fn out(&mut self) -> &mut dyn Write {
        &mut *self.out
    }

    pub(super) fn out_is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    /// A line of the result.
    pub(super) fn line(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        writeln!(self.out, "{line}")?;
        self.flush()
    }

    /// A JSON document of the result, on one line.
    pub(super) fn json(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, document).map_err(io::Error::from)?;
        self.line("")
    }

    /// A message for people. That it can't be written changes nothing about the command's end.
    pub(super) fn say(&mut self, message: impl fmt::Display) {
        let mut say = || {
            let _ = writeln!(self.err, "{message}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    /// The bar that shows how far the command is; hidden unless standard error is a terminal.
    pub(super) fn start_bar(&mut self, make: impl FnOnce() -> ProgressBar) -> ProgressBar {
        let bar = if self.live { make() } else { ProgressBar::hidden() };
        self.bar = Some(bar.clone());
        bar
    }

    pub(super) fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// Tells why a command stopped, and says how that counts.
    pub(super) fn report(&mut self, failure: &Failure, json: bool) -> Exit {
        self.end_bar();
        let (kind, message, exit) = match failure {
            Failure::BrokenPipe => return Exit::Success,
            Failure::Request(error) => {
                let exit = if error.kind() == ErrorKind::NoNode { Exit::NoNode } else { Exit::Failed };
                (error.kind().name(), error.message().to_owned(), exit)
            }
            Failure::Usage(message) => ("usage", message.clone(), Exit::Usage),
            Failure::Output(why) => ("output", format!("standard output can't be written: {why}"), Exit::Failed),
        };
        if json {
            let error = JsonErrorBody { kind, message: &message };
            self.say(serde_json::to_string(&JsonError { error }).unwrap_or(message));
        } else {
            self.say(format_args!("roost: {message}"));
        }
        exit
    }

    pub(super) fn interrupted(&mut self) -> Exit {
        self.end_bar();
        self.say("roost: interrupted");
        Exit::Interrupted
    }
}
