//! PURE: hive partition columns (`.../year=2024/kind=a/part.parquet`), as `pyarrow.parquet.read_table` infers them.
//!
//! pyarrow serves them as dictionaries with int32 indices: of int32 where every value of the key is an integer, else of
//! strings. They stand behind the objects' own columns; a key that is also a column is ignored.

use std::sync::Arc;

use arrow_array::{ArrayRef, DictionaryArray, Int32Array, StringArray, new_null_array, types::Int32Type};
use arrow_schema::{DataType, Field, FieldRef};
use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};

/// What hive writes for a null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The `key=value` directories between a data set's base and an object, in order.
pub fn pairs(base: &str, url: &str) -> Vec<(String, Option<String>)> {
    let Some(relative) = url.strip_prefix(base) else { return Vec::new() };
    let Some((directories, _file)) = relative.rsplit_once('/') else { return Vec::new() };
    // URLs are percent-encoded once, hive encodes values once more.
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    directories
        .split('/')
        .filter_map(|segment| {
            let segment = decode(segment);
            let (key, value) = segment.split_once('=')?;
            (!key.is_empty()).then(|| (decode(key), (value != NULL).then(|| decode(value))))
        })
        .collect()
}

/// Partition fields over all objects of a data set.
pub fn fields<'a>(base: &str, urls: impl IntoIterator<Item = &'a str>) -> Vec<FieldRef> {
    let mut keys: Vec<(String, bool)> = Vec::new();
    for url in urls {
        for (key, value) in pairs(base, url) {
            let integer = value.as_deref().is_none_or(|v| v.parse::<i32>().is_ok());
            match keys.iter_mut().find(|(known, _)| *known == key) {
                Some((_, all)) => *all &= integer,
                None => keys.push((key, integer)),
            }
        }
    }
    keys.into_iter()
        .map(|(key, integer)| {
            let value = if integer { DataType::Int32 } else { DataType::Utf8 };
            let data_type = DataType::Dictionary(Box::new(DataType::Int32), Box::new(value));
            Arc::new(Field::new(key, data_type, true)) as FieldRef
        })
        .collect()
}

/// A partition column of `rows` rows for one object, or `None` where the object's path has no such key.
pub fn column(base: &str, url: &str, field: &Field, rows: usize) -> Result<Option<ArrayRef>> {
    let Some((_, value)) = pairs(base, url).into_iter().find(|(key, _)| key == field.name()) else {
        return Ok(None);
    };
    let DataType::Dictionary(_, value_type) = field.data_type() else {
        return Ok(None);
    };
    let Some(value) = value else { return Ok(Some(new_null_array(field.data_type(), rows))) };
    let values: ArrayRef = match value_type.as_ref() {
        DataType::Int32 => {
            let number = value.parse::<i32>().map_err(|_| {
                Error::stale(format!(
                    "{url}: partition {}={value} is no integer any more: make a new plan",
                    field.name()
                ))
            })?;
            Arc::new(Int32Array::from(vec![number]))
        }
        _ => Arc::new(StringArray::from(vec![value])),
    };
    let keys = Int32Array::from(vec![0; rows]);
    let array = DictionaryArray::<Int32Type>::try_new(keys, values).map_err(|e| Error::internal(e.to_string()))?;
    Ok(Some(Arc::new(array)))
}

#[cfg(test)]
#[path = "hive_tests.rs"]
mod tests;
