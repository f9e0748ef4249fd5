//! PURE: who needs what: jobs that live, the data sets they hold, and pins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use globset::{GlobBuilder, GlobMatcher};

/// A held data set, by its canonical URL.
pub type SetId = Arc<str>;

/// The objects of a data set, told by their URLs.
#[derive(Debug, Clone)]
pub struct UrlSet {
    /// All members begin with this.
    prefix: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// The object itself, or everything below it.
    Path,
    Glob(Box<GlobMatcher>),
}

impl UrlSet {
    pub fn new(url: &str) -> Self {
        if let Some(at) = url.find(['*', '?', '['])
            && let Ok(glob) = GlobBuilder::new(url).literal_separator(true).build()
        {
            return Self { prefix: url[..at].to_owned(), kind: Kind::Glob(Box::new(glob.compile_matcher())) };
        }
        Self { prefix: url.to_owned(), kind: Kind::Path }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn contains(&self, url: &str) -> bool {
        match &self.kind {
            Kind::Glob(glob) => glob.is_match(url),
            Kind::Path => url
                .strip_prefix(&self.prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || self.prefix.ends_with('/')),
        }
    }
}

/// Jobs and pins.
pub struct Holds {
    grace: Duration,
    jobs: HashMap<(Arc<str>, SetId), JobState>,
    sets: HashMap<SetId, UrlSet>,
    pins: Vec<(Arc<str>, UrlSet)>,
}

struct JobState {
    last: Instant,
    /// Streams that read now.
    reading: usize,
}

/// A job as `roost.stat` shows it.
pub struct JobInfo {
    pub name: Arc<str>,
    pub dataset: SetId,
    pub idle: Duration,
}

impl Holds {
    /// A job lives while it reads, and `grace` longer.
    pub fn new(grace: Duration) -> Self {
        Self { grace, jobs: HashMap::new(), sets: HashMap::new(), pins: Vec::new() }
    }

    /// `job` begins to read `dataset`. Answers whether the data set was not held before.
    pub fn begin(&mut self, job: &Arc<str>, dataset: &SetId, now: Instant) -> bool {
        let state = self.jobs.entry((job.clone(), dataset.clone())).or_insert(JobState { last: now, reading: 0 });
        state.last = now;
        state.reading += 1;
        let new = !self.sets.contains_key(dataset);
        if new {
            self.sets.insert(dataset.clone(), UrlSet::new(dataset));
        }
        new
    }

    /// A stream of `job` ended.
    pub fn end(&mut self, job: &Arc<str>, dataset: &SetId, now: Instant) {
        if let Some(state) = self.jobs.get_mut(&(job.clone(), dataset.clone())) {
            state.last = now;
            state.reading = state.reading.saturating_sub(1);
        }
    }

    /// Forgets jobs whose grace is over. Answers the data sets that nobody holds any more.
    pub fn expire(&mut self, now: Instant) -> Vec<SetId> {
        self.jobs.retain(|_, job| job.reading > 0 || now.saturating_duration_since(job.last) < self.grace);
        let free: Vec<SetId> =
            self.sets.keys().filter(|set| !self.jobs.keys().any(|(_, held)| held == *set)).cloned().collect();
        for set in &free {
            self.sets.remove(set);
        }
        free
    }

    /// The held data set an object belongs to: the narrowest one.
    pub fn holder(&self, url: &str) -> Option<&SetId> {
        let holding = self.sets.iter().filter(|(_, set)| set.contains(url));
        holding.max_by_key(|(id, set)| (set.prefix.len(), id.to_string())).map(|(id, _)| id)
    }

    pub fn is_pinned(&self, url: &str) -> bool {
        self.pins.iter().any(|(_, set)| set.contains(url))
    }

    pub fn pin(&mut self, url: &str) -> bool {
        let new = !self.pins.iter().any(|(pinned, _)| pinned.as_ref() == url);
        if new {
            self.pins.push((url.into(), UrlSet::new(url)));
        }
        new
    }

    pub fn unpin(&mut self, url: &str) -> bool {
        let before = self.pins.len();
        self.pins.retain(|(pinned, _)| pinned.as_ref() != url);
        self.pins.len() < before
    }

    pub fn pinned(&self) -> Vec<String> {
        self.pins.iter().map(|(url, _)| url.to_string()).collect()
    }

    pub fn jobs(&self, now: Instant) -> Vec<JobInfo> {
        self.jobs
            .iter()
            .map(|((name, dataset), state)| JobInfo {
                name: name.clone(),
                dataset: dataset.clone(),
                idle: if state.reading > 0 { Duration::ZERO } else { now.saturating_duration_since(state.last) },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_set_ends_at_path_segments() {
        let set = UrlSet::new("s3://b/data");
        assert!(set.contains("s3://b/data") && set.contains("s3://b/data/x/y.parquet"));
        assert!(!set.contains("s3://b/data2/x.parquet"));
        assert!(UrlSet::new("s3://b/data/").contains("s3://b/data/x.parquet"));
        let glob = UrlSet::new("s3://b/*/part-?.parquet");
        assert!(glob.contains("s3://b/a/part-1.parquet") && !glob.contains("s3://b/a/c/part-1.parquet"));
        assert_eq!(glob.prefix(), "s3://b/");
    }

    #[test]
    fn a_data_set_is_held_until_the_grace_of_its_last_job_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut holds = Holds::new(Duration::from_secs(10));
        let (a, b, set): (Arc<str>, Arc<str>, SetId) = ("a".into(), "b".into(), "s3://b/d/".into());
        assert!(holds.begin(&a, &set, start));
        assert!(!holds.begin(&b, &set, start));
        assert_eq!(holds.holder("s3://b/d/x"), Some(&set));
        holds.end(&a, &set, at(1));
        assert!(holds.expire(at(100)).is_empty(), "b still reads");
        holds.end(&b, &set, at(100));
        assert!(holds.expire(at(109)).is_empty());
        assert_eq!(holds.expire(at(110)), [set]);
        assert_eq!(holds.holder("s3://b/d/x"), None);
    }
}
