//! The Flight service behind tonic: everything but the fast way of DoGet.

use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use arrow_schema::Schema;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use prost::Name;
use roost_proto::v1::{self, CachedDataset, PlanRequest};
use tonic::{Request, Response, Status, Streaming};

use super::doget::{Item, Outgoing};
use super::{Node, actions, doget};
use crate::cache::RunKey;
use crate::dataset::schema::ipc_message;
use crate::dataset::{Run, SnapshotObject};
use crate::error::{Error, Result};
use crate::plan::order::{Shuffle, Shuffling};
use crate::plan::shard::{Even, Shard};
use crate::plan::{self, Page, Query, explain};

/// The service; one per node.
pub struct FlightDoor {
    node: Arc<Node>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;

impl FlightDoor {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// What a descriptor asks for: a path, or a command.
    fn query(descriptor: &FlightDescriptor) -> Result<(PlanRequest, bool)> {
        if !descriptor.cmd.is_empty() {
            let any = prost_types::Any::decode(descriptor.cmd.as_ref())
                .map_err(|_| Error::invalid("the command is no google.protobuf.Any of roost.v1.PlanRequest"))?;
            if any.type_url.rsplit('/').next() != Some(PlanRequest::full_name().as_str()) {
                return Err(Error::invalid(format!(
                    "the command is a {:?}; this node understands roost.v1.PlanRequest",
                    any.type_url
                )));
            }
            refuse_unknown_fields(&any.value)?;
            let request = PlanRequest::decode(any.value.as_slice())
                .map_err(|e| Error::invalid(format!("the PlanRequest can't be read: {e}")))?;
            return Ok((request, false));
        }
        match descriptor.path.as_slice() {
            [url] => Ok((PlanRequest { url: url.clone(), ..Default::default() }, true)),
            [] => Err(Error::invalid("the descriptor is empty: give a path of one URL, or a PlanRequest as command")),
            many => Err(Error::invalid(format!("the path has {} parts; give one URL", many.len()))),
        }
    }

    async fn plan(&self, descriptor: &FlightDescriptor) -> Result<(PlanRequest, Page)> {
        let (request, pack) = Self::query(descriptor)?;
        let page = plan_page(&self.node, &request, pack).await?;
        Ok((request, page))
    }
}

/// A field that this version does not know may change what is to be read: leaving it out would answer other rows.
fn refuse_unknown_fields(message: &[u8]) -> Result<()> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    const KNOWN: [std::ops::RangeInclusive<u32>; 2] = [1..=7, 20..=30];
    let unreadable = |e| Error::invalid(format!("the PlanRequest can't be read: {e}"));
    let mut rest = message;
    while !rest.is_empty() {
        let (field, wire) = decode_key(&mut rest).map_err(unreadable)?;
        if !KNOWN.iter().any(|known| known.contains(&field)) {
            return Err(Error::unsupported(format!(
                "the PlanRequest has a field {field}, which this node does not know: it is older than the client; \
                 upgrade the node or leave out what is new"
            )));
        }
        skip_field(wire, field, &mut rest, DecodeContext::default()).map_err(unreadable)?;
    }
    Ok(())
}

/// Plans one page of what `request` asks for.
pub async fn plan_page(node: &Node, request: &PlanRequest, pack: bool) -> Result<Page> {
    if request.url.is_empty() {
        return Err(Error::invalid("the plan's url is empty"));
    }
    let snapshot = node.catalog.snapshot(&request.url, request.refresh).await?;
    let query = query_of(request, pack)?;
    let explained = request.want_explain.then(|| {
        let columns = explain::wanted(&snapshot, &query)?;
        Ok::<_, Error>(node.cache.complete(&snapshot.base, &columns))
    });
    let cached = explained.transpose()?;
    let location = node.locations.first().cloned().unwrap_or_default();
    let (dataset, asked) = (snapshot.url.clone(), query.clone());
    let page = crate::dataset::off_async(move || {
        let mut page = plan::page(&snapshot, &query)?;
        if let Some(cached) = cached {
            let has = |object: &SnapshotObject, run: Run| {
                object.key.is_some_and(|object| cached.contains(&RunKey { object, first: run.first }))
            };
            page.info.explain = Some(explain::explain(&snapshot, &query, &location, has)?);
        }
        Ok::<_, Error>(page)
    })
    .await??;
    node.ahead.planned(&page.info.job, &dataset, &asked);
    Ok(page)
}

fn query_of(request: &PlanRequest, pack: bool) -> Result<Query> {
    let unknown = |what: &str, value: i32| {
        Error::unsupported(format!("this node does not know {what} {value}: it is older than the client; upgrade it"))
    };
    let shuffle = match v1::Shuffle::try_from(request.shuffle) {
        Ok(v1::Shuffle::None) => Shuffle::None,
        Ok(v1::Shuffle::RowGroups) => Shuffle::RowGroups,
        Ok(v1::Shuffle::Rows) => Shuffle::Rows,
        Err(_) => return Err(unknown("shuffle", request.shuffle)),
    };
    let even = match v1::Even::try_from(request.even) {
        Ok(v1::Even::None) => Even::None,
        Ok(v1::Even::Drop) => Even::Drop,
        Ok(v1::Even::Repeat) => Even::Repeat,
        Err(_) => return Err(unknown("even", request.even)),
    };
    let shard = Shard::new(request.rank, request.world_size)?;
    Ok(Query {
        columns: request.columns.clone().map(|p| p.names),
        order: Shuffling { shuffle, seed: request.seed, epoch: request.epoch, block: request.block },
        skip: request.skip,
        limit: request.limit,
        shard: (request.world_size > 0).then_some(shard),
        even,
        blocks: request.blocks.clone(),
        from: request.from,
        count: request.count,
        job: request.job.clone(),
        pack,
        block_rows: request.want_block_rows,
    })
}

fn flight_data(message: Outgoing) -> FlightData {
    let mut body = BytesMut::with_capacity(message.body_len);
    message.body.iter().for_each(|part| body.extend_from_slice(part));
    FlightData {
        flight_descriptor: None,
        data_header: message.header,
        app_metadata: message.app_metadata,
        data_body: body.freeze(),
    }
}

fn schema_bytes(schema: &Schema) -> Bytes {
    let message = ipc_message(schema);
    let mut out = BytesMut::with_capacity(message.len() + 8);
    out.extend_from_slice(&[0xFF; 4]);
    out.extend_from_slice(&(message.len() as u32).to_le_bytes());
    out.extend_from_slice(&message);
    out.freeze()
}

#[tonic::async_trait]
impl FlightService for FlightDoor {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> std::result::Result<Response<FlightInfo>, Status> {
        let descriptor = request.into_inner();
        let (_, page) = self.plan(&descriptor).await?;
        let node = self.node.clone();
        let info = crate::dataset::off_async(move || {
            let locations: Vec<_> =
                node.locations.iter().map(|uri| arrow_flight::Location { uri: uri.clone() }).collect();
            let endpoint = page
                .tickets
                .iter()
                .map(|(payload, info)| FlightEndpoint {
                    ticket: Some(Ticket { ticket: node.keys.sign(payload) }),
                    location: locations.clone(),
                    expiration_time: None,
                    app_metadata: info.encode_to_vec().into(),
                })
                .collect();
            FlightInfo {
                schema: schema_bytes(&page.schema),
                flight_descriptor: Some(descriptor),
                endpoint,
                total_records: page.info.rows as i64,
                total_bytes: page.info.bytes as i64,
                ordered: true,
                app_metadata: page.info.encode_to_vec().into(),
            }
        })
        .await?;
        Ok(Response::new(info))
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> std::result::Result<Response<SchemaResult>, Status> {
        let (mut request, _) = Self::query(request.get_ref())?;
        request.count = 1;
        let page = plan_page(&self.node, &request, false).await?;
        Ok(Response::new(SchemaResult { schema: schema_bytes(&page.schema) }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> std::result::Result<Response<Self::DoGetStream>, Status> {
        // Reached only where a node is served without the layer in front.
        let items = doget::stream(self.node.clone(), request.into_inner().ticket).await?;
        let stream = stream::unfold(Some(items), |items| async move {
            let mut items = items?;
            match items.next().await {
                Some(Ok(Item::Message(message))) => Some((Ok(flight_data(message)), Some(items))),
                Some(Ok(Item::End)) => None,
                Some(Err(error)) => Some((Err(error.into()), None)),
                None => Some((Err(doget::broken_off().into()), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> std::result::Result<Response<Self::ListFlightsStream>, Status> {
        let expression = request.into_inner().expression;
        let prefix = String::from_utf8(expression.to_vec())
            .map_err(|_| Error::invalid("the criteria are a URL prefix, as UTF-8"))?;
        let flights: Vec<_> = self
            .node
            .cache
            .datasets()
            .into_iter()
            .filter(|(url, _)| url.starts_with(&prefix))
            .map(|(url, cached)| {
                let known = self.node.catalog.known(&url);
                let dataset = CachedDataset {
                    url: url.clone(),
                    objects: cached.objects,
                    row_groups: cached.row_groups,
                    fragments: cached.fragments,
                    bytes: cached.bytes,
                    pinned: cached.pinned,
                    held: cached.held,
                    row_groups_total: known.as_ref().map_or(0, |s| s.runs()),
                    bytes_total: known.as_ref().map_or(0, |s| s.bytes),
                };
                let empty = Schema::empty();
                Ok(FlightInfo {
                    schema: schema_bytes(known.as_ref().map_or(&empty, |s| &s.schema)),
                    flight_descriptor: Some(FlightDescriptor::new_path(vec![url])),
                    endpoint: Vec::new(),
                    total_records: known.as_ref().map_or(-1, |s| s.rows as i64),
                    total_bytes: cached.bytes as i64,
                    ordered: true,
                    app_metadata: dataset.encode_to_vec().into(),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(flights))))
    }

    async fn list_actions(&self, _: Request<Empty>) -> std::result::Result<Response<Self::ListActionsStream>, Status> {
        let actions = actions::ACTIONS.iter().map(|(name, description)| {
            Ok(ActionType { r#type: (*name).to_owned(), description: (*description).to_owned() })
        });
        Ok(Response::new(Box::pin(futures::stream::iter(actions.collect::<Vec<_>>()))))
    }

    async fn do_action(&self, request: Request<Action>) -> std::result::Result<Response<Self::DoActionStream>, Status> {
        let action = request.into_inner();
        let answers = actions::act(self.node.clone(), &action.r#type, action.body).await?;
        Ok(Response::new(Box::pin(answers.map(|body| Ok(arrow_flight::Result { body: body? })))))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> std::result::Result<Response<Self::HandshakeStream>, Status> {
        Err(Error::unsupported("this node asks for no handshake").into())
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> std::result::Result<Response<PollInfo>, Status> {
        Err(Error::unsupported("plans are answered at once: call GetFlightInfo").into())
    }

    async fn do_put(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> std::result::Result<Response<Self::DoPutStream>, Status> {
        Err(Error::unsupported("Roost caches what lies in object storage; write there").into())
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> std::result::Result<Response<Self::DoExchangeStream>, Status> {
        Err(Error::unsupported("DoExchange is not offered: plan with GetFlightInfo, read with DoGet").into())
    }
}
