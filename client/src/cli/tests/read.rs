use super::*;
use crate::testing::maps::MapFault;
use crate::testing::{Fault, URL};
use serde_json::json;
use tonic::Status;

fn order(fake: &Fake) -> Vec<usize> {
    std::mem::take(&mut fake.state().gets).into_iter().map(|(ticket, _)| ticket).collect()
}

#[tokio::test]
async fn each_epoch_is_a_line_and_the_plan_is_made_once() {
    let fake = Fake::new(10, 2);
    let ended = roost("read s3://bucket/train/ --epochs 3 --columns id --job train", &fake).await;
    assert_eq!((ended.exit, ended.err.as_str()), (Exit::Success, ""));
    let lines: Vec<_> = ended.out().lines().collect();
    assert_eq!(lines.len(), 3);
    for (index, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("epoch {}: 200 rows, ", index + 1)), "{line}");
        assert!(
            line.ends_with(" GB/s; 0 tickets mapped, 10 streamed; 10 hits, 0 misses; 70 B from the origin"),
            "{line}"
        );
    }
    let plans = fake.state().plans.clone();
    assert_eq!((plans.len(), plans[0].job.as_str()), (1, "train"));
    let mut tickets = order(&fake);
    tickets.sort_unstable();
    assert_eq!(tickets, (0..10).flat_map(|ticket| [ticket; 3]).collect::<Vec<_>>());
}

#[tokio::test]
async fn json_is_a_line_an_epoch() {
    let documents = roost("read s3://bucket/train/ --epochs 2 --json", &Fake::new(4, 2)).await.json();
    assert_eq!(documents.len(), 2);
    let mut keys = keys(&documents[1]);
    keys.sort_unstable();
    let mut expected = [
        "epoch",
        "url",
        "tickets",
        "tickets_mapped",
        "tickets_streamed",
        "rows",
        "rows_planned",
        "complete",
        "bytes",
        "seconds",
        "gb_per_second",
        "hits",
        "misses",
        "bypasses",
        "origin_requests",
        "origin_bytes",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    let second = &documents[1];
    assert_eq!((&second["epoch"], &second["url"], &second["complete"]), (&json!(2), &json!(URL), &json!(true)));
    assert_eq!((&second["tickets"], &second["rows"], &second["rows_planned"]), (&json!(4), &json!(80), &json!(80)));
    assert_eq!((&second["hits"], &second["origin_bytes"]), (&json!(4), &json!(28)));
    assert!(second["bytes"].as_u64().unwrap() > 80 * 8);
}

#[tokio::test]
async fn the_order_is_the_plans_or_drawn_from_seed_and_epoch() {
    let fake = Fake::new(30, 1);
    roost("read s3://bucket/train/ --parallel 1", &fake).await;
    let plain: Vec<_> = (0..30).collect();
    assert_eq!(order(&fake), plain);
    let shuffled = "read s3://bucket/train/ --parallel 1 --epochs 2 --shuffle-seed 7";
    roost(shuffled, &fake).await;
    let once = order(&fake);
    roost(shuffled, &fake).await;
    assert_eq!(order(&fake), once, "the same seed draws the same orders");
    let (first, second) = once.split_at(30);
    assert_ne!(first, plain);
    assert_ne!(first, second);
    let mut sorted = first.to_vec();
    sorted.sort_unstable();
    assert_eq!(sorted, plain);
}

#[tokio::test]
async fn broken_streams_are_resumed_and_rows_still_equal() {
    let fake = Fake::new(4, 4);
    fake.state().faults.extend((0..6).map(|n| Fault::BreakAfter(n % 3, Status::unavailable("draining"))));
    let ended = roost("read s3://bucket/train/ --json", &fake).await;
    assert_eq!(ended.exit, Exit::Success, "{}", ended.err);
    assert_eq!(ended.json()[0]["rows"], 160);
}

#[tokio::test]
async fn rows_that_differ_from_the_plan_are_1() {
    // A ticket that brings fewer rows than it should ends the epoch.
    let fake = Fake::new(2, 2);
    fake.state().faults.push_back(Fault::EndAfter(1));
    let ended = roost("read s3://bucket/train/", &fake).await;
    assert_eq!(ended.exit, Exit::Failed);
    assert!(ended.err.contains("10 rows came, fewer than the plan's 20"), "{}", ended.err);

    // Tickets that don't add up to the plan are told of too.
    let fake = Fake::new(2, 2);
    fake.state().tweak = Some(Box::new(|_, _, plan| plan.rows += 1));
    let ended = roost("read s3://bucket/train/ --json", &fake).await;
    assert_eq!(ended.exit, Exit::Failed);
    assert!(ended.err.contains("epoch 1 read 40 rows where the plan has 41"), "{}", ended.err);
    assert_eq!(ended.json()[0]["complete"], false);
}

#[tokio::test]
async fn the_first_failure_ends_the_epoch() {
    let fake = Fake::new(100, 1);
    fake.state().faults.push_back(Fault::Refuse(Status::failed_precondition("part-0.parquet changed; plan again")));
    let ended = roost("read s3://bucket/train/ --parallel 1", &fake).await;
    assert_eq!((ended.exit, ended.out()), (Exit::Failed, ""));
    assert!(ended.err.contains("plan again"), "{}", ended.err);
    assert_eq!(order(&fake).len(), 1);
}

#[tokio::test]
async fn a_reader_that_left_does_not_stop_the_epochs() {
    let fake = Fake::new(2, 1);
    let node = fake.serve().await;
    let (exit, _) = roost_to(BrokenPipe(0), "read s3://bucket/train/ --epochs 2", &node.address.to_string()).await;
    assert_eq!(exit, Exit::Success);
    assert_eq!(order(&fake).len(), 4);
}

#[tokio::test]
async fn what_is_mapped_is_counted_and_can_be_switched_off() {
    let fake = Fake::new(4, 2);
    let door = fake.open_door();
    door.state().faults.push_back(MapFault::CloseAfter(1));
    let ended = roost("read s3://bucket/train/ --parallel 1 --json", &fake).await.json();
    let ways = |line: &Value| (line["tickets_mapped"].clone(), line["tickets_streamed"].clone(), line["rows"].clone());
    // The first broke, and the others left the socket alone.
    assert_eq!(ways(&ended[0]), (json!(0), json!(4), json!(80)));
    let ended = roost("read s3://bucket/train/ --parallel 1 --json --epochs 2", &fake).await.json();
    assert_eq!(ways(&ended[1]), (json!(4), json!(0), json!(80)));
    let bytes = ended[1]["bytes"].as_u64().unwrap();
    assert!(bytes > 80 * 8, "{bytes}");
    let ended = roost("read s3://bucket/train/ --parallel 1 --maps auto", &fake).await;
    assert!(ended.out().contains("; 4 tickets mapped, 0 streamed; "), "{}", ended.out());
    door.state().asked.clear();
    let ended = roost("read s3://bucket/train/ --json --maps off", &fake).await.json();
    assert_eq!(ways(&ended[0]), (json!(0), json!(4), json!(80)));
    assert_eq!(door.state().asked, [] as [usize; 0]);
}
