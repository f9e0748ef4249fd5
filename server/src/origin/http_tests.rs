//! `http:` origins against a server that behaves, and servers that don't.

use std::time::Duration;

use super::test_server::{Reply, Request, Server};
use super::{ListingKind, OriginCounters, OriginSettings, Origins, Tag};
use crate::error::ErrorKind;

const OBJECT: &[u8] = b"0123456789abcdefghij";
const ETAG: (&str, &str) = ("etag", "\"one\"");
const MODIFIED: (&str, &str) = ("last-modified", "Tue, 14 Nov 2023 22:13:20 GMT");

fn origins(settings: OriginSettings) -> Origins {
    Origins::new(settings, OriginCounters::default()).unwrap()
}

/// Patience for tests that repeat.
fn quick() -> OriginSettings {
    OriginSettings { retries: 2, retry_timeout: Duration::from_secs(5), ..OriginSettings::default() }
}

fn methods(server: &Server) -> Vec<String> {
    server.requests().iter().map(|r| format!("{} {}", r.method, r.header("range").unwrap_or("-"))).collect()
}

#[tokio::test]
async fn an_object_is_listed_and_read_in_ranges() {
    let server = Server::start(|request, _| Reply::object(request, OBJECT, &[ETAG, MODIFIED])).await;
    let origins = origins(quick());
    let url = format!("{}/data/a%2Fb%20c.parquet?token=t%2F1&x=a+b", server.url);
    let listing = origins.list(&url).await.unwrap();
    assert_eq!((listing.url.as_str(), listing.kind), (url.as_str(), ListingKind::Object));
    let [object] = &listing.objects[..] else { panic!("{listing:?}") };
    assert_eq!((&*object.url, object.size, &object.tag), (url.as_str(), 20, &Tag::ETag("\"one\"".into())));
    assert_eq!(origins.read(object, 3..7).await.unwrap(), &OBJECT[3..7]);
    assert_eq!(origins.read(object, 0..20).await.unwrap(), OBJECT);
    assert_eq!(origins.read(object, 5..5).await.unwrap(), "");
    assert_eq!(methods(&server), ["HEAD -", "GET bytes=3-6", "GET -"]);
    for request in server.requests() {
        assert_eq!(request.path, "/data/a%2Fb%20c.parquet?token=t%2F1&x=a+b", "sent as it was written");
    }
    assert_eq!(server.requests()[1].header("if-match"), Some("\"one\""));
    let counters = &origins.0.counters;
    let counts = [&counters.list, &counters.head, &counters.read, &counters.bytes, &counters.errors].map(|c| c.get());
    assert_eq!(counts, [0, 1, 2, 24, 0]);
}

#[tokio::test]
async fn a_weak_entity_tag_is_no_identity() {
    let headers = [("etag", "W/\"one\""), MODIFIED];
    let server = Server::start(move |request, _| Reply::object(request, OBJECT, &headers)).await;
    let origins = origins(quick());
    let object = origins.head(&server.url).await.unwrap();
    assert_eq!(object.tag, Tag::Modified { unix_ns: 1_700_000_000_000_000_000 });
    assert_eq!(origins.read(&object, 0..4).await.unwrap(), "0123");
    assert_eq!(server.requests()[1].header("if-match"), None);
}

#[tokio::test]
async fn an_object_without_identity_can_be_read_but_has_no_key() {
    let server = Server::start(|request, _| Reply::object(request, OBJECT, &[])).await;
    let origins = origins(quick());
    let object = origins.head(&server.url).await.unwrap();
    assert_eq!((&object.tag, object.key()), (&Tag::None, None));
    assert_eq!(origins.read(&object, 0..4).await.unwrap(), "0123");
}

#[tokio::test]
async fn a_changed_object_is_stale_even_where_if_match_is_ignored() {
    let other = |request: &Request, body: &[u8], etag: &'static str, modified: &'static str| {
        Reply::object(request, body, &[("etag", etag), ("last-modified", modified)])
    };
    let longer = b"0123456789abcdefghijk";
    for case in 0..6 {
        let server = Server::start(move |request, before| match (before, case) {
            (0, 3) => other(request, OBJECT, "W/\"one\"", MODIFIED.1),
            (0, _) => other(request, OBJECT, ETAG.1, MODIFIED.1),
            (_, 0) => other(request, OBJECT, "\"two\"", MODIFIED.1),
            (_, 1) => other(request, longer, ETAG.1, MODIFIED.1),
            (_, 2) => Reply::new(412, ""),
            (_, 3) => other(request, OBJECT, "W/\"one\"", "Tue, 14 Nov 2023 22:13:21 GMT"),
            (_, 4) => other(request, &OBJECT[..5], ETAG.1, MODIFIED.1),
            _ => Reply::object(request, OBJECT, &[MODIFIED]),
        })
        .await;
        let origins = origins(quick());
        let object = origins.head(&server.url).await.unwrap();
        let error = origins.read(&object, 10..15).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stale, "{case}: {error}");
        assert!(error.message().contains(&format!("object changed: {}", server.url)), "{error}");
        assert!(error.message().contains("make a new plan"), "{error}");
        assert_eq!(server.requests().len(), 2, "asking again is of no use");
        assert_eq!(origins.0.counters.errors.get(), 1);
    }
}

#[tokio::test]
async fn a_server_that_refuses_head_is_asked_for_a_byte() {
    // 403: presigned for GET. 405, 501: no HEAD. 200: a length of 0 that is not true.
    for status in [403, 404, 405, 501, 200] {
        let server = Server::start(move |request, _| match request.method.as_str() {
            "HEAD" => Reply::new(status, ""),
            _ => Reply::object(request, OBJECT, &[ETAG]),
        })
        .await;
        let object = origins(quick()).head(&server.url).await.unwrap();
        assert_eq!((object.size, object.tag), (20, Tag::ETag("\"one\"".into())), "{status}");
        assert_eq!(methods(&server), ["HEAD -", "GET bytes=0-0"], "{status}");
    }
}

#[tokio::test]
async fn an_empty_object_is_told_from_a_server_that_counts_wrong() {
    // With or without HEAD, with ranges or without.
    for (head, ranges) in [(200, true), (200, false), (405, true), (405, false)] {
        let answer = move |body: &'static [u8]| {
            move |request: &Request, _| match request.method.as_str() {
                "HEAD" => Reply::new(head, "").with(ETAG.0, ETAG.1),
                _ if ranges => Reply::object(request, body, &[ETAG]),
                _ => Reply::new(200, body).with(ETAG.0, ETAG.1),
            }
        };
        let empty = Server::start(answer(b"")).await;
        let listing = origins(quick()).list(&format!("{}/x", empty.url)).await.unwrap();
        assert_eq!((listing.objects[0].size, &listing.objects[0].tag), (0, &Tag::ETag("\"one\"".into())));
        let full = Server::start(answer(OBJECT)).await;
        match origins(quick()).head(&full.url).await {
            Ok(object) => assert_eq!((object.size, ranges), (20, true)),
            Err(error) => assert_eq!((error.kind(), ranges), (ErrorKind::Unsupported, false), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_server_without_ranges_serves_whole_objects() {
    let server = Server::start(|_, _| Reply::new(200, OBJECT).with(ETAG.0, ETAG.1)).await;
    let origins = origins(quick());
    let object = origins.head(&server.url).await.unwrap();
    assert_eq!(origins.read(&object, 0..20).await.unwrap(), OBJECT);
    let error = origins.read(&object, 0..19).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("range requests"), "{error}");
}

#[tokio::test]
async fn a_range_under_the_wrong_status_is_checked_and_taken() {
    let server = Server::start(|request, before| {
        let reply = Reply::object(request, OBJECT, &[ETAG]);
        match before {
            0 | 1 => Reply { status: 200, ..reply },
            _ => Reply::new(200, &OBJECT[..4]).with("content-range", "bytes 1-4/20").with(ETAG.0, ETAG.1),
        }
    })
    .await;
    let origins = origins(quick());
    let object = origins.head(&server.url).await.unwrap();
    assert_eq!(origins.read(&object, 2..6).await.unwrap(), "2345");
    let error = origins.read(&object, 2..6).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn an_answer_cut_off_is_asked_for_again() {
    // With an entity tag object_store resumes, without one the range is read anew.
    for headers in [&[ETAG][..], &[MODIFIED], &[]] {
        let server = Server::start(move |request, before| {
            let reply = Reply::object(request, OBJECT, headers);
            if before == 1 { Reply { cut: Some(4), ..reply } } else { reply }
        })
        .await;
        let origins = origins(quick());
        let object = origins.head(&server.url).await.unwrap();
        assert_eq!(origins.read(&object, 2..18).await.unwrap(), &OBJECT[2..18], "{headers:?}");
        assert_eq!(server.requests().len(), 3);
        assert_eq!(origins.0.counters.errors.get(), 0);
    }
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_resumed_is_stale() {
    let server = Server::start(|request, before| match before {
        0 => Reply::object(request, OBJECT, &[ETAG]),
        1 => Reply { cut: Some(4), ..Reply::object(request, OBJECT, &[ETAG]) },
        _ => Reply::object(request, OBJECT, &[("etag", "\"two\"")]),
    })
    .await;
    let origins = origins(quick());
    let object = origins.head(&server.url).await.unwrap();
    let error = origins.read(&object, 2..18).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
}

#[tokio::test]
async fn repetition_has_an_end() {
    for headers in [&[ETAG][..], &[]] {
        let server = Server::start(move |request, before| {
            let reply = Reply::object(request, OBJECT, headers);
            if before > 0 { Reply { cut: Some(0), ..reply } } else { reply }
        })
        .await;
        let origins = origins(quick());
        let object = origins.head(&server.url).await.unwrap();
        let error = origins.read(&object, 2..18).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains(&server.url), "{error}");
        // Two repetitions; where object_store has done them, one more of the whole.
        assert_eq!(server.requests().len(), if headers.is_empty() { 4 } else { 7 });
    }
}

#[tokio::test]
async fn overload_is_waited_out() {
    for status in [500, 503, 429] {
        let server = Server::start(move |request, before| match before {
            1 | 2 => Reply::new(status, "slow down"),
            _ => Reply::object(request, OBJECT, &[ETAG]),
        })
        .await;
        let origins = origins(quick());
        let object = origins.head(&server.url).await.unwrap();
        assert_eq!(origins.read(&object, 0..4).await.unwrap(), "0123", "{status}");
    }
}

#[tokio::test]
async fn statuses_become_kinds() {
    for (status, kind, hint) in [
        (404, ErrorKind::NotFound, "does not exist"),
        (410, ErrorKind::NotFound, "does not exist"),
        (401, ErrorKind::PermissionDenied, "presigned"),
        (403, ErrorKind::PermissionDenied, "presigned"),
        (400, ErrorKind::Invalid, "rejected"),
        (429, ErrorKind::Unavailable, "429"),
        (503, ErrorKind::Unavailable, "503"),
        (416, ErrorKind::Invalid, "416"),
        // Not in ranges.
        (200, ErrorKind::Unsupported, "range requests"),
    ] {
        let server = Server::start(move |request, _| match request.method.as_str() {
            "HEAD" => Reply::new(405, ""),
            _ => Reply::new(status, "because signature=s3cr3t"),
        })
        .await;
        let settings = OriginSettings { retries: 0, ..quick() };
        let url = format!("{}/a?signature=s3cr3t", server.url);
        let error = origins(settings).list(&url).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.message().contains(hint), "{status}: {error}");
        assert!(error.message().contains(&format!("{}/a?…", server.url)), "{status}: {error}");
        assert!(!error.message().contains("s3cr3t"), "{status}: {error}");
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let server = Server::start(|_, _| Reply::new(500, "")).await;
    let url = server.url.clone();
    drop(server);
    let settings = OriginSettings { retries: 0, ..quick() };
    let error = origins(settings).head(&url).await.unwrap_err();
    assert!(error.kind().is_retryable(), "{error}");
    assert!(error.message().contains(&url), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_times_out() {
    // Accepts, in the kernel, and never says a word.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", listener.local_addr().unwrap());
    let settings = OriginSettings { retries: 0, request_timeout: Duration::from_millis(100), ..quick() };
    let error = origins(settings).head(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.message().contains(&url), "{error}");
}

#[tokio::test]
async fn directories_and_globs_are_refused() {
    let origins = origins(quick());
    for url in ["http://127.0.0.1:1/", "http://127.0.0.1:1/dir/", "http://127.0.0.1:1/*.parquet"] {
        let error = origins.list(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains("name one object"), "{error}");
    }
}

#[tokio::test]
async fn redirects_stay_on_the_allow_list() {
    let far = Server::start(|request, _| Reply::object(request, OBJECT, &[ETAG])).await;
    let target = format!("{}/far", far.url);
    let location = target.clone();
    let near = Server::start(move |_, _| Reply::new(302, "").with("location", location.clone())).await;
    let url = format!("{}/near", near.url);
    let with =
        |allow: &[&str]| origins(OriginSettings { allow: allow.iter().map(|a| a.to_string()).collect(), ..quick() });

    let error = with(&[&near.url]).head(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.message().contains(&url) && error.message().contains(&target), "{error}");
    assert!(far.requests().is_empty(), "nothing was sent there");

    for allow in [&[][..], &[near.url.as_str(), far.url.as_str()]] {
        let origins = with(allow);
        let object = origins.head(&url).await.unwrap();
        assert_eq!(&*object.url, url);
        assert_eq!(origins.read(&object, 0..4).await.unwrap(), "0123");
    }
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let server = Server::start(|_, _| Reply::new(302, "").with("location", "/again")).await;
    let error = origins(quick()).head(&server.url).await.unwrap_err();
    assert!(error.message().contains("too many redirects"), "{error}");
    assert!(server.requests().len() < 30);
}

#[tokio::test]
async fn requests_under_way_are_bounded() {
    let server = Server::start(|request, _| Reply::object(request, OBJECT, &[ETAG])).await;
    let origins = origins(OriginSettings { concurrency: 1, ..quick() });
    let object = origins.head(&server.url).await.unwrap();
    let held = origins.permit().await.unwrap();
    let mut read = std::pin::pin!(origins.read(&object, 0..4));
    assert!(futures::poll!(&mut read).is_pending());
    assert_eq!(server.requests().len(), 1, "the read waits for the permit");
    drop(held);
    assert_eq!(read.await.unwrap(), "0123");
}
