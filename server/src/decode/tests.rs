//! Decoding over real files: batch sizes, projections, small budgets, damage, origins that fail.

use std::path::Path;
use std::time::Duration;

use arrow_array::builder::{Int32Builder, ListBuilder};
use arrow_array::{Array, ArrayRef, Int64Array, StringArray, StructArray};
use arrow_buffer::NullBuffer;
use arrow_schema::Field;
use arrow_select::concat::concat_batches;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;

use super::*;
use crate::dataset::{Catalog, CatalogSettings};
use crate::origin::{OriginCounters, OriginSettings};
use crate::testing::{Mood, Origin, PREFIX, parquet, parquet_with};

/// A hang is a failure, not a wait.
const GUARD: Duration = Duration::from_secs(60);

fn numbers_and_text(rows: usize) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..rows as i64).map(|i| (i % 5 > 0).then_some(i))));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("{i:0>200}"))));
    RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", text, true)]).unwrap()
}

fn source(path: &Path, rows: usize, group: usize) -> RecordBatch {
    let batch = numbers_and_text(rows);
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    batch
}

fn origins() -> Origins {
    let settings = OriginSettings { piece_bytes: 64 << 10, retries: 0, ..OriginSettings::default() };
    Origins::new(settings, OriginCounters::default()).unwrap()
}

async fn object(origins: &Origins, url: &str) -> (ObjectMeta, Arc<Footer>) {
    let catalog = Catalog::new(origins.clone(), CatalogSettings::default(), None);
    let object = origins.head(url).await.unwrap();
    let footer = catalog.footer(&object).await.unwrap();
    (object, footer)
}

/// The batches of a run; their sizes are what the run says.
async fn rest(mut stream: BatchStream, mut index: u32) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await? {
        assert_eq!(batch.num_rows() as u64, stream.run.rows_of(index));
        index += 1;
        batches.push(batch);
    }
    assert_eq!(index, stream.run.batches());
    Ok(batches)
}

/// All that was fetched is let go: at once, or as soon as a fetch under way sees that its stream is gone.
async fn let_go(decoder: &Decoder) {
    let waiting = async {
        while decoder.fetched_bytes() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, waiting).await.expect("fetched bytes are kept");
}

async fn decode_at(origins: Origins, url: &str, memory: u64, columns: &[usize]) -> Result<Vec<RecordBatch>> {
    let (object, footer) = object(&origins, url).await;
    let decoder = Decoder::new(origins, 2, memory, Metrics::new())?;
    let mut batches = Vec::new();
    for run in &footer.runs {
        batches.extend(rest(decoder.open(Lane::Fill, &object, &footer, *run, columns).await?, 0).await?);
    }
    let_go(&decoder).await;
    Ok(batches)
}

async fn decode(path: &Path, memory: u64, columns: &[usize]) -> Result<Vec<RecordBatch>> {
    decode_at(origins(), &format!("file://{}", path.display()), memory, columns).await
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_span_small_row_groups_and_cut_large_ones_whatever_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    for (rows, group, batches) in [(60_000, 1_000, 1), (200_000, 200_000, 3)] {
        let expected = source(&path, rows, group);
        for memory in [1 << 30, 1 << 10] {
            for columns in [&[0, 1][..], &[1], &[0]] {
                let decoding = decode(&path, memory, columns);
                let decoded = tokio::time::timeout(GUARD, decoding).await.expect("a deadlock").unwrap();
                assert_eq!(decoded.len(), batches);
                let all = concat_batches(&decoded[0].schema(), &decoded).unwrap();
                assert!(all == expected.project(columns).unwrap(), "{rows} rows, {memory} bytes, columns {columns:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_an_error_that_names_the_row_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    source(&path, 10_000, 10_000);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    // Page headers and values of the first column.
    damaged[4..2000].fill(0xFF);
    std::fs::write(&path, &damaged).unwrap();
    let error = decode(&path, 1 << 20, &[0, 1]).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("a.parquet#rg0") && error.message().contains("columns n, t"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_columns_are_projected_whole() {
    let rows = 3_000;
    let flat = numbers_and_text(rows);
    let mut lists = ListBuilder::new(Int32Builder::new());
    for i in 0..rows as i32 {
        (0..i % 5).for_each(|v| lists.values().append_option((v % 2 > 0).then_some(i + v)));
        lists.append(i % 3 > 0);
    }
    let lists: ArrayRef = Arc::new(lists.finish());
    let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
    let (x, l) = (flat.column(0).clone(), lists.clone());
    let nulls = NullBuffer::from_iter((0..rows).map(|i| i % 11 > 0));
    let structure: ArrayRef =
        Arc::new(StructArray::new(vec![field("x", &x), field("l", &l)].into(), vec![x, l], Some(nulls)));
    let columns = [("s", structure), ("t", flat.column(1).clone()), ("l", lists)];
    let source = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap();
    let store = Origin::new();
    store.set("a.parquet", parquet(&source, 700)).await;
    for columns in [&[0, 1, 2][..], &[0], &[1], &[2], &[0, 2], &[]] {
        let origins = origins();
        origins.with_store(PREFIX, store.clone()).unwrap();
        let decoded = decode_at(origins, "s3://bucket/a.parquet", 1 << 20, columns).await.unwrap();
        assert_eq!(decoded.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
        let all = concat_batches(&decoded[0].schema(), &decoded).unwrap();
        let expected = source.project(columns).unwrap();
        assert_eq!(all.num_columns(), columns.len());
        for (actual, expected) in all.columns().iter().zip(expected.columns()) {
            assert!(actual == expected, "columns {columns:?}: a column of {} differs", expected.data_type());
        }
    }
}

/// A decoder with one turn a lane and 256 KiB of budget, over an object with one row group that is far larger.
async fn cramped() -> (RecordBatch, Decoder, ObjectMeta, Arc<Footer>) {
    let source = numbers_and_text(200_000);
    let store = Origin::new();
    store.set("a.parquet", parquet(&source, 200_000)).await;
    let origins = origins();
    origins.with_store(PREFIX, store).unwrap();
    let (object, footer) = object(&origins, "s3://bucket/a.parquet").await;
    (source, Decoder::new(origins, 1, 1 << 20, Metrics::new()).unwrap(), object, footer)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_side_by_side_get_through_a_budget_smaller_than_one() {
    let (source, decoder, object, footer) = cramped().await;
    let open = |lane| decoder.open(lane, &object, &footer, footer.runs[0], &[0, 1]);
    // Each lane has one turn: of the two fills, the second waits for the first to end.
    let all = async |lane| rest(open(lane).await?, 0).await;
    let work = futures::future::try_join3(all(Lane::Fill), all(Lane::Fill), all(Lane::Direct));
    let (one, two, three) = tokio::time::timeout(GUARD, work).await.expect("a deadlock").unwrap();
    for batches in [one, two, three] {
        assert!(concat_batches(&source.schema(), &batches).unwrap() == source);
    }
    let_go(&decoder).await;
}

/// A stream that nobody reads on holds what it fetched ahead: all of the budget. Others get through all the same.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "defect: BatchStream::next waits for a first piece inside the budget, which a stopped reader may hold for good"]
async fn a_reader_that_stops_starves_nobody() {
    let (source, decoder, object, footer) = cramped().await;
    let open = |lane| decoder.open(lane, &object, &footer, footer.runs[0], &[0, 1]);
    let mut stopped = open(Lane::Direct).await.unwrap();
    let mut slow = vec![stopped.next().await.unwrap().unwrap()];
    let fill = async { rest(open(Lane::Fill).await?, 0).await };
    let fast = tokio::time::timeout(GUARD, fill).await.expect("a deadlock").unwrap();
    slow.extend(rest(stopped, 1).await.unwrap());
    for batches in [slow, fast] {
        assert!(concat_batches(&source.schema(), &batches).unwrap() == source);
    }
    let_go(&decoder).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_fails_is_named_and_costs_no_turn() {
    let source = numbers_and_text(10_000);
    let bytes = parquet(&source, 10_000);
    let middle = bytes.len() as u64 / 2;
    let store = Origin::new();
    store.set("a.parquet", bytes).await;
    let origins = origins();
    origins.with_store(PREFIX, store.clone()).unwrap();
    let (object, footer) = object(&origins, "s3://bucket/a.parquet").await;
    let decoder = Decoder::new(origins, 1, 1 << 20, Metrics::new()).unwrap();
    let open = || decoder.open(Lane::Fill, &object, &footer, footer.runs[0], &[0, 1]);
    let work = async {
        for mood in [Mood::FailsFrom(middle), Mood::Away, Mood::FailsFrom(middle)] {
            store.be(mood);
            let error = rest(open().await.unwrap(), 0).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(error.message().contains("s3://bucket/a.parquet"), "{error}");
        }
        store.be(Mood::Answers);
        rest(open().await.unwrap(), 0).await.unwrap()
    };
    let decoded = tokio::time::timeout(GUARD, work).await.expect("a turn was not given back");
    assert!(concat_batches(&source.schema(), &decoded).unwrap() == source);
    // Replaced while it is read: no rows of the one are joined to rows of the other.
    store.set("a.parquet", parquet(&numbers_and_text(10_000), 5_000)).await;
    let error = rest(open().await.unwrap(), 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_behind_the_end_of_the_object_are_refused() {
    let bytes = parquet(&numbers_and_text(10_000), 10_000);
    // The last half of the pages is gone; the footer is whole.
    let footer = bytes.len() - 8 - u32::from_le_bytes(bytes[bytes.len() - 8..][..4].try_into().unwrap()) as usize;
    let cut = [&bytes[..footer / 2], &bytes[footer..]].concat();
    let store = Origin::new();
    store.set("a.parquet", cut).await;
    let origins = origins();
    origins.with_store(PREFIX, store).unwrap();
    let error = decode_at(origins, "s3://bucket/a.parquet", 1 << 20, &[0, 1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("a.parquet#rg0") && error.message().contains("behind the end"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever stands where pages were: rows as many as promised, or an error that names the row group.
    #[test]
    fn garbage_in_pages_neither_hangs_nor_loses_rows(
        places in proptest::collection::vec((0.0..1.0f64, proptest::collection::vec(any::<u8>(), 1..40)), 1..4),
        compression in prop_oneof![Just(Compression::UNCOMPRESSED), Just(Compression::SNAPPY), Just(Compression::LZ4_RAW)],
    ) {
        let group = 700;
        let properties =
            WriterProperties::builder().set_max_row_group_row_count(Some(group)).set_compression(compression);
        let mut bytes = parquet_with(&numbers_and_text(2_000), properties.build());
        let footer = bytes.len() - 8 - u32::from_le_bytes(bytes[bytes.len() - 8..][..4].try_into().unwrap()) as usize;
        for (at, garbage) in &places {
            // Page headers are few and near the front of their chunks: aim there half the time.
            let span = if garbage[0] & 1 == 0 { 200 } else { footer - 4 - garbage.len() };
            let at = 4 + (at * span as f64) as usize;
            bytes[at..at + garbage.len()].copy_from_slice(garbage);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let decoded = runtime.block_on(async {
            let store = Origin::new();
            store.set("a.parquet", bytes).await;
            let origins = origins();
            origins.with_store(PREFIX, store).unwrap();
            tokio::time::timeout(GUARD, decode_at(origins, "s3://bucket/a.parquet", 1 << 20, &[0, 1])).await
        });
        match decoded.expect("it hangs") {
            Ok(batches) => prop_assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2_000),
            Err(error) => {
                prop_assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{}", error);
                prop_assert!(error.message().contains("a.parquet#rg"), "{}", error);
            }
        }
    }
}
