//! plan, ls, stat, evict, pin, unpin.

use super::*;
use crate::testing::URL;
use base64::Engine;
use roost_proto::v1::{CacheDirectory, CacheStats, CachedDataset, Job};
use serde_json::json;

#[tokio::test]
async fn plan_is_a_table_and_a_summary() {
    let fake = Fake::new(3, 2);
    let ended = roost("plan s3://bucket/train/ --columns b,a --limit 7 --job train --refresh", &fake).await;
    assert_eq!((ended.exit, ended.err.as_str()), (Exit::Success, ""));
    assert_eq!(
        ended.out(),
        "\
TICKET  ROW GROUPS            ROWS   BYTES
     0  part-0.parquet#rg0-1    20  2.0 kB
     1  part-1.parquet#rg0-1    20  2.0 kB
     2  part-2.parquet#rg0-1    20  2.0 kB

s3://bucket/train/: 3 tickets of 6 row groups in 3 objects, 60 rows, about 6.0 kB decoded; job train
"
    );
    let request = fake.state().plans.remove(0);
    assert_eq!((request.limit, request.count, request.job.as_str(), request.refresh), (Some(7), 50, "train", true));
    assert_eq!(request.columns.unwrap().names, ["b", "a"]);
}

#[tokio::test]
async fn plan_shows_50_tickets_and_how_to_see_more() {
    let fake = Fake::new(60, 1);
    let ended = roost("plan s3://bucket/train/", &fake).await;
    assert!(ended.out().contains("\n    49  part-49"), "{}", ended.out());
    assert!(ended.out().ends_with("50 tickets shown; --from 50 shows the next, --count 0 all\n"), "{}", ended.out());
    let ended = roost("plan s3://bucket/train/ --from 50", &fake).await;
    assert!(ended.out().contains("\n    50  part-50") && !ended.out().contains("shown"), "{}", ended.out());
    let all = roost("plan s3://bucket/train/ --count 0", &fake).await;
    assert_eq!(all.out().lines().count(), 63);
}

#[tokio::test]
async fn plan_json_has_all_tickets_and_what_reads_them() {
    let fake = Fake::new(60, 1);
    fake.state().page = 25;
    let ended = roost("plan s3://bucket/train/ --json", &fake).await;
    let documents = ended.json();
    let [document] = documents.as_slice() else { panic!("{}", ended.out()) };
    assert_eq!(
        (&document["url"], &document["job"], &document["rows"], &document["bytes"]),
        (&json!(URL), &json!("job-1"), &json!(600), &json!(60_000))
    );
    assert_eq!(
        (&document["tickets_total"], &document["from"], &document["next"]),
        (&json!(60), &json!(0), &json!(null))
    );
    assert_eq!(document["fingerprint"], hex::encode("plan"));
    assert_eq!(document["schema"][0], json!({"name": "id", "type": "Int64", "nullable": false}));
    let tickets = document["tickets"].as_array().unwrap();
    assert_eq!(tickets.len(), 60);
    let last = &tickets[59];
    assert_eq!(last["index"], 59);
    let piece =
        json!({"url": format!("{URL}part-59.parquet"), "row_group": 0, "row_groups": 2, "rows": 10, "rows_cut": 0});
    assert_eq!(last["pieces"], json!([piece]));
    let bytes = base64::engine::general_purpose::STANDARD.decode(last["ticket"].as_str().unwrap()).unwrap();
    let ticket = <roost_proto::v1::SignedTicket as prost::Message>::decode(bytes.as_slice()).unwrap();
    assert_eq!(ticket.payload.as_ref(), 59u64.to_le_bytes());
}

fn cached() -> Vec<CachedDataset> {
    vec![
        CachedDataset {
            url: "s3://bucket/train/".into(),
            objects: 2,
            row_groups: 1500,
            bytes: 5_000_000,
            held: true,
            ..Default::default()
        },
        CachedDataset {
            url: "file:///data/".into(),
            objects: 1,
            row_groups: 3,
            row_groups_total: 4,
            fragments: 5,
            bytes: 42,
            bytes_total: 50,
            pinned: true,
            ..Default::default()
        },
    ]
}

#[tokio::test]
async fn ls_is_a_table_in_the_order_of_urls() {
    let fake = Fake::new(1, 1);
    fake.state().cached = cached();
    let ended = roost("ls s3://bucket/", &fake).await;
    assert_eq!((ended.exit, ended.err.as_str()), (Exit::Success, ""));
    assert_eq!(
        ended.out(),
        "\
URL                 OBJECTS  CACHED   BYTES  PINNED  HELD
file:///data/             1     3/4    42 B  yes     -
s3://bucket/train/        2   1,500  5.0 MB  -       yes
"
    );
    assert_eq!(fake.state().criteria, ["s3://bucket/"]);
}

#[tokio::test]
async fn ls_json_is_a_line_each_and_unknown_totals_are_null() {
    let fake = Fake::new(1, 1);
    fake.state().cached = cached();
    let first = json!({
        "url": "file:///data/", "objects": 1, "row_groups": 3, "row_groups_total": 4, "fragments": 5, "bytes": 42,
        "bytes_total": 50, "pinned": true, "held": false,
    });
    let documents = roost("ls --json", &fake).await.json();
    assert_eq!(documents[0], first);
    assert_eq!((&documents[1]["row_groups_total"], &documents[1]["held"]), (&json!(null), &json!(true)));
}

#[tokio::test]
async fn ls_of_an_empty_cache_says_what_to_do() {
    let fake = Fake::new(1, 1);
    let ended = roost("ls", &fake).await;
    assert_eq!((ended.exit, ended.out()), (Exit::Success, ""));
    assert!(ended.err.contains("nothing is cached") && ended.err.contains("roost warm"), "{}", ended.err);
    let ended = roost("ls --json", &fake).await;
    assert_eq!((ended.out(), ended.err.as_str()), ("", ""));
}

fn stats() -> CacheStats {
    let directory = |path: &str, error: &str| CacheDirectory {
        path: path.into(),
        used_bytes: 60_000_000_000,
        free_bytes: 40_000_000_000,
        min_free_bytes: 1_000_000_000,
        error: error.into(),
    };
    CacheStats {
        version: "0.1.0".into(),
        uptime_seconds: 11_220,
        capacity_bytes: 100_000_000_000,
        used_bytes: 62_000_000_000,
        held_bytes: 10_000_000_000,
        hits: 1234,
        misses: 1,
        origin_requests: 99,
        recovering: true,
        directories: vec![directory("/nvme0", ""), directory("/nvme1", "read-only file system")],
        jobs: vec![Job { name: "job-1".into(), dataset: URL.into(), idle_seconds: 5, ..Default::default() }],
        pinned: vec![URL.into()],
        ..Default::default()
    }
}

#[tokio::test]
async fn stat_is_for_people() {
    let fake = Fake::new(1, 1);
    fake.state().stats = stats();
    let ended = roost("stat", &fake).await;
    assert_eq!((ended.exit, ended.err.as_str()), (Exit::Success, ""));
    for part in [
        ", roost 0.1.0, up 3h 7m, still taking stock of its disks\n",
        "disk    62.0 GB of 100 GB used (62%): 10.0 GB held, 0 B pinned, 0 B evictable\n",
        "reads   1,234 hits, 1 misses (100% hit); 0 bypassed, 0 evicted, 0 damaged\n",
        "pinned  s3://bucket/train/\n",
        "DIRECTORY     USED     FREE  KEPT FREE  STATE\n",
        "/nvme0     60.0 GB  40.0 GB     1.0 GB  ok\n",
        "/nvme1     60.0 GB  40.0 GB     1.0 GB  read-only file system\n",
        "job-1  s3://bucket/train/    5s   0 B         0 B\n",
    ] {
        assert!(ended.out().contains(part), "{part:?} is missing:\n{}", ended.out());
    }
}

#[tokio::test]
async fn stat_json_has_every_number_of_the_node() {
    let fake = Fake::new(1, 1);
    fake.state().stats = stats();
    let document = roost("stat --json", &fake).await.json().remove(0);
    let mut keys = keys(&document);
    keys.sort_unstable();
    let mut expected = [
        "node",
        "version",
        "uptime_seconds",
        "recovering",
        "capacity_bytes",
        "used_bytes",
        "held_bytes",
        "pinned_bytes",
        "evictable_bytes",
        "memory_limit_bytes",
        "memory_used_bytes",
        "fragments",
        "row_groups",
        "hits",
        "misses",
        "bypasses",
        "evictions",
        "damaged",
        "origin_requests",
        "origin_bytes",
        "served_bytes",
        "served_rows",
        "directories",
        "jobs",
        "pinned",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!((&document["used_bytes"], &document["recovering"]), (&json!(62_000_000_000u64), &json!(true)));
    assert_eq!(document["directories"][1]["error"], "read-only file system");
    assert_eq!(document["jobs"][0]["dataset"], URL);
}

#[tokio::test]
async fn evict_pin_and_unpin_say_what_they_did() {
    let fake = Fake::new(1, 1);
    for (line, out, document) in [
        (
            "evict s3://bucket/train/",
            "evicted 12 fragments, 1.9 GB of s3://bucket/train/\n",
            json!({"url": URL, "fragments": 12, "bytes": 1_900_000_000}),
        ),
        (
            "pin s3://bucket/train/",
            "pinned s3://bucket/train/; pinned on this node now: s3://other/ s3://bucket/train/\n",
            json!({"url": URL, "pinned": ["s3://other/", URL]}),
        ),
        (
            "unpin s3://bucket/train/",
            "unpinned s3://bucket/train/; pinned on this node now: nothing\n",
            json!({"url": URL, "pinned": []}),
        ),
    ] {
        let ended = roost(line, &fake).await;
        assert_eq!((ended.exit, ended.out(), ended.err.as_str()), (Exit::Success, out, ""));
        assert_eq!(roost(&format!("{line} --json"), &fake).await.json(), [document]);
    }
    let actions: Vec<_> = fake.state().actions.iter().map(|(action, _)| action.clone()).collect();
    assert_eq!(actions, ["roost.evict", "roost.evict", "roost.pin", "roost.pin", "roost.unpin", "roost.unpin"]);
}
