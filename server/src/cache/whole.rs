//! Row groups as they are stored: slices for streams, open files for maps. Nothing is decoded here.

use std::fs::File;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};

use super::fill::Phase;
use super::index::Fragment;
use super::reader::{RunReader, Source};
use super::space::SpaceGuard;
use crate::dataset::off_async;
use crate::error::{Error, Result};
use crate::ipc::Message;
use crate::ipc::stored::{self, Layout};

/// How often fragments that turn out to be damaged, or evicted meanwhile, are replaced before a caller is told.
const ATTEMPTS: usize = 4;

/// A row group in files, complete and checked.
pub struct RunFiles {
    pub files: Vec<(File, Arc<SpaceGuard>)>,
    /// For each column asked for: its file, and its position there.
    pub columns: Vec<(usize, usize)>,
}

impl RunReader {
    /// Batch `index` as one message of slices. `None` where that can't be: something is not a fragment (yet), or the
    /// fragments' codecs differ; then [`RunReader::batch`] has it.
    pub async fn stored(&mut self, index: u32) -> Result<Option<Message>> {
        let Some((fragments, columns)) = self.fragments() else { return Ok(None) };
        let (inner, key) = (self.inner.clone(), self.key()?);
        off_async(move || {
            let mut layouts: Vec<Layout> = Vec::with_capacity(fragments.len());
            for (fragment, positions) in &fragments {
                let verified = (!inner.settings.verify_always).then_some(&fragment.verified);
                let layout = inner.open_map(fragment).and_then(|map| map.stored(index as usize, positions, verified));
                match layout {
                    Ok(layout) => layouts.push(layout),
                    // Reading it the other way finds it gone and looks for another source.
                    Err(why) => {
                        inner.discard(key, fragment, &why);
                        return None;
                    }
                }
            }
            let first = layouts.first()?;
            if layouts.iter().any(|other| other.codec != first.codec || other.rows != first.rows) {
                return None;
            }
            let picked = columns.iter().map(|&(file, position)| (&layouts[file], position));
            Some(stored::join(first.rows, first.codec, picked))
        })
        .await
    }

    /// The columns asked for, without rows but with their dictionaries.
    pub async fn dictionaries(&mut self) -> Result<Option<RecordBatch>> {
        let Some((fragments, columns)) = self.fragments() else { return Ok(None) };
        let (inner, schema) = (self.inner.clone(), self.schema().clone());
        off_async(move || {
            let mut arrays = Vec::with_capacity(fragments.len());
            for (fragment, positions) in &fragments {
                arrays.push(inner.open_map(fragment)?.dictionaries(positions)?);
            }
            let of = |&(file, position): &(usize, usize)| {
                let at = fragments[file].1.iter().position(|p| *p == position)?;
                Some(arrays[file][at].clone())
            };
            let columns = columns.iter().map(of).collect::<Option<Vec<_>>>();
            let columns = columns.ok_or_else(|| Error::internal("a column came from nowhere"))?;
            let options = RecordBatchOptions::new().with_row_count(Some(0));
            RecordBatch::try_new_with_options(schema, columns, &options).map_err(|e| Error::internal(e.to_string()))
        })
        .await?
        .map(Some)
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
            let Some((fragments, columns)) = self.fragments() else { continue };
            let (inner, key) = (self.inner.clone(), self.key()?);
            let opened = off_async(move || {
                let mut files = Vec::with_capacity(fragments.len());
                for (fragment, positions) in &fragments {
                    let verified = (!inner.settings.verify_always).then_some(&fragment.verified);
                    let checked = inner.open_map(fragment).and_then(|map| map.verify(positions, verified));
                    let file = checked.and_then(|()| {
                        File::open(&fragment.path).map_err(|e| Error::corrupt(format!("{}: {e}", fragment.path.display())))
                    });
                    match file {
                        Ok(file) => files.push((file, fragment.space.clone())),
                        Err(why) => {
                            inner.discard(key, fragment, &why);
                            return Err(fragment.id);
                        }
                    }
                }
                Ok(files)
            })
            .await?;
            match opened {
                Ok(files) => return Ok(Some(RunFiles { files, columns })),
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

    /// The fragments, each with the positions of the columns read from it, and where each column asked for is: which
    /// of them, and its position there. `None`: not all is in fragments.
    #[expect(clippy::type_complexity, reason = "a pair that its two callers take apart at once")]
    fn fragments(&self) -> Option<(Vec<(Arc<Fragment>, Vec<usize>)>, Vec<(usize, usize)>)> {
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
        (!columns.is_empty()).then_some((fragments, columns))
    }
}
