use super::*;

#[test]
fn bytes_and_rows_have_three_digits_at_most() {
    for (n, expected) in [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (350_000_000, "350 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.0 GB"),
        (1_900_000_000, "1.9 GB"),
        (u64::MAX, "18.4 EB"),
    ] {
        assert_eq!(bytes(n), expected, "{n}");
    }
    assert_eq!(rows(1), "1 row");
    assert_eq!(rows(20), "20 rows");
    assert_eq!(rows(12_000_000), "12.0 M rows");
}

#[test]
fn counts_are_grouped() {
    assert_eq!(count(1, "row group"), "1 row group");
    assert_eq!(count(0, "row group"), "0 row groups");
    assert_eq!(count(9733, "ticket"), "9,733 tickets");
    assert_eq!(grouped(1_000_000), "1,000,000");
    assert_eq!(grouped(100), "100");
}

#[test]
fn times_and_rates() {
    assert_eq!(seconds(Duration::from_millis(20)), "0.02 s");
    assert_eq!(seconds(Duration::from_millis(8130)), "8.1 s");
    assert_eq!(seconds(Duration::from_secs(125)), "2m 5s");
    assert_eq!(span(11_220), "3h 7m");
    assert_eq!(span(86400 * 4 + 3600 * 11), "4d 11h");
    assert_eq!(rate(1_660_000_000, Duration::from_secs(2)), "0.83 GB/s");
    assert_eq!(rate(5, Duration::ZERO), "0.00 GB/s");
    assert_eq!(percent(62, 100), "62%");
    assert_eq!(percent(0, 0), "-");
}
