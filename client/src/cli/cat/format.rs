//! Record batches as text or bytes.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, DataType, Schema};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::Format;
use crate::cli::console::Failure;
use crate::cli::table;
use crate::error::{Error, ErrorKind};

/// Characters of a table's cell.
const CELL_WIDTH: usize = 48;
/// Rows whose widths make one table: the memory of a table is bounded so.
const TABLE_ROWS: usize = 1000;

/// Writes batches of one schema in one format. Where it writes to comes with each call: it is borrowed only for that long.
pub(super) enum Writer {
    Table(TableWriter),
    /// Whether the names have been written.
    Csv {
        headed: bool,
        schema: Schema,
    },
    Jsonl,
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Writer {
    pub(super) fn new(format: Format, schema: &Schema, out: &mut dyn Write) -> Result<Self, Failure> {
        Watched::run(out, |out| Self::start(format, schema, out))
    }

    pub(super) fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Failure> {
        Watched::run(out, |out| self.append(batch, out))
    }

    pub(super) fn finish(self, out: &mut dyn Write) -> Result<(), Failure> {
        Watched::run(out, |out| self.end(out))
    }

    fn start(format: Format, schema: &Schema, out: &mut dyn Write) -> Result<Self, Failure> {
        Ok(match format {
            Format::Table => Self::Table(TableWriter::new(schema)),
            Format::Csv => {
                refuse_nested(schema)?;
                Self::Csv { headed: false, schema: schema.clone() }
            }
            Format::Jsonl => Self::Jsonl,
            Format::Arrow => {
                let mut stream = StreamWriter::try_new(Vec::new(), schema).map_err(failure)?;
                drain(stream.get_mut(), out)?;
                Self::Arrow(Box::new(stream))
            }
        })
    }

    fn append(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Self::Table(table) => table.write(batch, out),
            Self::Csv { headed, .. } => {
                let header = !std::mem::replace(headed, true);
                csv(header, batch, out)
            }
            Self::Jsonl => {
                // Nulls are written, so that each row has all fields.
                let builder = arrow_json::WriterBuilder::new().with_explicit_nulls(true);
                let mut lines = builder.build::<_, arrow_json::writer::LineDelimited>(out);
                lines.write(batch).map_err(failure)?;
                lines.finish().map_err(failure)
            }
            Self::Arrow(stream) => {
                stream.write(batch).map_err(failure)?;
                drain(stream.get_mut(), out)
            }
        }
    }

    fn end(self, out: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Self::Table(table) => table.finish(out),
            Self::Csv { headed: false, schema } => csv(true, &RecordBatch::new_empty(schema.into()), out),
            Self::Csv { .. } | Self::Jsonl => Ok(()),
            Self::Arrow(mut stream) => {
                stream.finish().map_err(failure)?;
                drain(stream.get_mut(), out)
            }
        }
    }
}

fn csv(header: bool, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Failure> {
    if batch.num_columns() == 0 {
        return Ok(());
    }
    arrow_csv::WriterBuilder::new().with_header(header).build(out).write(batch).map_err(failure)
}

fn refuse_nested(schema: &Schema) -> Result<(), Failure> {
    match schema.fields().iter().find(|field| has_nested(field.data_type())) {
        None => Ok(()),
        Some(field) => Err(Failure::Usage(format!(
            "column {:?} is nested ({}), which CSV can't hold; leave it out of --columns, or use --format jsonl",
            field.name(),
            field.data_type(),
        ))),
    }
}

fn has_nested(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => has_nested(value),
        other => other.is_nested(),
    }
}

fn drain(buffer: &mut Vec<u8>, out: &mut dyn Write) -> Result<(), Failure> {
    out.write_all(buffer)?;
    buffer.clear();
    Ok(())
}

fn failure(error: ArrowError) -> Failure {
    let said = format!("the rows can't be written so: {error}; try another --format");
    Error::new(ErrorKind::Unsupported, said).into()
}

/// Remembers why a write failed: some of Arrow's writers make text of it, and a broken pipe must stay one.
struct Watched<'a> {
    out: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Watched<'_> {
    fn run<T>(out: &mut dyn Write, write: impl FnOnce(&mut dyn Write) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut watched = Watched { out, failed: None };
        let written = write(&mut watched);
        match watched.failed {
            Some(error) => Err(error.into()),
            None => written,
        }
    }

    fn note<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &done
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.failed = Some(error.kind().into());
        }
        done
    }
}

impl Write for Watched<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.out.write(bytes);
        self.note(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        let done = self.out.flush();
        self.note(done)
    }
}

// === TableWriter ===

pub(super) struct TableWriter {
    names: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
    printed: bool,
}

impl TableWriter {
    fn new(schema: &Schema) -> Self {
        let names = schema.fields().iter().map(|field| (field.name().clone(), field.data_type().is_numeric()));
        Self { names: names.collect(), rows: Vec::new(), printed: false }
    }

    fn write(&mut self, batch: &RecordBatch, out: &mut dyn Write) -> Result<(), Failure> {
        let options = FormatOptions::new().with_null("null");
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(failure)?;
        for row in 0..batch.num_rows() {
            self.rows.push(columns.iter().map(|column| cell(column, row)).collect());
            if self.rows.len() >= TABLE_ROWS {
                self.print(out)?;
            }
        }
        Ok(())
    }

    fn finish(mut self, out: &mut dyn Write) -> Result<(), Failure> {
        if self.rows.is_empty() && self.printed {
            return Ok(());
        }
        Ok(self.print(out)?)
    }

    fn print(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if std::mem::replace(&mut self.printed, true) {
            writeln!(out)?;
        }
        let rows = std::mem::take(&mut self.rows);
        if self.names.is_empty() {
            return writeln!(out, "({} rows without columns)", rows.len());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.names.iter().map(|(name, _)| Cell::new(name)));
        for (index, (_, number)) in self.names.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                column.set_cell_alignment(if *number { CellAlignment::Right } else { CellAlignment::Left });
            }
        }
        table.add_rows(rows);
        write!(out, "{}", table::text(&table))
    }
}

fn cell(column: &ArrayFormatter<'_>, row: usize) -> String {
    let mut cell = Cut::default();
    // It fails when the cell is full: a value of megabytes is not formatted to its end.
    let _ = write!(cell, "{}", column.value(row));
    cell.text
}

/// Text that takes no more than a cell's characters, on one line.
#[derive(Default)]
struct Cut {
    text: String,
    chars: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for c in more.chars() {
            if self.chars >= CELL_WIDTH {
                self.text.pop();
                self.text.push('…');
                return Err(fmt::Error);
            }
            match c {
                c if c.is_control() => self.text.extend(c.escape_default()),
                c => self.text.push(c),
            }
            self.chars += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
