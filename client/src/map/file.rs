//! One open file that a node handed over, mapped.
//!
//! Blocking; runs on the blocking pool. A page that is not in the page cache is read from the disk where it is first
//! touched, and a disk that fails there kills the process. So every byte is populated before it is read: whoever works
//! with a batch waits for no disk, and a failure is an error.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_data::UnsafeFlag;
use arrow_ipc::convert::fb_to_schema;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary_impl};
use arrow_ipc::{Block, Message, MetadataVersion, root_as_footer, root_as_message};
use arrow_schema::{DataType, Field, SchemaRef};
use bytes::Bytes;
use memmap2::{Advice, Mmap};

use super::Unmapped;
use super::connection::Connection;
use super::layout::Layout;

/// Footer length and magic.
const TAIL: usize = 10;
const MAGIC: &[u8] = b"ARROW1";
/// In front of a message's flatbuffer: continuation marker and length.
const PREFIX: usize = 8;
/// Gaps up to this between columns are populated with them.
const GAP: usize = 4096;

/// Maps alive in this process.
static LIVE: AtomicUsize = AtomicUsize::new(0);

pub(super) fn live_maps() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// A map. Buffers hold it, and it holds the connection: the node learns of its end.
struct Owner {
    map: Mmap,
    _connection: Arc<Connection>,
}

impl Owner {
    fn new(map: Mmap, connection: Arc<Connection>) -> Self {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Self { map, _connection: connection }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `Bytes::from_owner` wants to own: this owns a share.
struct Share(Arc<Owner>);

impl AsRef<[u8]> for Share {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

/// Some columns of a complete Arrow IPC file.
pub(super) struct MappedFile {
    owner: Arc<Owner>,
    data: Buffer,
    schema: SchemaRef,
    blocks: Vec<Block>,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Positions in the schema, ascending.
    columns: Vec<usize>,
}

impl MappedFile {
    /// Maps a file, of which the `columns` at these positions are wanted. The descriptor is closed.
    pub(super) fn open(
        descriptor: OwnedFd,
        mut columns: Vec<usize>,
        connection: Arc<Connection>,
    ) -> Result<Self, Unmapped> {
        let file = File::from(descriptor);
        // SAFETY: nodes only create, rename and unlink fragment files; none is truncated or rewritten while it can be
        // opened, so the map's bytes stay what they are and its pages stay there. That the peer is a node rests on the
        // node that told the socket's path: whoever can listen there in its stead is trusted as the node is.
        let map = unsafe { Mmap::map(&file) }.map_err(|why| broken(&format_args!("it can't be mapped: {why}")))?;
        drop(file);
        let owner = Arc::new(Owner::new(map, connection));
        let data = Buffer::from(Bytes::from_owner(Share(owner.clone())));
        columns.sort_unstable();
        columns.dedup();

        let tail = data.len().checked_sub(TAIL).ok_or_else(|| broken(&"it is too short"))?;
        populate(&owner.map, tail..data.len())?;
        let (length, magic) = data[tail..].split_at(4);
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let footer = tail.checked_sub(length).filter(|_| magic == MAGIC).ok_or_else(|| broken(&"it has no footer"))?;
        populate(&owner.map, footer..tail)?;
        let footer = root_as_footer(&data[footer..tail]).map_err(|why| broken(&why))?;
        let schema: SchemaRef = Arc::new(fb_to_schema(footer.schema().ok_or_else(|| broken(&"it has no schema"))?));
        if let Some(last) = columns.last().filter(|last| **last >= schema.fields().len()) {
            return Err(broken(&format_args!("column {last} is asked for of {}", schema.fields().len())));
        }
        let blocks = footer.recordBatches().map(|blocks| blocks.iter().copied().collect()).unwrap_or_default();
        let mut opened = Self { owner, data: data.clone(), schema, blocks, dictionaries: HashMap::new(), columns };
        let mut dictionaries = HashMap::new();
        for block in footer.dictionaries().iter().flat_map(|blocks| blocks.iter()) {
            opened.read_dictionary(block, &mut dictionaries)?;
        }
        opened.dictionaries = dictionaries;
        Ok(opened)
    }

    pub(super) fn batches(&self) -> usize {
        self.blocks.len()
    }

    /// Where the column at this position of the file stands in [`Self::batch`].
    pub(super) fn place_of(&self, column: usize) -> Option<usize> {
        self.columns.binary_search(&column).ok()
    }

    /// The wanted columns of a batch, ascending, without a copy unless they are compressed; and their bytes in the file.
    pub(super) fn batch(&self, index: usize) -> Result<(RecordBatch, u64), Unmapped> {
        let damaged = |why: &dyn std::fmt::Display| broken(&format_args!("batch {index} {why}"));
        let block = self.blocks.get(index).ok_or_else(|| damaged(&"is not there"))?;
        let (header, body) = self.parts(block)?;
        let message = self.message(header)?;
        let batch = message.header_as_record_batch().ok_or_else(|| damaged(&"is none"))?;
        let layout = Layout::new(&self.schema, batch, body.len()).map_err(|why| damaged(&why))?;
        for span in layout.spans(&self.columns, GAP) {
            populate(&self.owner.map, body.start + span.start..body.start + span.end)?;
        }
        let body = self.data.slice_with_length(body.start, body.len());
        let decoder = RecordBatchDecoder::try_new(&body, batch, self.schema.clone(), &self.dictionaries, &V5)
            .map_err(|why| damaged(&why))?;
        let decoded = decoder
            .with_projection(Some(&self.columns))
            .with_skip_validation(trusted())
            .read_record_batch()
            .map_err(|why| damaged(&why))?;
        Ok((decoded, layout.bytes(&self.columns)))
    }

    /// Reads a dictionary if a wanted column needs it.
    fn read_dictionary(&self, block: &Block, into: &mut HashMap<i64, ArrayRef>) -> Result<(), Unmapped> {
        let (header, body) = self.parts(block)?;
        let message = self.message(header)?;
        let batch = message.header_as_dictionary_batch().ok_or_else(|| broken(&"a dictionary is none"))?;
        if !self.columns.iter().any(|&column| needs(self.schema.field(column), batch.id())) {
            return Ok(());
        }
        populate(&self.owner.map, body.clone())?;
        let body = self.data.slice_with_length(body.start, body.len());
        read_dictionary_impl(&body, batch, &self.schema, into, &V5, false, trusted())
            .map_err(|why| broken(&format_args!("a dictionary can't be read: {why}")))
    }

    /// Where a message's header and body lie; both are in the file.
    fn parts(&self, block: &Block) -> Result<(Range<usize>, Range<usize>), Unmapped> {
        let found = || {
            let start = usize::try_from(block.offset()).ok()?;
            let body = start.checked_add(usize::try_from(block.metaDataLength()).ok().filter(|m| *m >= PREFIX)?)?;
            let end = body.checked_add(usize::try_from(block.bodyLength()).ok()?)?;
            (end <= self.data.len()).then_some((start..body, body..end))
        };
        found().ok_or_else(|| broken(&"a message is cut off"))
    }

    fn message(&self, header: Range<usize>) -> Result<Message<'_>, Unmapped> {
        populate(&self.owner.map, header.clone())?;
        let message = root_as_message(&self.data[header.start + PREFIX..header.end]).map_err(|why| broken(&why))?;
        match message.version() {
            MetadataVersion::V5 => Ok(message),
            other => Err(broken(&format_args!("a message is of version {other:?}"))),
        }
    }
}

const V5: MetadataVersion = MetadataVersion::V5;

/// Not an error of the node as such: it will find the file damaged when it streams it, and fill it again.
fn broken(why: &dyn std::fmt::Display) -> Unmapped {
    Unmapped::here(format!("a mapped file can't be read: {why}"))
}

/// Arrays are not validated again.
fn trusted() -> UnsafeFlag {
    let mut trusted = UnsafeFlag::new();
    // SAFETY: nodes write fragments from valid arrays, and compare the checksums of the columns that they hand over
    // before they do. Who is no node, but is taken for one (see `MappedFile::open`), could change the file after any
    // check here, so a check would protect from nobody. What costs nothing is checked all the same: that buffers lie in
    // the file, by `Layout`, and that they are as long as they have to be, by the arrays.
    unsafe { trusted.set(true) };
    trusted
}

/// Reads these bytes of the file into the map.
fn populate(map: &Mmap, range: Range<usize>) -> Result<(), Unmapped> {
    if range.is_empty() {
        return Ok(());
    }
    match map.advise_range(Advice::PopulateRead, range.start, range.len()) {
        // Before Linux 5.14: the pages fault when they are read.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other.map_err(|why| broken(&format_args!("bytes {} to {}: {why}", range.start, range.end))),
    }
}

/// Whether a column of this field has the dictionary `id` anywhere in it.
fn needs(field: &Field, id: i64) -> bool {
    #[expect(deprecated, reason = "nothing else says which dictionary is whose")]
    let own = field.dict_id() == Some(id);
    own || type_needs(field.data_type(), id)
}

fn type_needs(data_type: &DataType, id: i64) -> bool {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => needs(item, id),
        DataType::Struct(fields) => fields.iter().any(|field| needs(field, id)),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| needs(field, id)),
        DataType::RunEndEncoded(ends, values) => needs(ends, id) || needs(values, id),
        DataType::Dictionary(_, values) => type_needs(values, id),
        _ => false,
    }
}
