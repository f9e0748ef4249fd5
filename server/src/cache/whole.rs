//! Row groups as they are stored: slices for streams, open files for maps. Nothing is decoded here.

use std::fs::File;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};

use super::fill::Phase;
use super::index::Fragment;
use super::mapped::{Touch, open_file};
use super::reader::{RunReader, Source};
use super::space::SpaceGuard;
use super::{Inner, RunKey};
use crate::dataset::off_async;
use crate::error::{Error, ErrorKind, Result};
use crate::ipc::stored::Layout;

/// How often fragments that turn out to be damaged, or evicted meanwhile, are replaced before a caller is told.
const ATTEMPTS: usize = 4;

/// A row group in files, complete and checked.
pub struct RunFiles {
    pub files: Vec<(File, Arc<SpaceGuard>)>,
    /// For each column asked for: its file, and its position there.
    pub columns: Vec<(usize, usize)>,
}

/// A batch as it lies in the fragments.
pub struct StoredBatch {
    pub layouts: Vec<Layout>,
    /// For each column asked for: its layout, and its position there.
    pub columns: Vec<(usize, usize)>,
}

impl RunReader {
    /// Batch `index` as it is stored. `None` where that can't be: something is not a fragment (yet); then
    /// [`RunReader::batch`] has it.
    pub async fn stored(&mut self, index: u32) -> Result<Option<StoredBatch>> {
        let Some(whole) = self.fragments() else { return Ok(None) };
        // What is in memory is not worth another thread: two switches cost more than the header.
        if let Some(batch) = whole.batch(&self.inner, index, Touch::Resident).unwrap_or_default() {
            return Ok(Some(batch));
        }
        let (inner, key) = (self.inner.clone(), self.key()?);
        // Where a fragment turns out to be gone or damaged, reading it the other way looks for another source.
        off_async(move || match whole.batch(&inner, index, Touch::Populate) {
            Ok(batch) => Ok(batch),
            Err(damaged) => inner.give_up(key, damaged).map(|_| None),
        })
        .await?
    }

    /// The columns asked for, without rows but with their dictionaries. `None` as for [`RunReader::stored`].
    pub async fn dictionaries(&mut self) -> Result<Option<RecordBatch>> {
        let Some(Whole { fragments, columns }) = self.fragments() else { return Ok(None) };
        let (inner, key, schema) = (self.inner.clone(), self.key()?, self.schema().clone());
        off_async(move || {
            let mut arrays = Vec::with_capacity(fragments.len());
            for (fragment, positions) in &fragments {
                match inner.open_map(fragment).and_then(|map| map.dictionaries(positions)) {
                    Ok(found) => arrays.push(found),
                    // Evicted since its batch was read, most likely.
                    Err(why) => return inner.give_up(key, (fragment.clone(), why)).map(|_| None),
                }
            }
            let of = |&(file, position): &(usize, usize)| {
                let at = fragments[file].1.iter().position(|p| *p == position)?;
                Some(arrays[file][at].clone())
            };
            let columns = columns.iter().map(of).collect::<Option<Vec<_>>>();
            let columns = columns.ok_or_else(|| Error::internal("a column came from nowhere"))?;
            let options = RecordBatchOptions::new().with_row_count(Some(0));
            let batch = RecordBatch::try_new_with_options(schema, columns, &options);
            batch.map(Some).map_err(|e| Error::internal(e.to_string()))
        })
        .await?
    }

    /// Which fragments the row group is read from; empty while something is not a fragment.
    pub fn fragment_ids(&self) -> Vec<u64> {
        let ids = self.parts.iter().map(|part| match &part.source {
            Source::Fragment(fragment) => Some(fragment.id),
            _ => None,
        });
        ids.collect::<Option<_>>().unwrap_or_default()
    }

    /// The files with the columns asked for; waits for fills under way. `None`: something is not kept on disk.
    pub async fn files(&mut self) -> Result<Option<RunFiles>> {
        for _ in 0..ATTEMPTS {
            if !self.await_fills().await? {
                return Ok(None);
            }
            let Some(whole) = self.fragments() else { continue };
            if let Some(files) = whole.checked_files(&self.inner) {
                return Ok(Some(RunFiles { files, columns: whole.columns }));
            }
            let (inner, key) = (self.inner.clone(), self.key()?);
            let opened = off_async(move || match whole.files(&inner) {
                Ok(files) => Ok(Ok(RunFiles { files, columns: whole.columns })),
                Err(damaged) => inner.give_up(key, damaged).map(Err),
            })
            .await??;
            match opened {
                Ok(files) => return Ok(Some(files)),
                Err(gone) => {
                    let at = self.parts.iter().position(|p| matches!(&p.source, Source::Fragment(f) if f.id == gone));
                    if let Some(at) = at {
                        self.replace(at, true)?;
                    }
                }
            }
        }
        Err(Error::unavailable(format!("{}: its fragments are evicted faster than they are read", self.id())))
    }

    /// Answers whether everything is a fragment now.
    async fn await_fills(&mut self) -> Result<bool> {
        let mut at = 0;
        while at < self.parts.len() {
            let fill = match &self.parts[at].source {
                Source::Fragment(_) => {
                    at += 1;
                    continue;
                }
                Source::Direct(..) => return Ok(false),
                Source::Fill(fill) => fill.clone(),
            };
            if !fill.keep {
                return Ok(false);
            }
            match fill.finished().await {
                Phase::Done { kept: true } => self.replace(at, true).map(drop)?,
                Phase::Failed(error) => return Err(error),
                Phase::Done { kept: false } | Phase::Diskless(_) | Phase::Running => return Ok(false),
            }
        }
        Ok(true)
    }

    /// `None`: not all is in fragments.
    fn fragments(&self) -> Option<Whole> {
        let fragments = self.parts.iter().map(|part| match &part.source {
            Source::Fragment(fragment) => Some((fragment.clone(), part.positions.clone())),
            _ => None,
        });
        let fragments = fragments.collect::<Option<Vec<_>>>()?;
        let columns = self.wanted().iter().map(|column| {
            self.parts.iter().enumerate().find_map(|(file, part)| {
                let at = part.columns.iter().position(|c| c == column)?;
                Some((file, part.positions[at]))
            })
        });
        let columns = columns.collect::<Option<Vec<_>>>()?;
        (!columns.is_empty()).then_some(Whole { fragments, columns })
    }
}

/// A row group all of whose wanted columns are in fragments.
struct Whole {
    /// Each with the positions of the columns read from it.
    fragments: Vec<(Arc<Fragment>, Vec<usize>)>,
    /// For each column asked for: which of the fragments, and its position there.
    columns: Vec<(usize, usize)>,
}

type Damaged = (Arc<Fragment>, Error);

impl Inner {
    /// Removes a fragment that is gone or damaged, and answers its id. One that only can't be opened now is an error.
    pub(super) fn give_up(&self, key: RunKey, (fragment, why): Damaged) -> Result<u64> {
        if why.kind() == ErrorKind::Exhausted {
            return Err(why);
        }
        self.discard(key, &fragment, &why);
        Ok(fragment.id)
    }
}

impl Whole {
    /// One batch. `None`: it may not be touched so.
    fn batch(&self, inner: &Inner, index: u32, touch: Touch) -> Result<Option<StoredBatch>, Damaged> {
        let mut layouts: Vec<Layout> = Vec::with_capacity(self.fragments.len());
        for (fragment, positions) in &self.fragments {
            let verified = (!inner.settings.verify_always).then_some(&fragment.verified);
            let map = match touch {
                Touch::Populate => inner.open_map(fragment).map_err(|why| (fragment.clone(), why))?,
                Touch::Resident => match inner.map_at_hand(fragment) {
                    Some(map) => map,
                    None => return Ok(None),
                },
            };
            let layout = map.stored(index as usize, positions, verified, touch);
            match layout.map_err(|why| (fragment.clone(), why))? {
                Some(layout) => layouts.push(layout),
                None => return Ok(None),
            }
        }
        Ok(Some(StoredBatch { layouts, columns: self.columns.clone() }))
    }

    /// The files, checked where they were not yet.
    fn files(&self, inner: &Inner) -> Result<Vec<(File, Arc<SpaceGuard>)>, Damaged> {
        let mut files = Vec::with_capacity(self.fragments.len());
        for (fragment, positions) in &self.fragments {
            let verified = (!inner.settings.verify_always).then_some(&fragment.verified);
            let checked = inner.open_map(fragment).and_then(|map| map.verify(positions, verified));
            // Names are unique: what is there by this name is what was checked.
            let file = checked.and_then(|()| open_file(&fragment.path));
            files.push((file.map_err(|why| (fragment.clone(), why))?, fragment.space.clone()));
        }
        Ok(files)
    }

    /// The files, if all of them are open and checked: then nothing here waits for a disk.
    fn checked_files(&self, inner: &Inner) -> Option<Vec<(File, Arc<SpaceGuard>)>> {
        if inner.settings.verify_always {
            return None;
        }
        let files = self.fragments.iter().map(|(fragment, positions)| {
            let map = inner.map_at_hand(fragment)?;
            let file = map.is_verified(positions, &fragment.verified).then(|| open_file(&fragment.path).ok())?;
            Some((file?, fragment.space.clone()))
        });
        files.collect()
    }
}
