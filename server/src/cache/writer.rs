//! Writes a fragment file: batches as they are decoded, dictionaries and footer behind them.
//!
//! Blocking; runs on the blocking pool. Bodies go from the arrays' buffers to the page cache by `writev`: no copy in
//! between. Nothing is synced: it is a cache, and checksums tell.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::convert::{IpcSchemaEncoder, metadata_to_fb};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_ipc::{Block, CompressionType, FooterBuilder, MessageHeader, MetadataVersion, root_as_message};
use arrow_schema::SchemaRef;
use flatbuffers::FlatBufferBuilder;

use super::dictionaries::{Unifiers, attach};
use super::fragment::{BatchChecksums, Checksums, FragmentInfo};
use crate::error::{Error, Result};
use crate::ipc::{ALIGNMENT, Encoder, Message, buffer_counts};

const MAGIC: &[u8; 6] = b"ARROW1";

/// Where a batch lies in its file, for readers of a fill under way.
#[derive(Clone)]
pub struct BatchPlace {
    pub offset: u64,
    pub metadata_len: usize,
    pub body_len: usize,
    /// The dictionaries as of this batch; empty without dictionary columns.
    pub dictionaries: Arc<[ArrayRef]>,
}

/// Why a write failed: the disk, or the batch.
#[derive(Debug)]
pub enum WriteError {
    Disk(std::io::Error),
    Batch(Error),
}

impl From<std::io::Error> for WriteError {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<arrow_schema::ArrowError> for WriteError {
    fn from(error: arrow_schema::ArrowError) -> Self {
        Self::Batch(Error::internal(format!("a batch can't be written as IPC: {error}")))
    }
}

pub struct FragmentWriter {
    file: Arc<File>,
    schema: SchemaRef,
    unifiers: Option<Unifiers>,
    encoder: Encoder,
    offset: u64,
    blocks: Vec<Block>,
    checksums: Checksums,
}

impl FragmentWriter {
    /// Starts a file at `path`, which must not exist.
    pub fn create(path: &Path, schema: SchemaRef, codec: Option<CompressionType>) -> Result<Self, WriteError> {
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        let unifiers = super::dictionaries::has_dictionary(&schema).then(|| Unifiers::new(&schema));
        let encoder = Encoder::compressing(unifiers.as_ref().map_or(&schema, |u| u.stripped()), codec)?;
        let mut writer = Self {
            file: Arc::new(file),
            schema,
            unifiers,
            encoder,
            offset: 0,
            blocks: Vec::new(),
            checksums: Checksums::default(),
        };
        let mut magic = [0; ALIGNMENT];
        magic[..MAGIC.len()].copy_from_slice(MAGIC);
        writer.put(&[&magic])?;
        let mut tracker = DictionaryTracker::new(false);
        let message = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
            &writer.schema,
            &mut tracker,
            &options()?,
        );
        writer.put_message(&message.ipc_message, &[])?;
        Ok(writer)
    }

    /// The file, for readers that follow the fill.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// The schema of the batches as they lie in the file.
    pub fn stored_schema(&self) -> SchemaRef {
        self.unifiers.as_ref().map_or_else(|| self.schema.clone(), |u| u.stripped().clone())
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<BatchPlace, WriteError> {
        let stripped = match &mut self.unifiers {
            Some(unifiers) => unifiers.strip(batch)?,
            None => batch.clone(),
        };
        let message = self
            .encoder
            .encode(&stripped)?
            .into_iter()
            .find(|m| m.kind == MessageHeader::RecordBatch)
            .ok_or_else(|| WriteError::Batch(Error::internal("the encoder made no batch message")))?;
        self.checksums.batches.push(checksums(&message, &stripped)?);
        let offset = self.offset;
        let prefix = message.prefix();
        let mut parts: Vec<&[u8]> = Vec::with_capacity(message.body.len() + 2);
        parts.extend([&prefix[..], &message.header]);
        parts.extend(message.body.iter().map(|b| b.as_slice()));
        self.put(&parts)?;
        let (metadata_len, body_len) = (message.metadata_len(), message.body_len);
        self.blocks.push(Block::new(offset as i64, metadata_len as i32, body_len as i64));
        let dictionaries = match &self.unifiers {
            Some(unifiers) => unifiers.values()?,
            None => Arc::default(),
        };
        Ok(BatchPlace { offset, metadata_len, body_len, dictionaries })
    }

    /// Writes dictionaries and footer. Answers the footer's CRC32C and the file's length.
    pub fn finish(mut self, info: &FragmentInfo) -> Result<(u32, u64), WriteError> {
        let mut tracker = DictionaryTracker::new(false);
        let generator = IpcDataGenerator::default();
        // Gives each dictionary its id, in the order of the schema.
        generator.schema_to_bytes_with_dictionary_tracker(&self.schema, &mut tracker, &options()?);
        let mut dictionary_blocks = Vec::new();
        if let Some(unifiers) = self.unifiers.take() {
            let none = RecordBatch::new_empty(unifiers.stripped().clone());
            let none = attach(&none, &self.schema, &unifiers.values()?)?;
            let (dictionaries, _) = generator.encode(&none, &mut tracker, &options()?, &mut Default::default())?;
            for dictionary in dictionaries {
                let offset = self.offset;
                let (metadata_len, crc) = self.put_message(&dictionary.ipc_message, &dictionary.arrow_data)?;
                dictionary_blocks.push(Block::new(
                    offset as i64,
                    metadata_len as i32,
                    dictionary.arrow_data.len() as i64,
                ));
                self.checksums.dictionaries.push(crc);
            }
        }
        // End of stream, as the format wants it in front of the footer.
        self.put(&[&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]])?;

        let mut fbb = FlatBufferBuilder::new();
        let dictionaries = fbb.create_vector(&dictionary_blocks);
        let batches = fbb.create_vector(&self.blocks);
        tracker.clear();
        let schema =
            IpcSchemaEncoder::new().with_dictionary_tracker(&mut tracker).schema_to_fb_offset(&mut fbb, &self.schema);
        let metadata = metadata_to_fb(&mut fbb, &info.to_metadata(&self.checksums));
        let mut footer = FooterBuilder::new(&mut fbb);
        footer.add_version(MetadataVersion::V5);
        footer.add_schema(schema);
        footer.add_dictionaries(dictionaries);
        footer.add_recordBatches(batches);
        footer.add_custom_metadata(metadata);
        let root = footer.finish();
        fbb.finish(root, None);
        let footer = fbb.finished_data();
        self.put(&[footer, &(footer.len() as i32).to_le_bytes(), MAGIC])?;
        Ok((crc32c::crc32c(footer), self.offset))
    }

    fn put_message(&mut self, header: &[u8], body: &[u8]) -> Result<(usize, u32), WriteError> {
        let padded = (header.len() + 8).next_multiple_of(ALIGNMENT) - 8;
        let mut metadata = vec![0xFF; 4];
        metadata.extend_from_slice(&(padded as u32).to_le_bytes());
        metadata.extend_from_slice(header);
        metadata.resize(padded + 8, 0);
        self.put(&[&metadata, body])?;
        let tail = body.len().next_multiple_of(8) - body.len();
        self.put(&[&[0; 8][..tail]])?;
        Ok((metadata.len(), crc32c::crc32c_append(crc32c::crc32c(&metadata), body)))
    }

    fn put(&mut self, parts: &[&[u8]]) -> Result<(), WriteError> {
        fail::fail_point!("fill::write", |_| Err(WriteError::Disk(std::io::ErrorKind::StorageFull.into())));
        let mut slices: Vec<IoSlice<'_>> = parts.iter().filter(|p| !p.is_empty()).map(|p| IoSlice::new(p)).collect();
        let mut slices = slices.as_mut_slice();
        let mut file = self.file.as_ref();
        while !slices.is_empty() {
            // The kernel takes at most IOV_MAX slices a call.
            let upto = slices.len().min(1024);
            match file.write_vectored(&slices[..upto]) {
                Ok(0) => return Err(WriteError::Disk(std::io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.offset += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn options() -> Result<IpcWriteOptions, arrow_schema::ArrowError> {
    IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)
}

/// Checksums of a batch message: its header, and each buffer by column.
fn checksums(message: &Message, batch: &RecordBatch) -> Result<BatchChecksums, WriteError> {
    let bad = |what: &str| WriteError::Batch(Error::internal(format!("an encoded batch {what}")));
    let parsed = root_as_message(&message.header).map_err(|e| bad(&e.to_string()))?;
    let buffers = parsed.header_as_record_batch().and_then(|b| b.buffers()).ok_or_else(|| bad("has no buffers"))?;
    let header = crc32c::crc32c_append(crc32c::crc32c(&message.prefix()), &message.header);
    let mut body = Body { parts: &message.body, index: 0, start: 0 };
    let mut next = buffers.iter();
    let columns = buffer_counts(batch)
        .map(|count| {
            (0..count)
                .map(|_| {
                    let buffer = next.next().ok_or_else(|| bad("has too few buffers"))?;
                    body.crc(buffer.offset() as usize, buffer.length() as usize).ok_or_else(|| bad("is cut off"))
                })
                .collect::<Result<Vec<_>, _>>()
        })
        .collect::<Result<Vec<_>, _>>()?;
    if next.next().is_some() {
        return Err(bad("has too many buffers"));
    }
    Ok(BatchChecksums { header, columns })
}

/// Walks a body's parts from front to back.
struct Body<'a> {
    parts: &'a [arrow_buffer::Buffer],
    index: usize,
    /// Where `parts[index]` starts.
    start: usize,
}

impl Body<'_> {
    fn crc(&mut self, offset: usize, length: usize) -> Option<u32> {
        let mut crc = 0;
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let part = self.parts.get(self.index)?;
            let from = at.checked_sub(self.start)?;
            if from >= part.len() {
                self.start += part.len();
                self.index += 1;
                continue;
            }
            let take = (part.len() - from).min(end - at);
            crc = crc32c::crc32c_append(crc, &part[from..from + take]);
            at += take;
        }
        Some(crc)
    }
}
