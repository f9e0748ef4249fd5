//! Record batches as Arrow IPC messages whose bodies are slices of the arrays' own buffers.
//!
//! Used alike by the fragment writer (messages to a file) and by DoGet (messages to a socket): neither copies a body.

use arrow_array::{Array, RecordBatch};
use arrow_buffer::Buffer;
use arrow_data::ArrayData;
use arrow_ipc::writer::{IpcWriteOptions, StreamEncoder};
use arrow_ipc::{CompressionType, MessageHeader, MetadataVersion, root_as_message};
use arrow_schema::{ArrowError, DataType, Schema};

pub mod stored;

/// Alignment of buffers in bodies.
pub const ALIGNMENT: usize = 64;

/// One encapsulated message.
pub struct Message {
    pub kind: MessageHeader,
    /// The flatbuffer, padded; in a file it stands behind [`Message::prefix`].
    pub header: Vec<u8>,
    /// The body in order, padding included. Large entries share memory with the batch.
    pub body: Vec<Buffer>,
    pub body_len: usize,
}

impl Message {
    /// Continuation marker and header length, as files and streams have them in front of the header.
    pub fn prefix(&self) -> [u8; 8] {
        let mut prefix = [0xFF; 8];
        prefix[4..].copy_from_slice(&(self.header.len() as u32).to_le_bytes());
        prefix
    }

    /// Bytes from the prefix to the body.
    pub fn metadata_len(&self) -> usize {
        8 + self.header.len()
    }
}

/// Encodes batches of one schema.
pub struct Encoder {
    inner: StreamEncoder,
}

impl Encoder {
    pub fn new(schema: &Schema) -> Result<Self, ArrowError> {
        Self::compressing(schema, None)
    }

    /// Compresses the bodies of batches; then they are copies.
    pub fn compressing(schema: &Schema, codec: Option<CompressionType>) -> Result<Self, ArrowError> {
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?.try_with_compression(codec)?;
        Ok(Self { inner: StreamEncoder::try_new_with_options(schema, options)? })
    }

    /// The messages of one batch: the schema in front of the first, dictionaries where they are new, then the batch.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<Message>, ArrowError> {
        split(self.inner.encode(batch)?)
    }
}

/// How many buffers each column has in an IPC body.
pub fn buffer_counts(batch: &RecordBatch) -> impl Iterator<Item = usize> {
    batch.columns().iter().map(|column| buffer_count(&column.to_data()))
}

fn buffer_count(data: &ArrayData) -> usize {
    let validity = match data.data_type() {
        DataType::Null | DataType::Union(_, _) | DataType::RunEndEncoded(_, _) => 0,
        _ => 1,
    };
    let children: usize = match data.data_type() {
        DataType::Dictionary(_, _) => 0,
        _ => data.child_data().iter().map(buffer_count).sum(),
    };
    validity + data.buffers().len() + children
}

/// Cuts a stream of bytes into its messages.
fn split(buffers: Vec<Buffer>) -> Result<Vec<Message>, ArrowError> {
    let mut input = Cursor { buffers, index: 0, offset: 0 };
    let mut messages = Vec::new();
    while let Some(prefix) = input.copy(8) {
        let length = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
        let header = input.copy(length).ok_or_else(cut_off)?;
        let (kind, body_len) = {
            let message = root_as_message(&header).map_err(|e| ArrowError::IpcError(e.to_string()))?;
            (message.header_type(), message.bodyLength() as usize)
        };
        let body = input.take(body_len).ok_or_else(cut_off)?;
        messages.push(Message { kind, header, body, body_len });
    }
    Ok(messages)
}

fn cut_off() -> ArrowError {
    ArrowError::IpcError("an encoded message is cut off".into())
}

struct Cursor {
    buffers: Vec<Buffer>,
    index: usize,
    offset: usize,
}

impl Cursor {
    fn copy(&mut self, length: usize) -> Option<Vec<u8>> {
        if length == 0 {
            return Some(Vec::new());
        }
        let mut out = Vec::with_capacity(length);
        for part in self.take(length)? {
            out.extend_from_slice(&part);
        }
        Some(out)
    }

    fn take(&mut self, mut length: usize) -> Option<Vec<Buffer>> {
        let mut out = Vec::new();
        while length > 0 {
            let buffer = self.buffers.get(self.index)?;
            let part = (buffer.len() - self.offset).min(length);
            if part > 0 {
                out.push(buffer.slice_with_length(self.offset, part));
            }
            length -= part;
            self.offset += part;
            if self.offset == buffer.len() {
                self.index += 1;
                self.offset = 0;
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};
    use arrow_ipc::reader::StreamReader;

    use super::*;

    #[test]
    fn messages_make_up_the_stream_and_share_the_arrays_memory() {
        let numbers = Int64Array::from_iter_values(0..10_000);
        let pointer = numbers.values().inner().as_ptr();
        let text = StringArray::from_iter((0..10_000).map(|i| (i % 3 > 0).then(|| i.to_string())));
        let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as _), ("t", Arc::new(text) as _)]).unwrap();
        let mut encoder = Encoder::new(&batch.schema()).unwrap();
        let first = encoder.encode(&batch).unwrap();
        let second = encoder.encode(&batch).unwrap();
        assert_eq!(
            first.iter().map(|m| m.kind).collect::<Vec<_>>(),
            [MessageHeader::Schema, MessageHeader::RecordBatch]
        );
        assert_eq!(second.len(), 1);
        assert!(second[0].body.iter().any(|b| b.as_ptr() == pointer), "the body is not a copy");
        let mut stream = Vec::new();
        for message in first.iter().chain(&second) {
            stream.extend_from_slice(&message.prefix());
            stream.extend_from_slice(&message.header);
            assert_eq!(message.metadata_len() % 8, 0);
            message.body.iter().for_each(|b| stream.extend_from_slice(b));
            assert_eq!(message.body.iter().map(|b| b.len()).sum::<usize>(), message.body_len);
        }
        let read: Vec<_> = StreamReader::try_new(stream.as_slice(), None).unwrap().map(|b| b.unwrap()).collect();
        assert_eq!(read, [batch.clone(), batch]);
    }
}
