//! Logs: lines on standard error, for people or as JSON.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::error::{Error, Result};
use crate::settings::{LogFormat, Settings};

/// Starts logging for the whole process. Fails on a second call, and on directives that [`Settings::check`] refuses.
pub fn init(settings: &Settings) -> Result<()> {
    // Colour only where somebody looks at it; NO_COLOR is a convention of terminals (https://no-color.org).
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    subscriber(settings, colour, std::io::stderr)?
        .try_init()
        .map_err(|error| Error::internal(format!("logging cannot start: {error}")))
}

fn subscriber<W>(settings: &Settings, colour: bool, writer: W) -> Result<impl Subscriber + Send + Sync + use<W>>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&settings.log)
        .map_err(|error| Error::invalid(format!("log is {}: {error}", settings.log)))?;
    let lines = fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match settings.log_format {
        LogFormat::Text => Box::new(lines.with_ansi(colour)),
        // An event's fields stand at the top of the object, where log searches expect them.
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_span_list(false)),
    };
    Ok(Registry::default().with(lines.with_filter(filter)))
}

#[cfg(test)]
mod tests;
