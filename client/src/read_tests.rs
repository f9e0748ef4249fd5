use super::*;
use crate::testing::{self, BATCH_ROWS, Fake, Fault, URL, connect, nobody, within};
use crate::{Plan, PlanRequest};
use arrow_array::{Int64Array, RecordBatchOptions};
use arrow_schema::{DataType, Field, Schema};
use std::sync::Arc;
use tonic::Status;

async fn plan(client: &Client) -> Plan {
    client.plan(PlanRequest { url: URL.into(), ..Default::default() }).await.unwrap()
}

async fn read_all(client: &Client) -> Result<Vec<RecordBatch>> {
    let mut all = Vec::new();
    for ticket in &plan(client).await.tickets {
        all.extend(client.read(ticket).try_collect::<Vec<_>>().await?);
    }
    Ok(all)
}

fn positions(fake: &Fake) -> Vec<(usize, Option<(u32, u32)>)> {
    fake.state().gets.iter().map(|(ticket, after)| (*ticket, after.map(|at| (at.piece, at.batch)))).collect()
}

fn faults(fake: &Fake, faults: impl IntoIterator<Item = Fault>) {
    fake.state().faults.extend(faults);
}

#[tokio::test]
async fn batches_come_in_order_with_schema_and_dictionaries() {
    let fake = Fake::new(3, 4);
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    assert_eq!(within(read_all(&client)).await.unwrap(), fake.batches());
}

#[tokio::test]
async fn a_broken_stream_goes_on_behind_the_last_batch() {
    let fake = Fake::new(1, 6);
    let unavailable = || Status::unavailable("draining");
    // Breaks: before anything, within the first piece, at once again, and behind the last batch.
    faults(
        &fake,
        [
            Fault::BreakAfter(0, unavailable()),
            Fault::BreakAfter(2, unavailable()),
            Fault::Refuse(unavailable()),
            Fault::BreakAfter(3, unavailable()),
            Fault::BreakAfter(1, unavailable()),
        ],
    );
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    assert_eq!(within(read_all(&client)).await.unwrap(), fake.batches());
    let expected = [None, None, Some((0, 1)), Some((0, 1)), Some((1, 1)), Some((1, 2))];
    assert_eq!(positions(&fake), expected.map(|after| (0, after)));
}

/// Batches of 64 KB: a stream of them is longer than what the sockets hold, so that a cut falls into its midst.
fn large(tickets: usize, batches: usize) -> Fake {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let batch = |n: usize| {
        let ids = Int64Array::from_iter_values((n * 8192..(n + 1) * 8192).map(|id| id as i64));
        RecordBatch::try_new(schema.clone(), vec![Arc::new(ids)]).unwrap()
    };
    let tickets = (0..tickets).map(|t| (0..batches).map(|b| batch(t * batches + b)).collect()).collect();
    Fake::of(schema.clone(), tickets)
}

#[tokio::test]
async fn connections_cut_at_any_byte_lose_and_double_nothing() {
    let fake = large(2, 40);
    let node = fake.serve().await;
    let expected = fake.batches();
    let mut resumed = 0;
    for cut in (1_000..2_700_000).step_by(173_333) {
        let proxy = testing::cutting_proxy(node.address.clone(), vec![u64::MAX, cut, cut / 2, cut]).await;
        fake.state().gets.clear();
        let client = connect(&[&proxy.address]).await;
        // The first connection plans, and reads one of the tickets; the next ones are cut.
        assert_eq!(within(read_all(&client)).await.unwrap(), expected, "cut at {cut}");
        resumed += positions(&fake).iter().filter(|(_, after)| after.is_some()).count();
    }
    assert!(resumed > 5, "too few cuts fell into a stream: {resumed}");
}

#[tokio::test]
async fn a_stream_fails_over_to_the_next_node_of_the_list() {
    let (first, second) = (Fake::new(1, 4), Fake::new(1, 4));
    faults(&first, [Fault::BreakAfter(1, Status::unavailable("draining"))]);
    let (a, b) = (first.serve().await, second.serve().await);
    let client = connect(&[&a.address, &b.address]).await;
    assert_eq!(within(read_all(&client)).await.unwrap(), first.batches());
    assert_eq!(positions(&second), [(0, Some((0, 0)))]);
    assert_eq!(*client.node(), b.address, "the node that works stays current");
}

#[tokio::test]
async fn retries_are_bounded_and_the_last_error_is_told() {
    let fake = Fake::new(1, 4);
    faults(&fake, (0..100).map(|_| Fault::Refuse(Status::unavailable("the origin is down"))));
    let node = fake.serve().await;
    let error = within(read_all(&connect(&[&node.address]).await)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("the origin is down"), "{error}");
    assert!(error.message().contains("part-0.parquet#rg0"), "{error}");
    assert_eq!(fake.state().gets.len(), 8);
}

#[tokio::test]
async fn a_stream_that_goes_on_is_never_given_up() {
    let fake = Fake::new(1, 30);
    faults(&fake, (0..29).map(|_| Fault::BreakAfter(1, Status::unavailable("flaky"))));
    let node = fake.serve().await;
    assert_eq!(within(read_all(&connect(&[&node.address]).await)).await.unwrap(), fake.batches());
}

#[tokio::test]
async fn other_errors_surface_at_once_with_their_kind_and_message() {
    for (status, kind) in [
        (Status::failed_precondition("part-0.parquet changed; plan again"), ErrorKind::Stale),
        (Status::data_loss("part-0.parquet: no Parquet footer"), ErrorKind::Corrupt),
        (Status::resource_exhausted("memory"), ErrorKind::Exhausted),
    ] {
        let fake = Fake::new(1, 4);
        faults(&fake, [Fault::BreakAfter(2, status.clone())]);
        let node = fake.serve().await;
        let error = within(read_all(&connect(&[&node.address]).await)).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains(status.message()), "{error}");
        assert_eq!(fake.state().gets.len(), 1);
    }
}

#[tokio::test]
async fn a_stream_that_ends_early_is_an_error() {
    let fake = Fake::new(1, 4);
    faults(&fake, [Fault::EndAfter(3)]);
    let node = fake.serve().await;
    let error = within(read_all(&connect(&[&node.address]).await)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.message().contains("30 rows came, fewer than the plan's 40"), "{error}");
}

#[tokio::test]
async fn a_node_that_starts_over_is_an_error_not_doubled_rows() {
    let fake = Fake::new(1, 4);
    faults(&fake, [Fault::BreakAfter(2, Status::unavailable("draining")), Fault::IgnorePosition]);
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    let ticket = plan(&client).await.tickets.remove(0);
    let mut batches = client.read(&ticket);
    for _ in 0..2 {
        assert_eq!(within(batches.try_next()).await.unwrap().unwrap().num_rows(), BATCH_ROWS);
    }
    let error = within(batches.try_next()).await.unwrap_err();
    assert!(error.message().contains("batch 0/0 came out of order"), "{error}");
    assert!(within(batches.try_next()).await.unwrap().is_none(), "nothing follows an error");
}

#[tokio::test]
async fn rows_without_columns_are_rows() {
    let schema = Arc::new(Schema::empty());
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch = RecordBatch::try_new_with_options(schema.clone(), vec![], &options).unwrap();
    let fake = Fake::of(schema, vec![vec![batch]]);
    let node = fake.serve().await;
    let read = within(read_all(&connect(&[&node.address]).await)).await.unwrap();
    assert_eq!(read.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [7]);
}

#[tokio::test]
async fn messages_are_counted_without_being_decoded() {
    let fake = Fake::new(1, 3);
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    let ticket = plan(&client).await.tickets.remove(0);
    let messages: Vec<_> = within(client.messages(&ticket).try_collect()).await.unwrap();
    let rows: Vec<_> = messages.iter().map(|message| message.rows).collect();
    assert_eq!(rows, [0, 0, 10, 0, 10, 0, 10], "a schema, then a dictionary and a batch three times");
}

#[tokio::test]
async fn a_carried_ticket_reads_the_same_and_garbage_is_refused() {
    let fake = Fake::new(2, 2);
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    let carried = Ticket::from_bytes(plan(&client).await.tickets[1].as_bytes().clone());
    let read: Vec<_> = within(client.read(&carried).try_collect()).await.unwrap();
    assert_eq!(read, fake.batches()[2..]);

    let garbage = Ticket::from_bytes(&b"\xff\xff\xff"[..]);
    let error = within(client.read(&garbage).try_next()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn when_every_node_is_gone_the_error_says_so() {
    let fake = Fake::new(1, 2);
    let node = fake.serve().await;
    let proxy = testing::cutting_proxy(node.address.clone(), vec![]).await;
    let gone = nobody().await;
    let client = connect(&[&gone, &proxy.address]).await;
    let ticket = plan(&client).await.tickets.remove(0);
    drop(proxy);
    let error = within(client.read(&ticket).try_next()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoNode);
    assert!(error.message().contains("roost serve"), "{error}");
}

fn is_send<T: Send>(_: &T) {}

#[tokio::test]
async fn futures_and_streams_can_be_spawned() {
    let fake = Fake::new(1, 1);
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    let planning = client.plan(PlanRequest::default());
    is_send(&planning);
    let ticket = Ticket::from_bytes(Vec::new());
    is_send(&client.read(&ticket));
}
