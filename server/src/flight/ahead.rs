//! Next epoch first: while a job reads one epoch, the node fills what the next one starts with.
//!
//! The order of an epoch is a pure function, so the node knows it before anyone asks. Where the cache can't hold all of a
//! data set, the start of the next epoch is missing as often as the rest of it; filled ahead into a small part of the
//! cache that is kept for that, it is at hand when the epoch begins and readers would all wait at once. It takes what the
//! readers leave: while they wait for fills of their own, at most one byte in twenty of what they fetch.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Node, warm};
use crate::cache::Warmed;
use crate::dataset::{Snapshot, off_async};
use crate::error::Result;
use crate::plan::order::Shuffle;
use crate::plan::{self, Query};

/// How often it is looked whether there is something to do.
const TICK: Duration = Duration::from_millis(100);
/// Of what readers fetch, one part in so many while they wait.
const PART: u64 = 20;
/// Plans remembered.
const PLANS_MAX: usize = 1024;
/// Row groups at the start of an epoch that are looked at.
const HEAD_MAX: u64 = 65_536;

/// What jobs read, and what they will read next.
#[derive(Default)]
pub struct Ahead(Mutex<State>);

#[derive(Default)]
struct State {
    /// By job and data set, the newest last.
    plans: VecDeque<(String, Arc<str>, Query)>,
    next: BTreeMap<Arc<str>, Next>,
}

/// The epoch that comes next for a data set.
#[derive(Clone)]
struct Next {
    query: Arc<Query>,
    /// How many row groups of its order are done with.
    done: u64,
    /// Nothing more fits: to be looked at again after this.
    rests_until: Option<Instant>,
}

impl Ahead {
    /// Notes a plan: who reads its tickets reads this epoch.
    pub fn planned(&self, job: &str, dataset: &Arc<str>, query: &Query) {
        if query.order.shuffle == Shuffle::None {
            return;
        }
        let mut state = self.0.lock();
        state.plans.retain(|(other, url, _)| other != job || url != dataset);
        if state.plans.len() == PLANS_MAX {
            state.plans.pop_front();
        }
        let whole = Query { shard: None, from: 0, count: 0, blocks: Vec::new(), ..query.clone() };
        state.plans.push_back((job.to_owned(), dataset.clone(), whole));
    }

    /// A ticket is read. Answers whether with it an epoch begins that was filled ahead.
    pub fn reads(&self, job: &str, dataset: &str) -> bool {
        let mut state = self.0.lock();
        let State { plans, next } = &mut *state;
        let Some((_, url, query)) = plans.iter().rev().find(|(other, url, _)| other == job && url.as_ref() == dataset)
        else {
            return false;
        };
        let Some(epoch) = query.order.epoch.checked_add(1) else { return false };
        let known = next.get(url);
        let same = |known: &&Next| {
            known.query.order.seed == query.order.seed
                && known.query.order.shuffle == query.order.shuffle
                && known.query.columns == query.columns
        };
        if let Some(known) = known.filter(same)
            && known.query.order.epoch >= epoch
        {
            // Another reader of the same epoch, or one that is behind.
            return false;
        }
        let begins = known.is_some();
        let mut query = query.clone();
        query.order.epoch = epoch;
        next.insert(url.clone(), Next { query: Arc::new(query), done: 0, rests_until: None });
        begins
    }

    fn forget(&self, is_alive: impl Fn(&str) -> bool) {
        self.0.lock().next.retain(|url, _| is_alive(url));
    }

    fn list(&self) -> Vec<(Arc<str>, Next)> {
        self.0.lock().next.iter().map(|(url, next)| (url.clone(), next.clone())).collect()
    }

    /// Notes how far the epoch in `seen` is, unless another one comes next by now.
    fn note(&self, url: &str, seen: &Next) {
        if let Some(next) = self.0.lock().next.get_mut(url)
            && Arc::ptr_eq(&next.query, &seen.query)
        {
            *next = seen.clone();
        }
    }
}

/// Fills ahead until the node stops.
pub async fn drive(node: Arc<Node>, bandwidth: u64, mut stopped: watch::Receiver<bool>) {
    if bandwidth == 0 {
        return;
    }
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut spending = Spending::new(bandwidth, node.metrics.origin_bytes.get());
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = round(&node, &mut spending).await {
            tracing::debug!(%error, "warming ahead");
        }
    }
}

/// One look at all data sets.
async fn round(node: &Arc<Node>, spending: &mut Spending) -> Result<()> {
    let alive: Vec<String> = node.cache.jobs().into_iter().map(|job| job.dataset).collect();
    node.ahead.forget(|url| alive.iter().any(|other| other == url));
    let mut keep = false;
    let mut wanted = Vec::new();
    for (url, next) in node.ahead.list() {
        let Some(snapshot) = node.catalog.known(&url) else { continue };
        // What fits as a whole needs no start of its own.
        let columns = plan::explain::wanted(&snapshot, &next.query)?;
        let ordinals: Vec<usize> = columns.iter().map(|&column| column as usize).collect();
        if snapshot.bytes as f64 * snapshot.share_of(&ordinals) > node.cache.space().limit() as f64 {
            keep = true;
            wanted.push((snapshot, columns, next));
        }
    }
    node.cache.keep_for_next_epochs(keep);
    for (snapshot, columns, next) in wanted {
        if next.rests_until.is_none_or(|until| until <= Instant::now()) {
            start_of(node, &snapshot, &columns, next, spending).await?;
        }
    }
    Ok(())
}

/// Fills what is missing at the start of one data set's next epoch, as far as may be spent now.
async fn start_of(
    node: &Arc<Node>,
    snapshot: &Arc<Snapshot>,
    columns: &[u32],
    mut next: Next,
    spending: &mut Spending,
) -> Result<()> {
    let (schema, head) = {
        let (snapshot, query) = (snapshot.clone(), next.query.clone());
        off_async(move || plan::head(&snapshot, &query, HEAD_MAX)).await??
    };
    for &(object, run) in head.iter().skip(next.done as usize) {
        let object = &snapshot.objects[object];
        if object.key.is_none_or(|key| node.cache.has(key, run.first, columns)) {
            next.done += 1;
            continue;
        }
        let (fills, fetched) = (node.metrics.fills_active.get(), node.metrics.origin_bytes.get());
        if !spending.may(fills > 0, fetched, Instant::now()) {
            break;
        }
        match warm::fill(node, snapshot, object, run, schema.clone(), true).await {
            Ok((Warmed::Filled, bytes)) => {
                // What others fetched meanwhile is counted too: rather too much than too little.
                spending.spent(node.metrics.origin_bytes.get() - fetched, Instant::now());
                node.metrics.ahead_bytes.inc_by(bytes);
                next.done += 1;
            }
            Ok((Warmed::Hit, _)) => next.done += 1,
            Ok((Warmed::Bypassed, _)) => {
                next.rests_until = Some(Instant::now() + Duration::from_secs(1));
                break;
            }
            // Readers will hear of it, and try again.
            Err(error) => {
                tracing::debug!(%error, object = %object.meta.url, "could not be warmed ahead");
                next.done += 1;
            }
        }
    }
    node.ahead.note(&snapshot.url, &next);
    Ok(())
}

/// PURE: how much may be fetched ahead now.
struct Spending {
    /// Bytes a second.
    bandwidth: u64,
    /// When the limit allows the next fetch.
    free_at: Option<Instant>,
    /// Bytes fetched from origins when it began, by anyone; and since, ahead.
    start: u64,
    ahead: u64,
}

impl Spending {
    fn new(bandwidth: u64, fetched: u64) -> Self {
        Self { bandwidth, free_at: None, start: fetched, ahead: 0 }
    }

    /// `waited_for`: readers wait for fills; `fetched`: bytes from origins so far, by anyone.
    fn may(&self, waited_for: bool, fetched: u64, now: Instant) -> bool {
        let readers = (fetched - self.start).saturating_sub(self.ahead);
        let spare = !waited_for || self.ahead.saturating_mul(PART) <= readers;
        spare && self.free_at.is_none_or(|at| at <= now)
    }

    fn spent(&mut self, bytes: u64, now: Instant) {
        self.ahead += bytes;
        let takes = Duration::from_secs_f64(bytes as f64 / self.bandwidth as f64);
        self.free_at = Some(self.free_at.map_or(now, |at| at.max(now)) + takes);
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
