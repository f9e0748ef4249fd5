use super::*;
use arrow_array::{DictionaryArray, StringArray};
use proptest::prelude::*;

fn batch(values: &[Option<&str>]) -> RecordBatch {
    let array: DictionaryArray<Int32Type> = values.iter().copied().collect();
    RecordBatch::try_from_iter_with_nullable([("d", Arc::new(array) as ArrayRef, true)]).unwrap()
}

fn text(batch: &RecordBatch) -> Vec<Option<String>> {
    let plain = cast(batch.column(0), &DataType::Utf8).unwrap();
    plain.as_string::<i32>().iter().map(|v| v.map(str::to_owned)).collect()
}

#[test]
fn nested_dictionaries_keep_their_values() {
    let item: ArrayRef = Arc::new(["x", "y", "x"].into_iter().collect::<DictionaryArray<Int32Type>>());
    let field = Arc::new(Field::new("item", item.data_type().clone(), true));
    let lists = arrow_array::ListArray::new(field, arrow_buffer::OffsetBuffer::from_lengths([2, 0, 1]), item, None);
    let batch = RecordBatch::try_from_iter([("l", Arc::new(lists) as ArrayRef)]).unwrap();
    let mut unifiers = Unifiers::new(&batch.schema());
    let stripped = unifiers.strip(&batch).unwrap();
    assert!(!has_dictionary(&stripped.schema()));
    let again = attach(&stripped, &batch.schema(), &unifiers.values().unwrap()).unwrap();
    assert_eq!(again, batch);
}

#[test]
fn equal_dictionaries_are_not_repeated() {
    let mut unifiers = Unifiers::new(&batch(&[Some("a")]).schema());
    for _ in 0..3 {
        unifiers.strip(&batch(&[Some("a"), Some("b"), None])).unwrap();
    }
    unifiers.strip(&batch(&[Some("c"), Some("a")])).unwrap();
    let values = unifiers.values().unwrap();
    assert_eq!(values[0].as_ref(), &StringArray::from(vec!["a", "b", "c"]) as &dyn Array);
}

proptest! {
    /// Each batch reads right with the dictionary of its moment and with the last one.
    #[test]
    fn indices_never_change_their_meaning(
        batches in proptest::collection::vec(proptest::collection::vec(proptest::option::of("[a-e]{0,2}"), 0..20), 1..8)
    ) {
        let batches: Vec<_> = batches.iter()
            .map(|values| batch(&values.iter().map(|v| v.as_deref()).collect::<Vec<_>>()))
            .collect();
        let schema = batches[0].schema();
        let mut unifiers = Unifiers::new(&schema);
        let mut stripped = Vec::new();
        for batch in &batches {
            let indices = unifiers.strip(batch).unwrap();
            let now = attach(&indices, &schema, &unifiers.values().unwrap()).unwrap();
            prop_assert_eq!(text(&now), text(batch));
            stripped.push(indices);
        }
        let last = unifiers.values().unwrap();
        for (indices, batch) in stripped.iter().zip(&batches) {
            prop_assert_eq!(text(&attach(indices, &schema, &last).unwrap()), text(batch));
        }
    }
}
