use super::*;
use proptest::prelude::*;

#[test]
fn small_row_groups_are_packed_and_large_ones_stand_alone() {
    let small = (6_144, 4_900_000);
    let runs = pack(vec![small; 20]);
    assert_eq!(runs.iter().map(|r| (r.first, r.count)).collect::<Vec<_>>(), [(0, 6), (6, 6), (12, 6), (18, 2)]);
    let large = (1_000_000, 200 << 20);
    assert_eq!(pack([small, large, small]).iter().map(|r| r.count).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn row_groups_without_rows_make_no_run_of_their_own() {
    assert!(pack([(0, 0), (0, 0)]).is_empty());
    let runs = pack([(0, 0), (10, 100), (0, 0), (1 << 20, 1 << 30), (0, 0)]);
    assert_eq!(runs.iter().map(|r| (r.first, r.count, r.rows)).collect::<Vec<_>>(), [(0, 3, 10), (3, 2, 1 << 20)]);
}

/// These numbers are part of the layout on disk.
#[test]
fn batch_rows_are_pinned() {
    assert_eq!(batch_rows(1, 0), 1);
    assert_eq!(batch_rows(10, 1 << 30), 1);
    assert_eq!(batch_rows(1_000_000, 160_000_000), 100_032);
    assert_eq!(batch_rows(6_144, 4_915_200), 6_144);
    assert_eq!(batch_rows(3_000_000, 3_000_000), 1_000_000u32.next_multiple_of(64));
    assert_eq!(batch_rows(1_000, 100_000_000), 192);
}

proptest! {
    #[test]
    fn runs_cover_each_row_once_and_batches_each_run(
        sizes in proptest::collection::vec((0u64..200_000, 0u64..(64 << 20)), 0..60)
    ) {
        let runs = pack(sizes.clone());
        prop_assert_eq!(runs.iter().map(|r| r.rows).sum::<u64>(), sizes.iter().map(|s| s.0).sum::<u64>());
        let mut next = 0u32;
        for run in &runs {
            prop_assert!(run.first >= next);
            for skipped in next..run.first {
                prop_assert_eq!(sizes[skipped as usize].0, 0);
            }
            next = run.first + run.count;
            prop_assert_eq!((0..run.batches()).map(|b| run.rows_of(b)).sum::<u64>(), run.rows);
            prop_assert!((0..run.batches()).all(|b| run.rows_of(b) > 0));
            let full = sizes[run.row_groups()].iter().filter(|s| s.0 > 0).count();
            prop_assert!(full == 1 || (run.rows <= RUN_ROWS && run.bytes <= RUN_BYTES));
        }
    }
}
