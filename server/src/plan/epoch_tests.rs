//! Plans of epochs, against sequences of rows that are written out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::order::{Order, Shuffle, Shuffling, row_order};
use super::shard::{Even, Shard};
use super::*;
use crate::dataset::runs::pack;
use crate::dataset::{Snapshot, SnapshotObject};
use crate::origin::{ObjectMeta, Tag};

const BASE: &str = "s3://b/d/";

fn snapshot(objects: &[Vec<u64>]) -> Snapshot {
    let objects = objects.iter().enumerate().map(|(i, rows)| {
        let url = format!("{BASE}{i:06}.parquet").into();
        let meta = ObjectMeta { url, size: 1000, tag: Tag::ETag(i.to_string()) };
        // So large that no two share a run.
        let runs = pack(rows.iter().map(|&rows| (rows, 40 << 20))).into_boxed_slice();
        SnapshotObject { key: meta.key(), meta, runs }
    });
    let schema = Schema::new(vec![Field::new("a", DataType::Int64, true)]);
    Snapshot::new(BASE, BASE, Arc::new(schema), objects.collect(), 0, vec![10])
}

/// A row: its object, run, and ordinal there.
type Row = (String, u32, u64);

/// All rows of the epoch in order, by block.
fn model(snapshot: &Snapshot, shuffling: Shuffling) -> Vec<Vec<Row>> {
    let block = shuffling.block_of(snapshot.runs(), snapshot.bytes).unwrap();
    let objects = &snapshot.objects;
    let order = Order::new(objects.len() as u64, |o| objects[o].runs.len() as u64, shuffling, block);
    let rows_of = |number| {
        let mut rows = Vec::new();
        for member in 0..order.size(number) {
            let (object, run) = order.member(number, member);
            let (object, run) = (&objects[object], objects[object].runs[run]);
            rows.extend((0..run.rows).map(|row| (object.meta.url.to_string(), run.first, row)));
        }
        if shuffling.shuffle == Shuffle::Rows {
            let order = row_order(rows.len() as u64, shuffling.seed, shuffling.epoch, number);
            rows = order.into_iter().map(|at| rows[at as usize].clone()).collect();
        }
        rows
    };
    (0..order.blocks()).map(rows_of).collect()
}

/// What a reader makes of all pages: rows by block, in the order in which the blocks came.
fn read(snapshot: &Snapshot, query: &Query) -> Vec<(u64, Vec<Row>)> {
    let mut query = query.clone();
    let mut endpoints = Vec::new();
    loop {
        let page = page(snapshot, &query).unwrap();
        endpoints.extend(page.tickets.into_iter().map(|(_, endpoint)| endpoint));
        match page.info.next {
            Some(next) => query.from = next,
            None => break assert_eq!(endpoints.len() as u64, page.info.tickets),
        }
    }
    let mut blocks: Vec<(u64, Vec<Row>)> = Vec::new();
    let mut at = 0;
    while at < endpoints.len() {
        let members = &endpoints[at..at + endpoints[at].members as usize];
        let mut rows = Vec::new();
        for (number, member) in members.iter().enumerate() {
            assert_eq!((member.block, member.member), (members[0].block, number as u64));
            assert_eq!(member.rows, member.pieces.iter().map(|p| p.rows - p.rows_cut).sum::<u64>());
            let piece = &member.pieces[0];
            rows.extend((0..piece.rows - piece.rows_cut).map(|row| (piece.url.clone(), piece.row_group, row)));
        }
        if query.order.shuffle == Shuffle::Rows {
            let order = row_order(rows.len() as u64, query.order.seed, query.order.epoch, members[0].block);
            rows = order.into_iter().map(|at| rows[at as usize].clone()).collect();
        }
        rows.truncate(members[0].until_row.unwrap_or(u64::MAX) as usize);
        rows.drain(..members[0].from_row as usize);
        blocks.push((members[0].block, rows));
        at += members.len();
    }
    blocks
}

fn shufflings() -> impl Strategy<Value = Shuffling> {
    let shuffle = prop_oneof![Just(Shuffle::None), Just(Shuffle::RowGroups), Just(Shuffle::Rows)];
    (shuffle, any::<u64>(), 0u64..4, 0u64..6).prop_map(|(shuffle, seed, epoch, block)| {
        let block = if shuffle == Shuffle::Rows { block } else { 0 };
        Shuffling { shuffle, seed, epoch, block }
    })
}

fn data_sets() -> impl Strategy<Value = Vec<Vec<u64>>> {
    proptest::collection::vec(proptest::collection::vec(1u64..30, 0..6), 0..12)
}

proptest! {
    /// All ranks together read the plan's rows, each block whole and as the model has it, however they are paged.
    #[test]
    fn ranks_share_the_sequence(
        objects in data_sets(),
        order in shufflings(),
        world in 1u64..7,
        count in 0u64..9,
        skip in 0u64..300,
        limit in proptest::option::of(0u64..500),
    ) {
        let snapshot = snapshot(&objects);
        let skip = skip.saturating_sub(150);
        let whole = model(&snapshot, order);
        let sequence: Vec<(u64, Row)> =
            (0..).zip(&whole).flat_map(|(b, rows)| rows.iter().map(move |row| (b, row.clone()))).collect();
        let begin = sequence.len().min(skip as usize);
        let end = limit.map_or(sequence.len(), |limit| sequence.len().min(begin + limit as usize));
        let mut expected: Vec<(u64, Vec<Row>)> = Vec::new();
        for (block, row) in &sequence[begin..end] {
            match expected.last_mut() {
                Some((last, rows)) if last == block => rows.push(row.clone()),
                _ => expected.push((*block, vec![row.clone()])),
            }
        }
        let query = Query { order, skip, limit, count, ..Default::default() };
        prop_assert_eq!(&read(&snapshot, &query), &expected);
        let info = page(&snapshot, &Query { block_rows: true, ..query.clone() }).unwrap().info;
        prop_assert_eq!((info.rows, info.plan_rows), ((end - begin) as u64, (end - begin) as u64));
        prop_assert_eq!(info.block_rows, whole.iter().map(|rows| rows.len() as u64).collect::<Vec<_>>());
        let mut all = Vec::new();
        for rank in 0..world {
            let query = Query { shard: Some(Shard { rank, world }), ..query.clone() };
            let part = read(&snapshot, &query);
            let rows: u64 = part.iter().map(|(_, rows)| rows.len() as u64).sum();
            let shown = page(&snapshot, &query).unwrap().info;
            prop_assert_eq!((shown.rows, shown.rank_rows, &shown.fingerprint), (rows, Some(rows), &info.fingerprint));
            prop_assert!(part.iter().all(|(block, _)| block % world == rank));
            all.extend(part);
        }
        all.sort_by_key(|(block, _)| *block);
        prop_assert_eq!(&all, &expected);
        // A reader that resumes asks for blocks by number.
        let blocks: Vec<u64> = expected.iter().rev().step_by(2).map(|(block, _)| *block).collect();
        if !blocks.is_empty() {
            let some = read(&snapshot, &Query { blocks, ..query.clone() });
            let picked: Vec<_> = expected.iter().rev().step_by(2).cloned().collect();
            prop_assert_eq!(some, picked);
        }
    }
}

#[test]
fn fingerprints_are_of_the_sequence_and_not_of_who_reads() {
    let snapshot = snapshot(&vec![vec![10; 5]; 8]);
    let fingerprint = |query: &Query| page(&snapshot, query).unwrap().info.fingerprint;
    let rows = Shuffling { shuffle: Shuffle::Rows, seed: 1, epoch: 2, block: 4 };
    let query = |order| Query { order, ..Default::default() };
    let mut seen = std::collections::HashSet::new();
    for order in [
        Shuffling::default(),
        rows,
        Shuffling { seed: 2, ..rows },
        Shuffling { epoch: 3, ..rows },
        Shuffling { block: 5, ..rows },
        Shuffling { shuffle: Shuffle::RowGroups, block: 1, ..rows },
    ] {
        assert!(seen.insert(fingerprint(&query(order))), "{order:?}");
        assert!(seen.insert(fingerprint(&Query { skip: 3, ..query(order) })), "{order:?}");
    }
    let one = fingerprint(&query(rows));
    let shard = Some(Shard { rank: 1, world: 3 });
    assert_eq!(one, fingerprint(&Query { shard, even: Even::Drop, ..query(rows) }));
    assert_eq!(one, fingerprint(&Query { blocks: vec![3], block_rows: true, ..query(rows) }));
    // A seed draws nothing where nothing is shuffled, and sizes that come to the same blocks are the same.
    assert_eq!(
        fingerprint(&query(Shuffling::default())),
        fingerprint(&query(Shuffling { seed: 9, ..Default::default() }))
    );
    let (six, seven) = (Shuffling { block: 39, ..rows }, Shuffling { block: 20, ..rows });
    assert_eq!(fingerprint(&query(six)), fingerprint(&query(seven)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let snapshot = snapshot(&vec![vec![10; 2]; 3]);
    let refused = |query: Query| page(&snapshot, &query).err().unwrap().message().to_owned();
    let blocks = Query { blocks: vec![1, 6], ..Default::default() };
    assert!(refused(blocks.clone()).contains("no block 6"), "{}", refused(blocks));
    let both = Query { blocks: vec![1], shard: Some(Shard { rank: 0, world: 2 }), ..Default::default() };
    assert!(refused(both).contains("world_size"));
    let even = Query { shard: Some(Shard { rank: 0, world: 7 }), even: Even::Repeat, ..Default::default() };
    assert!(refused(even).contains("6 blocks can't be shared evenly by 7 ranks"));
    let block = Query { order: Shuffling { block: 2, ..Default::default() }, ..Default::default() };
    assert!(refused(block).contains("shuffle = rows"));
    let cut = Query { blocks: vec![5], limit: Some(15), ..Default::default() };
    assert!(refused(cut).contains("no block 5"));
}

/// Even shares hold for every rank, and say how many rows they are.
#[test]
fn even_ranks_are_told_their_rows() {
    let snapshot = snapshot(&[vec![10, 7, 5], vec![3, 9]]);
    let order = Shuffling { shuffle: Shuffle::RowGroups, seed: 3, ..Default::default() };
    let rows = |rank, even| {
        let query = Query { order, shard: Some(Shard { rank, world: 2 }), even, ..Default::default() };
        page(&snapshot, &query).unwrap().info.rank_rows.unwrap()
    };
    let own = [rows(0, Even::None), rows(1, Even::None)];
    assert_eq!(own[0] + own[1], 34);
    for rank in 0..2 {
        assert_eq!(rows(rank, Even::Drop), own[0].min(own[1]));
        assert_eq!(rows(rank, Even::Repeat), own[0].max(own[1]));
    }
}

#[test]
fn a_million_row_groups_plan_their_first_page_at_once() {
    let snapshot = snapshot(&vec![vec![100; 10]; 100_000]);
    let order = Shuffling { shuffle: Shuffle::Rows, seed: 1, epoch: 2, block: 8 };
    let shard = Some(Shard { rank: 5, world: 64 });
    for query in [
        Query { order, ..Default::default() },
        Query { order, shard, even: Even::Drop, skip: 1000, limit: Some(90_000_000), ..Default::default() },
        Query { order, blocks: (0..1000).map(|b| b * 100).collect(), ..Default::default() },
    ] {
        let began = Instant::now();
        let page = page(&snapshot, &query).unwrap();
        assert!(page.tickets.len() > 7000, "{}", page.tickets.len());
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

#[test]
fn explained_is_what_is_selected() {
    let snapshot = snapshot(&vec![vec![10; 5]; 8]);
    let order = Shuffling { shuffle: Shuffle::Rows, seed: 1, epoch: 0, block: 4 };
    let first = |object: &SnapshotObject, run: Run| run.first == 0 && object.meta.url.ends_with("1.parquet");
    let all = explain::explain(&snapshot, &Query { order, ..Default::default() }, "grpc://n", first).unwrap();
    assert_eq!((all.row_groups_total, all.row_groups, all.bytes), (40, 40, 40 * (40 << 20)));
    assert_eq!((all.nodes[0].row_groups_cached, all.nodes[0].bytes_cached), (1, 40 << 20));
    // Eight objects of 1,000 bytes; one of 40 row groups is cached.
    assert_eq!(all.origin_bytes, 7800);
    let shard = Some(Shard { rank: 1, world: 5 });
    let part = explain::explain(&snapshot, &Query { order, shard, ..Default::default() }, "", |_, _| true).unwrap();
    assert_eq!((part.row_groups, part.origin_bytes), (8, 0));
}
