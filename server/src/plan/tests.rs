use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use proptest::prelude::*;

use super::*;
use crate::dataset::runs::pack;
use crate::dataset::{Snapshot, SnapshotObject};
use crate::origin::{ObjectMeta, Tag};

const BASE: &str = "s3://b/d/";

/// A snapshot of objects with these rows in each row group.
fn snapshot(objects: &[Vec<u64>]) -> Snapshot {
    let fields: Vec<_> = ["a", "b", "c"].into_iter().map(|n| Field::new(n, DataType::Int64, true)).collect();
    let objects = objects.iter().enumerate().map(|(i, rows)| {
        let meta =
            ObjectMeta { url: format!("{BASE}{i:06}.parquet").into(), size: 1000, tag: Tag::ETag(i.to_string()) };
        // Large enough that no two row groups share a run.
        let runs = pack(rows.iter().map(|&rows| (rows, 40 << 20))).into_boxed_slice();
        SnapshotObject { key: meta.key(), meta, runs }
    });
    Snapshot::new(BASE, BASE, Arc::new(Schema::new(fields)), objects.collect(), 0, vec![10, 20, 70])
}

/// (object, first row group, rows) of all pages, in order.
fn pieces(snapshot: &Snapshot, query: &Query) -> Vec<(String, u32, u64)> {
    let mut query = query.clone();
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
                out.push((shown.url.clone(), piece.row_group, piece.rows - piece.rows_cut));
            }
        }
        match page.info.next {
            Some(next) => {
                assert_eq!(next, query.from + page.tickets.len() as u64);
                query.from = next;
            }
            None => return out,
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
    ) {
        let snapshot = snapshot(&objects);
        let mut left = limit.unwrap_or(u64::MAX);
        let mut expected = Vec::new();
        for object in &snapshot.objects {
            for run in &object.runs {
                if left > 0 {
                    expected.push((object.meta.url.to_string(), run.first, run.rows.min(left)));
                    left = left.saturating_sub(run.rows);
                }
            }
        }
        let query = Query { limit, count, pack, ..Default::default() };
        prop_assert_eq!(pieces(&snapshot, &query), expected.clone());
        let info = page(&snapshot, &query).unwrap().info;
        prop_assert_eq!(info.rows, expected.iter().map(|e| e.2).sum::<u64>());
    }
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
    assert!(seen.insert(fingerprint(&other, &all)));
    let paged = Query { count: 1, job: "j".into(), ..all.clone() };
    assert_eq!(fingerprint(&one, &all), fingerprint(&one, &paged));
}
