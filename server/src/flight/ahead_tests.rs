use super::*;
use crate::plan::order::Shuffling;

fn query(shuffle: Shuffle, epoch: u64) -> Query {
    Query { order: Shuffling { shuffle, seed: 7, epoch, block: 0 }, ..Query::default() }
}

fn next_of(ahead: &Ahead) -> Vec<u64> {
    ahead.list().iter().map(|(_, next)| next.query.order.epoch).collect()
}

#[test]
fn the_epoch_behind_the_one_that_is_read_comes_next() {
    let (ahead, url): (_, Arc<str>) = (Ahead::default(), "s3://b/d/".into());
    // All planned before anything is read.
    for epoch in 0..3 {
        ahead.planned(&format!("job-{epoch}"), &url, &query(Shuffle::Rows, epoch));
    }
    assert!(next_of(&ahead).is_empty());
    assert!(!ahead.reads("job-0", &url), "nothing was filled for the first");
    assert!(!ahead.reads("job-0", &url));
    assert_eq!(next_of(&ahead), [1]);
    assert!(ahead.reads("job-1", &url));
    assert!(!ahead.reads("job-0", &url), "a reader that is behind changes nothing");
    assert_eq!(next_of(&ahead), [2]);
    assert!(!ahead.reads("job-9", &url), "nobody planned that");
    ahead.forget(|_| false);
    assert!(next_of(&ahead).is_empty());
}

#[test]
fn plans_in_natural_order_have_no_next_epoch() {
    let (ahead, url): (_, Arc<str>) = (Ahead::default(), "s3://b/d/".into());
    ahead.planned("job", &url, &query(Shuffle::None, 0));
    assert!(!ahead.reads("job", &url));
    assert!(next_of(&ahead).is_empty());
}

#[test]
fn progress_of_an_epoch_that_began_meanwhile_is_dropped() {
    let (ahead, url): (_, Arc<str>) = (Ahead::default(), "s3://b/d/".into());
    ahead.planned("a", &url, &query(Shuffle::RowGroups, 0));
    ahead.planned("b", &url, &query(Shuffle::RowGroups, 1));
    ahead.reads("a", &url);
    let (_, mut seen) = ahead.list().remove(0);
    seen.done = 5;
    ahead.note(&url, &seen);
    assert_eq!(ahead.list()[0].1.done, 5);
    ahead.reads("b", &url);
    seen.done = 6;
    ahead.note(&url, &seen);
    assert_eq!(ahead.list()[0].1.done, 0);
}

#[test]
fn what_is_spent_ahead_is_a_twentieth_while_readers_wait_and_within_the_bandwidth() {
    let now = Instant::now();
    let mut spending = Spending::new(1000, 500);
    assert!(spending.may(true, 500, now), "the first one");
    spending.spent(100, now);
    assert!(!spending.may(false, 600, now), "100 bytes at 1000 a second take 100 ms");
    let later = now + Duration::from_millis(100);
    assert!(spending.may(false, 600, later), "nobody waits");
    assert!(!spending.may(true, 600, later));
    assert!(!spending.may(true, 600 + 1999, later));
    assert!(spending.may(true, 600 + 2000, later));
}
