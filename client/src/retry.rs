//! PURE: when to try again, and after how long a pause.

use std::time::Duration;

/// How long a client keeps trying nodes that don't answer.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// How often each node of the list is tried before giving up. Default 8, minimum 1.
    pub rounds: u32,
    /// The pause after the first round in which every node failed; it doubles with each round. Default 100 ms.
    pub pause: Duration,
    /// The longest pause. Default 2 s.
    pub longest_pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { rounds: 8, pause: Duration::from_millis(100), longest_pause: Duration::from_secs(2) }
    }
}

/// Failures in a row of one call or stream.
#[derive(Debug)]
pub(crate) struct Attempts {
    retry: Retry,
    nodes: u32,
    failures: u32,
}

impl Attempts {
    pub(crate) fn new(retry: Retry, nodes: usize) -> Self {
        Self { retry, nodes: u32::try_from(nodes).unwrap_or(u32::MAX).max(1), failures: 0 }
    }

    /// One more failure: the pause before the next attempt, or `None` to give up. Every other node is asked before the
    /// first pause.
    pub(crate) fn failed(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let rounds = self.failures / self.nodes;
        if rounds >= self.retry.rounds.max(1) {
            return None;
        }
        if !self.failures.is_multiple_of(self.nodes) {
            return Some(Duration::ZERO);
        }
        let doubled = self.retry.pause.saturating_mul(1u32.checked_shl(rounds - 1).unwrap_or(u32::MAX));
        Some(doubled.min(self.retry.longest_pause))
    }

    /// Something arrived: what failed before no longer counts.
    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
