//! The cache over real files: fills, hits, sharing, restart. What goes wrong below it: `fault_tests`.

mod fault_tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, DictionaryArray, Int64Array, RecordBatch, StringArray, types::Int32Type};
use arrow_select::concat::concat_batches;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::*;
use crate::dataset::CatalogSettings;
use crate::dataset::{Catalog, Footer};
use crate::origin::{ObjectMeta, OriginCounters, OriginSettings, Origins};

const ROWS: usize = 200_000;
/// Above what two row groups may share.
const GROUP: usize = 70_000;

struct Bench {
    catalog: Catalog,
    cache: Cache,
    metrics: Arc<Metrics>,
    read: prometheus::IntCounter,
    bytes: prometheus::IntCounter,
}

fn bench(directory: &Path, capacity: u64) -> Bench {
    let counters = OriginCounters::default();
    let (read, bytes) = (counters.read.clone(), counters.bytes.clone());
    let settings = OriginSettings { retries: 0, ..OriginSettings::default() };
    let origins = Origins::new(settings, counters).unwrap();
    let metrics = Metrics::new();
    let decoder = Decoder::new(origins.clone(), 2, 256 << 20, metrics.clone()).unwrap();
    let settings = SpaceSettings {
        directories: vec![directory.to_owned()],
        capacity: Limit::Bytes(capacity),
        min_free: Limit::Bytes(0),
    };
    // The last task of an earlier cache may hold the lock a moment longer.
    let started = Instant::now();
    let space = loop {
        match Space::open(settings.clone()) {
            Err(error) if error.message().contains("another node") && started.elapsed() < Duration::from_secs(20) => {
                std::thread::yield_now();
            }
            opened => break opened.unwrap(),
        }
    };
    let cache = Cache::open(CacheSettings::default(), space, decoder, metrics.clone());
    Bench { catalog: Catalog::new(origins, CatalogSettings::default(), None), cache, metrics, read, bytes }
}

/// A Parquet file of numbers, text with few values, and a dictionary.
fn source(path: &Path) -> RecordBatch {
    let numbers = Int64Array::from_iter((0..ROWS as i64).map(|i| (i % 7 > 0).then_some(i * 3)));
    let text = StringArray::from_iter_values((0..ROWS).map(|i| format!("text {}", i % 1000)));
    let kinds: DictionaryArray<Int32Type> = (0..ROWS).map(|i| ["a", "b", "c"][i * 3 / ROWS]).collect();
    let columns: [(&str, ArrayRef); 3] = [("n", Arc::new(numbers)), ("t", Arc::new(text)), ("k", Arc::new(kinds))];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(GROUP)).build();
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    batch
}

impl Bench {
    async fn object(&self, path: &Path) -> (ObjectMeta, Arc<Footer>) {
        self.object_at(&format!("file://{}", path.display())).await
    }

    async fn object_at(&self, url: &str) -> (ObjectMeta, Arc<Footer>) {
        let object = self.catalog.origins().head(url).await.unwrap();
        let footer = self.catalog.footer(&object).await.unwrap();
        (object, footer)
    }

    async fn requests(&self, path: &Path, columns: &[u32]) -> Vec<ReadRequest> {
        self.requests_at(&format!("file://{}", path.display()), columns).await
    }

    async fn requests_at(&self, url: &str, columns: &[u32]) -> Vec<ReadRequest> {
        let (object, footer) = self.object_at(url).await;
        let request = |run| ReadRequest {
            url: object.url.clone(),
            key: object.key(),
            object: Ok(object.clone()),
            footer: footer.clone(),
            run,
            columns: columns.to_vec(),
            dataset: object.url.clone(),
            ahead: false,
        };
        footer.runs.iter().map(|run| request(*run)).collect()
    }

    /// All rows of some columns, as one batch.
    async fn all(&self, path: &Path, columns: &[u32]) -> RecordBatch {
        self.rows(self.requests(path, columns).await).await.unwrap()
    }

    async fn rows(&self, requests: Vec<ReadRequest>) -> Result<RecordBatch> {
        let mut batches = Vec::new();
        for request in requests {
            let mut reader = self.cache.read(request).await?;
            for index in 0..reader.batches() {
                batches.push(reader.batch(index).await?);
            }
        }
        Ok(concat_batches(&batches[0].schema(), &batches).unwrap())
    }

    /// Columns by value: a dictionary may be laid out otherwise.
    fn same(actual: &RecordBatch, expected: &RecordBatch, columns: &[usize]) {
        let expected = expected.project(columns).unwrap();
        for (actual, expected) in actual.columns().iter().zip(expected.columns()) {
            let plain = match expected.data_type() {
                arrow_schema::DataType::Dictionary(_, value) => value.as_ref(),
                same => same,
            };
            let (a, b) = (arrow_cast::cast(actual, plain).unwrap(), arrow_cast::cast(expected, plain).unwrap());
            assert!(a == b, "a column of {plain} differs");
        }
    }
}

fn fragments(directory: &Path) -> Vec<PathBuf> {
    fn walk(at: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
            if entry.path().is_dir() { walk(&entry.path(), out) } else { out.push(entry.path()) }
        }
    }
    let mut out = Vec::new();
    walk(&directory.join("roost-v1/fragments"), &mut out);
    out.sort();
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_warm_and_restarted_reads_are_equal_and_only_the_first_reads_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    let expected = source(&file);
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    Bench::same(&bench.all(&file, &[0, 1, 2]).await, &expected, &[0, 1, 2]);
    let read = bench.read.get();
    Bench::same(&bench.all(&file, &[2, 0]).await, &expected, &[2, 0]);
    assert_eq!((bench.read.get(), bench.metrics.misses.get(), bench.metrics.hits.get()), (read, 3, 3));
    drop(bench);
    let bench = self::bench(&home, 1 << 30);
    let footers = {
        bench.object(&file).await;
        bench.read.get()
    };
    // Not recovered yet: a read finds its own object first.
    Bench::same(&bench.all(&file, &[1, 2]).await, &expected, &[1, 2]);
    assert_eq!((bench.read.get(), bench.metrics.misses.get()), (footers, 0));
    bench.cache.recover();
    assert_eq!(bench.metrics.recovered_fragments.get(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_cold_row_group_share_one_fill_also_when_nothing_may_stay() {
    for (capacity, keeps) in [(1 << 30, true), (1 << 10, false)] {
        let dir = tempfile::tempdir().unwrap();
        let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
        source(&file);
        let bench = self::bench(&home, capacity);
        bench.cache.recover();
        let request = bench.requests(&file, &[0, 1, 2]).await.remove(0);
        let before = bench.bytes.get();
        let readers = (0..32).map(|_| bench.cache.read(request.clone()));
        let mut rows = 0;
        for reader in futures::future::join_all(readers).await {
            let mut reader = reader.unwrap();
            for index in 0..reader.batches() {
                rows += reader.batch(index).await.unwrap().num_rows();
            }
        }
        assert_eq!(rows, 32 * GROUP);
        assert_eq!(bench.metrics.fills.get(), 1);
        let group = request.footer.meta.row_group(0);
        assert_eq!(bench.bytes.get() - before, group.compressed_size() as u64);
        // The fill's task ends a moment after its last batch is there.
        fault_tests::until("the fill is at its end", || bench.metrics.fills_active.get() == 0).await;
        fault_tests::until("what may not stay is given back", || {
            bench.cache.tick();
            (bench.cache.space().used() > 0) == keeps
        })
        .await;
        assert_eq!(fragments(&home).len(), usize::from(keeps));
        assert!(std::fs::read_dir(home.join("roost-v1/tmp")).unwrap().next().is_none(), "nothing is left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_asked_for_later_are_filled_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    let expected = source(&file);
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    bench.all(&file, &[1]).await;
    let before = bench.bytes.get();
    Bench::same(&bench.all(&file, &[0, 1]).await, &expected, &[0, 1]);
    let (_, footer) = bench.object(&file).await;
    let first_column: i64 = footer.meta.row_groups().iter().map(|g| g.column(0).compressed_size()).sum();
    assert_eq!(bench.bytes.get() - before, first_column as u64);
    assert_eq!(fragments(&home).len(), 6);
}

/// A byte flipped anywhere in a fragment while the node is down: the rows are right, and the file is made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_never_becomes_a_wrong_row() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    let expected = source(&file);
    let first = self::bench(&home, 1 << 30);
    first.cache.recover();
    first.all(&file, &[0, 1, 2]).await;
    drop(first);
    let path = fragments(&home).remove(0);
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    // All regions: behind the magic, headers, bodies, dictionaries, footer, tail.
    let places = (0..40).map(|i| 64 + (length - 65) * i / 39);
    for at in places {
        let path = fragments(&home).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let bench = self::bench(&home, 1 << 30);
        bench.cache.recover();
        Bench::same(&bench.all(&file, &[0, 1, 2]).await, &expected, &[0, 1, 2]);
        assert_eq!(fragments(&home).len(), 3, "byte {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_and_evictions_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    source(&file);
    let url = format!("file://{}", file.display());
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    bench.all(&file, &[0]).await;
    assert_eq!(bench.cache.pin(&url, true).await.unwrap(), std::slice::from_ref(&url));
    assert!(bench.cache.datasets()[&url].pinned);
    drop(bench);
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    assert!(bench.cache.datasets()[&url].pinned);
    assert!(bench.cache.pin(&url, false).await.unwrap().is_empty());
    assert!(bench.cache.pin(&url, false).await.unwrap_err().message().contains("not pinned"));
    assert_eq!(bench.cache.evict(&url).await.unwrap().0, 3);
    assert!(fragments(&home).is_empty());
    assert_eq!(bench.cache.space().used(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_without_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    let expected = source(&file);
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    std::fs::remove_dir_all(home.join("roost-v1/tmp")).unwrap();
    Bench::same(&bench.all(&file, &[0, 1, 2]).await, &expected, &[0, 1, 2]);
    assert!(bench.metrics.write_errors.get() > 0);
    // The directory can be made again: the next look finds it working.
    bench.cache.tick();
    Bench::same(&bench.all(&file, &[0, 1, 2]).await, &expected, &[0, 1, 2]);
    assert_eq!(fragments(&home).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn ad_hoc_reads_leave_what_a_job_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (held, other, home) = (dir.path().join("a.parquet"), dir.path().join("b.parquet"), dir.path().join("cache"));
    source(&held);
    source(&other);
    let first = self::bench(&home, 1 << 30);
    first.cache.recover();
    first.all(&held, &[0, 1, 2]).await;
    let whole = first.cache.space().used();
    drop(first);
    let bench = self::bench(&home, whole + whole / 10);
    bench.cache.recover();
    let url = format!("file://{}", held.display());
    let job = bench.cache.begin("train", &url, whole);
    bench.all(&other, &[0, 1, 2]).await;
    assert_eq!(bench.cache.datasets()[&url].row_groups, 3);
    assert!(bench.metrics.bypasses.get() > 0);
    let jobs = bench.cache.jobs();
    assert_eq!((jobs.len(), jobs[0].name.as_str(), jobs[0].held_bytes), (1, "train", whole));
    drop(job);
}
