//! Reads fragment files through memory maps.
//!
//! Blocking; runs on the blocking pool. Arrays are slices of the map and keep it alive, so a fragment that was evicted
//! meanwhile stays readable. Fragment files are only created, renamed and unlinked, never truncated or rewritten: a map
//! can't lose its pages under a reader.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::{ArrayRef, RecordBatch, new_empty_array};
use arrow_buffer::Buffer;
use arrow_data::UnsafeFlag;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::{Block, MetadataVersion, root_as_footer, root_as_message};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

use super::dictionaries::{attach, has_dictionary};
use super::fragment::{Checksums, FileName, FragmentInfo};
use super::space::SpaceGuard;
use super::writer::BatchPlace;
use crate::error::{Error, Result};
use crate::ipc::stored::Layout;

/// Footer length and magic.
const TAIL: usize = 10;
/// Gaps up to this between columns are populated with them.
const PAGE: usize = 4096;

/// A map, and the claim on disk space that lasts as long as it.
struct Owner {
    map: Mmap,
    _space: Arc<SpaceGuard>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// Which (batch, column) pairs of a fragment were checked since the start.
#[derive(Debug)]
pub struct Verified {
    bits: Box<[AtomicU64]>,
    columns: usize,
}

impl Verified {
    pub fn none(batches: usize, columns: usize) -> Self {
        let words = (batches * columns).div_ceil(64);
        Self { bits: (0..words).map(|_| AtomicU64::new(0)).collect(), columns }
    }

    pub fn all(batches: usize, columns: usize) -> Self {
        let words = (batches * columns).div_ceil(64);
        Self { bits: (0..words).map(|_| AtomicU64::new(u64::MAX)).collect(), columns }
    }

    fn bit(&self, batch: usize, column: usize) -> (&AtomicU64, u64) {
        let index = batch * self.columns + column;
        (&self.bits[index / 64], 1 << (index % 64))
    }

    fn get(&self, batch: usize, column: usize) -> bool {
        let (word, bit) = self.bit(batch, column);
        word.load(Ordering::Acquire) & bit != 0
    }

    fn set(&self, batch: usize, column: usize) {
        let (word, bit) = self.bit(batch, column);
        word.fetch_or(bit, Ordering::Release);
    }
}

/// How a batch's bytes may be touched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// Blocking: they are read from disk, and checked where they were not yet.
    Populate,
    /// On an async thread: only what is in memory and was checked.
    Resident,
}

/// An open fragment. Holds no descriptor: there may be more fragments than a process may have files.
pub struct Mapped {
    owner: Arc<Owner>,
    data: Buffer,
    schema: SchemaRef,
    blocks: Vec<Block>,
    dictionaries: HashMap<i64, ArrayRef>,
    checksums: Checksums,
}

impl Mapped {
    /// Opens and checks a fragment's footer and dictionaries. Any error but [`ErrorKind::Exhausted`] means that the file
    /// is gone or damaged.
    ///
    /// [`ErrorKind::Exhausted`]: crate::error::ErrorKind::Exhausted
    pub fn open(path: &Path, name: FileName, space: Arc<SpaceGuard>) -> Result<Self> {
        let damaged = |e: &dyn std::fmt::Display| Error::corrupt(format!("{}: {e}", path.display()));
        let file = open_file(path)?;
        // SAFETY: fragment files are never truncated or rewritten, by this process or, since the directory is locked, by
        // another node; what else could be done to them by hand is outside what a cache can defend against.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| unopened(path, &e))?;
        let owner = Arc::new(Owner { map, _space: space });
        let data = Buffer::from(Bytes::from_owner(SharedOwner(owner.clone())));
        let (footer, _) = footer_of(&data).ok_or_else(|| damaged(&"no IPC footer"))?;
        if crc32c::crc32c(footer) != name.footer_crc {
            return Err(damaged(&"the footer's checksum differs"));
        }
        let footer = root_as_footer(footer).map_err(|e| damaged(&e))?;
        let schema = footer.schema().ok_or_else(|| damaged(&"no schema"))?;
        let schema: SchemaRef = Arc::new(fb_to_schema(schema));
        let (info, checksums) = FragmentInfo::from_metadata(&custom_metadata(&footer)).map_err(|e| damaged(&e))?;
        let blocks: Vec<Block> = footer.recordBatches().map(|b| b.iter().copied().collect()).unwrap_or_default();
        let consistent = blocks.len() == checksums.batches.len()
            && info.columns.len() == schema.fields().len()
            && checksums.batches.iter().all(|b| b.columns.len() == info.columns.len());
        if !consistent {
            return Err(damaged(&"blocks, columns and checksums do not match"));
        }
        let mut dictionaries = HashMap::new();
        for (block, crc) in footer.dictionaries().iter().flat_map(|d| d.iter()).zip(&checksums.dictionaries) {
            let message = slice(&data, block).ok_or_else(|| damaged(&"a dictionary is cut off"))?;
            if crc32c::crc32c(&message) != *crc {
                return Err(damaged(&"a dictionary's checksum differs"));
            }
            let parsed = root_as_message(&message[8..]).map_err(|e| damaged(&e))?;
            let batch = parsed.header_as_dictionary_batch().ok_or_else(|| damaged(&"a dictionary is none"))?;
            let body = message.slice(block.metaDataLength() as usize);
            read_dictionary(&body, batch, &schema, &mut dictionaries, &MetadataVersion::V5).map_err(|e| damaged(&e))?;
        }
        Ok(Self { owner, data, schema, blocks, dictionaries, checksums })
    }

    /// Columns at `columns` (positions in this fragment) of batch `index`, as arrays; ready as [`Self::ready`] says.
    pub fn batch(&self, index: usize, columns: &[usize], verified: Option<&Verified>) -> Result<Vec<ArrayRef>> {
        let damaged = damage(index);
        let message = self.message(index)?;
        let batch = message.batch(index)?;
        self.ready(index, &message, &batch, columns, verified, Touch::Populate)?;
        // The decoder wants a projection in ascending order.
        let mut ascending = columns.to_vec();
        ascending.sort_unstable();
        ascending.dedup();
        let decoded = decode(&message.body, batch, self.schema.clone(), &self.dictionaries, Some(&ascending))
            .map_err(|e| damaged(&e))?;
        Ok(columns
            .iter()
            .filter_map(|c| ascending.binary_search(c).ok())
            .map(|at| decoded.column(at).clone())
            .collect())
    }

    /// Batch `index` as it is stored, its columns at `columns` ready as [`Self::ready`] says. `None`: it may not be
    /// touched so.
    pub fn stored(
        &self,
        index: usize,
        columns: &[usize],
        verified: Option<&Verified>,
        touch: Touch,
    ) -> Result<Option<Layout>> {
        if touch == Touch::Resident {
            let block = self.blocks.get(index);
            if !block.is_some_and(|b| self.is_resident(b.offset() as usize, b.metaDataLength() as usize)) {
                return Ok(None);
            }
        }
        let message = self.message(index)?;
        let batch = message.batch(index)?;
        if !self.ready(index, &message, &batch, columns, verified, touch)? {
            return Ok(None);
        }
        let counts = self.checksums.batches[index].columns.iter().map(Vec::len);
        Layout::new(&self.schema, batch, message.body.clone(), counts).map(Some).map_err(|e| damage(index)(&e))
    }

    /// Checks the columns at `columns` in all batches where `verified` says that they were not yet. What was checked is
    /// not touched.
    pub fn verify(&self, columns: &[usize], verified: Option<&Verified>) -> Result<()> {
        for index in 0..self.blocks.len() {
            if verified.is_some_and(|v| columns.iter().all(|&c| v.get(index, c))) {
                continue;
            }
            let message = self.message(index)?;
            let batch = message.batch(index)?;
            self.ready(index, &message, &batch, columns, verified, Touch::Populate)?;
        }
        Ok(())
    }

    /// Whether [`Self::verify`] has nothing to do.
    pub fn is_verified(&self, columns: &[usize], verified: &Verified) -> bool {
        (0..self.blocks.len()).all(|index| columns.iter().all(|&c| verified.get(index, c)))
    }

    /// Columns at `columns` without rows, for their dictionaries.
    pub fn dictionaries(&self, columns: &[usize]) -> Result<Vec<ArrayRef>> {
        let has = |c: usize| has_dictionary(&Schema::new(vec![self.schema.fields()[c].clone()]));
        if self.blocks.is_empty() || !columns.iter().any(|&c| has(c)) {
            return Ok(columns.iter().map(|&c| new_empty_array(self.schema.field(c).data_type())).collect());
        }
        let with: Vec<usize> = columns.iter().copied().filter(|&c| has(c)).collect();
        let mut decoded = self.batch(0, &with, None)?.into_iter();
        let one = |&c: &usize| match has(c) {
            true => decoded.next().map(|array| array.slice(0, 0)),
            false => Some(new_empty_array(self.schema.field(c).data_type())),
        };
        columns.iter().map(one).collect::<Option<_>>().ok_or_else(|| Error::internal("a dictionary is missing"))
    }

    fn message(&self, index: usize) -> Result<StoredMessage> {
        let damaged = damage(index);
        let block = self.blocks.get(index).ok_or_else(|| damaged(&"is not there"))?;
        let message = slice(&self.data, block).ok_or_else(|| damaged(&"is cut off"))?;
        let header = message.slice_with_length(0, block.metaDataLength() as usize);
        if crc32c::crc32c(&header) != self.checksums.batches[index].header {
            return Err(damaged(&"its header's checksum differs"));
        }
        let body = message.slice(block.metaDataLength() as usize);
        Ok(StoredMessage { header, body, body_at: block.offset() as usize + block.metaDataLength() as usize })
    }

    /// Makes the columns at `columns` fit to be read. [`Touch::Populate`]: populates them, and compares their checksums
    /// where `verified` says that they were not yet (or always, without `verified`). [`Touch::Resident`]: answers
    /// whether all that is done already.
    fn ready(
        &self,
        index: usize,
        message: &StoredMessage,
        batch: &arrow_ipc::RecordBatch<'_>,
        columns: &[usize],
        verified: Option<&Verified>,
        touch: Touch,
    ) -> Result<bool> {
        let hot = touch == Touch::Resident;
        if hot && !verified.is_some_and(|v| columns.iter().all(|&c| v.get(index, c))) {
            return Ok(false);
        }
        let damaged = damage(index);
        let sums = &self.checksums.batches[index];
        let buffers = batch.buffers().ok_or_else(|| damaged(&"has no buffers"))?;
        let range = |i: usize| {
            let buffer = (i < buffers.len()).then(|| buffers.get(i))?;
            let (offset, length) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
            offset.checked_add(length).filter(|end| *end <= message.body.len()).map(|end| offset..end)
        };
        let mut before = Vec::with_capacity(sums.columns.len());
        let mut sum = 0;
        for column in &sums.columns {
            before.push(sum);
            sum += column.len();
        }
        let mut ascending = columns.to_vec();
        ascending.sort_unstable();
        // Columns that lie side by side are populated by one call.
        let mut run: Option<std::ops::Range<usize>> = None;
        let take = |run: std::ops::Range<usize>| {
            let at = message.body_at + run.start;
            match touch {
                Touch::Populate => populate(&self.owner.map, at, run.len()).map(|()| true).map_err(|e| damaged(&e)),
                Touch::Resident => Ok(self.is_resident(at, run.len())),
            }
        };
        for &column in &ascending {
            let count = sums.columns[column].len();
            if count == 0 {
                continue;
            }
            let first = range(before[column]).ok_or_else(|| damaged(&"a buffer is cut off"))?;
            let last = range(before[column] + count - 1).ok_or_else(|| damaged(&"a buffer is cut off"))?;
            let (start, end) = (first.start, last.end.max(first.start));
            match &mut run {
                Some(run) if start >= run.start && start <= run.end + PAGE => run.end = run.end.max(end),
                _ => {
                    if let Some(done) = run.replace(start..end)
                        && !take(done)?
                    {
                        return Ok(false);
                    }
                }
            }
        }
        if let Some(run) = run
            && !take(run)?
        {
            return Ok(false);
        }
        if hot {
            return Ok(true);
        }
        for &column in columns {
            if verified.is_some_and(|v| v.get(index, column)) {
                continue;
            }
            for (nth, crc) in sums.columns[column].iter().enumerate() {
                let range = range(before[column] + nth).ok_or_else(|| damaged(&"a buffer is cut off"))?;
                if crc32c::crc32c(&message.body[range]) != *crc {
                    return Err(damaged(&format!("a checksum of column {} differs", self.schema.field(column).name())));
                }
            }
            if let Some(verified) = verified {
                verified.set(index, column);
            }
        }
        Ok(true)
    }

    /// Whether these bytes are in memory, so that to read them waits for no disk.
    fn is_resident(&self, offset: usize, length: usize) -> bool {
        let (start, end) = (offset / PAGE * PAGE, (offset + length).min(self.owner.map.len()));
        let Some(length) = end.checked_sub(start).filter(|length| *length > 0) else { return true };
        let mut pages = vec![0u8; length.div_ceil(PAGE)];
        // SAFETY: the range lies in the map and starts on a page, since the map does; `pages` has a byte for each page.
        let asked = unsafe {
            let address = self.owner.map.as_ptr().add(start);
            libc::mincore(address.cast_mut().cast(), length, pages.as_mut_ptr())
        };
        asked == 0 && pages.iter().all(|page| page & 1 == 1)
    }
}

/// Opens a fragment's file; errors are those of [`Mapped::open`].
pub fn open_file(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| unopened(path, &e))
}

/// A sound file is not to be taken for a damaged one because the process has too many files or maps just now.
fn unopened(path: &Path, error: &std::io::Error) -> Error {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM) => {
            Error::exhausted(format!("{} can't be opened now: {error}: come back later", path.display()))
        }
        _ => Error::corrupt(format!("{}: {error}", path.display())),
    }
}

/// A batch's message in the map, its header checked.
struct StoredMessage {
    header: Buffer,
    body: Buffer,
    /// Where the body starts in the file.
    body_at: usize,
}

impl StoredMessage {
    fn batch(&self, index: usize) -> Result<arrow_ipc::RecordBatch<'_>> {
        let parsed = root_as_message(&self.header[8..]).map_err(|e| damage(index)(&e))?;
        parsed.header_as_record_batch().ok_or_else(|| damage(index)(&"is no record batch"))
    }
}

/// Errors of a batch that is not as it was written.
fn damage(index: usize) -> impl Fn(&dyn std::fmt::Display) -> Error {
    move |e| Error::corrupt(format!("batch {index}: {e}"))
}

/// `Bytes::from_owner` wants to own: this owns a share.
struct SharedOwner(Arc<Owner>);

impl AsRef<[u8]> for SharedOwner {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

/// Columns at `columns` of a batch that a fill under way has written.
pub fn batch_under_way(
    file: &File,
    place: &BatchPlace,
    stored: &SchemaRef,
    schema: &SchemaRef,
    columns: &[usize],
    space: Arc<SpaceGuard>,
) -> Result<Vec<ArrayRef>> {
    let failed = |e: &dyn std::fmt::Display| Error::internal(format!("a batch of a fill can't be read back: {e}"));
    let length = place.metadata_len + place.body_len;
    // SAFETY: the range is written and the file is never truncated or rewritten, as for `Mapped`.
    let map = unsafe { MmapOptions::new().offset(place.offset).len(length).map(file) }.map_err(|e| failed(&e))?;
    populate(&map, 0, length).map_err(|e| failed(&e))?;
    let data = Buffer::from(Bytes::from_owner(Owner { map, _space: space }));
    let parsed = root_as_message(&data[8..place.metadata_len]).map_err(|e| failed(&e))?;
    let batch = parsed.header_as_record_batch().ok_or_else(|| failed(&"no record batch"))?;
    let body = data.slice(place.metadata_len);
    let mut decoded = decode(&body, batch, stored.clone(), &HashMap::new(), None).map_err(|e| failed(&e))?;
    if !place.dictionaries.is_empty() {
        decoded = attach(&decoded, schema, &place.dictionaries).map_err(|e| failed(&e))?;
    }
    Ok(columns.iter().map(|&c| decoded.column(c).clone()).collect())
}

fn decode(
    body: &Buffer,
    batch: arrow_ipc::RecordBatch<'_>,
    schema: SchemaRef,
    dictionaries: &HashMap<i64, ArrayRef>,
    projection: Option<&[usize]>,
) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let mut trusted = UnsafeFlag::new();
    // SAFETY: the bytes were written by this program from valid arrays, and their checksums were compared (or this
    // process wrote them itself). Validating text again on each read would cost more than sending it.
    unsafe { trusted.set(true) };
    RecordBatchDecoder::try_new(body, batch, schema, dictionaries, &MetadataVersion::V5)?
        .with_projection(projection)
        .with_skip_validation(trusted)
        .read_record_batch()
}

/// Faults the pages in here, where blocking is allowed, and not later inside a socket write. A disk error is reported
/// here too, where it is an error and not a signal.
fn populate(map: &Mmap, offset: usize, length: usize) -> std::io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    match map.advise_range(Advice::PopulateRead, offset, length) {
        // Before Linux 5.14: the pages fault when they are read.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(()),
        other => other,
    }
}

fn slice(data: &Buffer, block: &Block) -> Option<Buffer> {
    let offset = usize::try_from(block.offset()).ok()?;
    let metadata = usize::try_from(block.metaDataLength()).ok().filter(|m| *m >= 8)?;
    let length = metadata.checked_add(usize::try_from(block.bodyLength()).ok()?)?;
    (offset.checked_add(length)? <= data.len()).then(|| data.slice_with_length(offset, length))
}

/// The footer's flatbuffer, and where it starts.
fn footer_of(file: &[u8]) -> Option<(&[u8], usize)> {
    let end = file.len().checked_sub(TAIL)?;
    let (length, magic) = file[end..].split_at(4);
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    let start = end.checked_sub(length)?;
    (magic == b"ARROW1").then(|| (&file[start..end], start))
}

fn custom_metadata(footer: &arrow_ipc::Footer<'_>) -> HashMap<String, String> {
    footer
        .custom_metadata()
        .iter()
        .flat_map(|list| list.iter())
        .filter_map(|pair| Some((pair.key()?.to_owned(), pair.value()?.to_owned())))
        .collect()
}

/// Reads what a fragment says of itself from its tail, without mapping it.
pub fn read_info(path: &Path, name: FileName) -> Result<(FragmentInfo, u64)> {
    use std::os::unix::fs::FileExt;
    let damaged = |e: &dyn std::fmt::Display| Error::corrupt(format!("{}: {e}", path.display()));
    let file = File::open(path).map_err(|e| damaged(&e))?;
    let length = file.metadata().map_err(|e| damaged(&e))?.len();
    let mut want = 64 << 10;
    loop {
        let size = length.min(want);
        let mut tail = vec![0; size as usize];
        file.read_exact_at(&mut tail, length - size).map_err(|e| damaged(&e))?;
        match footer_of(&tail) {
            Some((footer, _)) => {
                if crc32c::crc32c(footer) != name.footer_crc {
                    return Err(damaged(&"the footer's checksum differs"));
                }
                let footer = root_as_footer(footer).map_err(|e| damaged(&e))?;
                let (info, _) = FragmentInfo::from_metadata(&custom_metadata(&footer)).map_err(|e| damaged(&e))?;
                return Ok((info, length));
            }
            None if size < length && tail.ends_with(b"ARROW1") => want *= 16,
            None => return Err(damaged(&"no IPC footer")),
        }
    }
}

/// For callers that build a schema of their own.
pub fn project(schema: &Schema, columns: &[u32]) -> SchemaRef {
    let fields: Vec<_> = columns.iter().map(|&c| schema.fields()[c as usize].clone()).collect();
    Arc::new(Schema::new(fields))
}
