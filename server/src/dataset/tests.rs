//! The catalog over real files, and over an origin that changes, fails and goes away.

use std::path::Path;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;

use super::*;
use crate::origin::{OriginCounters, OriginSettings};
use crate::testing::{Mood, Origin, PREFIX, parquet};

/// A catalog over `store`, which is asked again after `revalidate`.
fn over(store: &Arc<Origin>, revalidate: Duration, kept: Option<&Path>) -> (Catalog, OriginCounters) {
    let counters = OriginCounters::default();
    let settings = OriginSettings { retries: 0, ..OriginSettings::default() };
    let origins = Origins::new(settings, counters.clone()).unwrap();
    origins.with_store(PREFIX, store.clone()).unwrap();
    let kept = kept.map(|path| Arc::new(FooterStore::open(path.to_owned(), 1 << 20)));
    (Catalog::new(origins, CatalogSettings { revalidate, ..CatalogSettings::default() }, kept), counters)
}

/// A Parquet file of `rows` numbers.
fn file(name: &str, rows: i64) -> Vec<u8> {
    parquet(&RecordBatch::try_from_iter([(name, numbers(rows))]).unwrap(), 1000)
}

const HOUR: Duration = Duration::from_secs(3600);

fn catalog(store: Option<&Path>) -> (Catalog, prometheus::IntCounter) {
    let counters = OriginCounters::default();
    let read = counters.read.clone();
    let origins = Origins::new(OriginSettings::default(), counters).unwrap();
    let store = store.map(|path| Arc::new(FooterStore::open(path.to_owned(), 1 << 20)));
    (Catalog::new(origins, CatalogSettings::default(), store), read)
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn numbers(rows: i64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(0..rows))
}

#[tokio::test]
async fn a_prefix_is_its_objects_with_one_schema_and_its_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let small: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
    write(&dir.path().join("d/year=2024/a.parquet"), vec![("n", small)]);
    write(&dir.path().join("d/year=2025/b.parquet"), vec![("n", numbers(3)), ("t", text)]);
    write(&dir.path().join("d/year=2025/none.parquet"), vec![("n", numbers(0))]);
    write(&dir.path().join("d/_hidden/c.parquet"), vec![("other", numbers(9))]);
    std::fs::write(dir.path().join("d/year=2025/empty.parquet"), b"").unwrap();
    let (catalog, _) = catalog(None);
    let snapshot = catalog.snapshot(dir.path().join("d").to_str().unwrap(), false).await.unwrap();
    assert_eq!((snapshot.objects.len(), snapshot.rows), (3, 6));
    let fields: Vec<_> = snapshot.schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
    assert_eq!(fields, ["n: Int64", "t: Utf8", "year: Dictionary(Int32, Int32)"]);
    assert_eq!(snapshot.objects.iter().map(|o| o.runs.len()).collect::<Vec<_>>(), [1, 1, 0]);
}

#[tokio::test]
async fn footers_are_read_once_also_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (data, store) = (dir.path().join("d"), dir.path().join("footers"));
    (0..3).for_each(|i| write(&data.join(format!("{i}.parquet")), vec![("n", numbers(10))]));
    let url = data.to_str().unwrap();
    let (first, read) = catalog(Some(&store));
    let id = first.snapshot(url, false).await.unwrap().id;
    assert_eq!(read.get(), 3);
    assert_eq!(first.snapshot(url, true).await.unwrap().id, id);
    assert_eq!(read.get(), 3, "nothing changed");
    let (second, read) = catalog(Some(&store));
    let snapshot = second.snapshot(url, false).await.unwrap();
    assert_eq!((snapshot.id, read.get()), (id, 0));
    // The schema of an earlier start's tickets is known without a listing.
    let (third, _) = catalog(Some(&store));
    assert_eq!(third.schema(snapshot.fingerprint, "file:///nowhere/").await.unwrap(), snapshot.schema);
}

#[tokio::test]
async fn a_changed_object_is_stale_and_a_new_snapshot_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    write(&path, vec![("n", numbers(10))]);
    let (catalog, _) = catalog(None);
    let before = catalog.snapshot(path.to_str().unwrap(), false).await.unwrap();
    let object = &before.objects[0];
    let (url, size) = (object.meta.url.to_string(), object.meta.size);
    assert!(matches!(catalog.validate(&url, size, object.key).await, Ok(Validated::Object(_))));
    let other = dir.path().join("other");
    write(&other, vec![("n", numbers(20))]);
    std::fs::rename(&other, &path).unwrap();
    let error = catalog.validate(&url, size, object.key).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Stale);
    assert!(error.message().contains(&url) && error.message().contains("new plan"), "{error}");
    let after = catalog.snapshot(path.to_str().unwrap(), true).await.unwrap();
    assert_eq!((after.rows, after.id == before.id), (20, false));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(catalog.validate(&url, size, object.key).await.err().unwrap().kind(), ErrorKind::Stale);
}

#[tokio::test]
async fn what_is_no_parquet_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let (catalog, _) = catalog(None);
    for bytes in [&b"PAR1"[..], b"this is no Parquet file at all", b"PAR1\xff\xff\xff\xff\xff\xff\xff\x7fPAR1"] {
        std::fs::write(&path, bytes).unwrap();
        let error = catalog.snapshot(path.to_str().unwrap(), true).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.message().contains("a.parquet"), "{error}");
    }
}

#[tokio::test]
async fn plans_share_a_listing_while_it_is_fresh_and_read_new_footers_only() {
    let store = Origin::new();
    store.set("d/a.parquet", file("n", 10)).await;
    let (catalog, counters) = over(&store, HOUR, None);
    let plans = futures::future::join_all((0..16).map(|_| catalog.snapshot("s3://bucket/d/", false))).await;
    let first = plans[0].as_ref().unwrap().clone();
    assert!(plans.iter().all(|plan| plan.as_ref().unwrap().id == first.id));
    assert_eq!((counters.list.get(), counters.read.get()), (1, 1));
    store.set("d/b.parquet", file("n", 5)).await;
    assert_eq!(catalog.snapshot("s3://bucket/d/", false).await.unwrap().rows, 10, "fresh enough");
    let second = catalog.snapshot("s3://bucket/d/", true).await.unwrap();
    assert_eq!((second.rows, counters.list.get(), counters.read.get()), (15, 2, 2));
    assert_ne!(second.id, first.id);
    // Another spelling of the data set is the same data set.
    assert_eq!(catalog.known("s3://bucket/d/").unwrap().id, second.id);
}

#[tokio::test]
async fn an_origin_that_is_away_stops_no_epoch() {
    let store = Origin::new();
    store.set("a.parquet", file("n", 10)).await;
    let (catalog, counters) = over(&store, Duration::ZERO, None);
    let known = catalog.snapshot("s3://bucket/a.parquet", false).await.unwrap();
    let heads = counters.head.get() + counters.list.get();
    catalog.snapshot("s3://bucket/a.parquet", false).await.unwrap();
    assert!(counters.head.get() + counters.list.get() > heads, "after revalidate the origin is asked");
    store.be(Mood::Away);
    assert_eq!(catalog.snapshot("s3://bucket/a.parquet", false).await.unwrap().id, known.id);
    let error = catalog.snapshot("s3://bucket/a.parquet", true).await.err().unwrap();
    assert!(error.kind().is_retryable() && error.message().contains("s3://bucket/a.parquet"), "{error}");
    assert!(catalog.snapshot("s3://bucket/b.parquet", false).await.is_err(), "nothing is known of it");
    let object = &known.objects[0];
    let valid =
        |catalog: Catalog, key| async move { catalog.validate("s3://bucket/a.parquet", object.meta.size, key).await };
    assert!(catalog.kept_footer(&object.meta.url, object.key.unwrap()).await.is_some());
    assert!(matches!(valid(catalog, object.key).await, Ok(Validated::Object(_))));
    // A node that knows nothing of the object yet serves what it has of it.
    assert!(matches!(valid(over(&store, HOUR, None).0, object.key).await, Ok(Validated::Unreachable(_))));
}

#[tokio::test]
async fn objects_replaced_by_others_are_told_apart_even_when_as_large() {
    let store = Origin::new();
    store.set("d/a.parquet", file("n", 10)).await;
    let (catalog, _) = over(&store, Duration::ZERO, None);
    let before = catalog.snapshot("s3://bucket/d/", false).await.unwrap();
    store.set("d/a.parquet", file("m", 10)).await;
    let object = &before.objects[0];
    let error = catalog.validate(&object.meta.url, object.meta.size, object.key).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Stale);
    assert!(error.message().contains("s3://bucket/d/a.parquet"), "{error}");
    let after = catalog.snapshot("s3://bucket/d/", false).await.unwrap();
    assert_eq!(after.objects[0].meta.size, object.meta.size);
    assert_eq!(after.schema.field(0).name(), "m");
    // Whoever holds a ticket of the old schema on a node that never saw it must plan anew.
    let (fresh, _) = over(&store, HOUR, None);
    let error = fresh.schema(before.fingerprint, "s3://bucket/d/").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Stale);
    assert!(error.message().contains("s3://bucket/d/") && error.message().contains("new plan"), "{error}");
}

#[tokio::test]
async fn columns_that_do_not_fit_together_name_both_objects() {
    let store = Origin::new();
    store.set("d/a.parquet", file("n", 3)).await;
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    store.set("d/b.parquet", parquet(&RecordBatch::try_from_iter([("n", text)]).unwrap(), 1000)).await;
    let (catalog, _) = over(&store, HOUR, None);
    let error = catalog.snapshot("s3://bucket/d/", false).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for part in ["\"n\"", "Int64", "Utf8", "d/a.parquet", "d/b.parquet"] {
        assert!(error.message().contains(part), "{error}");
    }
    // The failure is not remembered.
    store.set("d/b.parquet", file("n", 4)).await;
    assert_eq!(catalog.snapshot("s3://bucket/d/", false).await.unwrap().rows, 7);
}

#[tokio::test]
async fn empty_objects_are_skipped_only_where_they_were_not_asked_for() {
    let store = Origin::new();
    store.set("d/a.parquet", Vec::new()).await;
    store.set("d/.b.parquet", file("n", 3)).await;
    store.set("d/_c/d.parquet", file("n", 3)).await;
    let (catalog, _) = over(&store, Duration::ZERO, None);
    let error = catalog.snapshot("s3://bucket/d/", false).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("s3://bucket/d/"), "{error}");
    let error = catalog.snapshot("s3://bucket/d/a.parquet", false).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("d/a.parquet: 0 bytes"), "{error}");
    // Without rows, and even without row groups, an object has a schema.
    store.set("d/a.parquet", file("n", 0)).await;
    let snapshot = catalog.snapshot("s3://bucket/d/", false).await.unwrap();
    assert_eq!((snapshot.objects.len(), snapshot.rows, snapshot.row_groups), (1, 0, 0));
    assert_eq!((snapshot.schema.fields().len(), snapshot.objects[0].runs.len()), (1, 0));
    assert_eq!(snapshot.walk_from(0).count(), 0);
}

#[tokio::test]
async fn footers_damaged_on_disk_are_read_from_the_origin() {
    let dir = tempfile::tempdir().unwrap();
    let store = Origin::new();
    store.set("a.parquet", file("n", 10)).await;
    let url = "s3://bucket/a.parquet";
    let id = over(&store, HOUR, Some(dir.path())).0.snapshot(url, false).await.unwrap().id;
    let mut damaged = 0;
    for fan in std::fs::read_dir(dir.path()).unwrap().flatten().filter(|fan| fan.file_name() != "tmp") {
        for entry in std::fs::read_dir(fan.path()).unwrap().flatten() {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            bytes[10] ^= 1;
            std::fs::write(entry.path(), bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 2, "a footer and a schema");
    let (catalog, counters) = over(&store, HOUR, Some(dir.path()));
    assert_eq!(catalog.snapshot(url, false).await.unwrap().id, id);
    assert_eq!(counters.read.get(), 1);
    // And kept again.
    let (catalog, counters) = over(&store, HOUR, Some(dir.path()));
    assert_eq!(catalog.snapshot(url, false).await.unwrap().id, id);
    assert_eq!(counters.read.get(), 0);
}

#[tokio::test]
async fn a_glob_has_the_partitions_of_its_matches() {
    let store = Origin::new();
    for (at, rows) in [("d/k=a/x.parquet", 1), ("d/k=b/x.parquet", 2), ("d/k=b/y.parquet", 4), ("e/k=a/x.parquet", 8)] {
        store.set(at, file("n", rows)).await;
    }
    let (catalog, _) = over(&store, HOUR, None);
    let snapshot = catalog.snapshot("s3://bucket/d/*/x.parquet", false).await.unwrap();
    assert_eq!((snapshot.rows, snapshot.base.as_ref()), (3, "s3://bucket/d/"));
    let names: Vec<_> = snapshot.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["n", "k"]);
}
