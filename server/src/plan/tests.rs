use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::*;
use crate::dataset::runs::pack;
use crate::dataset::{Snapshot, SnapshotObject};
use crate::origin::{ObjectMeta, Tag};

const BASE: &str = "s3://b/d/";

/// A snapshot of objects with these rows, and as many bytes, in each row group.
fn sized(objects: &[Vec<u64>], bytes: u64) -> Snapshot {
    let fields: Vec<_> = ["a", "b", "c"].into_iter().map(|n| Field::new(n, DataType::Int64, true)).collect();
    let objects = objects.iter().enumerate().map(|(i, rows)| {
        let meta =
            ObjectMeta { url: format!("{BASE}{i:06}.parquet").into(), size: 1000, tag: Tag::ETag(i.to_string()) };
        let runs = pack(rows.iter().map(|&rows| (rows, bytes))).into_boxed_slice();
        SnapshotObject { key: meta.key(), meta, runs }
    });
    Snapshot::new(BASE, BASE, Arc::new(Schema::new(fields)), objects.collect(), 0, vec![10, 20, 70])
}

/// So large that no two row groups share a run.
const ALONE: u64 = 40 << 20;

fn snapshot(objects: &[Vec<u64>]) -> Snapshot {
    sized(objects, ALONE)
}

/// (object, first row group, how many, rows wanted, rows cut) of all pages, in order.
type Flat = (String, u32, u32, u64, u64);

fn pieces(snapshot: &Snapshot, query: &Query) -> Vec<Flat> {
    let mut query = query.clone();
    let mut tickets = None;
    let mut out = Vec::new();
    loop {
        let page = page(snapshot, &query).unwrap();
        assert!(page.tickets.len() as u64 <= PAGE_MAX);
        for (payload, endpoint) in &page.tickets {
            assert_eq!(payload.pieces.len(), endpoint.pieces.len());
            let rows: u64 = payload.pieces.iter().map(|p| p.rows - p.rows_cut).sum();
            assert_eq!(endpoint.rows, rows);
            for (piece, shown) in payload.pieces.iter().zip(&endpoint.pieces) {
                assert_eq!(format!("{}{}", payload.base, piece.suffix), shown.url);
                let told = (shown.row_group, shown.row_groups, shown.rows, shown.rows_cut);
                assert_eq!(told, (piece.row_group, piece.row_groups, piece.rows, piece.rows_cut));
                let wanted = piece.rows - piece.rows_cut;
                out.push((shown.url.clone(), piece.row_group, piece.row_groups, wanted, piece.rows_cut));
            }
        }
        assert_eq!(page.info.tickets, *tickets.get_or_insert(page.info.tickets), "pages agree");
        let until = query.from + page.tickets.len() as u64;
        match page.info.next {
            Some(next) => {
                assert_eq!(next, until);
                assert_eq!(page.tickets.len() as u64, if query.count == 0 { PAGE_MAX } else { query.count });
                query.from = next;
            }
            None => {
                assert_eq!(until, page.info.tickets);
                return out;
            }
        }
    }
}

proptest! {
    /// However it is paged, packed and cut, a plan is the rows of the data set in natural order, up to the limit.
    #[test]
    fn pages_are_the_rows_in_natural_order(
        objects in proptest::collection::vec(proptest::collection::vec(0u64..5000, 0..6), 0..12),
        limit in proptest::option::of(0u64..40_000),
        count in 0u64..7,
        pack in any::<bool>(),
        bytes in prop_oneof![Just(ALONE), Just(10 << 20), Just(1 << 10)],
    ) {
        let snapshot = sized(&objects, bytes);
        let mut left = limit.unwrap_or(u64::MAX);
        let mut expected = Vec::new();
        for object in &snapshot.objects {
            for run in &object.runs {
                if left > 0 {
                    let wanted = run.rows.min(left);
                    expected.push((object.meta.url.to_string(), run.first, run.count, wanted, run.rows - wanted));
                    left = left.saturating_sub(run.rows);
                }
            }
        }
        let query = Query { limit, count, pack, ..Default::default() };
        prop_assert_eq!(pieces(&snapshot, &query), expected.clone());
        let info = page(&snapshot, &query).unwrap().info;
        prop_assert_eq!(info.rows, expected.iter().map(|e| e.3).sum::<u64>());
        prop_assert_eq!(info.objects, objects.len() as u64);
    }

    /// A page can be asked for by itself, from anywhere.
    #[test]
    fn a_page_from_the_middle_is_that_part_of_the_whole(
        objects in proptest::collection::vec(proptest::collection::vec(1u64..5000, 0..6), 1..12),
        from in 0u64..70,
        count in 1u64..9,
    ) {
        let snapshot = snapshot(&objects);
        let whole = page(&snapshot, &Query::default()).unwrap();
        let query = Query { from, count, ..Default::default() };
        match page(&snapshot, &query) {
            Ok(part) => {
                let until = whole.tickets.len().min((from + count) as usize);
                prop_assert_eq!(part.tickets.as_slice(), &whole.tickets[from as usize..until]);
                prop_assert_eq!(part.info.next, (until < whole.tickets.len()).then_some(until as u64));
            }
            Err(error) => {
                prop_assert!(from > whole.info.tickets);
                prop_assert!(error.message().contains(&format!("from is {from}")), "{}", error);
            }
        }
    }
}

#[test]
fn a_plan_without_rows_is_an_empty_page_with_its_schema() {
    for (objects, limit) in [(vec![], None), (vec![vec![]], None), (vec![vec![0, 0]], None), (vec![vec![9]], Some(0))] {
        let snapshot = snapshot(&objects);
        let planned = page(&snapshot, &Query { limit, pack: true, ..Default::default() }).unwrap();
        assert_eq!((planned.tickets.len(), planned.info.rows, planned.info.tickets), (0, 0, 0));
        assert_eq!((planned.info.next, planned.schema.fields().len()), (None, 3));
        assert!(page(&snapshot, &Query { limit, from: 1, ..Default::default() }).is_err());
    }
}

#[test]
fn a_packed_plan_cut_in_the_middle_of_a_ticket_ends_there() {
    let snapshot = snapshot(&vec![vec![10; 50]; 500]);
    let query = Query { pack: true, limit: Some(200_005), ..Default::default() };
    let planned = page(&snapshot, &query).unwrap();
    // 20,001 runs, three a ticket.
    assert_eq!((planned.info.rows, planned.tickets.len(), planned.info.next), (200_005, 6667, None));
    let (last, shown) = planned.tickets.last().unwrap();
    assert_eq!((last.pieces.len(), last.pieces[2].rows_cut, shown.rows), (3, 5, 25));
}

#[test]
fn a_plan_by_path_is_one_page() {
    let objects = vec![vec![10; 50]; 500];
    let snapshot = snapshot(&objects);
    let packed = page(&snapshot, &Query { pack: true, ..Default::default() }).unwrap();
    assert_eq!((packed.tickets.len(), packed.info.next), (8334, None));
    let query = Query { pack: true, ..Default::default() };
    assert_eq!(pieces(&snapshot, &query), pieces(&snapshot, &Query::default()));
    assert_eq!(page(&snapshot, &Query::default()).unwrap().info.next, Some(PAGE_MAX));
}

#[test]
fn columns_are_projected_in_the_order_asked_for() {
    let snapshot = snapshot(&[vec![10]]);
    let query =
        |names: &[&str]| Query { columns: Some(names.iter().map(|n| (*n).to_owned()).collect()), ..Default::default() };
    let planned = page(&snapshot, &query(&["c", "a"])).unwrap();
    assert_eq!(planned.schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["c", "a"]);
    assert_eq!(planned.info.bytes, snapshot.bytes * 8 / 10);
    assert_eq!(page(&snapshot, &query(&[])).unwrap().schema.fields().len(), 0);
    let unknown = page(&snapshot, &query(&["a", "x"])).err().unwrap();
    assert!(unknown.message().contains("\"x\"") && unknown.message().contains("a, b, c"), "{unknown}");
    assert!(page(&snapshot, &query(&["a", "a"])).err().unwrap().message().contains("twice"));
    let behind = Query { from: 2, ..Default::default() };
    assert!(page(&snapshot, &behind).err().unwrap().message().contains("1 tickets"));
}

#[test]
fn fingerprints_tell_plans_apart_and_nothing_else() {
    let fingerprint = |snapshot: &Snapshot, query: &Query| page(snapshot, query).unwrap().info.fingerprint;
    let (one, same, other) = (snapshot(&[vec![10]]), snapshot(&[vec![10]]), snapshot(&[vec![10], vec![10]]));
    let all = Query::default();
    let columns = |c: &[&str]| Query { columns: Some(c.iter().map(|n| (*n).to_owned()).collect()), ..all.clone() };
    let mut seen = std::collections::HashSet::new();
    for query in [&all, &columns(&[]), &columns(&["a"]), &columns(&["b"]), &Query { limit: Some(3), ..all.clone() }] {
        assert!(seen.insert(fingerprint(&one, query)), "{query:?}");
        assert_eq!(fingerprint(&one, query), fingerprint(&same, query));
    }
    // Names that are one text when put together are other columns all the same.
    let fields: Vec<_> = ["a", "b", "ab"].into_iter().map(|n| Field::new(n, DataType::Int64, true)).collect();
    let close = Snapshot::new(BASE, BASE, Arc::new(Schema::new(fields)), Vec::new(), 0, vec![1, 1, 1]);
    assert_ne!(fingerprint(&close, &columns(&["ab"])), fingerprint(&close, &columns(&["a", "b"])));
    assert_ne!(fingerprint(&one, &columns(&["a", "b"])), fingerprint(&one, &columns(&["b", "a"])));
    let mut newer = snapshot(&[vec![10]]).objects;
    newer[0].meta.tag = Tag::ETag("other".into());
    newer[0].key = newer[0].meta.key();
    let newer = Snapshot::new(BASE, BASE, one.schema.clone(), newer, 0, one.column_bytes.clone());
    assert_ne!(fingerprint(&one, &all), fingerprint(&newer, &all), "an object was replaced by one as large");
    assert!(seen.insert(fingerprint(&other, &all)));
    let paged = Query { count: 1, job: "j".into(), ..all.clone() };
    assert_eq!(fingerprint(&one, &all), fingerprint(&one, &paged));
}
