//! PURE: how an object's row groups form runs, and how many rows a batch of a run has.
//!
//! Both depend on the footer alone, never on the projection or on settings: fragments of one run written by different
//! nodes at different times must line up batch by batch. Changing a constant here changes the layout on disk.

use arrow_schema::{DataType, Schema};
use parquet::basic::Type as Physical;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};

/// A run grows while it stays within both.
pub const RUN_ROWS: u64 = 64 * 1024;
pub const RUN_BYTES: u64 = 32 << 20;
/// Decoded bytes of a whole row's batch, aimed at.
pub const BATCH_BYTES: u64 = 16 << 20;
const BATCH_ROWS_MAX: u64 = 1 << 20;

/// Consecutive row groups of one object that are planned, cached and served as one: what the rest of Roost calls a row
/// group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// Ordinal of the first Parquet row group in the object.
    pub first: u32,
    /// How many Parquet row groups, at least one.
    pub count: u32,
    pub rows: u64,
    /// Decoded bytes of all columns, estimated from the footer.
    pub bytes: u64,
    pub batch_rows: u32,
}

impl Run {
    pub fn batches(&self) -> u32 {
        self.rows.div_ceil(u64::from(self.batch_rows)) as u32
    }

    /// Rows of batch `index`.
    pub fn rows_of(&self, index: u32) -> u64 {
        let start = u64::from(index) * u64::from(self.batch_rows);
        self.rows.saturating_sub(start).min(u64::from(self.batch_rows))
    }

    /// The Parquet row groups' ordinals.
    pub fn row_groups(&self) -> std::ops::Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }
}

/// The runs of an object, in order. Row groups without rows join their neighbours; an object without rows has no run.
pub fn runs(meta: &ParquetMetaData, schema: &Schema) -> Vec<Run> {
    let leaf_types = leaf_types(schema);
    let sizes = meta.row_groups().iter().map(|group| {
        (
            group.num_rows().max(0) as u64,
            (0..group.num_columns()).map(|leaf| leaf_bytes(group, leaf, &leaf_types)).sum(),
        )
    });
    pack(sizes)
}

/// The packing rule over (rows, decoded bytes) of each row group.
pub fn pack(sizes: impl IntoIterator<Item = (u64, u64)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (ordinal, (rows, bytes)) in sizes.into_iter().enumerate() {
        match runs.last_mut() {
            Some(run)
                if rows == 0
                    || run.rows == 0
                    || (run.rows + rows <= RUN_ROWS && run.bytes.saturating_add(bytes) <= RUN_BYTES) =>
            {
                run.count += 1;
                run.rows += rows;
                run.bytes = run.bytes.saturating_add(bytes);
            }
            _ => runs.push(Run { first: ordinal as u32, count: 1, rows, bytes, batch_rows: 1 }),
        }
    }
    runs.retain(|run| run.rows > 0);
    for run in &mut runs {
        run.batch_rows = batch_rows(run.rows, run.bytes);
    }
    runs
}

/// Rows a batch: equal parts of about [`BATCH_BYTES`], in multiples of 64 rows so that bitmaps end on whole words.
pub fn batch_rows(rows: u64, bytes: u64) -> u32 {
    let wanted = (u128::from(BATCH_BYTES) * u128::from(rows) / u128::from(bytes.max(1))) as u64;
    let most = wanted.clamp(1, BATCH_ROWS_MAX.min(rows.max(1)));
    let parts = rows.max(1).div_ceil(most);
    let even = rows.max(1).div_ceil(parts);
    if even >= 64 { even.next_multiple_of(64) as u32 } else { even as u32 }
}

/// Decoded bytes of the top-level columns `columns` over a run, estimated from the footer.
pub fn decoded_bytes(meta: &ParquetMetaData, schema: &Schema, run: &Run, columns: &[usize]) -> u64 {
    let leaf_types = leaf_types(schema);
    let descriptor = meta.file_metadata().schema_descr();
    let mut sum = 0u64;
    for group in &meta.row_groups()[run.row_groups()] {
        for leaf in 0..group.num_columns() {
            if columns.contains(&descriptor.get_column_root_idx(leaf)) {
                sum = sum.saturating_add(leaf_bytes(group, leaf, &leaf_types));
            }
        }
    }
    sum
}

/// Decoded bytes of each top-level column over the whole object, estimated from the footer.
pub fn column_bytes(meta: &ParquetMetaData, schema: &Schema) -> Vec<u64> {
    let leaf_types = leaf_types(schema);
    let descriptor = meta.file_metadata().schema_descr();
    let mut sums = vec![0u64; schema.fields().len()];
    for group in meta.row_groups() {
        for leaf in 0..group.num_columns() {
            if let Some(sum) = sums.get_mut(descriptor.get_column_root_idx(leaf)) {
                *sum = sum.saturating_add(leaf_bytes(group, leaf, &leaf_types));
            }
        }
    }
    sums
}

/// Arrow type of each Parquet leaf, in order.
fn leaf_types(schema: &Schema) -> Vec<DataType> {
    fn walk(data_type: &DataType, out: &mut Vec<DataType>) {
        match data_type {
            DataType::Struct(fields) => fields.iter().for_each(|f| walk(f.data_type(), out)),
            DataType::List(f)
            | DataType::LargeList(f)
            | DataType::ListView(f)
            | DataType::LargeListView(f)
            | DataType::FixedSizeList(f, _)
            | DataType::Map(f, _) => walk(f.data_type(), out),
            leaf => out.push(leaf.clone()),
        }
    }
    let mut out = Vec::new();
    schema.fields().iter().for_each(|f| walk(f.data_type(), &mut out));
    out
}

fn leaf_bytes(group: &RowGroupMetaData, leaf: usize, types: &[DataType]) -> u64 {
    let chunk = group.column(leaf);
    let values = chunk.num_values().max(0) as u64;
    let bitmap = values / 8;
    let data = match types.get(leaf) {
        Some(DataType::Boolean) => values / 8,
        Some(DataType::Null) => 0,
        Some(DataType::Dictionary(_, _)) => values * 4,
        Some(fixed) if fixed.primitive_width().is_some() => values * fixed.primitive_width().unwrap_or(8) as u64,
        Some(DataType::FixedSizeBinary(width)) => values * (*width).max(0) as u64,
        Some(DataType::LargeUtf8 | DataType::LargeBinary) => values * 8 + text_bytes(chunk),
        Some(DataType::Utf8View | DataType::BinaryView) => values * 16 + text_bytes(chunk),
        _ => values * 4 + text_bytes(chunk),
    };
    data.saturating_add(bitmap)
}

/// Bytes of a chunk's text: exact where the writer left size statistics, else at least its encoded size.
fn text_bytes(chunk: &ColumnChunkMetaData) -> u64 {
    match chunk.unencoded_byte_array_data_bytes() {
        Some(bytes) => bytes.max(0) as u64,
        None if chunk.column_descr().physical_type() == Physical::FIXED_LEN_BYTE_ARRAY => {
            chunk.num_values().max(0) as u64 * chunk.column_descr().type_length().max(0) as u64
        }
        None => chunk.uncompressed_size().max(0) as u64,
    }
}

#[cfg(test)]
#[path = "runs_tests.rs"]
mod tests;
