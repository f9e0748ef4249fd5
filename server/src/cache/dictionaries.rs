//! One dictionary for each dictionary column of a fragment.
//!
//! Parquet starts a new dictionary with each column chunk and may change to plain values within one; an IPC file has one
//! dictionary a column. So batches are written with their indices alone, remapped to a dictionary that only grows, and
//! the dictionary is written behind them: the file's footer says where it lies. An index never changes its meaning, so a
//! reader of a fill under way needs no more than the dictionary of its moment.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, Int32Array, LargeBinaryArray, RecordBatch, RecordBatchOptions, make_array,
};
use arrow_cast::cast;
use arrow_data::ArrayData;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow_select::concat::concat;

pub fn has_dictionary(schema: &Schema) -> bool {
    schema.flattened_fields().iter().any(|f| matches!(f.data_type(), DataType::Dictionary(_, _)))
}

/// The schema of the record batches as they lie in the file: indices in place of dictionaries.
pub fn strip_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(strip_field).collect::<Fields>()))
}

fn strip_field(field: &FieldRef) -> FieldRef {
    let data_type = strip_type(field.data_type());
    if &data_type == field.data_type() {
        return field.clone();
    }
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

fn strip_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(index, _) => index.as_ref().clone(),
        DataType::List(f) => DataType::List(strip_field(f)),
        DataType::LargeList(f) => DataType::LargeList(strip_field(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(strip_field(f), *n),
        DataType::Map(f, sorted) => DataType::Map(strip_field(f), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(strip_field).collect()),
        same => same.clone(),
    }
}

/// The growing dictionaries of one fragment, in the order in which a walk over the schema meets them.
pub struct Unifiers {
    stripped: SchemaRef,
    leaves: Vec<Unifier>,
}

impl Unifiers {
    pub fn new(schema: &Schema) -> Self {
        fn walk(data_type: &DataType, out: &mut Vec<Unifier>) {
            match data_type {
                DataType::Dictionary(_, value) => out.push(Unifier::new(value)),
                DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
                    walk(f.data_type(), out);
                }
                DataType::Struct(fields) => fields.iter().for_each(|f| walk(f.data_type(), out)),
                _ => {}
            }
        }
        let mut leaves = Vec::new();
        schema.fields().iter().for_each(|f| walk(f.data_type(), &mut leaves));
        Self { stripped: strip_schema(schema), leaves }
    }

    pub fn stripped(&self) -> &SchemaRef {
        &self.stripped
    }

    /// The batch with indices in place of dictionaries; the dictionaries grow by what is new in it.
    pub fn strip(&mut self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let mut next = 0;
        let columns = batch
            .columns()
            .iter()
            .map(|column| Ok(make_array(self.strip_data(column.to_data(), &mut next)?)))
            .collect::<Result<Vec<_>, ArrowError>>()?;
        rebuild(self.stripped.clone(), columns, batch.num_rows())
    }

    fn strip_data(&mut self, data: ArrayData, next: &mut usize) -> Result<ArrayData, ArrowError> {
        match data.data_type() {
            DataType::Dictionary(_, _) => {
                let leaf = &mut self.leaves[*next];
                *next += 1;
                leaf.indices(&make_array(data))
            }
            nested if !data.child_data().is_empty() => {
                let data_type = strip_type(nested);
                let children = data
                    .child_data()
                    .iter()
                    .map(|child| self.strip_data(child.clone(), next))
                    .collect::<Result<Vec<_>, _>>()?;
                data.into_builder().data_type(data_type).child_data(children).build()
            }
            _ => Ok(data),
        }
    }

    /// The dictionaries as they are now.
    pub fn values(&self) -> Result<Arc<[ArrayRef]>, ArrowError> {
        self.leaves.iter().map(Unifier::values).collect()
    }
}

struct Unifier {
    value_type: DataType,
    parts: Vec<ArrayRef>,
    length: usize,
    index_of: HashMap<Box<[u8]>, i32>,
    /// The last dictionary met, and where its values stand in the unified one.
    last: Option<(ArrayData, Option<Vec<i32>>)>,
}

impl Unifier {
    fn new(value_type: &DataType) -> Self {
        Self { value_type: value_type.clone(), parts: Vec::new(), length: 0, index_of: HashMap::new(), last: None }
    }

    fn values(&self) -> Result<ArrayRef, ArrowError> {
        match self.parts.as_slice() {
            [] => Ok(arrow_array::new_empty_array(&self.value_type)),
            [one] => Ok(one.clone()),
            parts => concat(&parts.iter().map(|p| p.as_ref()).collect::<Vec<_>>()),
        }
    }

    fn indices(&mut self, array: &ArrayRef) -> Result<ArrayData, ArrowError> {
        let dictionary = array
            .as_dictionary_opt::<Int32Type>()
            .ok_or_else(|| ArrowError::SchemaError(format!("{} has no int32 indices", array.data_type())))?;
        let values = dictionary.values().to_data();
        let known = self.last.as_ref().is_some_and(|(last, _)| last.ptr_eq(&values) || *last == values);
        if !known {
            let map = self.add(dictionary.values())?;
            self.last = Some((values, map));
        }
        let keys = dictionary.keys();
        match self.last.as_ref().and_then(|(_, map)| map.as_ref()) {
            None => Ok(keys.to_data()),
            Some(map) => {
                // Null slots may hold any index.
                let remapped = keys.values().iter().map(|&k| map.get(k as usize).copied().unwrap_or(0)).collect();
                Ok(Int32Array::try_new(remapped, keys.nulls().cloned())?.to_data())
            }
        }
    }

    /// Adds the values that are new. Answers where each stands, or `None` where each stands at its own index.
    fn add(&mut self, values: &ArrayRef) -> Result<Option<Vec<i32>>, ArrowError> {
        if values.null_count() > 0 {
            return Err(ArrowError::SchemaError("a dictionary has null values".into()));
        }
        let mut map = Vec::with_capacity(values.len());
        let mut new_from = Vec::new();
        let mut add = |index: usize, value: &[u8]| {
            if let Some(&at) = self.index_of.get(value) {
                map.push(at);
                return;
            }
            let at = (self.length + new_from.len()) as i32;
            self.index_of.insert(value.into(), at);
            new_from.push(index as u64);
            map.push(at);
        };
        match values.data_type() {
            DataType::LargeUtf8 | DataType::LargeBinary => {
                let bytes = cast(values, &DataType::LargeBinary)?;
                let bytes = bytes.as_binary::<i64>() as &LargeBinaryArray;
                (0..bytes.len()).for_each(|i| add(i, bytes.value(i)));
            }
            DataType::Utf8 | DataType::Binary => {
                let bytes = cast(values, &DataType::Binary)?;
                let bytes = bytes.as_binary::<i32>() as &BinaryArray;
                (0..bytes.len()).for_each(|i| add(i, bytes.value(i)));
            }
            other => return Err(ArrowError::NotYetImplemented(format!("a dictionary of {other}"))),
        }
        if self.length + new_from.len() > i32::MAX as usize {
            return Err(ArrowError::DictionaryKeyOverflowError);
        }
        if new_from.len() == values.len() {
            self.parts.push(values.clone());
        } else if !new_from.is_empty() {
            let wanted = arrow_array::UInt64Array::from(new_from.clone());
            self.parts.push(arrow_select::take::take(values, &wanted, None)?);
        }
        self.length += new_from.len();
        let identity = map.iter().enumerate().all(|(i, &at)| i as i32 == at);
        Ok((!identity).then_some(map))
    }
}

/// The batch of `schema` whose indices are `stripped`'s and whose dictionaries are `values`.
pub fn attach(stripped: &RecordBatch, schema: &SchemaRef, values: &[ArrayRef]) -> Result<RecordBatch, ArrowError> {
    let mut next = 0;
    let columns = stripped
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| Ok(make_array(attach_data(column.to_data(), field.data_type(), values, &mut next)?)))
        .collect::<Result<Vec<_>, ArrowError>>()?;
    rebuild(schema.clone(), columns, stripped.num_rows())
}

fn attach_data(
    data: ArrayData,
    data_type: &DataType,
    values: &[ArrayRef],
    next: &mut usize,
) -> Result<ArrayData, ArrowError> {
    match data_type {
        DataType::Dictionary(_, _) => {
            let dictionary = values[*next].to_data();
            *next += 1;
            data.into_builder().data_type(data_type.clone()).add_child_data(dictionary).build()
        }
        nested if !data.child_data().is_empty() => {
            let fields: Vec<&FieldRef> = match nested {
                DataType::Struct(fields) => fields.iter().collect(),
                DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
                    vec![f]
                }
                _ => return Ok(data),
            };
            let children = data
                .child_data()
                .iter()
                .zip(fields)
                .map(|(child, field)| attach_data(child.clone(), field.data_type(), values, next))
                .collect::<Result<Vec<_>, _>>()?;
            data.into_builder().data_type(data_type.clone()).child_data(children).build()
        }
        _ => Ok(data),
    }
}

fn rebuild(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

#[cfg(test)]
#[path = "dictionaries_tests.rs"]
mod tests;
