use proptest::prelude::*;

use super::*;

proptest! {
    /// The window has just the rows of a slice of the whole.
    #[test]
    fn windows_are_slices(
        rows in proptest::collection::vec(1u64..9, 0..20),
        skip in 0u64..120,
        limit in proptest::option::of(0u64..120),
    ) {
        let all: Vec<(u64, u64)> =
            rows.iter().enumerate().flat_map(|(b, n)| (0..*n).map(move |row| (b as u64, row))).collect();
        let begin = all.len().min(skip as usize);
        let end = limit.map_or(all.len(), |limit| all.len().min(begin + limit as usize));
        let window = Window::cut(&rows, skip, limit);
        let found: Vec<(u64, u64)> = rows
            .iter()
            .enumerate()
            .map(|(b, n)| window.of(b as u64, *n))
            .flat_map(|cut| (cut.from..cut.until).map(move |row| (cut.block, row)))
            .collect();
        prop_assert_eq!(window.rows, found.len() as u64);
        prop_assert_eq!(&found, &all[begin..end]);
        let touched = found.last().map_or(0..0, |last| found[0].0..last.0 + 1);
        prop_assert_eq!(window.blocks.clone(), touched);
        if skip == 0 && limit.is_none() {
            let whole = Window::whole(rows.len() as u64, window.rows);
            prop_assert!((0..rows.len() as u64).all(|b| whole.of(b, rows[b as usize]) == window.of(b, rows[b as usize])));
        }
    }

    #[test]
    fn shards_are_what_is_left_by_division(start in 0u64..30, len in 0u64..60, world in 1u64..9) {
        for rank in 0..world {
            let (first, count) = Shard::new(rank, world).unwrap().blocks(start, start + len);
            let found: Vec<u64> = (0..count).map(|i| first + i * world).collect();
            prop_assert_eq!(found, (start..start + len).filter(|b| b % world == rank).collect::<Vec<_>>());
        }
    }

    #[test]
    fn even_ranks_are_equal(rows in proptest::collection::vec(1u64..9, 0..40), first in 0u64..10, world in 1u64..9) {
        let own = even_rows(rows.iter().copied(), first, world, Even::None).unwrap();
        prop_assert_eq!(own.iter().sum::<u64>(), rows.iter().sum::<u64>());
        for rank in 0..world {
            let expected: u64 =
                rows.iter().enumerate().filter(|(i, _)| (first + *i as u64) % world == rank).map(|(_, n)| n).sum();
            prop_assert_eq!(own[rank as usize], expected);
        }
        for (even, target) in [(Even::Drop, own.iter().min()), (Even::Repeat, own.iter().max())] {
            match even_rows(rows.iter().copied(), first, world, even) {
                Ok(all) => prop_assert!(all.iter().all(|n| Some(n) == target)),
                Err(error) => {
                    prop_assert!(!rows.is_empty() && own.contains(&0));
                    prop_assert!(error.message().contains("evenly"), "{}", error);
                }
            }
        }
    }
}

#[test]
fn a_rank_is_below_the_world_size() {
    assert_eq!(Shard::new(0, 0).unwrap(), Shard { rank: 0, world: 1 });
    assert!(Shard::new(2, 2).unwrap_err().message().contains("rank is 2"));
}
