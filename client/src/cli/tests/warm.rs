use super::*;
use roost_proto::v1::{Failure as RowGroupFailure, WarmProgress};
use tonic::Status;

const WARM: &str = "warm s3://bucket/train/ --columns a,b --pin --refresh";

fn done() -> WarmProgress {
    WarmProgress {
        row_groups_total: 120,
        row_groups_done: 120,
        row_groups_hit: 37,
        bytes_total: 1_900_000_000,
        bytes_done: 1_900_000_000,
        rows_total: 12_000_000,
        rows_done: 12_000_000,
        origin_bytes: 350_000_000,
        finished: true,
        ..Default::default()
    }
}

fn half() -> WarmProgress {
    WarmProgress { row_groups_total: 120, row_groups_done: 60, rows_done: 6_000_000, ..Default::default() }
}

fn failed(row_groups: &[&str]) -> Vec<RowGroupFailure> {
    let failure = |name: &&str| RowGroupFailure { row_group: (*name).to_owned(), message: "403 Forbidden".into() };
    row_groups.iter().map(failure).collect()
}

fn fake(messages: impl IntoIterator<Item = WarmProgress>) -> Fake {
    let fake = Fake::new(1, 1);
    fake.state().warm = messages.into_iter().map(Ok).collect();
    fake
}

#[tokio::test]
async fn all_cached_is_0_and_the_last_line_says_so_in_numbers() {
    let fake = fake([half(), done()]);
    let ended = roost(WARM, &fake).await;
    assert_eq!((ended.exit, ended.err.as_str()), (Exit::Success, ""));
    let (before, after) = ended.out().trim_end().split_once(" in ").unwrap();
    assert_eq!(before, "cached 120 of 120 row groups, 1.9 GB, 12.0 M rows");
    let (_, after) = after.split_once(" s; ").unwrap();
    assert_eq!(after, "0 bypassed, 0 failed; 350 MB from the origin; 37 cached before");

    let request = fake.state().warms.remove(0);
    let plan = request.plan.unwrap();
    assert!(request.pin && plan.refresh);
    assert_eq!((plan.url.as_str(), plan.columns.unwrap().names), ("s3://bucket/train/", vec!["a".into(), "b".into()]));
}

#[tokio::test]
async fn an_empty_data_set_is_all_cached() {
    let ended = roost(WARM, &fake([WarmProgress { finished: true, ..Default::default() }])).await;
    assert_eq!(ended.exit, Exit::Success);
    assert!(ended.out().starts_with("cached 0 of 0 row groups, 0 B, 0 rows in "), "{}", ended.out());
}

#[tokio::test]
async fn anything_missing_is_1_and_is_explained() {
    let names = ["s3://bucket/x#rg0", "s3://bucket/x#rg1"];
    let first = WarmProgress { row_groups_failed: 1, failures: failed(&names[..1]), ..half() };
    // It repeats the first failure, and tells of fewer than it counts.
    let last = WarmProgress { row_groups_failed: 3, row_groups_bypassed: 4, failures: failed(&names), ..done() };
    let ended = roost(WARM, &fake([first, last])).await;
    assert_eq!(ended.exit, Exit::Failed);
    assert!(ended.out.is_empty());
    let lines: Vec<_> = ended.err.lines().collect();
    assert_eq!(lines[0], "roost: s3://bucket/train/: 7 of 120 row groups not cached");
    assert_eq!(lines[1], "  failed: s3://bucket/x#rg0: 403 Forbidden");
    assert_eq!(lines[2], "  failed: s3://bucket/x#rg1: 403 Forbidden");
    assert_eq!(lines[3], "  failed: 1 more");
    assert!(ended.err.contains("no room: 4 row groups") && ended.err.contains("roost evict"), "{}", ended.err);
    let last = lines.last().unwrap();
    assert!(last.starts_with("cached 113 of 120 row groups, ") && last.contains("4 bypassed, 3 failed"), "{last}");
}

#[tokio::test]
async fn each_way_of_being_incomplete_is_1() {
    for incomplete in [
        WarmProgress { row_groups_failed: 1, ..done() },
        WarmProgress { row_groups_bypassed: 1, ..done() },
        WarmProgress { row_groups_done: 119, ..done() },
    ] {
        for line in [WARM.to_owned(), format!("{WARM} --json")] {
            assert_eq!(roost(&line, &fake([incomplete.clone()])).await.exit, Exit::Failed, "{incomplete:?}");
        }
    }
}

#[tokio::test]
async fn a_warm_that_breaks_or_ends_unfinished_is_1() {
    assert_eq!(roost(WARM, &fake([half()])).await.exit, Exit::Failed);
    assert_eq!(roost(WARM, &fake([])).await.exit, Exit::Failed);
    let broken = fake([half()]);
    broken.state().warm.push(Err(Status::unavailable("draining")));
    let ended = roost(WARM, &broken).await;
    assert_eq!(ended.exit, Exit::Failed);
    assert!(ended.err.contains("draining"), "{}", ended.err);
}

#[tokio::test]
async fn json_is_one_document() {
    let last = WarmProgress { row_groups_failed: 1, failures: failed(&["s3://bucket/x#rg0"]), ..done() };
    let ended = roost(&format!("{WARM} --json"), &fake([half(), last])).await;
    let documents = ended.json();
    let [document] = documents.as_slice() else { panic!("{}", ended.out()) };
    let mut expected = [
        "url",
        "complete",
        "pinned",
        "seconds",
        "row_groups",
        "row_groups_cached",
        "row_groups_hit",
        "row_groups_bypassed",
        "row_groups_failed",
        "rows",
        "bytes",
        "origin_bytes",
        "failures",
    ];
    let mut keys = keys(document);
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(document["complete"], false);
    assert_eq!(document["row_groups_cached"], 119);
    assert_eq!(document["failures"][0]["row_group"], "s3://bucket/x#rg0");
    assert_eq!(document["failures"][0]["message"], "403 Forbidden");
}

#[tokio::test]
async fn a_reader_that_left_does_not_change_the_exit_code() {
    for (last, exit) in [(done(), Exit::Success), (WarmProgress { row_groups_failed: 1, ..done() }, Exit::Failed)] {
        let node = fake([last]).serve().await;
        let (ended, err) = roost_to(BrokenPipe(0), &format!("{WARM} --json"), &node.address.to_string()).await;
        assert_eq!(ended, exit);
        assert!(!err.contains("pipe"), "{err}");
    }
}
