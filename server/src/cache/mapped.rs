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

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_data::UnsafeFlag;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::{Block, MetadataVersion, root_as_footer, root_as_message};
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};

use super::dictionaries::attach;
use super::fragment::{Checksums, FileName, FragmentInfo};
use super::space::SpaceGuard;
use super::writer::BatchPlace;
use crate::error::{Error, Result};

/// Footer length and magic.
const TAIL: usize = 10;

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

/// An open fragment.
pub struct Mapped {
    owner: Arc<Owner>,
    data: Buffer,
    schema: SchemaRef,
    blocks: Vec<Block>,
    dictionaries: HashMap<i64, ArrayRef>,
    checksums: Checksums,
}

impl Mapped {
    /// Opens and checks a fragment's footer and dictionaries. Any error means that the file is damaged.
    pub fn open(path: &Path, name: FileName, space: Arc<SpaceGuard>) -> Result<Self> {
        let damaged = |e: &dyn std::fmt::Display| Error::corrupt(format!("{}: {e}", path.display()));
        let file = File::open(path).map_err(|e| damaged(&e))?;
        // SAFETY: fragment files are never truncated or rewritten, by this process or, since the directory is locked, by
        // another node; what else could be done to them by hand is outside what a cache can defend against.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| damaged(&e))?;
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

    /// Columns at `columns` (positions in this fragment) of batch `index`: populated, and checked where `verified` says
    /// that they were not yet (or always, without `verified`).
    pub fn batch(&self, index: usize, columns: &[usize], verified: Option<&Verified>) -> Result<Vec<ArrayRef>> {
        let damaged = |e: &dyn std::fmt::Display| Error::corrupt(format!("batch {index}: {e}"));
        let block = self.blocks.get(index).ok_or_else(|| damaged(&"is not there"))?;
        let sums = &self.checksums.batches[index];
        let message = slice(&self.data, block).ok_or_else(|| damaged(&"is cut off"))?;
        let header = &message[..block.metaDataLength() as usize];
        if crc32c::crc32c(header) != sums.header {
            return Err(damaged(&"its header's checksum differs"));
        }
        let parsed = root_as_message(&header[8..]).map_err(|e| damaged(&e))?;
        let batch = parsed.header_as_record_batch().ok_or_else(|| damaged(&"is no record batch"))?;
        let buffers = batch.buffers().ok_or_else(|| damaged(&"has no buffers"))?;
        let body = message.slice(block.metaDataLength() as usize);
        let body_at = block.offset() as usize + block.metaDataLength() as usize;
        for &column in columns {
            let before: usize = sums.columns[..column].iter().map(Vec::len).sum();
            let crcs = &sums.columns[column];
            let range = |i: usize| {
                let buffer = (i < buffers.len()).then(|| buffers.get(i))?;
                let (offset, length) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
                offset.checked_add(length).filter(|end| *end <= body.len()).map(|end| offset..end)
            };
            if crcs.is_empty() {
                continue;
            }
            let first = range(before).ok_or_else(|| damaged(&"a buffer is cut off"))?;
            let last = range(before + crcs.len() - 1).ok_or_else(|| damaged(&"a buffer is cut off"))?;
            populate(&self.owner.map, body_at + first.start, last.end.saturating_sub(first.start))
                .map_err(|e| damaged(&e))?;
            if verified.is_some_and(|v| v.get(index, column)) {
                continue;
            }
            for (nth, crc) in crcs.iter().enumerate() {
                let range = range(before + nth).ok_or_else(|| damaged(&"a buffer is cut off"))?;
                if crc32c::crc32c(&body[range]) != *crc {
                    return Err(damaged(&format!("a checksum of column {} differs", self.schema.field(column).name())));
                }
            }
            if let Some(verified) = verified {
                verified.set(index, column);
            }
        }
        // The decoder wants a projection in ascending order.
        let mut ascending = columns.to_vec();
        ascending.sort_unstable();
        ascending.dedup();
        let decoded =
            decode(&body, batch, self.schema.clone(), &self.dictionaries, Some(&ascending)).map_err(|e| damaged(&e))?;
        Ok(columns
            .iter()
            .filter_map(|c| ascending.binary_search(c).ok())
            .map(|at| decoded.column(at).clone())
            .collect())
    }
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
