//! DoGet above tonic's codec: an HTTP/2 body of small heads and slices of the maps.
//!
//! A layer around tonic's router takes the path of DoGet and lets everything else through. What goes out is gRPC to the
//! letter: length-prefixed FlightData messages, then trailers. h2 asks for a frame when it has window for it, so a
//! reader that does not read holds what is in its window and the channel behind it, nothing more.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use arrow_buffer::Buffer;
use arrow_flight::Ticket;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use prost::Message;
use tonic::body::Body;
use tonic::codec::{DecodeBuf, Decoder, Streaming};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Node;
use super::doget::{self, Item, Items, Outgoing};
use crate::error::{Error, Result};
use crate::plan::ticket::TICKET_MAX;

const PATH: &str = "/arrow.flight.protocol.FlightService/DoGet";
/// Parts up to this size are copied into one frame; larger ones go out as they lie.
const COPY_MAX: usize = 16 << 10;
/// What memory that `malloc` gives is aligned to.
const MALLOC_ALIGNMENT: usize = 16;

/// Puts DoGet in front of a tonic server.
#[derive(Clone)]
pub struct DoGetLayer {
    node: Arc<Node>,
}

impl DoGetLayer {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl<S> Layer<S> for DoGetLayer {
    type Service = DoGet<S>;

    fn layer(&self, inner: S) -> DoGet<S> {
        DoGet { node: self.node.clone(), inner }
    }
}

#[derive(Clone)]
pub struct DoGet<S> {
    node: Arc<Node>,
    inner: S,
}

impl<S> Service<Request<Body>> for DoGet<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, std::result::Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() == PATH {
            let node = self.node.clone();
            return Box::pin(async move { Ok(answer(node, request).await) });
        }
        let started = Instant::now();
        let method = method_of(request.uri().path());
        let metrics = self.node.metrics.clone();
        let call = self.inner.call(request);
        Box::pin(async move {
            let response = call.await;
            let code = match &response {
                Ok(response) => response.headers().get("grpc-status").and_then(|v| v.to_str().ok()).unwrap_or("0"),
                Err(_) => "error",
            };
            metrics.request_seconds.with_label_values(&[method, code]).observe(started.elapsed().as_secs_f64());
            response
        })
    }
}

/// The method's name as a label: only known ones, or callers could make up time series.
fn method_of(path: &str) -> &'static str {
    const METHODS: [&str; 9] = [
        "Handshake",
        "ListFlights",
        "GetFlightInfo",
        "PollFlightInfo",
        "GetSchema",
        "DoPut",
        "DoExchange",
        "DoAction",
        "ListActions",
    ];
    let name = path.rsplit('/').next().unwrap_or_default();
    METHODS.into_iter().find(|known| *known == name).unwrap_or("other")
}

async fn answer(node: Arc<Node>, request: Request<Body>) -> Response<Body> {
    let mut measure = Measure::begin(node.clone());
    let ticket = match ticket_of(request).await {
        Ok(ticket) => ticket,
        Err(status) => {
            measure.end(status.code());
            return status.into_http();
        }
    };
    match doget::stream(node, ticket).await {
        Ok(items) => {
            let body = StreamBody { items, frames: VecDeque::new(), ended: false, measure };
            let mut response = Response::new(Body::new(body));
            response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        Err(error) => measure.fail(error).into_http(),
    }
}

/// Reads the one message of the request, a Flight ticket, with tonic's own decoder: limits and refusals are the same as
/// for other calls.
async fn ticket_of(request: Request<Body>) -> std::result::Result<Bytes, Status> {
    let encoding = request.headers().get("grpc-encoding").map(HeaderValue::as_bytes);
    if let Some(encoding) = encoding.filter(|encoding| *encoding != b"identity") {
        let encoding = String::from_utf8_lossy(encoding);
        let mut status =
            Status::unimplemented(format!("Content is compressed with `{encoding}` which isn't supported"));
        status.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
        return Err(status);
    }
    let mut messages = Streaming::new_request(TicketDecoder, request.into_body(), None, Some(TICKET_MAX));
    let ticket = messages.message().await?.ok_or_else(|| Status::internal("Missing request message."))?;
    messages.trailers().await?;
    Ok(ticket.ticket)
}

struct TicketDecoder;

impl Decoder for TicketDecoder {
    type Item = Ticket;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> std::result::Result<Option<Ticket>, Status> {
        Ticket::decode(buffer).map(Some).map_err(|e| Status::internal(e.to_string()))
    }
}

/// Counts a call, once, however it ends.
struct Measure {
    node: Arc<Node>,
    started: Instant,
    ended: bool,
}

impl Measure {
    fn begin(node: Arc<Node>) -> Self {
        Self { node, started: Instant::now(), ended: false }
    }

    /// Ends the call with an error, and answers what the caller is told.
    fn fail(&mut self, error: Error) -> Status {
        self.node.metrics.errors.with_label_values(&[error.kind().name()]).inc();
        let status = Status::from(error);
        self.end(status.code());
        status
    }

    fn end(&mut self, code: Code) {
        self.ended = true;
        let (code, seconds) = ((code as i32).to_string(), self.started.elapsed().as_secs_f64());
        self.node.metrics.request_seconds.with_label_values(&["DoGet", &code]).observe(seconds);
    }
}

impl Drop for Measure {
    /// What was dropped on the way was cancelled by its caller, or by its caller's deadline.
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled);
        }
    }
}

/// The response's body. Dropping it, as h2 does when the caller cancels, ends the stream behind it.
struct StreamBody {
    items: Items,
    frames: VecDeque<Bytes>,
    ended: bool,
    measure: Measure,
}

impl HttpBody for StreamBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let error = match std::task::ready!(self.items.poll_next(context)) {
                Some(Ok(Item::Message(outgoing))) => match frames(outgoing) {
                    Ok(frames) => {
                        self.frames = frames;
                        continue;
                    }
                    Err(error) => Some(error),
                },
                Some(Ok(Item::End)) => None,
                Some(Err(error)) => Some(error),
                None => Some(doget::broken_off()),
            };
            self.ended = true;
            let status = match error {
                Some(error) => self.measure.fail(error),
                None => {
                    self.measure.end(Code::Ok);
                    Status::ok("")
                }
            };
            let mut trailers = HeaderMap::new();
            if status.add_header(&mut trailers).is_err() {
                trailers.insert("grpc-status", HeaderValue::from_static("13"));
            }
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }
}

/// A FlightData message as the parts it is sent in.
fn frames(outgoing: Outgoing) -> Result<VecDeque<Bytes>> {
    // FlightData: data_header = 2, app_metadata = 3, data_body = 1000; all are length-delimited.
    let mut fields = BytesMut::with_capacity(outgoing.header.len() + outgoing.app_metadata.len() + 192);
    let padding = padding(&outgoing);
    put_field(&mut fields, 2, outgoing.header.len() + padding);
    fields.extend_from_slice(&outgoing.header);
    fields.put_bytes(0, padding);
    if !outgoing.app_metadata.is_empty() {
        put_field(&mut fields, 3, outgoing.app_metadata.len());
        fields.extend_from_slice(&outgoing.app_metadata);
    }
    if outgoing.body_len > 0 {
        put_field(&mut fields, 1000, outgoing.body_len);
    }
    let length = fields.len() + outgoing.body_len;
    let length = u32::try_from(length).map_err(|_| {
        Error::unsupported(format!("a batch of {length} bytes is more than a gRPC message holds; read fewer columns"))
    })?;
    let mut frames = VecDeque::with_capacity(outgoing.body.len() / 2 + 2);
    let mut small = BytesMut::with_capacity(fields.len() + 5 + 1024);
    small.put_u8(0);
    small.put_u32(length);
    small.extend_from_slice(&fields);
    for part in outgoing.body {
        if part.len() <= COPY_MAX {
            small.extend_from_slice(&part);
            continue;
        }
        if !small.is_empty() {
            frames.push_back(small.split().freeze());
        }
        frames.push_back(Bytes::from_owner(Shared(part)));
    }
    if !small.is_empty() {
        frames.push_back(small.freeze());
    }
    Ok(frames)
}

/// Zeros to put behind the header, which ends where its own tables do, so that the body's buffers come to lie aligned in
/// the reader's memory: gRPC for C++, and so pyarrow, receives a message into one piece of `malloc`'s memory.
fn padding(outgoing: &Outgoing) -> usize {
    if outgoing.body_len == 0 {
        return 0;
    }
    let field = |number: u32, length: usize| {
        prost::encoding::key_len(number) + prost::encoding::encoded_len_varint(length as u64)
    };
    let metadata = match outgoing.app_metadata.len() {
        0 => 0,
        length => field(3, length) + length,
    };
    let before = |padding: usize| {
        let header = outgoing.header.len() + padding;
        field(2, header) + header + metadata + field(1000, outgoing.body_len)
    };
    // A longer header may need a longer length: trying is simpler than solving.
    (0..2 * MALLOC_ALIGNMENT).find(|padding| before(*padding) % MALLOC_ALIGNMENT == 0).unwrap_or(0)
}

struct Shared(Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn put_field(out: &mut BytesMut, field: u32, length: usize) {
    prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(length as u64, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_flight::FlightData;

    #[test]
    fn frames_are_a_flight_data_message_and_large_parts_are_not_copied() {
        let large = Buffer::from(vec![7u8; 100_000]);
        let pointer = large.as_ptr();
        let body = vec![Buffer::from(vec![1u8; 10]), large, Buffer::from(vec![2u8; 6])];
        let expected: Vec<u8> = body.iter().flat_map(|b| b.iter().copied()).collect();
        let outgoing = Outgoing {
            header: Bytes::from_static(b"header"),
            app_metadata: Bytes::from_static(b"meta"),
            body_len: expected.len(),
            body,
            rows: 1,
        };
        let frames = frames(outgoing).unwrap();
        assert!(frames.iter().any(|frame| frame.as_ptr() == pointer));
        let joined: Vec<u8> = frames.iter().flat_map(|f| f.iter().copied()).collect();
        assert_eq!(joined[0], 0);
        assert_eq!(u32::from_be_bytes(joined[1..5].try_into().unwrap()) as usize, joined.len() - 5);
        let data = FlightData::decode(&joined[5..]).unwrap();
        assert!(data.data_header.starts_with(b"header"));
        assert!(data.data_header[6..].iter().all(|byte| *byte == 0));
        assert_eq!((joined.len() - 5 - expected.len()) % MALLOC_ALIGNMENT, 0, "the body starts aligned");
        assert_eq!(data.app_metadata.as_ref(), b"meta");
        assert_eq!(data.data_body.as_ref(), expected);
    }
}
