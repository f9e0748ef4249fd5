//! From an object's own columns to the data set's: casts, nulls for what the object lacks, partition constants.

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Schema, SchemaRef};

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
    Cast(usize),
    Partition,
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
                    if object.field(ordinal).data_type() == field.data_type() { Step::Column(at) } else { Step::Cast(at) }
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

    /// Whether adapting costs more than a new schema.
    pub fn is_work(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step, Step::Column(_)))
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
                    Step::Cast(at) => self.cast(batch.column(*at), field.name(), field.data_type())?,
                    Step::Partition => hive::column(&self.base, &self.url, field, rows)?
                        .unwrap_or_else(|| new_null_array(field.data_type(), rows)),
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
        cast_with_options(array, to, &options).map_err(|e| {
            Error::corrupt(format!("{}: column {name:?} can't be cast from {} to {to}: {e}", self.url, array.data_type()))
        })
    }
}
