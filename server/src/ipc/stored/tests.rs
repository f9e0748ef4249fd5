use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, Int64Array, ListArray, NullArray, RecordBatch, StringArray, StringViewArray, StructArray,
};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::root_as_message;
use arrow_schema::SchemaRef;
use proptest::prelude::*;

use super::*;
use crate::ipc::{Encoder, buffer_counts};

fn batch() -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..1000).map(|i| (i % 7 > 0).then_some(i))));
    let text: ArrayRef = Arc::new(StringArray::from_iter((0..1000).map(|i| (i % 5 > 0).then(|| "x".repeat(i % 40)))));
    let views: ArrayRef =
        Arc::new(StringViewArray::from_iter((0..1000).map(|i| (i % 3 > 0).then(|| "long ".repeat(i % 9)))));
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(
        (0..1000).map(|i| (i % 4 > 0).then(|| (0..i % 6).map(Some))),
    ));
    let nested = StructArray::from(vec![
        (Arc::new(arrow_schema::Field::new("v", DataType::Utf8View, true)), views.clone()),
        (Arc::new(arrow_schema::Field::new("l", lists.data_type().clone(), true)), lists.clone()),
    ]);
    RecordBatch::try_from_iter_with_nullable([
        ("numbers", numbers, true),
        ("nothing", Arc::new(NullArray::new(1000)) as _, true),
        ("text", text, true),
        ("views", views, true),
        ("nested", Arc::new(nested) as _, true),
        ("flags", Arc::new(BooleanArray::from_iter((0..1000).map(|i| Some(i % 2 == 0)))) as _, true),
        ("lists", lists, true),
    ])
    .unwrap()
}

/// `batch` as it would lie in a file, its body one buffer.
fn stored(batch: &RecordBatch, codec: Option<CompressionType>) -> Layout {
    let mut encoder = Encoder::compressing(&batch.schema(), codec).unwrap();
    let message = encoder.encode(batch).unwrap().pop().unwrap();
    let body: Vec<u8> = message.body.iter().flat_map(|b| b.iter().copied()).collect();
    let parsed = root_as_message(&message.header).unwrap();
    let header = parsed.header_as_record_batch().unwrap();
    Layout::new(&batch.schema(), header, Buffer::from(body), buffer_counts(batch)).unwrap()
}

/// What a reader of a stream makes of the message.
fn read(schema: SchemaRef, message: &Message) -> RecordBatch {
    let empty = RecordBatch::new_empty(schema.clone());
    let first = Encoder::new(&schema).unwrap().encode(&empty).unwrap().swap_remove(0);
    let mut stream = Vec::new();
    for message in [&first, message] {
        stream.extend_from_slice(&message.prefix());
        stream.extend_from_slice(&message.header);
        message.body.iter().for_each(|b| stream.extend_from_slice(b));
        assert_eq!(message.body.iter().map(|b| b.len()).sum::<usize>(), message.body_len);
    }
    StreamReader::try_new(stream.as_slice(), None).unwrap().next().unwrap().unwrap()
}

#[test]
fn a_whole_batch_is_one_slice() {
    let batch = batch();
    let layout = stored(&batch, None);
    let message = join(layout.rows, None, (0..batch.num_columns()).map(|c| (&layout, c)));
    assert_eq!(message.body.len(), 1, "slices of {:?}", message.body.iter().map(|b| b.len()).collect::<Vec<_>>());
    assert_eq!(message.body[0].as_ptr(), layout.body.as_ptr());
    assert_eq!(read(batch.schema(), &message), batch);
}

#[test]
fn a_batch_that_does_not_match_its_schema_is_an_error() {
    let batch = batch();
    let mut encoder = Encoder::new(&batch.schema()).unwrap();
    let message = encoder.encode(&batch).unwrap().pop().unwrap();
    let parsed = root_as_message(&message.header).unwrap();
    let header = parsed.header_as_record_batch().unwrap();
    let body = Buffer::from(vec![0u8; message.body_len]);
    let fewer = batch.project(&[0, 1]).unwrap();
    assert!(Layout::new(&fewer.schema(), header, body.clone(), buffer_counts(&fewer)).is_err());
    assert!(Layout::new(&batch.schema(), header, body.slice_with_length(0, 64), buffer_counts(&batch)).is_err());
    assert!(Layout::new(&batch.schema(), header, body, buffer_counts(&batch)).is_ok());
}

#[test]
fn two_codecs_do_not_go_into_one_message() {
    let batch = batch();
    let [none, lz4, zstd] =
        [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)].map(|c| stored(&batch, c));
    assert_eq!(codec_of([&none, &lz4, &none].into_iter()), Some(lz4.codec));
    assert_eq!(codec_of([&lz4, &none, &zstd].into_iter()), None);
    assert_eq!(codec_of([&none].into_iter()), Some(None));
}

proptest! {
    #[test]
    fn any_columns_of_any_of_two_files_come_out_equal(
        picks in proptest::collection::vec((any::<bool>(), 0usize..7), 1..12),
        codec in prop_oneof![Just(None), Just(Some(CompressionType::LZ4_FRAME)), Just(Some(CompressionType::ZSTD))],
        plain in any::<bool>(),
    ) {
        let batch = batch();
        // Two files with the same columns: as if each had been filled by itself, the second maybe without compression.
        let files = [stored(&batch, codec), stored(&batch, codec.filter(|_| !plain))];
        prop_assert_eq!(codec_of(files.iter()), Some(codec));
        let message = join(1000, codec, picks.iter().map(|(second, column)| (&files[usize::from(*second)], *column)));
        let fields: Vec<_> = picks.iter().enumerate().map(|(i, (_, c))| {
            batch.schema().field(*c).clone().with_name(format!("c{i}"))
        }).collect();
        let columns = picks.iter().map(|(_, c)| batch.column(*c).clone()).collect();
        let expected = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        prop_assert_eq!(read(expected.schema(), &message), expected);
    }
}
