//! Decoding over real files: batch sizes, projections, small budgets, damage.

use std::path::Path;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, StringArray};
use arrow_select::concat::concat_batches;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use super::*;
use crate::dataset::{Catalog, CatalogSettings};
use crate::origin::{OriginCounters, OriginSettings};

fn source(path: &Path, rows: usize, group: usize) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..rows as i64).map(|i| (i % 5 > 0).then_some(i))));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("{i:0>200}"))));
    let batch = RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", text, true)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    batch
}

/// The batches of all runs; their sizes are what the runs say.
async fn decode(path: &Path, memory: u64, columns: &[usize]) -> Result<Vec<RecordBatch>> {
    let settings = OriginSettings { piece_bytes: 64 << 10, ..OriginSettings::default() };
    let origins = Origins::new(settings, OriginCounters::default())?;
    let catalog = Catalog::new(origins.clone(), CatalogSettings::default(), None);
    let object = origins.head(&format!("file://{}", path.display())).await?;
    let footer = catalog.footer(&object).await?;
    let decoder = Decoder::new(origins, 2, memory, Metrics::new())?;
    let mut batches = Vec::new();
    for run in &footer.runs {
        let mut stream = decoder.open(Lane::Fill, &object, &footer, *run, columns).await?;
        let mut index = 0;
        while let Some(batch) = stream.next().await? {
            assert_eq!(batch.num_rows() as u64, run.rows_of(index));
            index += 1;
            batches.push(batch);
        }
        assert_eq!(index, run.batches());
    }
    assert_eq!(decoder.fetched_bytes(), 0, "all that was fetched is let go");
    Ok(batches)
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
                let decoded =
                    tokio::time::timeout(Duration::from_secs(60), decoding).await.expect("a deadlock").unwrap();
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
