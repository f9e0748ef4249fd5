//! PURE: where the columns of a record batch lie in its body.

use std::ops::Range;

use arrow_schema::{DataType, Schema, UnionMode};

/// A body's buffers, by column.
#[derive(Debug)]
pub(super) struct Layout {
    /// Each lies in the body.
    buffers: Vec<Range<usize>>,
    /// For each column its first buffer, then the number of all.
    firsts: Vec<usize>,
}

impl Layout {
    /// Fails where the batch isn't one of this schema, or its body of `length` bytes is too short for it.
    pub(super) fn new(schema: &Schema, batch: arrow_ipc::RecordBatch<'_>, length: usize) -> Result<Self, &'static str> {
        let buffers = batch.buffers().ok_or("has no buffers")?;
        let buffers = buffers.iter().map(|buffer| {
            let start = usize::try_from(buffer.offset()).ok()?;
            let end = start.checked_add(usize::try_from(buffer.length()).ok()?)?;
            (end <= length).then_some(start..end)
        });
        let buffers = buffers.collect::<Option<Vec<_>>>().ok_or("has a buffer that is cut off")?;
        let mut views = batch.variadicBufferCounts().into_iter().flatten();
        let mut firsts = vec![0];
        let mut sum = 0usize;
        for field in schema.fields() {
            sum = count(field.data_type(), &mut views).and_then(|own| sum.checked_add(own)).ok_or(FOREIGN)?;
            firsts.push(sum);
        }
        if sum != buffers.len() || views.next().is_some() {
            return Err(FOREIGN);
        }
        Ok(Self { buffers, firsts })
    }

    /// The parts of the body that `columns` need, ascending; what lies no further than `gap` apart comes as one.
    pub(super) fn spans(&self, columns: &[usize], gap: usize) -> Vec<Range<usize>> {
        let mut wanted: Vec<_> = self.of(columns).filter(|buffer| !buffer.is_empty()).cloned().collect();
        wanted.sort_unstable_by_key(|buffer| buffer.start);
        let mut spans: Vec<Range<usize>> = Vec::new();
        for buffer in wanted {
            match spans.last_mut() {
                Some(last) if buffer.start <= last.end.saturating_add(gap) => last.end = last.end.max(buffer.end),
                _ => spans.push(buffer),
            }
        }
        spans
    }

    /// Bytes of `columns`.
    pub(super) fn bytes(&self, columns: &[usize]) -> u64 {
        self.of(columns).map(|buffer| buffer.len() as u64).sum()
    }

    fn of<'a>(&'a self, columns: &'a [usize]) -> impl Iterator<Item = &'a Range<usize>> {
        columns.iter().flat_map(|&column| &self.buffers[self.firsts[column]..self.firsts[column + 1]])
    }
}

const FOREIGN: &str = "does not match its schema";

/// Buffers of a column of this type; takes the numbers of its view arrays from `views`.
fn count(data_type: &DataType, views: &mut impl Iterator<Item = i64>) -> Option<usize> {
    let (own, children): (usize, Vec<&DataType>) = match data_type {
        DataType::Null => (0, vec![]),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => (3, vec![]),
        DataType::Utf8View | DataType::BinaryView => (usize::try_from(views.next()?).ok()?.checked_add(2)?, vec![]),
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => (2, vec![item.data_type()]),
        DataType::ListView(item) | DataType::LargeListView(item) => (3, vec![item.data_type()]),
        DataType::FixedSizeList(item, _) => (1, vec![item.data_type()]),
        DataType::Struct(fields) => (1, fields.iter().map(|field| field.data_type()).collect()),
        DataType::RunEndEncoded(ends, values) => (0, vec![ends.data_type(), values.data_type()]),
        DataType::Union(fields, mode) => {
            let own = if *mode == UnionMode::Dense { 2 } else { 1 };
            (own, fields.iter().map(|(_, field)| field.data_type()).collect())
        }
        _ => (2, vec![]),
    };
    children.into_iter().try_fold(own, |sum, child| sum.checked_add(count(child, views)?))
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
