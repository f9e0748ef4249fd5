use super::*;

fn schema(fields: &[(&str, DataType, bool)]) -> Schema {
    Schema::new(fields.iter().map(|(n, t, nullable)| Field::new(*n, t.clone(), *nullable)).collect::<Vec<_>>())
}

fn unify(schemas: &[Schema]) -> Result<SchemaRef> {
    let mut unifier = Unifier::new();
    for (index, schema) in schemas.iter().enumerate() {
        unifier.add(&format!("file:///d/{index}.parquet").into(), schema)?;
    }
    Ok(unifier.finish([]))
}

fn dictionary(index: DataType, value: DataType) -> DataType {
    DataType::Dictionary(Box::new(index), Box::new(value))
}

#[test]
fn fields_are_added_widened_and_made_nullable() {
    let unified = unify(&[
        schema(&[("a", DataType::Int32, false), ("b", DataType::Float32, false), ("only", DataType::Utf8, false)]),
        schema(&[("new", DataType::Boolean, false), ("b", DataType::Float64, false), ("a", DataType::UInt32, true)]),
    ])
    .unwrap();
    let expected = schema(&[
        ("a", DataType::Int64, true),
        ("b", DataType::Float64, false),
        ("only", DataType::Utf8, true),
        ("new", DataType::Boolean, true),
    ]);
    assert_eq!(unified.as_ref(), &expected);
}

#[test]
fn what_no_type_holds_names_both_objects_and_the_column() {
    let error = unify(&[
        schema(&[("a", DataType::Int32, true)]),
        schema(&[("a", DataType::Int64, true)]),
        schema(&[("a", DataType::Utf8, true)]),
    ])
    .unwrap_err();
    for part in ["\"a\"", "file:///d/1.parquet", "file:///d/2.parquet", "Int64", "Utf8"] {
        assert!(error.message().contains(part), "{error}");
    }
}

#[test]
fn dictionaries_are_kept_for_text_and_stored_with_int32_indices() {
    let item = Arc::new(Field::new("item", dictionary(DataType::Int8, DataType::Utf8), true));
    let fields: Vec<FieldRef> = vec![
        Arc::new(Field::new("n", dictionary(DataType::Int8, DataType::Int64), true)),
        Arc::new(Field::new("l", DataType::List(item), true)),
    ];
    let served: Vec<_> = fields.iter().map(served_field).collect();
    assert_eq!(served[0].data_type(), &DataType::Int64);
    assert_eq!(served[1], fields[1]);
    let DataType::List(item) = stored_field(&fields[1]).data_type().clone() else { panic!("no list") };
    assert_eq!(item.data_type(), &dictionary(DataType::Int32, DataType::Utf8));
    assert_eq!(
        wider(&dictionary(DataType::Int8, DataType::Utf8), &dictionary(DataType::Int32, DataType::Utf8)),
        Some(dictionary(DataType::Int32, DataType::Utf8))
    );
}

#[test]
fn fingerprints_see_types_names_and_metadata_but_no_order_of_metadata() {
    let base = schema(&[("a", DataType::Int32, true)]);
    let with = |pairs: &[(&str, &str)]| {
        let metadata = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        fingerprint(&Schema::new_with_metadata(base.fields().clone(), metadata))
    };
    assert_eq!(with(&[("x", "1"), ("y", "2")]), with(&[("y", "2"), ("x", "1")]));
    assert_ne!(with(&[("x", "1")]), with(&[("x", "2")]));
    assert_ne!(with(&[]), fingerprint(&schema(&[("a", DataType::Int32, false)])));
    // Tickets carry it from node to node and from version to version.
    assert_eq!(hex::encode(fingerprint(&base)), hex::encode(fingerprint(&schema(&[("a", DataType::Int32, true)]))));
}
