use super::*;

fn pauses(retry: Retry, nodes: usize) -> Vec<u64> {
    let mut attempts = Attempts::new(retry, nodes);
    std::iter::from_fn(|| attempts.failed()).map(|pause| pause.as_millis() as u64).collect()
}

#[test]
fn one_node_is_tried_with_growing_pauses_up_to_the_longest() {
    assert_eq!(pauses(Retry::default(), 1), [100, 200, 400, 800, 1600, 2000, 2000]);
}

#[test]
fn the_other_nodes_come_before_the_first_pause() {
    let retry = Retry { rounds: 2, ..Retry::default() };
    assert_eq!(pauses(retry, 3), [0, 0, 100, 0, 0]);
}

#[test]
fn progress_starts_the_count_anew() {
    let mut attempts = Attempts::new(Retry { rounds: 2, ..Retry::default() }, 1);
    assert!(attempts.failed().is_some());
    attempts.progressed();
    assert!(attempts.failed().is_some());
    assert!(attempts.failed().is_none());
}

#[test]
fn absurd_settings_neither_overflow_nor_divide_by_zero() {
    let mut attempts = Attempts::new(Retry { rounds: u32::MAX, ..Retry::default() }, 0);
    for _ in 0..100 {
        assert!(attempts.failed().is_some_and(|pause| pause <= Duration::from_secs(2)));
    }
    assert!(Attempts::new(Retry { rounds: 0, ..Retry::default() }, 1).failed().is_none());
}
