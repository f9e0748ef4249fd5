//! The bar that shows how far a command is: bytes, rows, rate, time left. It fits 80 columns.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::units;

const TEMPLATE: &str = "{prefix} [{bar:16}] {msg}, {decimal_bytes_per_sec}, {eta} left";

/// A bar over `bytes`; 0 where they are not known yet.
pub(super) fn bar(prefix: String, bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(bytes.max(1)), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(prefix);
    bar.set_message("starting");
    bar
}

pub(super) fn show(bar: &ProgressBar, bytes: u64, rows: u64) {
    if bar.is_hidden() {
        return;
    }
    // Estimates may be too low.
    let total = bar.length().unwrap_or_default().max(bytes);
    bar.set_message(format!("{} of {}, {}", units::bytes(bytes), units::bytes(total), units::rows(rows)));
    bar.set_position(bytes);
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
