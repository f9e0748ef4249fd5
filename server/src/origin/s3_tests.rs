//! What is peculiar to `s3:`, against a server that speaks just enough of it.

use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::test_server::{Reply, Request, Server};
use super::{ListingKind, OriginCounters, OriginSettings, Origins, Tag};
use crate::error::ErrorKind;

fn origins(aws: AmazonS3Builder) -> Origins {
    let settings = OriginSettings { retries: 2, retry_timeout: Duration::from_secs(5), ..OriginSettings::default() };
    Origins::with_aws(settings, OriginCounters::default(), aws).unwrap()
}

fn anonymous(server: &Server) -> AmazonS3Builder {
    AmazonS3Builder::new().with_endpoint(&server.url).with_skip_signature(true)
}

fn page(keys: &[(&str, usize)], next: Option<&str>) -> Reply {
    let mut xml = String::from("<ListBucketResult>");
    for (key, size) in keys {
        // Listings tell milliseconds, headers don't. This one leaves the quotes of the tag out.
        xml.push_str(&format!(
            "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>t{size}</ETag>\
             <LastModified>2023-11-14T22:13:20.123Z</LastModified></Contents>"
        ));
    }
    if let Some(token) = next {
        xml.push_str(&format!("<NextContinuationToken>{token}</NextContinuationToken>"));
    }
    Reply::new(200, xml + "</ListBucketResult>")
}

fn head(request: &Request, size: usize) -> Reply {
    let tag = format!("\"t{size}\"");
    let headers = [("etag", tag.as_str()), ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT")];
    Reply::object(request, &vec![b'x'; size], &headers)
}

const MISSING: &str = "<Error><Code>NoSuchKey</Code></Error>";

#[tokio::test]
async fn a_prefix_is_listed_page_by_page() {
    let server = Server::start(|request, _| {
        if request.path.contains("continuation-token=more") {
            return page(&[("d/sub/b &amp; é.parquet", 30), ("d/sub!/c", 3), ("d/_SUCCESS", 0), ("d/markèd", 0)], None);
        }
        match request.path.as_str() {
            path if path.contains("list-type=2") => {
                page(&[("d/", 0), ("d/sub/", 0), ("d/empty/", 0), ("d/zero", 0), ("d/a.parquet", 20)], Some("more"))
            }
            "/b/d/zero" => head(request, 0),
            // Without its slash there is no such key: `d/empty/` was a directory marker.
            _ => Reply::new(404, MISSING),
        }
    })
    .await;
    let origins = origins(anonymous(&server));
    let listing = origins.list("s3a://b/d").await.unwrap();
    assert_eq!((listing.url.as_str(), listing.kind), ("s3://b/d/", ListingKind::Prefix));
    let urls: Vec<_> = listing.objects.iter().map(|o| (&*o.url, o.size)).collect();
    // `!` sorts before `/` in paths, though `%20` and the like would sort otherwise.
    let expected = [
        ("s3://b/d/a.parquet", 20),
        ("s3://b/d/sub!/c", 3),
        ("s3://b/d/sub/b%20&%20%C3%A9.parquet", 30),
        ("s3://b/d/zero", 0),
    ];
    assert_eq!(urls, expected);
    assert_eq!(listing.objects[0].tag, Tag::ETag("\"t20\"".into()));
}

#[tokio::test]
async fn listed_and_looked_up_objects_are_the_same() {
    let server = Server::start(|request, _| match request.path.contains("list-type=2") {
        true => page(&[("d/a", 20)], None),
        // Versioned buckets tell the version here only.
        false => head(request, 20).with("x-amz-version-id", "v1"),
    })
    .await;
    let origins = origins(anonymous(&server));
    let listed = origins.list("s3://b/d/").await.unwrap().objects.remove(0);
    let looked_up = origins.list("s3://b/d/a").await.unwrap();
    assert_eq!((looked_up.kind, &looked_up.objects[0]), (ListingKind::Object, &listed));
    assert_eq!(origins.head("s3://b/d/a").await.unwrap().key(), listed.key());
    assert_eq!(origins.read(&listed, 2..6).await.unwrap(), "xxxx");
    let last = server.requests().pop().unwrap();
    assert_eq!((last.path.as_str(), last.header("if-match")), ("/b/d/a", Some("\"t20\"")), "path style");
}

#[tokio::test]
async fn a_glob_of_one_level_lists_one_level() {
    let server = Server::start(|_, _| page(&[("d/a.parquet", 1), ("d/b.csv", 1)], None)).await;
    let origins = origins(anonymous(&server));
    let listing = origins.list("s3://b/d/*.parquet").await.unwrap();
    assert_eq!((listing.url.as_str(), listing.kind), ("s3://b/d/*.parquet", ListingKind::Glob));
    assert_eq!(listing.objects.iter().map(|o| &*o.url).collect::<Vec<_>>(), ["s3://b/d/a.parquet"]);
    let paths: Vec<_> = server.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/b?delimiter=%2F&list-type=2&prefix=d%2F"]);
}

#[tokio::test]
async fn nothing_there_is_not_found() {
    let server = Server::start(|request, _| match request.path.contains("list-type=2") {
        true => page(&[], None),
        false => Reply::new(404, MISSING),
    })
    .await;
    let origins = origins(anonymous(&server));
    for (url, said) in [
        ("s3://b/d/x", "no object of this name, and no object lies below s3://b/d/x/"),
        ("s3://b/d/", "no object lies below s3://b/d/"),
        ("s3://b/d/*", "no object matches"),
    ] {
        let error = origins.list(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.message().contains(url) && error.message().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_listing_that_breaks_off_begins_anew() {
    let server = Server::start(|request, before| {
        let page = match request.path.contains("continuation-token=more") {
            true => page(&[("d/b", 2)], None),
            false => page(&[("d/a", 1)], Some("more")),
        };
        if before == 1 { Reply { cut: Some(60), ..page } } else { page }
    })
    .await;
    let listing = origins(anonymous(&server)).list("s3://b/d/").await.unwrap();
    assert_eq!(listing.objects.iter().map(|o| o.size).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn a_listing_that_fails_is_never_a_short_one() {
    let server = Server::start(|request, _| match request.path.contains("continuation-token=more") {
        true => Reply { cut: Some(60), ..page(&[("d/b", 2)], None) },
        false => page(&[("d/a", 1)], Some("more")),
    })
    .await;
    let error = origins(anonymous(&server)).list("s3://b/d/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("s3://b/d/"), "{error}");
}

#[tokio::test]
async fn refusals_say_which_variables_to_look_at() {
    for (status, body, kind, hint) in [
        (403, "<Error><Code>AccessDenied</Code></Error>", ErrorKind::PermissionDenied, "AWS_"),
        (401, "", ErrorKind::PermissionDenied, "AWS_"),
        (400, "<Error><Code>ExpiredToken</Code></Error>", ErrorKind::PermissionDenied, "AWS_"),
        (400, "<Error><Code>InvalidArgument</Code></Error>", ErrorKind::Invalid, "InvalidArgument"),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", ErrorKind::NotFound, "NoSuchBucket"),
        (301, "", ErrorKind::Invalid, "AWS_REGION"),
    ] {
        let server = Server::start(move |_, _| Reply::new(status, body)).await;
        let error = origins(anonymous(&server)).list("s3://b/d/").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status} {body}: {error}");
        assert!(error.message().contains("s3://b/d/") && error.message().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn credentials_are_sent_unless_told_otherwise() {
    let server = Server::start(|request, _| head(request, 20)).await;
    let keys = AmazonS3Builder::new().with_endpoint(&server.url).with_access_key_id("id").with_secret_access_key("key");
    origins(keys).head("s3://b/a").await.unwrap();
    origins(anonymous(&server)).head("s3://b/a").await.unwrap();
    let signed: Vec<_> = server.requests().iter().map(|r| r.header("authorization").is_some()).collect();
    assert_eq!(signed, [true, false]);
}

#[tokio::test]
async fn no_credentials_is_told_from_a_refusal() {
    // The server stands in for the metadata service of an instance that has no role.
    let server = Server::start(|_, _| Reply::new(404, "")).await;
    let aws = AmazonS3Builder::new().with_endpoint(&server.url).with_metadata_endpoint(&server.url);
    let error = origins(aws).list("s3://b/d/").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(
        error.message().contains("no AWS credentials") && error.message().contains("AWS_SKIP_SIGNATURE"),
        "{error}"
    );
}

#[tokio::test]
async fn what_would_make_requests_panic_is_refused() {
    let keys = || AmazonS3Builder::new().with_access_key_id("id").with_secret_access_key("key");
    for (aws, variable) in [
        (keys().with_access_key_id("id\n"), "AWS_ACCESS_KEY_ID"),
        (keys().with_token("token\n"), "AWS_SESSION_TOKEN"),
        (keys().with_region("eu\nwest"), "AWS_REGION"),
        (keys().with_endpoint("localhost:9000"), "AWS_ENDPOINT_URL"),
        (keys().with_config(AmazonS3ConfigKey::SkipSignature, "perhaps"), "AWS_"),
    ] {
        let error = origins(aws).list("s3://b/d/").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.message().contains("s3://b/") && error.message().contains(variable), "{error}");
    }
}

#[tokio::test]
async fn a_tag_that_fits_no_header_is_no_identity() {
    let server = Server::start(|request, _| match request.path.contains("list-type=2") {
        true => {
            let mut reply = page(&[("d/a", 20)], None);
            reply.body = String::from_utf8(reply.body).unwrap().replace("t20", "t&#10;é").into_bytes();
            reply
        }
        false => head(request, 20),
    })
    .await;
    let origins = origins(anonymous(&server));
    let listing = origins.list("s3://b/d/").await.unwrap();
    assert_eq!(listing.objects[0].tag, Tag::Modified { unix_ns: 1_700_000_000_000_000_000 });
    assert_eq!(origins.read(&listing.objects[0], 0..1).await.unwrap(), "x");
}

#[tokio::test]
async fn an_empty_object_above_others_is_a_directory() {
    let server = Server::start(|request, _| match request.path.contains("list-type=2") {
        true => page(&[("d/a", 1)], None),
        false => head(request, 0),
    })
    .await;
    let listing = origins(anonymous(&server)).list("s3://b/d").await.unwrap();
    assert_eq!((listing.kind, listing.objects[0].size), (ListingKind::Prefix, 1));
}

#[tokio::test]
async fn buckets_share_nothing_but_are_made_once() {
    let server = Server::start(|request, _| head(request, 20)).await;
    let origins = origins(anonymous(&server));
    for url in ["s3://b/x", "s3://b/y", "s3://c/x"] {
        origins.head(url).await.unwrap();
    }
    let paths: Vec<_> = server.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/b/x", "/b/y", "/c/x"]);
    assert_eq!(origins.0.stores.buckets(), 2);
}
