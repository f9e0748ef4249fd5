//! Files in temporary directories, and stores that count, fail and lie.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parking_lot::Mutex;

use super::{ListingKind, ObjectMeta, OriginCounters, OriginSettings, Origins, Tag, blocking};
use crate::error::ErrorKind;

fn origins() -> Origins {
    let settings = OriginSettings {
        retries: 2,
        request_timeout: Duration::from_secs(5),
        retry_timeout: Duration::from_secs(5),
        ..OriginSettings::default()
    };
    Origins::new(settings, OriginCounters::default()).unwrap()
}

fn write(root: &FilePath, name: &str, bytes: &[u8]) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The paths of a listing below `base`, decoded.
async fn listed(origins: &Origins, base: &FilePath, url: &str) -> Vec<String> {
    let base = format!("{}/", base.to_str().unwrap().trim_start_matches('/'));
    let listing = origins.list(url).await.unwrap();
    listing.objects.iter().map(|object| object.path().strip_prefix(&base).unwrap().to_owned()).collect()
}

#[tokio::test]
async fn files_are_listed_as_pyarrow_lists_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let names = ["a b.parquet", "a!.parquet", "a#1", "50%.parquet", "é.parquet", "empty", "sub/x=1/c.csv", "sub!/d"];
    for name in names {
        write(root, name, if name == "empty" { b"" } else { b"abc" });
    }
    for hidden in ["_SUCCESS", ".x", "_tmp/a", "sub/.crc/a", "sub/_metadata"] {
        write(root, hidden, b"hidden");
    }
    std::os::unix::fs::symlink(root.join("sub/x=1"), root.join("link")).unwrap();
    std::os::unix::fs::symlink(root.join("nowhere"), root.join("dangling")).unwrap();
    let origins = origins();
    let expected = [
        "50%.parquet",
        "a b.parquet",
        "a!.parquet",
        "a#1",
        "empty",
        "link/c.csv",
        "sub!/d",
        "sub/x=1/c.csv",
        "é.parquet",
    ];
    let path = root.to_str().unwrap();
    for url in [path.to_owned(), format!("{path}/"), format!("file://{path}"), format!("{path}/**")] {
        assert_eq!(listed(&origins, root, &url).await, expected, "{url}");
    }
    assert_eq!(
        listed(&origins, root, &format!("{path}/*.parquet")).await,
        ["50%.parquet", "a b.parquet", "a!.parquet", "é.parquet"]
    );
    assert_eq!(listed(&origins, root, &format!("{path}/*/x=?/*")).await, ["sub/x=1/c.csv"]);
    assert_eq!(listed(&origins, root, &format!("{path}/_*")).await, ["_SUCCESS"]);

    let listing = origins.list(path).await.unwrap();
    assert_eq!((listing.url, listing.kind), (format!("file://{path}/"), ListingKind::Prefix));
    assert_eq!(&*listing.objects[3].url, format!("file://{path}/a%231"));
    assert_eq!(origins.read(&listing.objects[3], 1..3).await.unwrap(), "bc");
    // A file that is named is never hidden.
    for name in ["_SUCCESS", "a#1", "é.parquet"] {
        let listing = origins.list(&format!("{path}/{name}")).await.unwrap();
        assert_eq!((listing.kind, listing.objects.len()), (ListingKind::Object, 1));
        assert_eq!(listing.objects[0], origins.head(&listing.url).await.unwrap());
    }
    assert_eq!(origins.0.counters.errors.get(), 0);
}

#[tokio::test]
async fn a_directory_may_be_empty_but_must_be() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let origins = origins();
    assert!(origins.list(path).await.unwrap().objects.is_empty());
    for (url, kind) in [
        (format!("{path}/missing"), ErrorKind::NotFound),
        (format!("{path}/missing/"), ErrorKind::NotFound),
        (format!("{path}/missing/*"), ErrorKind::NotFound),
        (format!("{path}/*"), ErrorKind::NotFound),
        (format!("{path}/{}", "x".repeat(300)), ErrorKind::Invalid),
        ("/dev/null".to_owned(), ErrorKind::Invalid),
    ] {
        let error = origins.list(&url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains("file:///"), "{error}");
    }
    let error = origins.head(path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(origins.0.counters.errors.get(), 7);
}

#[tokio::test]
async fn links_in_a_circle_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (at, to) in [("a/to-b", "b"), ("b/to-a", "a")] {
        std::fs::create_dir_all(dir.path().join(at).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(dir.path().join(to), dir.path().join(at)).unwrap();
    }
    let error = origins().list(dir.path().join("a").to_str().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("circle") && error.message().contains("/a/to-b/to-a"), "{error}");
}

#[tokio::test]
async fn a_file_that_changed_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    type Change = fn(&FilePath);
    let changes: [(&str, Change); 4] = [
        ("longer", |path| std::fs::write(path, b"0123456789abcdef").unwrap()),
        ("shorter", |path| std::fs::write(path, b"01").unwrap()),
        ("newer", |path| {
            let modified = std::fs::metadata(path).unwrap().modified().unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(modified + Duration::from_nanos(1)).unwrap();
        }),
        ("another of the same size and time", |path| {
            let modified = std::fs::metadata(path).unwrap().modified().unwrap();
            let other = path.with_extension("other");
            std::fs::write(&other, b"9876543210").unwrap();
            std::fs::File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
            std::fs::rename(other, path).unwrap();
        }),
    ];
    for (how, change) in changes {
        std::fs::write(&path, b"0123456789").unwrap();
        let origins = origins();
        let object = origins.head(path.to_str().unwrap()).await.unwrap();
        assert!(matches!(object.tag, Tag::File { .. }));
        assert_eq!(origins.read(&object, 4..8).await.unwrap(), "4567");
        change(&path);
        let error = origins.read(&object, 4..8).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stale, "{how}: {error}");
        assert!(error.message().contains("make a new plan"), "{error}");
    }
    let origins = origins();
    let object = origins.head(path.to_str().unwrap()).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(origins.read(&object, 4..8).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_range_outside_its_object_is_a_defect() {
    let origins = origins();
    let object = ObjectMeta { url: Arc::from("s3://b/x"), size: 10, tag: Tag::None };
    #[allow(clippy::reversed_empty_ranges)]
    for range in [8..11, 11..12, 5..3] {
        assert_eq!(origins.read(&object, range).await.unwrap_err().kind(), ErrorKind::Internal);
    }
}

/// What a store does with one read.
#[derive(Debug, Clone, Copy)]
enum Lie {
    Refuse(ErrorKind),
    /// Says the right range, sends less, or more.
    Short,
    Long,
    /// Answers another range.
    Elsewhere,
    /// Breaks off in the middle.
    Break,
    Hang,
    NewTag,
    NewSize,
    /// Hands over what it has in many small pieces: no lie.
    Crumbs,
}

/// An in-memory store that follows a script.
#[derive(Debug, Default)]
struct Script {
    inner: InMemory,
    lies: Mutex<VecDeque<Lie>>,
    reads: Mutex<Vec<Range<u64>>>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

type StoreResult<T> = object_store::Result<T>;

#[async_trait]
impl ObjectStore for Script {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let Some(GetRange::Bounded(range)) = options.range.clone() else {
            return self.inner.get_opts(location, options).await;
        };
        self.reads.lock().push(range);
        let lie = self.lies.lock().pop_front();
        let mut result = self.inner.get_opts(location, options).await?;
        let broken = || object_store::Error::Generic { store: "Script", source: "it broke".into() };
        let Some(lie) = lie else { return Ok(result) };
        match lie {
            Lie::Refuse(kind) => {
                let (path, source) = (location.to_string(), "as told".into());
                return Err(match kind {
                    ErrorKind::NotFound => object_store::Error::NotFound { path, source },
                    ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path, source },
                    ErrorKind::Stale => object_store::Error::Precondition { path, source },
                    _ => broken(),
                });
            }
            Lie::Hang => return std::future::pending().await,
            Lie::Elsewhere => {
                result.range = result.range.start + 1..result.range.end + 1;
                return Ok(result);
            }
            Lie::NewTag => {
                result.meta.e_tag = Some("another".into());
                return Ok(result);
            }
            Lie::NewSize => {
                result.meta.size += 1;
                return Ok(result);
            }
            Lie::Short | Lie::Long | Lie::Break | Lie::Crumbs => {}
        }
        let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
        let bytes = result.bytes().await?;
        let mut chunks: Vec<StoreResult<Bytes>> = bytes.chunks(3).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        match lie {
            Lie::Short => drop(chunks.pop()),
            Lie::Long => chunks.push(Ok(Bytes::from_static(b"more"))),
            Lie::Break => *chunks.last_mut().unwrap() = Err(broken()),
            _ => {}
        }
        let payload = GetResultPayload::Stream(futures::stream::iter(chunks).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, o: PutMultipartOptions) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, o).await
    }

    fn delete_stream(&self, at: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<object_store::ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

const OBJECT: &[u8] = b"0123456789abcdefghij";

/// A store below `s3://b/data`, with one object, and what the origins say of it.
async fn scripted(origins: &Origins) -> (Arc<Script>, ObjectMeta) {
    let script = Arc::new(Script::default());
    script.put(&Path::from("d/x.parquet"), OBJECT.into()).await.unwrap();
    origins.with_store("s3://b/data", Arc::clone(&script) as _).unwrap();
    let object = origins.head("s3://b/data/d/x.parquet").await.unwrap();
    (script, object)
}

#[tokio::test]
async fn a_given_store_answers_below_its_prefix() {
    let origins = origins();
    let (script, object) = scripted(&origins).await;
    assert_eq!((&*object.url, object.size), ("s3://b/data/d/x.parquet", 20));
    script.put(&Path::from("_x"), "hidden".into()).await.unwrap();
    script.put(&Path::from("d/a b"), "".into()).await.unwrap();
    for (url, canonical, kind, count) in [
        ("s3://b/data", "s3://b/data/", ListingKind::Prefix, 2),
        ("s3://b/data/", "s3://b/data/", ListingKind::Prefix, 2),
        ("s3://b/data/d", "s3://b/data/d/", ListingKind::Prefix, 2),
        ("s3://b/data/*/*.parquet", "s3://b/data/*/*.parquet", ListingKind::Glob, 1),
        ("s3://b/data/d/a b", "s3://b/data/d/a%20b", ListingKind::Object, 1),
        ("s3://b/data/_x", "s3://b/data/_x", ListingKind::Object, 1),
    ] {
        let listing = origins.list(url).await.unwrap();
        assert_eq!((listing.url.as_str(), listing.kind, listing.objects.len()), (canonical, kind, count), "{url}");
    }
    assert_eq!(origins.list("s3://b/data/").await.unwrap().objects[1], object);
    // The longest prefix wins, and a store may stand for a part of the file system.
    let inner = Arc::new(Script::default());
    inner.put(&Path::from("x.parquet"), "inner".into()).await.unwrap();
    origins.with_store("s3://b/data/d/", Arc::clone(&inner) as _).unwrap();
    assert_eq!(origins.head(&object.url).await.unwrap().size, 5);
    origins.with_store("/nowhere", inner).unwrap();
    assert_eq!(&*origins.list("/nowhere").await.unwrap().objects[0].url, "file:///nowhere/x.parquet");
    assert!(origins.with_store("s3://", Arc::new(InMemory::new())).is_err());
}

#[tokio::test]
async fn answers_that_are_not_what_was_asked_are_asked_for_again() {
    for lie in [Lie::Short, Lie::Long, Lie::Elsewhere, Lie::Break] {
        let origins = origins();
        let (script, object) = scripted(&origins).await;
        script.lies.lock().extend([lie, lie]);
        assert_eq!(origins.read(&object, 1..18).await.unwrap(), &OBJECT[1..18], "{lie:?}");
        assert_eq!(*script.reads.lock(), [1..18, 1..18, 1..18]);
        assert_eq!((origins.0.counters.read.get(), origins.0.counters.bytes.get()), (3, 17));

        script.lies.lock().extend([lie; 4]);
        let error = origins.read(&object, 1..18).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{lie:?}: {error}");
        assert!(error.message().contains(&*object.url), "{error}");
        assert_eq!(script.lies.lock().len(), 1, "three attempts: {lie:?}");
    }
}

#[tokio::test]
async fn an_answer_in_pieces_is_put_together() {
    let origins = origins();
    let (script, object) = scripted(&origins).await;
    for range in [0..1, 0..3, 2..8, 1..20] {
        script.lies.lock().push_back(Lie::Crumbs);
        let bytes = origins.read(&object, range.clone()).await.unwrap();
        assert_eq!(bytes, &OBJECT[range.start as usize..range.end as usize]);
    }
}

#[tokio::test]
async fn refusals_are_final_and_keep_their_kind() {
    for kind in [ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::Stale, ErrorKind::Unavailable] {
        let origins = origins();
        let (script, object) = scripted(&origins).await;
        script.lies.lock().extend([Lie::Refuse(kind); 2]);
        let error = origins.read(&object, 0..4).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(&*object.url), "{error}");
        // Stores repeat by themselves what is worth it.
        assert_eq!(script.reads.lock().len(), 1);
    }
}

#[tokio::test]
async fn another_identity_in_the_answer_is_stale() {
    let origins = origins();
    let (script, object) = scripted(&origins).await;
    for lie in [Lie::NewTag, Lie::NewSize] {
        script.lies.lock().push_back(lie);
        let error = origins.read(&object, 0..4).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stale, "{lie:?}: {error}");
    }
    // And where the store keeps to If-Match.
    script.put(&Path::from("d/x.parquet"), "9876543210abcdefghij".into()).await.unwrap();
    assert_eq!(origins.read(&object, 0..4).await.unwrap_err().kind(), ErrorKind::Stale);
    let now = origins.head(&object.url).await.unwrap();
    assert_ne!(now.key(), object.key());
    assert_eq!(origins.read(&now, 0..4).await.unwrap(), "9876");
}

#[tokio::test]
async fn a_store_that_hangs_is_given_up() {
    let settings = OriginSettings {
        request_timeout: Duration::from_millis(50),
        retry_timeout: Duration::from_secs(5),
        retries: 1,
        ..OriginSettings::default()
    };
    let origins = Origins::new(settings, OriginCounters::default()).unwrap();
    let (script, object) = scripted(&origins).await;
    script.lies.lock().extend([Lie::Hang]);
    assert_eq!(origins.read(&object, 0..4).await.unwrap(), "0123", "the second attempt is answered");
    script.lies.lock().extend([Lie::Hang, Lie::Hang]);
    let error = origins.read(&object, 0..4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.message().contains(&*object.url) && error.message().contains("50ms"), "{error}");
}

#[tokio::test]
async fn file_system_calls_may_take_long_but_not_stand_still() {
    let origins = origins();
    let limit = Duration::from_millis(200);
    let permit = origins.permit().await.unwrap();
    let moving = blocking(limit, "walking", "file:///x", permit, move |progress| {
        let started = Instant::now();
        while started.elapsed() < limit * 5 / 2 {
            progress.step();
            std::thread::yield_now();
        }
        Ok(7)
    });
    assert_eq!(moving.await.unwrap(), 7);

    let (release, stuck) = std::sync::mpsc::sync_channel::<()>(0);
    let permit = origins.permit().await.unwrap();
    let free = origins.0.permits.available_permits();
    let standing = blocking(limit, "walking", "file:///x", permit, move |_| {
        let _ = stuck.recv();
        Ok(7)
    });
    let error = standing.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.message().contains("file:///x") && error.message().contains("walking"), "{error}");
    assert_eq!(origins.0.permits.available_permits(), free, "held while the call lasts");
    drop(release);
}
