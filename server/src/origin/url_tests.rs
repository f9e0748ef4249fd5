//! URLs, the allow-list, filters, ranges and keys: all without I/O.

use std::sync::Arc;

use proptest::prelude::*;

use super::url::{Target, allowed_prefix, covers, shown};
use super::{ObjectMeta, OriginCounters, OriginSettings, Origins, Tag, coalesce};
use crate::error::ErrorKind;

fn canonical(url: &str) -> String {
    let canonical = Target::parse(url).unwrap().canonical();
    assert_eq!(Target::parse(&canonical).unwrap().canonical(), canonical, "not stable: {url}");
    canonical
}

#[test]
fn every_spelling_has_one_canonical_url() {
    for (url, expected) in [
        ("/data/x.parquet", "file:///data/x.parquet"),
        ("/data//./x.parquet", "file:///data/x.parquet"),
        ("/data/", "file:///data/"),
        ("/", "file:///"),
        ("file:/data/x", "file:///data/x"),
        ("FILE://localhost/data/x", "file:///data/x"),
        // A bare path is taken as it is, a URL is decoded.
        ("/a b/50%/é#1", "file:///a%20b/50%25/%C3%A9%231"),
        ("file:///a%20b/50%25/%c3%a9%231", "file:///a%20b/50%25/%C3%A9%231"),
        ("file:///a b/50%/é#1", "file:///a%20b/50%25/%C3%A9%231"),
        ("/a%20b", "file:///a%2520b"),
        ("file:///not-utf8-%FF", "file:///not-utf8-%FF"),
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/", "s3://bucket/"),
        ("S3A://My_Bucket.x/year=2024/a+b,c@d!e.parquet", "s3://My_Bucket.x/year=2024/a+b,c@d!e.parquet"),
        ("s3://b/a%2Ab%3F%5B", "s3://b/a%2Ab%3F%5B"),
        ("s3://b/a/", "s3://b/a/"),
        // Globs keep what makes them globs.
        ("s3://b/y=*/[a-c]?x/**/p q.parquet", "s3://b/y=*/[a-c]?x/**/p%20q.parquet"),
        ("s3://b/[!%5D]x", "s3://b/[!%5D]x"),
        ("/b/[]]x", "file:///b/[%5D]x"),
        ("HTTP://Example.COM:80/a b?q=1&r=%20#frag", "http://example.com/a%20b?q=1&r=%20"),
        ("https://example.com", "https://example.com/"),
        ("https://example.com/a%2Fb", "https://example.com/a%2Fb"),
    ] {
        assert_eq!(canonical(url), expected, "{url}");
    }
}

#[test]
fn a_url_that_cannot_be_read_says_why() {
    for (url, why) in [
        ("", "absolute path"),
        ("data/x.parquet", "absolute path"),
        ("gs://bucket/x", "s3://BUCKET/KEY"),
        ("ftp://host/x", "not supported"),
        ("file://host/x", "names no host"),
        ("file://", "absolute path"),
        ("file:x", "absolute path"),
        ("s3:bucket", "s3://BUCKET/KEY"),
        ("s3:///key", "bucket name"),
        ("s3://../key", "bucket name"),
        ("s3://key:secret@bucket/x", "bucket name"),
        ("s3://bucket/a//b", "empty segment"),
        ("s3://bucket/a/./b", "segment `.`"),
        ("s3://bucket/a\nb", "control characters"),
        ("s3://bucket/%FF", "UTF-8"),
        ("s3://bucket/a%2Fb", "%2F"),
        ("/data/../etc/passwd", "`..`"),
        ("file:///data/%2e%2E/etc/passwd", "`..`"),
        ("s3://bucket/../x", "`..`"),
        ("http://host/a/../b", "`..`"),
        ("http://host/a/%2e%2e/b", "`..`"),
        ("http://host/a\\..\\b", "`..`"),
        ("/data/a\0b", "zero byte"),
        ("/data/[abc", "`[` opens a class"),
        ("/data/[[:alpha:]]", "not supported"),
        ("http://user:pw@host/x", "credentials"),
        ("http://", "not a URL"),
        (&format!("http://host/{}", "x".repeat(70_000)), "too long"),
    ] {
        let error = Target::parse(url).map(|t| t.canonical()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains(why), "{error}");
    }
    let error = Target::parse("http://host/*.parquet").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn messages_leave_out_queries_and_passwords() {
    assert_eq!(shown("https://host/a?X-Amz-Signature=secret"), "https://host/a?…");
    assert_eq!(shown("https://user:secret@host/a"), "https://…@host/a");
    assert_eq!(shown("s3://b/a?.parquet"), "s3://b/a?.parquet");
    let error = Target::parse("http://user:secret@host/x?secret").unwrap_err();
    assert!(!error.message().contains("secret"), "{error}");
}

#[test]
fn prefixes_end_at_segments() {
    for (prefix, url, expected) in [
        ("s3://b/data", "s3://b/data", true),
        ("s3://b/data/", "s3://b/data", true),
        ("s3://b/data", "s3://b/data/x", true),
        ("s3://b/data", "s3://b/database/x", false),
        ("s3://b", "s3://b/", true),
        ("s3://b", "s3://bb/x", false),
        ("s3://", "s3://any/x", true),
        ("s3://", "file:///x", false),
        ("/data", "file:///data/x", true),
        ("/", "file:///data/x", true),
        ("https://host/a", "https://host/a?q=1", true),
        ("https://host/a", "https://host/ab", false),
        ("https://host", "https://host.evil.com/", false),
        ("https://host", "https://host:444/", false),
        ("https://host", "http://host/", false),
    ] {
        assert_eq!(covers(&allowed_prefix(prefix).unwrap(), &canonical(url)), expected, "{prefix} {url}");
    }
    assert!(allowed_prefix("s3://b/*").unwrap_err().message().contains("glob"));
    assert!(allowed_prefix("gs://").is_err());
}

#[test]
fn the_allow_list_is_kept() {
    let settings = OriginSettings { allow: vec!["s3://b/data".into(), "/srv".into()], ..OriginSettings::default() };
    let origins = Origins::new(settings, OriginCounters::default()).unwrap();
    for url in ["s3://b/data", "s3a://b/data/x", "s3://b/data/*.parquet", "/srv/a", "file:///srv/**"] {
        origins.canonical(url).unwrap();
    }
    // The last ones begin below the list, but search above it.
    for url in ["s3://b/", "s3://b/other", "s3://b/dat", "/etc/passwd", "https://host/x", "s3://b/data*/x", "/srv*"] {
        let error = origins.canonical(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{url}");
        assert!(error.message().contains(url) && error.message().contains("s3://b/data, file:///srv"), "{error}");
    }
}

#[test]
fn settings_of_zero_are_refused() {
    for settings in [
        OriginSettings { concurrency: 0, ..OriginSettings::default() },
        OriginSettings { piece_bytes: 0, ..OriginSettings::default() },
        OriginSettings { allow: vec!["nonsense".into()], ..OriginSettings::default() },
    ] {
        let error = Origins::new(settings, OriginCounters::default()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn the_decoded_path_serves_hive_partitions() {
    let path = |url: &str| ObjectMeta { url: Arc::from(canonical(url)), size: 0, tag: Tag::None }.path();
    assert_eq!(path("s3://b/city=S%C3%A3o%20Paulo/x"), "city=São Paulo/x");
    assert_eq!(path("/data/a=1/x#1"), "data/a=1/x#1");
    assert_eq!(path("https://host/a%20b?q=c/d"), "a b");
    assert_eq!(path("s3://b"), "");
}

/// Which of `paths` below the base a URL selects.
fn selected<'a>(url: &str, paths: &[&'a str]) -> Vec<&'a str> {
    let filter = Target::parse(url).unwrap().filter().unwrap();
    paths.iter().copied().filter(|path| filter.accepts(path.as_bytes())).collect()
}

#[test]
fn hidden_paths_are_left_out_of_prefixes() {
    let paths = ["a.parquet", "_SUCCESS", ".crc", "_delta_log/x", "d/.hidden/x", "d/a_b.c", "d/_x", "year=1/_tmp/y"];
    assert_eq!(selected("s3://b/data/", &paths), ["a.parquet", "d/a_b.c"]);
    // Segments of the base itself don't count, in either kind of data set.
    assert_eq!(selected("s3://b/_data/", &paths), ["a.parquet", "d/a_b.c"]);
    assert_eq!(selected("s3://b/_data/*", &paths), ["a.parquet"]);
}

#[test]
fn globs_match_segment_by_segment() {
    let paths =
        ["a.parquet", "b.parquet", "ab.parquet", "d/a.parquet", "d/e/a.parquet", "_a.parquet", "d/_t/a.parquet", "x*"];
    for (url, expected) in [
        ("s3://b/*.parquet", &["a.parquet", "b.parquet", "ab.parquet"][..]),
        ("s3://b/?.parquet", &["a.parquet", "b.parquet"]),
        ("s3://b/[!a].parquet", &["b.parquet"]),
        ("s3://b/*/*.parquet", &["d/a.parquet"]),
        ("s3://b/**/a.parquet", &["a.parquet", "d/a.parquet", "d/e/a.parquet"]),
        ("s3://b/**", &["a.parquet", "b.parquet", "ab.parquet", "d/a.parquet", "d/e/a.parquet", "x*"]),
        // What a pattern spells out is not hidden.
        ("s3://b/_*.parquet", &["_a.parquet"]),
        ("s3://b/*/_t/*", &["d/_t/a.parquet"]),
        ("s3://b/?%2A", &["x*"]),
        ("s3://b/{a,b}*", &[]),
    ] {
        assert_eq!(selected(url, &paths), expected, "{url}");
    }
    let bases = [("s3://b/d/*/x", "s3://b/d/"), ("s3://b/*", "s3://b/"), ("/d/x*", "file:///d/"), ("/*", "file:///")];
    for (url, base) in bases {
        assert_eq!(Target::parse(url).unwrap().base().unwrap().canonical(), base);
    }
    assert!(Target::parse("s3://b/d/x").unwrap().base().is_none());
    let depth = |url: &str| Target::parse(url).unwrap().filter().unwrap().depth();
    assert_eq!((depth("/d/*"), depth("/d/*/x"), depth("/d/**/x"), depth("/d/")), (1, 2, usize::MAX, usize::MAX));
    let error = Target::parse("s3://b/d*/").unwrap().filter().err().unwrap();
    assert!(error.message().contains("**"), "{error}");
    let error = Target::parse("s3://b/[z-a]").unwrap().filter().err().unwrap();
    assert!(error.message().contains("s3://b/[z-a]"), "{error}");
}

#[test]
fn keys_never_change() {
    let key = |url: &str, size, tag| ObjectMeta { url: Arc::from(url), size, tag }.key().map(|key| key.to_string());
    // Worked out apart from this code, from the encoding as described in `identity.rs`.
    for (url, size, tag, expected) in [
        ("s3://bucket/a.parquet", 1000, Tag::Version("v1".into()), "9d40cd6c189a13181d0deee6324e8fe4"),
        ("s3://bucket/a.parquet", 1000, Tag::ETag("\"v1\"".into()), "81495fdea59cbc1e501eebd50e14599a"),
        (
            "https://example.com/a%20b?x=1",
            0,
            Tag::Modified { unix_ns: 1_700_000_000_000_000_000 },
            "18a3927fef406907b72bed74a38fe40e",
        ),
        (
            "file:///data/%C3%A9.parquet",
            1 << 63,
            Tag::File { mtime_ns: -1, inode: 42 },
            "ad15c68cd15cf0e742ffc3efb24fd1cb",
        ),
    ] {
        assert_eq!(key(url, size, tag).as_deref(), Some(expected), "{url}");
    }
    assert_eq!(key("s3://bucket/a.parquet", 1000, Tag::None), None);
}

proptest! {
    /// Against a picture of it: one flag a byte.
    #[test]
    fn coalesced_ranges_cover_what_was_asked_and_small_holes(
        ranges in prop::collection::vec((0u64..200, 0u64..40), 0..12),
        gap in 0u64..20,
        piece in 1u64..50,
    ) {
        let ranges: Vec<_> = ranges.into_iter().map(|(start, length)| start..start + length).collect();
        let mut wanted = [false; 256];
        for range in &ranges {
            wanted[range.start as usize..range.end as usize].fill(true);
        }
        let asked: Vec<usize> = (0..256).filter(|&at| wanted[at]).collect();
        for pair in asked.windows(2) {
            if (pair[1] - pair[0] - 1) as u64 <= gap {
                wanted[pair[0]..pair[1]].fill(true);
            }
        }
        let pieces = coalesce(&ranges, gap, piece);
        let mut covered = [false; 256];
        let mut runs: Vec<Vec<u64>> = Vec::new();
        let mut end = None;
        for range in &pieces {
            prop_assert!(range.start < range.end && range.end - range.start <= piece);
            prop_assert!(end.is_none_or(|end| end <= range.start), "sorted and disjoint: {pieces:?}");
            covered[range.start as usize..range.end as usize].fill(true);
            match runs.last_mut() {
                Some(run) if end == Some(range.start) => run.push(range.end - range.start),
                _ => runs.push(vec![range.end - range.start]),
            }
            end = Some(range.end);
        }
        prop_assert_eq!(covered, wanted);
        for run in runs {
            prop_assert_eq!(run.len() as u64, run.iter().sum::<u64>().div_ceil(piece), "as few as can be");
            prop_assert!(run.iter().max().unwrap() - run.iter().min().unwrap() <= 1, "near-equal: {:?}", run);
        }
    }

    /// Names of all sorts survive the way into a URL and back.
    #[test]
    fn file_names_survive_their_urls(names in prop::collection::vec("[^/\0*?\\[]{1,12}", 1..4)) {
        prop_assume!(names.iter().all(|name| name != "." && name != ".."));
        let path = format!("/{}", names.join("/"));
        let url = canonical(&path);
        prop_assert!(url.is_ascii() && !url.contains(['#', '?', ' ']));
        prop_assert_eq!(Target::parse(&url).unwrap().file(), std::path::PathBuf::from(path));
    }
}

#[test]
// One range is what is meant.
#[allow(clippy::single_range_in_vec_init)]
fn coalescing_holds_at_the_edges() {
    assert!(coalesce(&[], 10, 10).is_empty());
    #[allow(clippy::reversed_empty_ranges)]
    let nothing = [5..5, 9..3];
    assert!(coalesce(&nothing, 10, 10).is_empty());
    assert_eq!(coalesce(&[0..u64::MAX], 0, u64::MAX), [0..u64::MAX]);
    assert_eq!(coalesce(&[0..1, u64::MAX - 1..u64::MAX], 5, 1 << 62), [0..1, u64::MAX - 1..u64::MAX]);
    assert_eq!(coalesce(&[0..10], 0, 4), [0..4, 4..7, 7..10]);
    assert_eq!(coalesce(&[0..2], 0, 0), [0..1, 1..2]);
}
