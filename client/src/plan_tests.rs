use super::*;
use crate::testing::{Fake, Running, URL, connect, within};
use tonic::Status;

fn request(from: u64, count: u64) -> PlanRequest {
    PlanRequest { url: URL.into(), from, count, refresh: true, ..Default::default() }
}

async fn plan(fake: &Fake, request: PlanRequest) -> Result<Plan> {
    let node: Running = fake.serve().await;
    within(connect(&[&node.address]).await.plan(request)).await
}

fn first_rows(plan: &Plan) -> Vec<String> {
    plan.tickets.iter().map(|ticket| ticket.info.as_ref().unwrap().pieces[0].url.replace(URL, "")).collect()
}

fn pages(fake: &Fake) -> Vec<(u64, u64)> {
    fake.state().plans.iter().map(|plan| (plan.from, plan.count)).collect()
}

fn paged(tickets: usize, page: usize) -> Fake {
    let fake = Fake::new(tickets, 1);
    fake.state().page = page;
    fake
}

#[tokio::test]
async fn all_pages_become_one_plan() {
    let fake = paged(7, 3);
    let plan = plan(&fake, request(0, 0)).await.unwrap();
    let names: Vec<_> = (0..7).map(|i| format!("part-{i}.parquet")).collect();
    assert_eq!(first_rows(&plan), names);
    assert_eq!((plan.rows(), plan.bytes(), plan.info.rows, plan.next), (70, 7000, 70, None));
    assert_eq!(plan.schema, fake.batches()[0].schema());
    assert_eq!(pages(&fake), [(0, 0), (3, 0), (6, 0)]);
}

#[tokio::test]
async fn later_pages_are_of_the_same_job_and_list_nothing_anew() {
    let fake = paged(7, 3);
    plan(&fake, request(0, 0)).await.unwrap();
    let asked: Vec<_> = fake.state().plans.iter().map(|plan| (plan.job.clone(), plan.refresh)).collect();
    assert_eq!(asked, [("".to_owned(), true), ("job-1".into(), false), ("job-1".into(), false)]);
}

#[tokio::test]
async fn a_part_is_fetched_over_as_many_pages_as_it_takes() {
    let fake = paged(9, 3);
    let part = plan(&fake, request(2, 5)).await.unwrap();
    assert_eq!(first_rows(&part).first().unwrap(), "part-2.parquet");
    assert_eq!((part.tickets.len(), part.from, part.next), (5, 2, Some(7)));
    assert_eq!(pages(&fake), [(2, 5), (5, 2)]);
    let rest = plan(&fake, request(7, 5)).await.unwrap();
    assert_eq!((rest.tickets.len(), rest.next), (2, None));
    let behind = plan(&fake, request(100, 0)).await.unwrap();
    assert_eq!((behind.tickets.len(), behind.next), (0, None));
}

#[tokio::test]
async fn an_empty_data_set_has_a_plan() {
    let schema = Fake::new(1, 1).batches()[0].schema();
    let plan = plan(&Fake::of(schema, vec![]), request(0, 0)).await.unwrap();
    assert_eq!((plan.tickets.len(), plan.info.rows), (0, 0));
}

#[tokio::test]
async fn a_data_set_that_changes_between_pages_is_planned_anew() {
    let fake = paged(4, 2);
    let mut answers = 0;
    fake.state().tweak = Some(Box::new(move |_, _, plan| {
        answers += 1;
        // The second page is of another plan; from then on nothing changes.
        plan.fingerprint = if answers == 1 { "old".into() } else { "new".into() };
    }));
    let plan = plan(&fake, request(0, 0)).await.unwrap();
    assert_eq!((plan.tickets.len(), plan.info.fingerprint.as_ref()), (4, &b"new"[..]));
    assert_eq!(pages(&fake), [(0, 0), (2, 0), (0, 0), (2, 0)]);
}

#[tokio::test]
async fn a_data_set_that_never_rests_is_given_up() {
    let fake = paged(4, 2);
    let mut answers = 0u8;
    fake.state().tweak = Some(Box::new(move |_, _, plan| {
        answers += 1;
        plan.fingerprint = vec![answers].into();
    }));
    let error = plan(&fake, request(0, 0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    assert!(error.message().contains(URL), "{error}");
}

#[tokio::test]
async fn pages_that_dont_fit_are_an_error_never_fewer_tickets() {
    type Page = fn(&PlanRequest, &mut FlightInfo, &mut PlanInfo);
    let wrong: [(&str, Page); 5] = [
        ("skips a ticket", |_, _, plan| plan.next = plan.next.map(|next| next + 1)),
        ("stands still", |request, _, plan| plan.next = Some(request.from)),
        ("ends early", |_, _, plan| plan.next = None),
        ("is longer than asked", |request, info, _| {
            if request.count > 0 {
                info.endpoint.extend(info.endpoint.clone());
            }
        }),
        ("lost its ticket", |_, info, _| info.endpoint[0].ticket = None),
    ];
    for (name, page) in wrong {
        let fake = paged(6, 2);
        fake.state().tweak = Some(Box::new(page));
        let count = if name == "is longer than asked" { 2 } else { 0 };
        let error = plan(&fake, request(0, count)).await.map(|plan| plan.tickets.len()).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Internal, "{name}: {error}");
        assert!(error.message().contains(URL), "{name}: {error}");
    }
}

#[tokio::test]
async fn the_servers_refusal_keeps_its_kind_and_message() {
    let fake = Fake::new(1, 1);
    fake.state().refuse = Some(Status::not_found("s3://bucket/train/: no such objects"));
    let error = plan(&fake, request(0, 0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().ends_with("s3://bucket/train/: no such objects"), "{error}");
}
