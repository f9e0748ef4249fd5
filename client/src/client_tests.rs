use super::*;
use crate::testing::{Fake, URL, connect, list, nobody, options, within};
use roost_proto::v1::{Failure, PlanRequest};

#[tokio::test]
async fn the_first_node_that_answers_is_used() {
    let fake = Fake::new(1, 1);
    let node = fake.serve().await;
    let gone = nobody().await;
    let client = connect(&[&gone, &node.address]).await;
    assert_eq!(*client.node(), node.address);
    within(client.stat()).await.unwrap();
}

#[tokio::test]
async fn when_nobody_answers_the_error_names_every_address() {
    let (a, b) = (nobody().await, nobody().await);
    let error = within(Client::connect_with(&list(&[&a, &b]), options())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoNode);
    for part in [&a.to_string(), &b.to_string(), "refused", "roost serve", "ROOST_NODE"] {
        assert!(error.message().contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn a_node_that_dies_between_calls_is_left_for_the_next() {
    let fake = Fake::new(1, 1);
    let node = fake.serve().await;
    let proxy = crate::testing::cutting_proxy(node.address.clone(), vec![]).await;
    let client = connect(&[&proxy.address, &node.address]).await;
    within(client.stat()).await.unwrap();
    drop(proxy);
    within(client.stat()).await.unwrap();
    assert_eq!(*client.node(), node.address);
}

#[tokio::test]
async fn an_unwilling_node_is_asked_once_and_its_words_are_kept() {
    let fakes = [Fake::new(1, 1), Fake::new(1, 1)];
    for fake in &fakes {
        fake.state().refuse = Some(Status::unavailable("the origin s3://bucket does not answer"));
    }
    let (a, b) = (fakes[0].serve().await, fakes[1].serve().await);
    let client = connect(&[&a.address, &b.address]).await;
    let error = within(client.stat()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.message(), "stat: the origin s3://bucket does not answer");
    fakes[1].state().refuse = None;
    within(client.stat()).await.unwrap();
}

#[tokio::test]
async fn actions_carry_the_url_and_bring_their_results() {
    let fake = Fake::new(1, 1);
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    assert_eq!(within(client.evict(URL)).await.unwrap().fragments, 12);
    assert_eq!(within(client.pin(URL)).await.unwrap().pinned, ["s3://other/", URL]);
    assert_eq!(within(client.unpin(URL)).await.unwrap().pinned, Vec::<String>::new());
    let called: Vec<_> =
        ["roost.evict", "roost.pin", "roost.unpin"].map(|action| (action.to_owned(), URL.to_owned())).into();
    assert_eq!(fake.state().actions, called);
}

#[tokio::test]
async fn list_flights_sends_the_url_and_decodes_what_is_cached() {
    let fake = Fake::new(1, 1);
    let cached = CachedDataset { url: URL.into(), row_groups: 3, pinned: true, ..Default::default() };
    fake.state().cached = vec![cached.clone()];
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    assert_eq!(within(client.list_flights(None)).await.unwrap(), std::slice::from_ref(&cached));
    assert_eq!(within(client.list_flights(Some(URL))).await.unwrap(), [cached]);
    assert_eq!(fake.state().criteria, ["", URL]);
}

async fn warm(fake: &Fake) -> Result<Vec<WarmProgress>> {
    let node = fake.serve().await;
    let client = connect(&[&node.address]).await;
    let plan = PlanRequest { url: URL.into(), ..Default::default() };
    client.warm(WarmRequest { plan: Some(plan), pin: true }).await?.try_collect().await
}

#[tokio::test]
async fn warm_streams_its_progress() {
    let fake = Fake::new(1, 1);
    let failures = vec![Failure { row_group: "s3://bucket/x#rg0".into(), message: "no".into() }];
    let told = [
        WarmProgress { row_groups_total: 2, row_groups_done: 1, failures, ..Default::default() },
        WarmProgress { row_groups_total: 2, row_groups_done: 2, finished: true, ..Default::default() },
    ];
    fake.state().warm = told.iter().cloned().map(Ok).collect();
    assert_eq!(within(warm(&fake)).await.unwrap(), told);
    assert!(fake.state().warms[0].pin);
}

#[tokio::test]
async fn a_warm_that_ends_unfinished_fails() {
    let fake = Fake::new(1, 1);
    fake.state().warm = vec![Ok(WarmProgress { row_groups_total: 2, row_groups_done: 1, ..Default::default() })];
    let error = within(warm(&fake)).await.unwrap_err();
    assert!(error.message().contains("warm again"), "{error}");
    fake.state().warm = vec![Err(Status::permission_denied("403 Forbidden"))];
    let error = within(warm(&fake)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(error.message(), "warm s3://bucket/train/: 403 Forbidden");
}
