//! Reads an object's Parquet footer once, and keeps it: decoded in memory, raw on disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_schema::SchemaRef;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::{FooterTail, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::runs::{Run, column_bytes, runs};
use super::schema::{ObjectSchema, object_schema};
use crate::error::{Error, Result};
use crate::origin::{ObjectMeta, Origins};

const TAIL: u64 = 8;
/// A footer above this is refused: it can't be honest, and would take the node's memory.
const FOOTER_MAX: u64 = 512 << 20;

/// What is known of one object's inside.
#[derive(Debug)]
pub struct Footer {
    pub meta: Arc<ParquetMetaData>,
    /// The object's columns as they are served, before unification with other objects.
    pub served: SchemaRef,
    /// The same as they are decoded and kept.
    pub schema: SchemaRef,
    /// For parquet-rs: `meta` with `schema` supplied.
    pub arrow: ArrowReaderMetadata,
    pub runs: Box<[Run]>,
    /// Decoded bytes of each top-level column, estimated.
    pub column_bytes: Box<[u64]>,
    /// The footer's thrift bytes, kept by the disk store.
    pub raw: Bytes,
}

impl Footer {
    /// Decodes the thrift bytes of `url`'s footer.
    pub fn decode(url: &str, raw: Bytes) -> Result<Self> {
        // arrow-ipc panics on embedded schemas that are well-formed and make no sense.
        catch_unwind(AssertUnwindSafe(|| Self::decode_checked(url, raw))).unwrap_or_else(|_| {
            Err(Error::corrupt(format!("{url}: its Parquet footer can't be read: the Parquet reader panicked on it")))
        })
    }

    fn decode_checked(url: &str, raw: Bytes) -> Result<Self> {
        let corrupt = |e: String| Error::corrupt(format!("{url}: its Parquet footer can't be read: {e}"));
        let meta = ParquetMetaDataReader::decode_metadata(&raw).map_err(|e| corrupt(e.to_string()))?;
        check(url, &meta)?;
        let ObjectSchema { served, stored: schema } = object_schema(url, &meta)?;
        let meta = Arc::new(meta);
        let options =
            ArrowReaderOptions::new().with_schema(schema.clone()).with_page_index_policy(PageIndexPolicy::Skip);
        let arrow = ArrowReaderMetadata::try_new(meta.clone(), options)
            .map_err(|e| Error::unsupported(format!("{url}: its columns can't be read as {schema}: {e}")))?;
        let runs = runs(&meta, &schema).into_boxed_slice();
        let column_bytes = column_bytes(&meta, &schema).into_boxed_slice();
        Ok(Self { meta, served, schema, arrow, runs, column_bytes, raw })
    }

    pub fn run(&self, first: u32, count: u32) -> Option<&Run> {
        self.runs.iter().find(|run| run.first == first && run.count == count)
    }

    /// Index of a top-level column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.schema.index_of(name).ok()
    }

    /// Bytes held in memory.
    pub fn weight(&self) -> usize {
        self.meta.memory_size() + self.raw.len() + self.runs.len() * size_of::<Run>() + 1024
    }
}

/// Refuses footers whose numbers would make later arithmetic wrong.
fn check(url: &str, meta: &ParquetMetaData) -> Result<()> {
    for (ordinal, group) in meta.row_groups().iter().enumerate() {
        if group.num_rows() < 0 {
            return Err(Error::corrupt(format!("{url}#rg{ordinal}: negative row count {}", group.num_rows())));
        }
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            if start < 0 || column.compressed_size() < 0 || start.checked_add(column.compressed_size()).is_none() {
                return Err(Error::corrupt(format!(
                    "{url}#rg{ordinal}: column {} lies at {start}, {} bytes long",
                    column.column_path(),
                    column.compressed_size()
                )));
            }
        }
    }
    Ok(())
}

/// Fetches an object's footer: one read of `tail` bytes from the end, and a second one where that was too short.
pub async fn fetch(origins: &Origins, object: &ObjectMeta, tail: u64) -> Result<Bytes> {
    let url = &object.url;
    if object.size < TAIL + 4 {
        return Err(Error::corrupt(format!("{url}: {} bytes are too few for a Parquet file", object.size)));
    }
    let start = object.size.saturating_sub(tail.max(TAIL));
    let read = origins.read(object, start..object.size).await?;
    let last: &[u8; 8] = read
        .last_chunk()
        .ok_or_else(|| Error::unavailable(format!("{url}: the origin answered {} of {tail} bytes", read.len())))?;
    let footer = FooterTail::try_new(last).map_err(|e| Error::corrupt(format!("{url} is not a Parquet file: {e}")))?;
    if footer.is_encrypted_footer() {
        return Err(Error::unsupported(format!("{url}: its footer is encrypted; encrypted Parquet is not supported")));
    }
    let length = footer.metadata_length() as u64;
    if length > object.size - TAIL || length > FOOTER_MAX {
        return Err(Error::corrupt(format!(
            "{url}: a footer of {length} bytes does not fit its {} bytes",
            object.size
        )));
    }
    let have = read.len() as u64 - TAIL;
    if length <= have {
        return Ok(read.slice((have - length) as usize..have as usize));
    }
    origins.read(object, object.size - TAIL - length..object.size - TAIL).await
}
