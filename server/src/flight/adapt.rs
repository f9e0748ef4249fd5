//! From an object's own columns to the data set's: casts, nulls for what the object lacks, partition constants.

use std::sync::Arc;

use arrow_array::cast::AsArray;

use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, LargeListArray, ListArray, MapArray, RecordBatch, RecordBatchOptions,
    StructArray, new_null_array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use arrow_select::dictionary::garbage_collect_any_dictionary;

use crate::dataset::hive;
use crate::error::{Error, Result};

/// How one object's batches become the stream's.
pub struct Adapter {
    url: String,
    base: String,
    target: SchemaRef,
    steps: Vec<Step>,
    /// Ordinals, in the object's schema, of the columns to read.
    pub columns: Vec<u32>,
}

enum Step {
    /// The read column at this position.
    Column(usize),
    /// The read column, whose type has other names inside.
    Rename(usize),
    Cast(usize),
    Partition,
    Null,
}

/// Where a column's values come from, for readers that have the files.
pub enum Values {
    /// The read column at this position.
    Read(usize),
    /// One row that is repeated.
    Constant(ArrayRef),
    Null,
}

impl Adapter {
    /// For batches of `object` (all its columns) served as `target`.
    pub fn new(url: &str, base: &str, object: &Schema, target: SchemaRef) -> Result<Self> {
        let mut columns = Vec::new();
        let mut steps = Vec::with_capacity(target.fields().len());
        let partitions = hive::pairs(base, url);
        for field in target.fields() {
            let step = match object.index_of(field.name()) {
                Ok(ordinal) => {
                    columns.push(ordinal as u32);
                    let at = columns.len() - 1;
                    let (from, to) = (object.field(ordinal).data_type(), field.data_type());
                    if from == to {
                        Step::Column(at)
                    } else if from.equals_datatype(to) {
                        Step::Rename(at)
                    } else {
                        Step::Cast(at)
                    }
                }
                Err(_) if partitions.iter().any(|(key, _)| key == field.name()) => Step::Partition,
                Err(_) if field.is_nullable() => Step::Null,
                Err(_) => {
                    return Err(Error::stale(format!(
                        "{url} has no column {:?}, which the plan says is never null: make a new plan",
                        field.name()
                    )));
                }
            };
            steps.push(step);
        }
        Ok(Self { url: url.to_owned(), base: base.to_owned(), target, steps, columns })
    }

    /// For each of the target's columns the read one at this position, or `None` where [`Adapter::made`] has it. `None`:
    /// values are changed on the way.
    pub fn places(&self) -> Option<Vec<Option<usize>>> {
        let place = |step: &Step| match step {
            Step::Column(at) | Step::Rename(at) => Some(Some(*at)),
            Step::Partition | Step::Null => Some(None),
            Step::Cast(_) => None,
        };
        self.steps.iter().map(place).collect()
    }

    /// The columns that no object has, constants and nulls, in the target's order.
    pub fn made(&self, rows: usize) -> Result<RecordBatch> {
        let mut fields = Vec::new();
        let mut columns = Vec::new();
        for (step, field) in self.steps.iter().zip(self.target.fields()) {
            let column = match step {
                Step::Partition => self.partition(field, rows)?,
                Step::Null => new_null_array(field.data_type(), rows),
                _ => continue,
            };
            fields.push(field.clone());
            columns.push(column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(|e| Error::internal(format!("{}: what it lacks can't be made: {e}", self.url)))
    }

    fn partition(&self, field: &Field, rows: usize) -> Result<ArrayRef> {
        let column = hive::column(&self.base, &self.url, field, rows)?;
        Ok(column.unwrap_or_else(|| new_null_array(field.data_type(), rows)))
    }

    /// Whether adapting costs more than a new schema.
    pub fn is_work(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step, Step::Column(_) | Step::Rename(_)))
    }

    /// Where each of the target's columns comes from; `None`: values are changed on the way.
    pub fn sources(&self) -> Option<Vec<Values>> {
        let sources = self.steps.iter().zip(self.target.fields()).map(|(step, field)| match step {
            Step::Column(at) => Some(Values::Read(*at)),
            Step::Null => Some(Values::Null),
            Step::Partition => match hive::column(&self.base, &self.url, field, 1) {
                Ok(Some(value)) => Some(Values::Constant(value)),
                Ok(None) => Some(Values::Null),
                Err(_) => None,
            },
            Step::Rename(_) | Step::Cast(_) => None,
        });
        sources.collect()
    }

    pub fn target(&self) -> &SchemaRef {
        &self.target
    }

    pub fn adapt(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let columns = self
            .steps
            .iter()
            .zip(self.target.fields())
            .map(|(step, field)| -> Result<ArrayRef> {
                Ok(match step {
                    Step::Column(at) => batch.column(*at).clone(),
                    Step::Rename(at) => rename(batch.column(*at), field.data_type())
                        .map_err(|e| Error::internal(format!("{}: column {:?}: {e}", self.url, field.name())))?,
                    Step::Cast(at) => self.cast(batch.column(*at), field.name(), field.data_type())?,
                    Step::Partition => self.partition(field, rows)?,
                    Step::Null => new_null_array(field.data_type(), rows),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.target.clone(), columns, &options)
            .map_err(|e| Error::internal(format!("{}: can't be served as planned: {e}", self.url)))
    }

    fn cast(&self, array: &ArrayRef, name: &str, to: &DataType) -> Result<ArrayRef> {
        // A value that does not fit is an error, never a null.
        let options = CastOptions { safe: false, ..Default::default() };
        let mut casted = cast_with_options(array, to, &options);
        if casted.is_err()
            && let Some(dictionary) = array.as_any_dictionary_opt()
        {
            // Narrow indices may hold the values of this batch where they can't hold all of the fragment's.
            let compact = garbage_collect_any_dictionary(dictionary);
            casted = compact.and_then(|compact| cast_with_options(&compact, to, &options));
        }
        casted.map_err(|e| {
            Error::corrupt(format!(
                "{}: column {name:?} can't be cast from {} to {to}: {e}",
                self.url,
                array.data_type()
            ))
        })
    }
}

/// The same array with a type that differs in the names and metadata of nested fields alone. Copies nothing.
fn rename(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    Ok(match to {
        DataType::Struct(fields) => {
            let array = array.as_struct();
            let columns = array.columns().iter().zip(fields).map(|(c, f)| rename(c, f.data_type()));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())?)
        }
        DataType::Map(entries, sorted) => {
            let array = array.as_map();
            let inner: ArrayRef = Arc::new(array.entries().clone());
            let inner = rename(&inner, entries.data_type())?.as_struct().clone();
            let (offsets, nulls) = (array.offsets().clone(), array.nulls().cloned());
            Arc::new(MapArray::try_new(entries.clone(), offsets, inner, nulls, *sorted)?)
        }
        DataType::List(item) => {
            let array = array.as_list::<i32>();
            let values = rename(array.values(), item.data_type())?;
            Arc::new(ListArray::try_new(item.clone(), array.offsets().clone(), values, array.nulls().cloned())?)
        }
        DataType::LargeList(item) => {
            let array = array.as_list::<i64>();
            let values = rename(array.values(), item.data_type())?;
            Arc::new(LargeListArray::try_new(item.clone(), array.offsets().clone(), values, array.nulls().cloned())?)
        }
        DataType::FixedSizeList(item, size) => {
            let array = array.as_fixed_size_list();
            let values = rename(array.values(), item.data_type())?;
            Arc::new(FixedSizeListArray::try_new(item.clone(), *size, values, array.nulls().cloned())?)
        }
        _ => arrow_cast::cast(array, to)?,
    })
}
