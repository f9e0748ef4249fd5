//! Random batches of every kind of layout.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeListArray, Int32Array, Int64Array, LargeListArray,
    ListArray, MapArray, RecordBatch, StringArray, StructArray, new_null_array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub(crate) fn schema_of_every_type() -> SchemaRef {
    let item = |data_type| Arc::new(Field::new("item", data_type, true));
    let words = DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
    let bytes = DataType::Dictionary(DataType::Int16.into(), DataType::Binary.into());
    let inner: Fields = vec![
        Field::new("view", DataType::Utf8View, true),
        Field::new("words", DataType::List(item(words.clone())), true),
        Field::new("deep", DataType::Struct(vec![Field::new("x", DataType::Float32, true)].into()), true),
    ]
    .into();
    let entries: Fields =
        vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)].into();
    let types = [
        DataType::Null,
        DataType::Boolean,
        DataType::Int8,
        DataType::UInt16,
        DataType::Int64,
        DataType::Float32,
        DataType::Float64,
        DataType::Decimal128(20, 3),
        DataType::Decimal256(50, 2),
        DataType::Date32,
        DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into())),
        DataType::Duration(TimeUnit::Millisecond),
        DataType::Utf8,
        DataType::LargeUtf8,
        DataType::Binary,
        DataType::LargeBinary,
        DataType::Utf8View,
        DataType::BinaryView,
        DataType::FixedSizeBinary(5),
        words.clone(),
        bytes,
        DataType::List(item(DataType::Float32)),
        DataType::LargeList(item(DataType::Utf8View)),
        DataType::List(item(DataType::List(item(DataType::Decimal128(10, 0))))),
        DataType::FixedSizeList(item(DataType::Float32), 3),
        DataType::Struct(inner),
        DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false),
    ];
    let fields = types.into_iter().enumerate().map(|(n, t)| {
        let metadata = [("column".to_owned(), n.to_string())].into();
        Field::new(format!("c{n}"), t, true).with_metadata(metadata)
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Fields>(), [("of".to_owned(), "all".to_owned())].into()))
}

pub(crate) fn random_batch(schema: &SchemaRef, rows: usize, seed: u64) -> RecordBatch {
    let mut rng = StdRng::seed_from_u64(seed);
    let columns = schema.fields().iter().map(|field| random(field, rows, &mut rng)).collect();
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

fn nulls(field: &Field, rows: usize, rng: &mut StdRng) -> Option<NullBuffer> {
    let some = field.is_nullable() && rng.random_bool(0.7);
    some.then(|| NullBuffer::from_iter((0..rows).map(|_| rng.random_bool(0.8))))
}

fn random(field: &Field, rows: usize, rng: &mut StdRng) -> ArrayRef {
    let nulls = nulls(field, rows, rng);
    let mut lengths = |most: usize| (0..rows).map(|_| rng.random_range(0..=most)).collect::<Vec<_>>();
    match field.data_type() {
        DataType::Null => new_null_array(&DataType::Null, rows),
        DataType::Boolean => {
            Arc::new(BooleanArray::new((0..rows).map(|_| rng.random_bool(0.5)).collect::<Vec<_>>().into(), nulls))
        }
        DataType::FixedSizeBinary(size) => {
            let values = (0..rows * *size as usize).map(|_| rng.random()).collect::<Vec<u8>>();
            Arc::new(FixedSizeBinaryArray::try_new(*size, values.into(), nulls).unwrap())
        }
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::Utf8View
        | DataType::BinaryView
        | DataType::Dictionary(_, _) => {
            let text = lengths(30).into_iter().enumerate().map(|(row, length)| {
                nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)).then(|| "äx".repeat(length))
            });
            cast(&StringArray::from_iter(text), field.data_type()).unwrap()
        }
        DataType::List(item) => {
            let offsets = OffsetBuffer::from_lengths(lengths(4));
            let values = random(item, offsets.last().map_or(0, |last| *last as usize), rng);
            Arc::new(ListArray::try_new(item.clone(), offsets, values, nulls).unwrap())
        }
        DataType::LargeList(item) => {
            let offsets = OffsetBuffer::from_lengths(lengths(4));
            let values = random(item, offsets.last().map_or(0, |last| *last as usize), rng);
            Arc::new(LargeListArray::try_new(item.clone(), offsets, values, nulls).unwrap())
        }
        DataType::FixedSizeList(item, size) => {
            let values = random(item, rows * *size as usize, rng);
            Arc::new(FixedSizeListArray::try_new(item.clone(), *size, values, nulls).unwrap())
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|field| random(field, rows, rng)).collect();
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls, rows).unwrap())
        }
        DataType::Map(entries, sorted) => {
            let offsets = OffsetBuffer::from_lengths(lengths(3));
            let count = offsets.last().map_or(0, |last| *last as usize);
            let DataType::Struct(fields) = entries.data_type() else { unreachable!("a map's entries are structs") };
            let columns = fields.iter().map(|field| random(field, count, rng)).collect();
            let inner = StructArray::try_new_with_length(fields.clone(), columns, None, count).unwrap();
            Arc::new(MapArray::try_new(entries.clone(), offsets, inner, nulls, *sorted).unwrap())
        }
        DataType::Date32 => {
            let days = (0..rows).map(|_| rng.random_range(0..20_000)).collect::<Vec<i32>>();
            cast(&Int32Array::new(days.into(), nulls), field.data_type()).unwrap()
        }
        number => {
            let values = (0..rows).map(|_| rng.random_range(0..100)).collect::<Vec<i64>>();
            cast(&Int64Array::new(values.into(), nulls), number).unwrap()
        }
    }
}
