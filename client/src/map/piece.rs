//! A piece of a mapped ticket: columns of files, constants and nulls → record batches as Flight gives them.
//!
//! Blocking; runs on the blocking pool.

use std::io::Cursor;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow_ipc::reader::StreamReader;
use arrow_schema::{ArrowError, Field, SchemaRef};
use arrow_select::take::take;
use roost_proto::v1::mapped_column::Values;
use roost_proto::v1::{MappedColumn, MappedPiece};

use super::Unmapped;
use super::connection::Connection;
use super::file::MappedFile;

pub(super) struct Piece {
    files: Vec<MappedFile>,
    columns: Vec<Column>,
    schema: SchemaRef,
    /// Of each file.
    batches: u32,
    /// Without those that are cut.
    rows: u64,
}

enum Column {
    /// The column at this place among those wanted of a file.
    Stored {
        file: usize,
        place: usize,
    },
    /// One row that is repeated.
    Constant(ArrayRef),
    Null,
}

impl Piece {
    /// Maps the files of a piece. `schema` is the served one.
    pub(super) fn open(
        message: MappedPiece,
        descriptors: Vec<OwnedFd>,
        schema: SchemaRef,
        connection: Arc<Connection>,
    ) -> Result<Self, Unmapped> {
        let fields = schema.fields().len();
        if message.columns.len() != fields {
            let said = format!("{} columns came where the schema has {fields}", message.columns.len());
            return Err(Unmapped::broken(said));
        }
        let mut wanted = vec![Vec::new(); descriptors.len()];
        for column in &message.columns {
            if let Some(Values::File(place)) = &column.values {
                wanted.get_mut(place.file as usize).ok_or_else(nowhere)?.push(place.column as usize);
            }
        }
        let files = descriptors
            .into_iter()
            .zip(wanted)
            .map(|(descriptor, columns)| MappedFile::open(descriptor, columns, connection.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let batches = message.batches;
        if let Some(other) = files.iter().map(MappedFile::batches).find(|count| *count != batches as usize) {
            return Err(Unmapped::broken(format!("a file has {other} batches, not {batches}")));
        }
        let columns = message
            .columns
            .iter()
            .zip(schema.fields())
            .map(|(column, field)| Column::new(column, field, &files))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = message.rows.saturating_sub(message.rows_cut);
        Ok(Self { files, columns, schema, batches, rows })
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The numbers of its batches. Where nothing lies in files, all rows are in the last one: so the node goes on behind
    /// the piece.
    pub(super) fn batches(&self) -> Range<u32> {
        match self.files.is_empty() {
            true => self.batches.saturating_sub(1)..self.batches,
            false => 0..self.batches,
        }
    }

    /// Batch `index`, or its first `left` rows; and its bytes in the files.
    pub(super) fn batch(&self, index: u32, left: u64) -> Result<(RecordBatch, u64), Unmapped> {
        let mut bytes = 0;
        let mut parts = Vec::with_capacity(self.files.len());
        for file in &self.files {
            let (part, length) = file.batch(index as usize)?;
            bytes += length;
            parts.push(part);
        }
        let rows = match parts.first() {
            Some(first) => first.num_rows(),
            None => usize::try_from(left).map_err(Unmapped::broken)?,
        };
        if parts.iter().any(|part| part.num_rows() != rows) {
            return Err(Unmapped::broken(format!("batches {index} of a piece's files have different rows")));
        }
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(column, field)| match column {
            Column::Stored { file, place } => Ok(parts[*file].column(*place).clone()),
            Column::Constant(value) => repeated(value, rows),
            Column::Null => Ok(new_null_array(field.data_type(), rows)),
        });
        let assembled = columns.collect::<Result<Vec<_>, _>>().and_then(|columns| {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
        });
        let batch =
            assembled.map_err(|why| Unmapped::here(format!("batch {index} isn't as it is to be served: {why}")))?;
        match usize::try_from(left) {
            Ok(left) if left < rows => Ok((batch.slice(0, left), bytes)),
            _ => Ok((batch, bytes)),
        }
    }
}

impl Column {
    fn new(column: &MappedColumn, field: &Field, files: &[MappedFile]) -> Result<Self, Unmapped> {
        match &column.values {
            Some(Values::File(at)) => {
                let file = at.file as usize;
                let place = files.get(file).and_then(|opened| opened.place_of(at.column as usize));
                Ok(Self::Stored { file, place: place.ok_or_else(nowhere)? })
            }
            Some(Values::Constant(stream)) => {
                let value = value_of(stream).map_err(|why| {
                    Unmapped::broken(format!("the constant of column {:?} can't be read: {why}", field.name()))
                })?;
                Ok(Self::Constant(value))
            }
            Some(Values::Null(_)) => Ok(Self::Null),
            None => Err(nowhere()),
        }
    }
}

fn nowhere() -> Unmapped {
    Unmapped::broken("a column lies where this version does not know to look")
}

/// The one value of an IPC stream.
fn value_of(stream: &[u8]) -> Result<ArrayRef, ArrowError> {
    let mut batches = StreamReader::try_new(Cursor::new(stream), None)?;
    let batch = batches.next().ok_or_else(|| ArrowError::IpcError("there is none".into()))??;
    match batch.columns() {
        [only] if only.len() == 1 => Ok(only.clone()),
        columns => {
            let said = format!("{} columns and {} rows came", columns.len(), batch.num_rows());
            Err(ArrowError::IpcError(said))
        }
    }
}

/// `value`, an array of one, so often.
pub(super) fn repeated(value: &ArrayRef, rows: usize) -> Result<ArrayRef, ArrowError> {
    take(value, &UInt32Array::from_value(0, rows), None)
}
