use std::collections::BTreeMap;

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/METRICS.md");

/// The document's rows by name: type, labels, meaning.
fn documented() -> BTreeMap<&'static str, [&'static str; 3]> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `roost_"));
    rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else {
            panic!("a row of docs/METRICS.md has four cells: {line}")
        };
        (name.trim_matches('`'), [kind, labels, meaning])
    })
    .collect()
}

#[test]
fn every_metric_stands_in_the_document_and_no_other() {
    let (_, described) = Metrics::build();
    let mut rows = documented();
    for desc in &described {
        let name = desc.fq_name.as_str();
        let [_, labels, meaning] = rows.remove(name).unwrap_or_else(|| panic!("docs/METRICS.md lacks {name}"));
        assert_eq!(
            format!("{}.", meaning.trim_end_matches('.')),
            desc.help,
            "the meaning of {name} in docs/METRICS.md"
        );
        let known = desc.variable_labels.iter().map(String::as_str);
        let known = known.chain(desc.const_label_pairs.iter().map(|pair| pair.name()));
        let known: Vec<_> = known.map(|label| format!("`{label}`")).collect();
        assert_eq!(labels, known.join(", "), "the labels of {name} in docs/METRICS.md");
    }
    assert_eq!(rows, BTreeMap::new(), "docs/METRICS.md tells of metrics that are not there");
}

#[test]
fn names_follow_the_conventions_and_types_stand_in_the_document() {
    let metrics = Metrics::new();
    metrics.request_seconds.with_label_values(&["DoGet", "ok"]).observe(0.5);
    metrics.errors.with_label_values(&["stale"]).inc();
    let text = metrics.encode();
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, kind) in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')) {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        types.insert(name, kind);
    }
    assert_eq!(types, documented().iter().map(|(name, [kind, ..])| (*name, *kind)).collect());
}

#[test]
fn the_text_shows_what_was_counted() {
    let metrics = Metrics::new();
    metrics.hits.inc_by(3);
    metrics.origin_head.inc();
    metrics.origin_read.inc_by(2);
    metrics.used_bytes.set(1 << 40);
    metrics.decode_seconds.inc_by(1.5);
    metrics.request_seconds.with_label_values(&["DoGet", "ok"]).observe(0.02);
    metrics.errors.with_label_values(&["stale"]).inc();
    let text = metrics.encode();
    for line in [
        "roost_cache_hits_total 3",
        "roost_cache_misses_total 0",
        "roost_origin_requests_total{kind=\"list\"} 0",
        "roost_origin_requests_total{kind=\"head\"} 1",
        "roost_origin_requests_total{kind=\"read\"} 2",
        "roost_cache_used_bytes 1099511627776",
        "roost_decode_seconds_total 1.5",
        "roost_request_seconds_bucket{code=\"ok\",method=\"DoGet\",le=\"0.01\"} 0",
        "roost_request_seconds_bucket{code=\"ok\",method=\"DoGet\",le=\"0.025\"} 1",
        "roost_request_seconds_count{code=\"ok\",method=\"DoGet\"} 1",
        "roost_errors_total{kind=\"stale\"} 1",
        concat!("roost_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
}

#[test]
fn two_nodes_in_one_process_count_apart() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.hits.inc();
    assert_eq!((one.hits.get(), other.hits.get()), (1, 0));
}
