//! What goes wrong below the cache: damaged and missing files, origins that fail, full disks, readers that leave.

use std::future::Future;

use arrow_ipc::{Block, root_as_footer, root_as_message};
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::error::ErrorKind;
use crate::testing::{Mood, Origin, PREFIX, parquet};

/// A hang is a failure, not a wait.
const GUARD: Duration = Duration::from_secs(60);

/// Lets others work until `done`.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn guarded<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(GUARD, work).await.expect("it hangs")
}

/// `columns` columns of numbers, two row groups, at an origin in memory.
const URL: &str = "s3://bucket/d/a.parquet";

fn table(columns: usize, seed: i64) -> RecordBatch {
    let column = |c: usize| -> (String, ArrayRef) {
        let values = (0..140_000).map(|i| (i % 9 > 0).then_some(seed + c as i64 * 1_000_000 + i));
        (format!("c{c}"), Arc::new(Int64Array::from_iter(values)))
    };
    RecordBatch::try_from_iter((0..columns).map(column)).unwrap()
}

async fn remote(bench: &Bench, columns: usize) -> (Arc<Origin>, RecordBatch) {
    let (origin, table) = (Origin::new(), table(columns, 0));
    origin.set("d/a.parquet", parquet(&table, GROUP)).await;
    bench.catalog.origins().with_store(PREFIX, origin.clone()).unwrap();
    (origin, table)
}

/// The places of a fragment that checksums guard, region by region.
fn regions(bytes: &[u8]) -> Vec<(&'static str, std::ops::Range<usize>)> {
    let tail = bytes.len() - 10;
    let length = i32::from_le_bytes(bytes[tail..][..4].try_into().unwrap()) as usize;
    let footer = root_as_footer(&bytes[tail - length..tail]).unwrap();
    let mut regions = vec![("footer", tail - length..tail), ("tail", tail..bytes.len())];
    let at = |block: &Block| (block.offset() as usize, block.metaDataLength() as usize, block.bodyLength() as usize);
    for block in footer.dictionaries().unwrap() {
        let (offset, header, body) = at(block);
        regions.push(("dictionary", offset..offset + header + body));
    }
    for block in footer.recordBatches().unwrap() {
        let (offset, header, _) = at(block);
        regions.push(("header", offset..offset + header));
        let message = root_as_message(&bytes[offset + 8..offset + header]).unwrap();
        for buffer in message.header_as_record_batch().unwrap().buffers().unwrap() {
            let start = offset + header + buffer.offset() as usize;
            if buffer.length() > 0 {
                regions.push(("buffer", start..start + buffer.length() as usize));
            }
        }
    }
    regions
}

/// A flipped bit in each region of a fragment, and a cut at any length, while the node is down: seen, mended, and never
/// a wrong row.
#[tokio::test(flavor = "multi_thread")]
async fn damage_is_seen_in_every_region_and_mended() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    let expected = source(&file);
    let first = self::bench(&home, 1 << 30);
    first.cache.recover();
    first.all(&file, &[0, 1, 2]).await;
    drop(first);
    let mut random = StdRng::seed_from_u64(7);
    let regions_of = |path: &Path| regions(&std::fs::read(path).unwrap());
    let kinds: std::collections::HashSet<_> = regions_of(&fragments(&home)[0]).iter().map(|r| r.0).collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    let count = regions_of(&fragments(&home)[0]).len();
    for nth in 0..2 * count + 8 {
        let path = fragments(&home).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let what = if nth < 2 * count {
            let (kind, range) = regions_of(&path).swap_remove(nth % count);
            let at = random.random_range(range);
            bytes[at] ^= 1 << random.random_range(0..8);
            format!("{kind}, byte {at}")
        } else {
            let length = if nth == 2 * count { 0 } else { random.random_range(0..bytes.len()) };
            bytes.truncate(length);
            format!("cut to {length} bytes")
        };
        std::fs::write(&path, bytes).unwrap();
        let bench = self::bench(&home, 1 << 30);
        // Recovered before the read, or by it.
        if nth % 2 == 0 {
            bench.cache.recover();
        }
        Bench::same(&bench.all(&file, &[0, 1, 2]).await, &expected, &[0, 1, 2]);
        assert_eq!(bench.metrics.damaged.get(), 1, "{what}");
        assert!(!path.exists(), "{what}");
        assert_eq!(fragments(&home).len(), 3, "{what}");
        Bench::same(&bench.all(&file, &[2, 1, 0]).await, &expected, &[2, 1, 0]);
        assert_eq!(bench.metrics.damaged.get(), 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_files_among_the_fragments_are_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    let expected = source(&file);
    let first = self::bench(&home, 1 << 30);
    first.cache.recover();
    first.all(&file, &[0, 1, 2]).await;
    drop(first);
    let kept = fragments(&home);
    let object = kept[0].parent().unwrap();
    for name in ["x.arrow", "rg0-1-0-0.arrow", "rg0-1-0000000000000001-1-00000000.arrow"] {
        std::fs::write(object.join(name), b"ARROW1 and then nothing").unwrap();
    }
    // A whole fragment in another object's place, and a second copy of one with the same columns.
    let elsewhere = home.join("roost-v1/fragments/00").join("00".repeat(16));
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::copy(&kept[0], elsewhere.join(kept[0].file_name().unwrap())).unwrap();
    let name = kept[0].file_name().unwrap().to_str().unwrap();
    let parts: Vec<_> = name.split('-').collect();
    let copy = object.join([parts[0], parts[1], "00000000000000ff", "ff", parts[4]].join("-"));
    std::fs::copy(&kept[0], copy).unwrap();
    std::fs::write(home.join("roost-v1/tmp/left"), b"half a fill").unwrap();
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    assert_eq!(fragments(&home).len(), 3);
    assert!(!home.join("roost-v1/tmp/left").exists());
    Bench::same(&bench.all(&file, &[0, 1, 2]).await, &expected, &[0, 1, 2]);
    assert_eq!((bench.metrics.misses.get(), bench.metrics.recovered_fragments.get()), (0, 3));
    assert_eq!(bench.metrics.damaged.get(), 2, "one without a footer, one in another object's place");
    let on_disk: u64 = fragments(&home).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(bench.cache.space().used(), on_disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_that_become_too_many_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let bench = self::bench(dir.path(), 1 << 30);
    bench.cache.recover();
    let (_, table) = remote(&bench, 9).await;
    for column in 0..9 {
        let rows = bench.rows(bench.requests_at(URL, &[column]).await).await.unwrap();
        Bench::same(&rows, &table, &[column as usize]);
        if column == 7 {
            assert_eq!(fragments(dir.path()).len(), 16, "eight are not too many");
        }
    }
    until("merged", || fragments(dir.path()).len() == 2).await;
    let read = bench.read.get();
    let columns = [8, 0, 4, 3, 7, 1, 2, 6, 5];
    let rows = bench.rows(bench.requests_at(URL, &columns).await).await.unwrap();
    Bench::same(&rows, &table, &columns.map(|c| c as usize));
    assert_eq!((bench.read.get(), bench.metrics.fills.get()), (read, 18));
    drop(rows);
    // The space of the parts is given back when the last map is gone.
    let on_disk: u64 = fragments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    until("given back", || bench.cache.space().used() == on_disk).await;
    drop(bench);
    let bench = self::bench(dir.path(), 1 << 30);
    remote_again(&bench, &table).await;
    bench.cache.recover();
    assert_eq!(bench.metrics.recovered_fragments.get(), 2);
}

/// The same object at another start's origin.
async fn remote_again(bench: &Bench, table: &RecordBatch) {
    let origin = Origin::new();
    origin.set("d/a.parquet", parquet(table, GROUP)).await;
    bench.catalog.origins().with_store(PREFIX, origin).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn merged_dictionaries_keep_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    let kinds = |c: usize| -> (String, ArrayRef) {
        let values: DictionaryArray<Int32Type> =
            (0..ROWS).map(|i| (i % 5 > 0).then_some(["a", "b", "c", "d"][(i / 1000 + c) % 4])).collect();
        (format!("c{c}"), Arc::new(values))
    };
    let expected = RecordBatch::try_from_iter((0..10).map(kinds)).unwrap();
    std::fs::write(&file, parquet(&expected, GROUP)).unwrap();
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    for column in 0..9 {
        bench.all(&file, &[column]).await;
    }
    until("merged", || fragments(&home).len() == 3).await;
    let columns = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0];
    Bench::same(&bench.all(&file, &columns).await, &expected, &columns.map(|c| c as usize));
    assert_eq!(fragments(&home).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_fails_fails_all_readers_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = self::bench(dir.path(), 1 << 30);
    bench.cache.recover();
    let (origin, table) = remote(&bench, 3).await;
    let requests = bench.requests_at(URL, &[0, 1, 2]).await;
    origin.be(Mood::Stalls);
    let readers = join_all((0..8).map(|_| bench.cache.read(requests[0].clone()))).await;
    origin.be(Mood::Away);
    for reader in readers {
        let error = guarded(async { reader.unwrap().batch(0).await }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains(URL), "{error}");
    }
    assert_eq!((bench.metrics.fills.get(), bench.metrics.fill_errors.get()), (1, 1));
    until("the space is given back", || bench.cache.space().used() == 0).await;
    until("the file is removed", || std::fs::read_dir(dir.path().join("roost-v1/tmp")).unwrap().count() == 0).await;
    assert!(fragments(dir.path()).is_empty());
    // A failure is not remembered.
    origin.be(Mood::Answers);
    Bench::same(&guarded(bench.rows(requests)).await.unwrap(), &table, &[0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_served_while_the_origin_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let bench = self::bench(dir.path(), 1 << 30);
    bench.cache.recover();
    let (origin, table) = remote(&bench, 3).await;
    bench.rows(bench.requests_at(URL, &[0, 2]).await).await.unwrap();
    let requests = |columns: &'static [u32]| {
        let away = Error::unavailable("s3://bucket/ is away");
        let requests = bench.requests_at(URL, columns);
        async move { requests.await.into_iter().map(|r| ReadRequest { object: Err(away.clone()), ..r }).collect() }
    };
    let (cached, more): (Vec<_>, Vec<_>) = (Box::pin(requests(&[2, 0])).await, Box::pin(requests(&[0, 1])).await);
    origin.be(Mood::Away);
    Bench::same(&bench.rows(cached).await.unwrap(), &table, &[2, 0]);
    let error = bench.rows(more).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("a.parquet#rg0 is not cached"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_overlapping_columns_share_what_is_common() {
    let dir = tempfile::tempdir().unwrap();
    let bench = self::bench(dir.path(), 1 << 30);
    bench.cache.recover();
    let (origin, table) = remote(&bench, 3).await;
    let (left, right) =
        (bench.requests_at(URL, &[0, 1]).await.remove(0), bench.requests_at(URL, &[2, 1]).await.remove(0));
    origin.be(Mood::Stalls);
    let (mut left, mut right) = (bench.cache.read(left).await.unwrap(), bench.cache.read(right).await.unwrap());
    // One that leaves again takes nothing from the others.
    drop(bench.cache.read(bench.requests_at(URL, &[0, 1, 2]).await.remove(0)).await.unwrap());
    origin.be(Mood::Answers);
    let (left, right) = guarded(async { (left.batch(0).await.unwrap(), right.batch(0).await.unwrap()) }).await;
    let first = table.slice(0, left.num_rows());
    Bench::same(&left, &first, &[0, 1]);
    Bench::same(&right, &first, &[2, 1]);
    until("published", || fragments(dir.path()).len() == 2).await;
    let file = |path: &PathBuf| std::fs::File::open(path).unwrap();
    let stored = |path| arrow_ipc::reader::FileReader::try_new(file(path), None).unwrap().schema();
    let mut names: Vec<_> = fragments(dir.path())
        .iter()
        .map(|p| stored(p).fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(","))
        .collect();
    names.sort();
    assert_eq!((names, bench.metrics.fills.get()), (vec!["c0,c1".to_owned(), "c2".to_owned()], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_ends_also_when_its_only_reader_left() {
    let dir = tempfile::tempdir().unwrap();
    let bench = self::bench(dir.path(), 1 << 30);
    bench.cache.recover();
    let (origin, table) = remote(&bench, 2).await;
    let requests = bench.requests_at(URL, &[0, 1]).await;
    origin.be(Mood::Stalls);
    for request in &requests {
        drop(bench.cache.read(request.clone()).await.unwrap());
    }
    origin.be(Mood::Answers);
    until("published", || fragments(dir.path()).len() == requests.len()).await;
    until("at its end", || bench.metrics.fills_active.get() == 0).await;
    Bench::same(&bench.rows(requests).await.unwrap(), &table, &[0, 1]);
    assert_eq!((bench.metrics.fills.get(), bench.metrics.hits.get()), (2, 2));
}

/// What is evicted under a reader stays readable where it was read, and is filled again where it was not.
#[tokio::test(flavor = "multi_thread")]
async fn eviction_under_a_reader_changes_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let (file, home) = (dir.path().join("a.parquet"), dir.path().join("cache"));
    let wide: ArrayRef = Arc::new(StringArray::from_iter_values((0..ROWS).map(|i| format!("{i:0>300}"))));
    let expected = RecordBatch::try_from_iter([("t", wide)]).unwrap();
    std::fs::write(&file, parquet(&expected, ROWS)).unwrap();
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    bench.all(&file, &[0]).await;
    let url = format!("file://{}", file.display());
    for opened in [true, false] {
        let mut reader = bench.cache.read(bench.requests(&file, &[0]).await.remove(0)).await.unwrap();
        assert!(reader.is_hit() && reader.batches() > 2);
        let mut batches = Vec::new();
        if opened {
            batches.push(reader.batch(0).await.unwrap());
        }
        assert_eq!(bench.cache.evict(&url).await.unwrap().0, 1);
        for index in batches.len() as u32..reader.batches() {
            batches.push(guarded(reader.batch(index)).await.unwrap());
        }
        assert!(concat_batches(&expected.schema(), &batches).unwrap() == expected);
        assert_eq!(bench.metrics.damaged.get(), 0, "evicted is not damaged");
    }
    assert_eq!(fragments(&home).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ad_hoc_reads_replace_each_other_within_the_capacity() {
    let dir = tempfile::tempdir().unwrap();
    let bench = self::bench(dir.path(), 1 << 30);
    bench.cache.recover();
    let (origin, first) = remote(&bench, 2).await;
    bench.rows(bench.requests_at(URL, &[0, 1]).await).await.unwrap();
    let one = bench.cache.space().used();
    drop(bench);
    let home = dir.path().join("small");
    let bench = self::bench(&home, one * 5 / 2);
    bench.cache.recover();
    bench.catalog.origins().with_store(PREFIX, origin.clone()).unwrap();
    for n in 0..6 {
        let (path, table) = (format!("d/{n}.parquet"), table(2, n));
        origin.set(&path, parquet(&table, GROUP)).await;
        let url = format!("{PREFIX}{path}");
        Bench::same(&bench.rows(bench.requests_at(&url, &[0, 1]).await).await.unwrap(), &table, &[0, 1]);
        until("within the capacity", || bench.cache.space().used() <= bench.cache.space().limit()).await;
    }
    assert!(bench.metrics.evictions.get() > 0);
    assert_eq!(bench.metrics.bypasses.get(), 0, "who reads ad hoc gets in");
    assert!(fragments(&home).len() >= 4, "the space is used");
    Bench::same(&bench.rows(bench.requests_at(URL, &[0, 1]).await).await.unwrap(), &first, &[0, 1]);
    let on_disk = || fragments(&home).iter().map(|path| path.metadata().map_or(0, |m| m.len())).sum::<u64>();
    until("counted as it is", || bench.cache.space().used() == on_disk()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_through_a_full_cache_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let bench = self::bench(dir.path(), 1 << 10);
    bench.cache.recover();
    let (_, table) = remote(&bench, 2).await;
    let rows = guarded(bench.rows(bench.requests_at(URL, &[0, 1]).await)).await.unwrap();
    Bench::same(&rows, &table, &[0, 1]);
    assert_eq!((bench.metrics.bypasses.get(), bench.metrics.hits.get()), (2, 0));
    assert!(fragments(dir.path()).is_empty());
    let request = bench.requests_at(URL, &[0]).await.remove(0);
    assert_eq!(bench.cache.warm(&request).await.unwrap(), Warmed::Bypassed);
    until("given back", || {
        bench.cache.tick();
        bench.cache.space().used() == 0
    })
    .await;
    assert_eq!(bench.cache.space().passing(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_directory_that_vanishes_is_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("cache");
    let bench = self::bench(&home, 1 << 30);
    bench.cache.recover();
    let (_, table) = remote(&bench, 2).await;
    let all = async || guarded(bench.rows(bench.requests_at(URL, &[0, 1]).await)).await.unwrap();
    Bench::same(&all().await, &table, &[0, 1]);
    std::fs::remove_dir_all(home.join("roost-v1")).unwrap();
    for _ in 0..2 {
        Bench::same(&all().await, &table, &[0, 1]);
    }
    let url = "s3://bucket/d/";
    bench.cache.evict(url).await.unwrap();
    Bench::same(&all().await, &table, &[0, 1]);
    bench.cache.tick();
    Bench::same(&all().await, &table, &[0, 1]);
    Bench::same(&all().await, &table, &[0, 1]);
    assert_eq!(fragments(&home).len(), 2, "it was made again");
}
