//! Numbers as people read them: `1.9 GB`, `12.0 M rows`, `8.1 s`.

use std::time::Duration;

/// Decimal bytes: `350 MB`, `1.9 GB`.
pub(super) fn bytes(n: u64) -> String {
    scaled(n, "B")
}

/// Rows: `20 rows`, `12.0 M rows`.
pub(super) fn rows(n: u64) -> String {
    scaled(n, if n == 1 { "row" } else { "rows" })
}

/// A count with its noun, grouped: `1 row group`, `9,733 row groups`.
pub(super) fn count(n: u64, noun: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(n))
}

/// `9,733`
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `0.02 s`, `8.1 s`, `2m 5s`
pub(super) fn seconds(elapsed: Duration) -> String {
    let secs = elapsed.as_secs_f64();
    if secs < 0.995 {
        format!("{secs:.2} s")
    } else if secs < 99.95 {
        format!("{secs:.1} s")
    } else {
        span(elapsed.as_secs())
    }
}

/// Whole seconds: `5s`, `2m 5s`, `3h 7m`, `4d 11h`
pub(super) fn span(secs: u64) -> String {
    let (m, h, d) = (60, 3600, 86400);
    match secs {
        s if s < m => format!("{s}s"),
        s if s < h => format!("{}m {}s", s / m, s % m),
        s if s < d => format!("{}h {}m", s / h, s % h / m),
        s => format!("{}d {}h", s / d, s % d / h),
    }
}

/// `0.83 GB/s`
pub(super) fn rate(bytes: u64, elapsed: Duration) -> String {
    format!("{:.2} GB/s", gb_per_second(bytes, elapsed))
}

pub(super) fn gb_per_second(bytes: u64, elapsed: Duration) -> f64 {
    let secs = elapsed.as_secs_f64();
    if secs > 0.0 { bytes as f64 / 1e9 / secs } else { 0.0 }
}

/// `62%` of a whole; `-` of nothing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.0}%", part as f64 / whole as f64 * 100.0),
    }
}

/// Three digits and a decimal prefix.
fn scaled(n: u64, unit: &str) -> String {
    if n < 1000 {
        return format!("{n} {unit}");
    }
    let mut value = n as f64;
    let mut prefix = "";
    for next in ["k", "M", "G", "T", "P", "E"] {
        // What would be rounded to 1000 belongs to the next prefix.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        prefix = next;
    }
    let value = if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    match unit {
        "B" => format!("{value} {prefix}B"),
        _ => format!("{value} {prefix} {unit}"),
    }
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
