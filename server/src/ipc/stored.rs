//! Columns of batches that lie encoded already, put together under a new header.
//!
//! The bodies are not looked at: compressed ones stay as they are, and what is sent is slices of where they lie. Columns
//! that lie side by side become one slice, so a whole batch is one.

use std::ops::Range;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{
    BodyCompressionBuilder, BodyCompressionMethod, CompressionType, FieldNode, MessageBuilder, MessageHeader,
    MetadataVersion, RecordBatchBuilder, root_as_message,
};
use arrow_schema::{ArrowError, DataType, Schema};
use flatbuffers::FlatBufferBuilder;

use super::{ALIGNMENT, Encoder, Message, buffer_counts};

/// A stored batch: where the parts of each top-level column are.
pub struct Layout {
    pub rows: usize,
    pub codec: Option<CompressionType>,
    body: Buffer,
    nodes: Vec<FieldNode>,
    buffers: Vec<Range<usize>>,
    variadic: Vec<i64>,
    columns: Vec<Extent>,
}

/// Which of a batch's nodes, buffers and variadic counts are a column's.
struct Extent {
    nodes: Range<usize>,
    buffers: Range<usize>,
    variadic: Range<usize>,
}

impl Layout {
    /// Of a batch that is encoded for it. Its dictionaries are left out.
    pub fn of(batch: &RecordBatch) -> Result<Self, ArrowError> {
        let message = Encoder::new(&batch.schema())?.encode(batch)?.pop();
        let message = message.ok_or_else(|| ArrowError::IpcError("the encoder made no message".into()))?;
        let body: Vec<u8> = message.body.iter().flat_map(|part| part.iter().copied()).collect();
        let parsed = root_as_message(&message.header).map_err(|e| ArrowError::IpcError(e.to_string()))?;
        let header = parsed.header_as_record_batch();
        let header = header.ok_or_else(|| ArrowError::IpcError("the encoder made no batch".into()))?;
        Self::new(&batch.schema(), header, Buffer::from(body), buffer_counts(batch))
    }

    /// Of a batch of `schema` with this header and body; `buffer_counts`: how many buffers each column has.
    pub fn new(
        schema: &Schema,
        batch: arrow_ipc::RecordBatch<'_>,
        body: Buffer,
        buffer_counts: impl Iterator<Item = usize>,
    ) -> Result<Self, ArrowError> {
        let bad = |what: &str| ArrowError::IpcError(format!("a stored batch {what}"));
        let nodes: Vec<FieldNode> = batch.nodes().iter().flat_map(|n| n.iter().copied()).collect();
        let variadic: Vec<i64> = batch.variadicBufferCounts().iter().flat_map(|v| v.iter()).collect();
        let buffers = batch.buffers().ok_or_else(|| bad("has no buffers"))?;
        let buffers = buffers.iter().map(|buffer| {
            let start = usize::try_from(buffer.offset()).ok()?;
            let end = start.checked_add(usize::try_from(buffer.length()).ok()?)?;
            (end <= body.len()).then_some(start..end)
        });
        let buffers = buffers.collect::<Option<Vec<_>>>().ok_or_else(|| bad("has a buffer that is cut off"))?;
        let (mut node, mut buffer, mut view) = (0, 0, 0);
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (field, count) in schema.fields().iter().zip(buffer_counts) {
            let (in_nodes, in_views) = counts(field.data_type());
            columns.push(Extent {
                nodes: node..node + in_nodes,
                buffers: buffer..buffer + count,
                variadic: view..view + in_views,
            });
            (node, buffer, view) = (node + in_nodes, buffer + count, view + in_views);
        }
        if columns.len() != schema.fields().len()
            || (node, buffer, view) != (nodes.len(), buffers.len(), variadic.len())
        {
            return Err(bad("does not match its schema"));
        }
        let rows = usize::try_from(batch.length()).map_err(|_| bad("has fewer than no rows"))?;
        let codec = batch.compression().map(|c| c.codec());
        Ok(Self { rows, codec, body, nodes, buffers, variadic, columns })
    }
}

/// Field nodes, and columns of views, in an array of this type.
fn counts(data_type: &DataType) -> (usize, usize) {
    let children = |fields: &mut dyn Iterator<Item = &DataType>| {
        fields.map(counts).fold((1, 0), |sum, child| (sum.0 + child.0, sum.1 + child.1))
    };
    match data_type {
        DataType::Utf8View | DataType::BinaryView => (1, 1),
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _)
        | DataType::Map(f, _) => children(&mut [f.data_type()].into_iter()),
        DataType::Struct(fields) => children(&mut fields.iter().map(|f| f.data_type())),
        DataType::Union(fields, _) => children(&mut fields.iter().map(|(_, f)| f.data_type())),
        DataType::RunEndEncoded(ends, values) => children(&mut [ends.data_type(), values.data_type()].into_iter()),
        _ => (1, 0),
    }
}

/// The codec that a message out of these batches has; `None`: they have more than one. What is not compressed goes with any
/// codec.
pub fn codec_of<'a>(layouts: impl Iterator<Item = &'a Layout>) -> Option<Option<CompressionType>> {
    let mut codec = None;
    for layout in layouts {
        match (codec, layout.codec) {
            (_, None) => {}
            (None, some) => codec = some,
            (one, other) if one == other => {}
            _ => return None,
        }
    }
    Some(codec)
}

/// One message out of columns of stored batches, in this order. They have equal rows, and `codec` is theirs by
/// [`codec_of`].
pub fn join<'a>(
    rows: usize,
    codec: Option<CompressionType>,
    columns: impl Iterator<Item = (&'a Layout, usize)>,
) -> Message {
    let mut nodes = Vec::new();
    let mut variadic = Vec::new();
    let mut buffers = Vec::new();
    let mut body = Body::default();
    for (layout, column) in columns {
        let extent = &layout.columns[column];
        nodes.extend_from_slice(&layout.nodes[extent.nodes.clone()]);
        variadic.extend_from_slice(&layout.variadic[extent.variadic.clone()]);
        let plain_among_compressed = codec.is_some() && layout.codec.is_none();
        for range in &layout.buffers[extent.buffers.clone()] {
            let (at, length) = match plain_among_compressed && !range.is_empty() {
                true => (body.push_plain(&layout.body, range), range.len() + PLAIN.len()),
                false => (body.push(&layout.body, range), range.len()),
            };
            buffers.push(arrow_ipc::Buffer::new(at as i64, length as i64));
        }
    }
    let (body, body_len) = body.finish();

    let mut fbb = FlatBufferBuilder::with_capacity(512 + 16 * (nodes.len() + buffers.len()));
    let compression = codec.map(|codec| {
        let mut builder = BodyCompressionBuilder::new(&mut fbb);
        builder.add_method(BodyCompressionMethod::BUFFER);
        builder.add_codec(codec);
        builder.finish()
    });
    let buffers = fbb.create_vector(&buffers);
    let nodes = fbb.create_vector(&nodes);
    let variadic = (!variadic.is_empty()).then(|| fbb.create_vector(&variadic));
    let mut batch = RecordBatchBuilder::new(&mut fbb);
    batch.add_length(rows as i64);
    batch.add_nodes(nodes);
    batch.add_buffers(buffers);
    if let Some(compression) = compression {
        batch.add_compression(compression);
    }
    if let Some(variadic) = variadic {
        batch.add_variadicBufferCounts(variadic);
    }
    let batch = batch.finish().as_union_value();
    let mut message = MessageBuilder::new(&mut fbb);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::RecordBatch);
    message.add_bodyLength(body_len as i64);
    message.add_header(batch);
    let message = message.finish();
    fbb.finish(message, None);
    let mut header = fbb.finished_data().to_vec();
    header.resize(header.len().next_multiple_of(8), 0);
    Message { kind: MessageHeader::RecordBatch, header, body, body_len }
}

/// A body made of slices.
#[derive(Default)]
struct Body {
    parts: Vec<Buffer>,
    len: usize,
    /// The slice that may still grow: its bytes, and the range of them.
    open: Option<(Buffer, Range<usize>)>,
}

impl Body {
    /// Adds a buffer, and answers where it starts.
    fn push(&mut self, source: &Buffer, range: &Range<usize>) -> usize {
        if let Some((bytes, open)) = &mut self.open {
            let follows = bytes.as_ptr() == source.as_ptr()
                && range.start >= open.end
                && range.start - open.start == self.len.next_multiple_of(ALIGNMENT) - (self.len - open.len())
                && range.start < open.end + ALIGNMENT;
            if follows {
                let at = self.len - open.len() + (range.start - open.start);
                self.len = at + range.len();
                open.end = range.end;
                return at;
            }
        }
        self.close();
        let at = self.len;
        self.open = Some((source.clone(), range.clone()));
        self.len += range.len();
        at
    }

    /// Adds a buffer that is not compressed to a body whose buffers are.
    fn push_plain(&mut self, source: &Buffer, range: &Range<usize>) -> usize {
        self.close();
        let at = self.len;
        self.parts.push(Buffer::from(&PLAIN));
        self.len += PLAIN.len();
        self.open = Some((source.clone(), range.clone()));
        self.len += range.len();
        self.close();
        at
    }

    /// Ends the open slice, on a boundary.
    fn close(&mut self) {
        let Some((bytes, range)) = self.open.take() else { return };
        let missing = self.len.next_multiple_of(ALIGNMENT) - self.len;
        // What follows a stored buffer is its own padding.
        let padded = range.end + missing <= bytes.len();
        let length = range.len() + if padded { missing } else { 0 };
        if length > 0 {
            self.parts.push(bytes.slice_with_length(range.start, length));
        }
        if missing > 0 && !padded {
            self.parts.push(Buffer::from(&ZEROS[..missing]));
        }
        self.len += missing;
    }

    fn finish(mut self) -> (Vec<Buffer>, usize) {
        self.close();
        (self.parts, self.len)
    }
}

/// In place of the uncompressed length: the buffer is not compressed (-1, as the IPC format has it).
const PLAIN: [u8; 8] = [0xFF; 8];
const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];

#[cfg(test)]
mod tests;
