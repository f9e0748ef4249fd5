//! A plan: the tickets that read a data set, put together from as many pages as it takes.

use std::sync::Arc;

use arrow_flight::{FlightDescriptor, FlightInfo};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use prost::Message;
use roost_proto::v1::{EndpointInfo, PlanInfo, PlanRequest};

use crate::client::{Client, decode};
use crate::error::{Error, ErrorKind, Result};

/// How often a plan is started again because the data set changed between two of its pages.
const RESTARTS: usize = 3;
const PLAN_REQUEST_TYPE: &str = "type.googleapis.com/roost.v1.PlanRequest";

/// The tickets of a data set, in the plan's order.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Facts of the whole plan, also where `tickets` are only a part of it.
    pub info: PlanInfo,
    /// The schema of every batch that the tickets read.
    pub schema: SchemaRef,
    /// The index, in the whole plan, of the first of `tickets`.
    pub from: u64,
    pub tickets: Vec<Ticket>,
    /// The `from` of what comes after `tickets`; none if nothing does.
    pub next: Option<u64>,
}

/// An order to read. Opaque: any node that shares the key serves it.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub(crate) bytes: Bytes,
    /// What the ticket reads. Unset for a ticket that came without its plan.
    pub info: Option<EndpointInfo>,
    /// Where it is best read, as the node ranked it; may be empty.
    pub locations: Vec<String>,
}

// === impl Ticket ===

impl Ticket {
    /// A ticket that was carried here without its plan. Its row count is then not checked when it is read.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), info: None, locations: Vec::new() }
    }

    /// The bytes of the Flight ticket, to carry elsewhere.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Rows that the ticket reads, where the plan said so.
    pub fn rows(&self) -> Option<u64> {
        self.info.as_ref().map(|info| info.rows)
    }
}

// === impl Plan ===

impl Plan {
    /// Rows of `tickets`.
    pub fn rows(&self) -> u64 {
        self.tickets.iter().filter_map(Ticket::rows).sum()
    }

    /// Decoded bytes of `tickets`, estimated from the footers.
    pub fn bytes(&self) -> u64 {
        self.tickets.iter().filter_map(|ticket| ticket.info.as_ref()).map(|info| info.bytes).sum()
    }
}

impl Client {
    /// Plans a data set. All pages are fetched: from the ticket `request.from` to the end, or `request.count` tickets where that
    /// is set. Never fewer tickets than the plan has: a page that is missing is an error.
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan> {
        for _ in 0..=RESTARTS {
            if let Some(plan) = self.plan_once(&request).await? {
                return Ok(plan);
            }
        }
        let said =
            format!("plan {}: the data set changes faster than its plan can be fetched; plan again later", request.url);
        Err(Error::new(ErrorKind::Stale, said))
    }

    /// `None` if two pages are of different plans, because the data set changed between them.
    async fn plan_once(&self, request: &PlanRequest) -> Result<Option<Plan>> {
        let mut page = self.page(request).await?;
        let Some(remaining) = Remaining::after(request, request.from, page.tickets.len())? else {
            return page.checked(request).map(Some);
        };
        let mut remaining = remaining;
        while let Some(next) = page.next {
            // The name that the node made up for the job holds for all pages; the listing must not be made again.
            let follow = PlanRequest {
                from: next,
                count: remaining.count,
                job: page.info.job.clone(),
                refresh: false,
                ..request.clone()
            };
            let more = self.page(&follow).await?;
            if more.info.fingerprint != page.info.fingerprint {
                return Ok(None);
            }
            let fetched = more.tickets.len();
            page.tickets.extend(more.tickets);
            page.next = more.next;
            match Remaining::after(&follow, next, fetched)? {
                Some(left) => remaining = left,
                None => break,
            }
        }
        page.checked(request).map(Some)
    }

    async fn page(&self, request: &PlanRequest) -> Result<Plan> {
        let any = prost_types::Any { type_url: PLAN_REQUEST_TYPE.to_owned(), value: request.encode_to_vec() };
        let command = Bytes::from(any.encode_to_vec());
        let info = self
            .call("plan", &request.url, |mut flight| {
                let descriptor = FlightDescriptor::new_cmd(command.clone());
                async move { Ok(flight.get_flight_info(descriptor).await?.into_inner()) }
            })
            .await?;
        let page = page_of(info, request.from).map_err(|error| error.about("plan", &request.url))?;
        let follows = request.from.saturating_add(page.tickets.len() as u64);
        // A `next` that skips tickets would lose rows, one that stands still would never end.
        if page.next.is_some_and(|next| next != follows || page.tickets.is_empty()) {
            let said =
                format!("page {} of {} tickets names {:?} as the next", request.from, page.tickets.len(), page.next);
            return Err(defect(&request.url, &said));
        }
        Ok(page)
    }
}

impl Plan {
    fn checked(self, request: &PlanRequest) -> Result<Self> {
        let end = self.from.saturating_add(self.tickets.len() as u64);
        if self.next.is_none() && end < self.info.tickets {
            let said = format!("its pages end at ticket {end} of {}", self.info.tickets);
            return Err(defect(&request.url, &said));
        }
        Ok(self)
    }
}

/// What is still to fetch after a page.
struct Remaining {
    /// As in [`PlanRequest::count`]: 0 is no limit.
    count: u64,
}

impl Remaining {
    fn after(request: &PlanRequest, from: u64, fetched: usize) -> Result<Option<Self>> {
        let fetched = fetched as u64;
        match request.count {
            0 => Ok(Some(Self { count: 0 })),
            wanted if fetched > wanted => {
                Err(defect(&request.url, &format!("page {from} has {fetched} tickets where {wanted} were asked for")))
            }
            wanted if fetched == wanted => Ok(None),
            wanted => Ok(Some(Self { count: wanted - fetched })),
        }
    }
}

fn page_of(info: FlightInfo, from: u64) -> Result<Plan> {
    let facts: PlanInfo = decode(&info.app_metadata)?;
    let tickets = info.endpoint.iter().map(ticket_of).collect::<Result<Vec<_>>>()?;
    let schema =
        info.try_decode_schema().map_err(|why| Error::internal(format!("its schema can't be decoded: {why}")))?;
    Ok(Plan { next: facts.next, info: facts, schema: Arc::new(schema), from, tickets })
}

fn ticket_of(endpoint: &arrow_flight::FlightEndpoint) -> Result<Ticket> {
    let ticket = endpoint.ticket.as_ref().ok_or_else(|| Error::internal("an endpoint has no ticket"))?;
    Ok(Ticket {
        bytes: ticket.ticket.clone(),
        info: Some(decode(&endpoint.app_metadata)?),
        locations: endpoint.location.iter().map(|location| location.uri.clone()).collect(),
    })
}

fn defect(url: &str, said: &str) -> Error {
    Error::internal(format!("plan {url}: the node's pages don't fit together ({said}); report this defect"))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
