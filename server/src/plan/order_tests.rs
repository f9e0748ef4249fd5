use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!("../../../proto/vectors/order.json");

fn order(counts: &[u64], shuffle: Shuffle, seed: u64, epoch: u64, block: u64) -> Order {
    let shuffling = Shuffling { shuffle, seed, epoch, block };
    let block = shuffling.block_of(counts.iter().sum(), 0).unwrap();
    Order::new(counts.len() as u64, |object| counts[object], shuffling, block)
}

fn sequence(order: &Order) -> Vec<Vec<(usize, usize)>> {
    let members = |block| (0..order.size(block)).map(move |member| order.member(block, member)).collect();
    (0..order.blocks()).map(members).collect()
}

fn shuffles() -> impl Strategy<Value = Shuffle> {
    prop_oneof![Just(Shuffle::None), Just(Shuffle::RowGroups), Just(Shuffle::Rows)]
}

proptest! {
    #[test]
    fn permutations_are_permutations(n in 0u64..3000, key: u64) {
        let permutation = Permutation::new(n, key);
        let mut all: Vec<u64> = (0..n).map(|place| permutation.at(place)).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
    }

    /// Every row group once; places, blocks and sums agree.
    #[test]
    fn each_row_group_stands_at_one_place(
        counts in proptest::collection::vec(0u64..9, 0..40),
        shuffle in shuffles(),
        seed: u64,
        epoch in 0u64..5,
        block in 1u64..30,
    ) {
        let block = if shuffle == Shuffle::Rows { block } else { 1 };
        let order = order(&counts, shuffle, seed, epoch, block);
        let blocks = sequence(&order);
        let mut found: Vec<_> = blocks.iter().flatten().copied().collect();
        let natural: Vec<_> =
            counts.iter().enumerate().flat_map(|(o, n)| (0..*n as usize).map(move |g| (o, g))).collect();
        if shuffle == Shuffle::None {
            prop_assert_eq!(&found, &natural);
        }
        found.sort_unstable();
        prop_assert_eq!(found, natural);
        let mut place = 0;
        for (block, members) in blocks.iter().enumerate() {
            prop_assert_eq!(order.start(block as u64), place);
            for member in 0..members.len() {
                prop_assert_eq!(order.block_at(place), (block as u64, member as u64));
                place += 1;
            }
        }
        prop_assert_eq!((order.start(order.blocks()), order.len()), (place, place));
        let weight = |object: usize, group: usize| (object * 100 + group) as u64;
        let sums: Vec<u64> = blocks.iter().map(|b| b.iter().map(|&(o, g)| weight(o, g)).sum()).collect();
        prop_assert_eq!(order.sum_by_block(weight), sums);
    }

    /// No block has more row groups of one object than the fullest must have, and sizes differ by one at most.
    #[test]
    fn blocks_draw_from_different_objects(
        counts in proptest::collection::vec(0u64..30, 1..40),
        seed: u64,
        block in 1u64..30,
    ) {
        let order = order(&counts, Shuffle::Rows, seed, 1, block);
        for (number, members) in sequence(&order).iter().enumerate() {
            prop_assert!(members.len() as u64 <= block);
            prop_assert!(order.size(0) - members.len() as u64 <= 1, "block {number} of {}", members.len());
            let mut of: HashMap<usize, u64> = HashMap::new();
            members.iter().for_each(|(object, _)| *of.entry(*object).or_default() += 1);
            for (object, found) in of {
                prop_assert!(found <= counts[object].div_ceil(order.blocks()), "{found} of object {object}");
            }
        }
    }

    #[test]
    fn rows_are_permuted(rows in 0u64..2000, seed: u64, block in 0u64..9) {
        let mut found = row_order(rows, seed, 3, block);
        found.sort_unstable();
        prop_assert_eq!(found, (0..rows).collect::<Vec<_>>());
    }
}

/// Each order of a few things comes about as often as every other.
#[test]
fn small_permutations_are_fair() {
    for n in 2..=5u64 {
        let draws = 24_000;
        let mut counts: HashMap<Vec<u64>, u64> = HashMap::new();
        for seed in 0..draws {
            let permutation = Permutation::new(n, key(seed, 0, Purpose::Blocks, 0));
            *counts.entry((0..n).map(|place| permutation.at(place)).collect()).or_default() += 1;
        }
        let orders: u64 = (1..=n).product();
        let expected = draws as f64 / orders as f64;
        let absent = orders - counts.len() as u64;
        let chi2 =
            counts.values().map(|&c| (c as f64 - expected).powi(2) / expected).sum::<f64>() + absent as f64 * expected;
        let freedom = (orders - 1) as f64;
        assert!(chi2 < freedom + 5.0 * (2.0 * freedom).sqrt() + 5.0, "{n}: chi² {chi2} of {freedom}");
    }
}

/// Where a row group stands in one epoch tells nothing of where it stands in the next.
#[test]
fn epochs_are_not_alike() {
    let counts = vec![10; 100];
    let place = |epoch| {
        let order = order(&counts, Shuffle::RowGroups, 7, epoch, 1);
        let mut places = vec![0f64; 1000];
        for place in 0..1000 {
            let (object, group) = order.member(place, 0);
            places[object * 10 + group] = place as f64 - 499.5;
        }
        places
    };
    let (one, two) = (place(0), place(1));
    let correlation = one.iter().zip(&two).map(|(a, b)| a * b).sum::<f64>() / one.iter().map(|a| a * a).sum::<f64>();
    assert!(correlation.abs() < 0.12, "{correlation}");
    let natural: f64 = one.iter().enumerate().map(|(i, a)| (i as f64 - 499.5) * a).sum();
    assert!((natural / one.iter().map(|a| a * a).sum::<f64>()).abs() < 0.12);
}

#[test]
fn blocks_have_a_size_that_fits_memory_and_ranks() {
    let rows = |block| Shuffling { shuffle: Shuffle::Rows, block, ..Default::default() };
    assert_eq!(rows(0).block_of(0, 0).unwrap(), 1);
    assert_eq!(rows(0).block_of(10, 10 << 20).unwrap(), 1, "few row groups");
    assert_eq!(rows(0).block_of(1600, 1600 << 20).unwrap(), 100, "a sixteenth");
    assert_eq!(rows(0).block_of(16_000, 16_000 << 22).unwrap(), 64, "by memory: 4 MiB each");
    assert_eq!(rows(0).block_of(1 << 20, u64::MAX).unwrap(), 1, "huge row groups");
    assert_eq!(rows(50).block_of(10, 0).unwrap(), 10);
    let others = Shuffling { shuffle: Shuffle::RowGroups, block: 2, ..Default::default() };
    assert!(others.block_of(10, 0).unwrap_err().message().contains("block of 2"));
}

fn number(value: &Value) -> u64 {
    // JSON's numbers are exact only to 2^53, so large ones are text.
    value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// The values that other implementations are held to.
#[test]
fn vectors_hold() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    for case in vectors["mix"].as_array().unwrap() {
        assert_eq!(mix(number(&case[0])), number(&case[1]));
    }
    for case in vectors["key"].as_array().unwrap() {
        let purpose = [Purpose::Objects, Purpose::RowGroups, Purpose::Blocks, Purpose::Rows];
        let purpose = purpose[number(&case["purpose"]) as usize - 1];
        let found = key(number(&case["seed"]), number(&case["epoch"]), purpose, number(&case["index"]));
        assert_eq!(found, number(&case["key"]), "{case}");
    }
    for case in vectors["permutation"].as_array().unwrap() {
        let permutation = Permutation::new(number(&case["n"]), number(&case["key"]));
        let found: Vec<u64> = numbers(&case["places"]).into_iter().map(|place| permutation.at(place)).collect();
        assert_eq!(found, numbers(&case["values"]), "{case}");
    }
    for case in vectors["rows"].as_array().unwrap() {
        let (rows, seed, epoch) = (number(&case["rows"]), number(&case["seed"]), number(&case["epoch"]));
        let found = row_order(rows, seed, epoch, number(&case["block"]));
        assert_eq!(found[..numbers(&case["order"]).len()], numbers(&case["order"]), "{case}");
    }
    for case in vectors["default_block"].as_array().unwrap() {
        let rows = Shuffling { shuffle: Shuffle::Rows, ..Default::default() };
        let found = rows.block_of(number(&case["row_groups"]), number(&case["bytes"])).unwrap();
        assert_eq!(found, number(&case["block"]), "{case}");
    }
    let cases = vectors["orders"].as_array().unwrap();
    assert!(cases.len() > 5);
    for case in cases {
        let shuffle = match case["shuffle"].as_str().unwrap() {
            "none" => Shuffle::None,
            "row_groups" => Shuffle::RowGroups,
            _ => Shuffle::Rows,
        };
        let counts = numbers(&case["counts"]);
        let found = order(&counts, shuffle, number(&case["seed"]), number(&case["epoch"]), number(&case["block"]));
        assert_eq!(found.blocks(), number(&case["blocks"]), "{case}");
        for expected in case["members"].as_array().unwrap() {
            let block = number(&expected["block"]);
            let members: Vec<_> = (0..found.size(block)).map(|member| found.member(block, member)).collect();
            let groups = expected["row_groups"].as_array().unwrap().iter().map(numbers);
            assert_eq!(members, groups.map(|g| (g[0] as usize, g[1] as usize)).collect::<Vec<_>>(), "{case}");
        }
    }
}

#[test]
fn a_million_row_groups_are_ordered_at_once() {
    let counts = vec![1u64; 1_000_000];
    let began = std::time::Instant::now();
    let order = order(&counts, Shuffle::Rows, 1, 2, 64);
    let sums = order.sum_by_block(|_, _| 1);
    assert_eq!((sums.len(), sums.iter().sum::<u64>()), (15_625, 1_000_000));
    // Generous: machines that test are busy. It takes about a tenth.
    assert!(began.elapsed().as_secs_f64() < 2.0, "{:?}", began.elapsed());
}
