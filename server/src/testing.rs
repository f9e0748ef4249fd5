//! What tests of several modules share: Parquet bytes, and an origin that can be told to fail or to keep readers waiting.

use std::fmt;
use std::sync::Arc;

use arrow_array::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tokio::sync::watch;

/// The prefix that [`Origin`] answers for.
pub const PREFIX: &str = "s3://bucket/";

/// `batch` as a Parquet file with `group` rows in each row group.
pub fn parquet(batch: &RecordBatch, group: usize) -> Vec<u8> {
    parquet_with(batch, WriterProperties::builder().set_max_row_group_row_count(Some(group)).build())
}

pub fn parquet_with(batch: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// What an [`Origin`] does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Answers,
    /// Answers reads that begin before this byte, and nothing else.
    FailsFrom(u64),
    /// Refuses everything: it is away.
    Away,
    /// Lets reads wait until the mood changes.
    Stalls,
}

/// Objects in memory, below [`PREFIX`].
#[derive(Debug)]
pub struct Origin {
    inner: InMemory,
    mood: watch::Sender<Mood>,
}

impl Origin {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { inner: InMemory::new(), mood: watch::Sender::new(Mood::Answers) })
    }

    pub fn be(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub async fn set(&self, path: &str, bytes: Vec<u8>) {
        self.inner.put(&Path::from(path), bytes.into()).await.unwrap();
    }

    fn refused() -> Error {
        Error::Generic { store: "Origin", source: "it is away".into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Origin")
    }
}

#[async_trait]
impl ObjectStore for Origin {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let start = match &options.range {
            Some(GetRange::Bounded(range)) => range.start,
            _ => 0,
        };
        if !options.head {
            let mut mood = self.mood.subscribe();
            // The sender lives as long as this store.
            let _ = mood.wait_for(|mood| *mood != Mood::Stalls).await;
        }
        match *self.mood.borrow() {
            Mood::Away => return Err(Self::refused()),
            Mood::FailsFrom(byte) if start >= byte && !options.head => return Err(Self::refused()),
            _ => {}
        }
        self.inner.get_opts(location, options).await
    }

    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, o: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, o).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if *self.mood.borrow() == Mood::Away {
            return Box::pin(futures::stream::once(async { Err(Self::refused()) }));
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if *self.mood.borrow() == Mood::Away {
            return Err(Self::refused());
        }
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
