//! The catalog over real files.

use std::path::Path;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;

use super::*;
use crate::origin::{OriginCounters, OriginSettings};

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
