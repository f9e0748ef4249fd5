use arrow_array::RecordBatch as Batch;
use arrow_ipc::root_as_message;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_schema::Field;

use super::*;
use crate::testing::types::{random_batch, schema_of_every_type};

/// A batch's message, and the length of its body.
fn encoded(batch: &Batch) -> (Vec<u8>, usize) {
    let (encoder, options) = (IpcDataGenerator::default(), IpcWriteOptions::default());
    let mut tracker = DictionaryTracker::new(false);
    encoder.schema_to_bytes_with_dictionary_tracker(&batch.schema(), &mut tracker, &options);
    let encoded = encoder.encode(batch, &mut tracker, &options, &mut IpcWriteContext::default()).unwrap().1;
    (encoded.ipc_message, encoded.arrow_data.len())
}

fn layout(schema: &Schema, message: &[u8], length: usize) -> Result<Layout, &'static str> {
    Layout::new(schema, root_as_message(message).unwrap().header_as_record_batch().unwrap(), length)
}

#[test]
fn every_buffer_belongs_to_one_column() {
    let schema = schema_of_every_type();
    for seed in 0..20 {
        let batch = random_batch(&schema, 50, seed);
        let (message, length) = encoded(&batch);
        let whole = layout(&schema, &message, length).unwrap();
        assert_eq!(whole.firsts.len(), schema.fields().len() + 1);
        for column in 0..schema.fields().len() {
            // What a column has for itself is as long as when nothing else is there.
            let alone = batch.project(&[column]).unwrap();
            let (message, length) = encoded(&alone);
            let alone = layout(&alone.schema(), &message, length).unwrap();
            assert_eq!(whole.bytes(&[column]), alone.bytes(&[0]), "{}", schema.field(column));
            assert_eq!(whole.of(&[column]).count(), alone.buffers.len(), "{}", schema.field(column));
        }
    }
}

#[test]
fn spans_are_what_is_wanted_and_gaps_no_longer_than_allowed() {
    let layout = Layout { buffers: vec![0..8, 8..16, 24..24, 64..70, 128..130], firsts: vec![0, 2, 3, 4, 5] };
    assert_eq!(layout.spans(&[0, 1, 2, 3], 0), [0..16, 64..70, 128..130]);
    assert_eq!(layout.spans(&[0, 2, 3], 48), [0..70, 128..130]);
    assert_eq!(layout.spans(&[3, 0, 2], 57), [0..70, 128..130]);
    assert_eq!(layout.spans(&[0, 3, 2], 58).as_slice(), std::slice::from_ref(&(0..130)));
    assert!(layout.spans(&[1], 1000).is_empty());
    assert_eq!((layout.bytes(&[0, 2]), layout.bytes(&[1])), (22, 0));
}

#[test]
fn a_batch_of_another_schema_or_cut_off_is_an_error() {
    let schema = schema_of_every_type();
    let (message, length) = encoded(&random_batch(&schema, 50, 1));
    let one_less = schema.project(&(1..schema.fields().len()).collect::<Vec<_>>()).unwrap();
    let views_for_text = Schema::new(
        schema
            .fields()
            .iter()
            .map(|field| match field.data_type() {
                DataType::Utf8 => Field::new(field.name(), DataType::Utf8View, true),
                _ => field.as_ref().clone(),
            })
            .collect::<Vec<_>>(),
    );
    assert!(layout(&schema, &message, length).is_ok());
    assert_eq!(layout(&schema, &message, length / 2).unwrap_err(), "has a buffer that is cut off");
    for (name, other) in [("nothing", Schema::empty()), ("a view", views_for_text)] {
        assert_eq!(layout(&other, &message, length).unwrap_err(), "does not match its schema", "{name}");
    }
    // The column left out is one of nulls, which has no buffers.
    assert!(layout(&one_less, &message, length).is_ok());
}
