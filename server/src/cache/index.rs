//! What is cached: row groups, their fragments and the fills under way, by key and by URL. In memory, no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use super::RunKey;
use super::fill::Fill;
use super::fragment::FileName;
use super::mapped::Verified;
use super::space::SpaceGuard;

/// A published fragment.
pub struct Fragment {
    /// Unique in this process.
    pub id: u64,
    pub path: PathBuf,
    pub name: FileName,
    /// Ordinals of the object's top-level columns, in the file's order.
    pub columns: Vec<u32>,
    pub bytes: u64,
    pub space: Arc<SpaceGuard>,
    pub verified: Verified,
}

/// One row group's row in the index.
pub struct Row {
    pub url: Arc<str>,
    /// The data set through which it was first read.
    pub dataset: Arc<str>,
    pub fragments: Vec<Arc<Fragment>>,
    pub fills: Vec<Arc<Fill>>,
}

#[derive(Default)]
pub struct Index {
    rows: HashMap<RunKey, Row>,
    by_url: BTreeMap<Arc<str>, BTreeSet<RunKey>>,
    fragments: usize,
}

impl Index {
    pub fn row(&self, key: &RunKey) -> Option<&Row> {
        self.rows.get(key)
    }

    pub fn rows(&self) -> impl Iterator<Item = (&RunKey, &Row)> {
        self.rows.iter()
    }

    pub fn fragments(&self) -> usize {
        self.fragments
    }

    /// Row groups with at least one fragment.
    pub fn cached_rows(&self) -> usize {
        self.rows.values().filter(|row| !row.fragments.is_empty()).count()
    }

    /// Keys of row groups whose object's URL begins with `prefix`.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, RunKey)> {
        self.by_url
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .take_while(move |(url, _)| url.starts_with(prefix))
            .flat_map(|(url, keys)| keys.iter().map(move |key| (url, *key)))
    }

    fn row_mut(&mut self, key: RunKey, url: &Arc<str>, dataset: &Arc<str>) -> &mut Row {
        self.rows.entry(key).or_insert_with(|| {
            self.by_url.entry(url.clone()).or_default().insert(key);
            Row { url: url.clone(), dataset: dataset.clone(), fragments: Vec::new(), fills: Vec::new() }
        })
    }

    pub fn add_fill(&mut self, key: RunKey, url: &Arc<str>, dataset: &Arc<str>, fill: Arc<Fill>) {
        self.row_mut(key, url, dataset).fills.push(fill);
    }

    pub fn remove_fill(&mut self, key: &RunKey, fill: &Arc<Fill>) {
        if let Some(row) = self.rows.get_mut(key) {
            row.fills.retain(|other| !Arc::ptr_eq(other, fill));
        }
        self.tidy(key);
    }

    /// Adds a fragment, unless one of its columns is there already or it is there itself.
    pub fn add_fragment(&mut self, key: RunKey, url: &Arc<str>, dataset: &Arc<str>, fragment: Arc<Fragment>) -> bool {
        let row = self.row_mut(key, url, dataset);
        let overlaps = row.fragments.iter().any(|f| {
            f.name.fill == fragment.name.fill || f.columns.iter().any(|column| fragment.columns.contains(column))
        });
        if overlaps {
            self.tidy(&key);
            return false;
        }
        row.fragments.push(fragment);
        self.fragments += 1;
        true
    }

    /// Takes a fragment out. Answers whether it was there.
    pub fn remove_fragment(&mut self, key: &RunKey, id: u64) -> Option<Arc<Fragment>> {
        let row = self.rows.get_mut(key)?;
        let at = row.fragments.iter().position(|f| f.id == id)?;
        let fragment = row.fragments.swap_remove(at);
        self.fragments -= 1;
        self.tidy(key);
        Some(fragment)
    }

    /// Takes all of a row group's fragments out.
    pub fn remove_fragments(&mut self, key: &RunKey) -> Vec<Arc<Fragment>> {
        let Some(row) = self.rows.get_mut(key) else { return Vec::new() };
        let fragments = std::mem::take(&mut row.fragments);
        self.fragments -= fragments.len();
        self.tidy(key);
        fragments
    }

    fn tidy(&mut self, key: &RunKey) {
        let empty = self.rows.get(key).is_some_and(|row| row.fragments.is_empty() && row.fills.is_empty());
        if !empty {
            return;
        }
        if let Some(row) = self.rows.remove(key)
            && let Some(keys) = self.by_url.get_mut(&row.url)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_url.remove(&row.url);
            }
        }
    }
}
