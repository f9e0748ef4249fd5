//! Micro-benchmarks of what every read pays for before its first byte goes out: a page of a plan, and the header of a
//! stored batch.
//!
//!     cargo bench -p roost-benches --profile release --bench micro
//!
//! They guard against regressions; what they add up to is measured by the benches against peers.

use std::hint::black_box;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_buffer::Buffer;
use arrow_ipc::root_as_message;
use arrow_schema::{DataType, Field, Schema};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use roost_server::dataset::runs::pack;
use roost_server::dataset::{Snapshot, SnapshotObject};
use roost_server::ipc::stored::{Layout, join};
use roost_server::ipc::{Encoder, buffer_counts};
use roost_server::origin::{ObjectMeta, Tag};
use roost_server::plan::ticket::TicketKeys;
use roost_server::plan::{Query, page};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The MLPerf `dlrm` shape: 200 columns, of which a model reads 40.
const COLUMNS: usize = 200;
const READ: usize = 40;
const ROWS: usize = 8192;
const BASE: &str = "s3://training/2026/";

fn stored_batch() -> (RecordBatch, Vec<u8>, Buffer) {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..ROWS as i64).map(|i| (i % 9 > 0).then_some(i))));
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(|i| format!("value {i}"))));
    let columns = (0..COLUMNS).map(|i| (format!("c{i}"), if i % 4 == 0 { text.clone() } else { numbers.clone() }));
    let batch = RecordBatch::try_from_iter(columns).expect("columns of equal length");
    let mut encoder = Encoder::new(&batch.schema()).expect("a plain schema");
    let message = encoder.encode(&batch).expect("a plain batch").pop().expect("a message");
    let body: Vec<u8> = message.body.iter().flat_map(|part| part.iter().copied()).collect();
    (batch, message.header, Buffer::from(body))
}

fn header(c: &mut Criterion) {
    let (batch, header, body) = stored_batch();
    let (schema, counts) = (batch.schema(), buffer_counts(&batch).collect::<Vec<_>>());
    let rebuild = |columns: usize| {
        let parsed = root_as_message(&header).expect("a message");
        let stored = parsed.header_as_record_batch().expect("a batch");
        let layout = Layout::new(&schema, stored, body.clone(), counts.iter().copied()).expect("as it was encoded");
        // Every fifth column, as features are picked.
        let picked = (0..columns).map(|i| (&layout, i * COLUMNS / columns));
        join(layout.rows, layout.codec, picked)
    };
    let mut group = c.benchmark_group("header of a stored batch");
    group.throughput(Throughput::Elements(1));
    group.bench_function("all of 200 columns", |b| b.iter(|| black_box(rebuild(COLUMNS))));
    group.bench_function("40 of 200 columns", |b| b.iter(|| black_box(rebuild(READ))));
    group.finish();
}

fn snapshot(objects: usize, row_groups: usize) -> Snapshot {
    let fields: Vec<_> = (0..20).map(|i| Field::new(format!("column_{i}"), DataType::Int64, true)).collect();
    let objects = (0..objects).map(|i| {
        let url = format!("{BASE}part-{i:08}-c000.snappy.parquet").into();
        let meta = ObjectMeta { url, size: 200 << 20, tag: Tag::ETag(format!("\"{i:032x}\"")) };
        // Large enough that each row group is a ticket of its own.
        let runs = pack((0..row_groups).map(|_| (60_000, 24 << 20))).into_boxed_slice();
        SnapshotObject { key: meta.key(), meta, runs }
    });
    let count = objects.len() * row_groups;
    let bytes = vec![count as u64 * (24 << 20) / 20; 20];
    Snapshot::new(BASE, BASE, Arc::new(Schema::new(fields)), objects.collect(), count as u64, bytes)
}

fn planning(c: &mut Criterion) {
    let snapshot = snapshot(10_000, 10);
    let keys = TicketKeys::new(&[7; 32]);
    let mut group = c.benchmark_group("plan of 100,000 row groups");
    for (name, from) in [("first 1,000 tickets", 0), ("last 1,000 tickets", 99_000)] {
        let query = Query { from, count: 1000, ..Query::default() };
        group.throughput(Throughput::Elements(1000));
        group.bench_function(name, |b| {
            b.iter(|| {
                let page = page(&snapshot, &query).expect("a plan");
                page.tickets.iter().map(|(payload, _)| keys.sign(payload).len()).sum::<usize>()
            })
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = header, planning }
criterion_main!(benches);
