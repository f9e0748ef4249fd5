use super::*;

const MEGABYTE: usize = 1_000_000;

fn pace(rate: f64) -> Pace {
    Pace::new(rate).expect("a valid rate")
}

#[test]
fn a_busy_line_runs_at_its_rate() {
    let start = Instant::now() + CATCH_UP;
    let mut pace = pace(10e6);
    pace.free = start;
    let mut now = start;
    for _ in 0..10 {
        now = pace.book(now, MEGABYTE);
    }
    assert_eq!((now - start).as_millis(), 1000);
}

#[test]
fn a_late_timer_is_caught_up_with() {
    let start = Instant::now() + CATCH_UP;
    let mut pace = pace(10e6);
    pace.free = start;
    let late = pace.book(start, MEGABYTE) + Duration::from_millis(3);
    assert_eq!((pace.book(late, MEGABYTE) - start).as_millis(), 200);
}

#[test]
fn idle_time_is_not_saved_up() {
    let start = Instant::now() + CATCH_UP;
    let mut pace = pace(10e6);
    pace.free = start;
    let later = start + Duration::from_secs(60);
    assert_eq!(pace.book(later, MEGABYTE) - later, Duration::from_millis(100) - CATCH_UP);
}

#[test]
fn zero_sets_no_limit_and_nonsense_is_refused() {
    let mut unlimited = pace(0.0);
    let now = unlimited.free;
    assert_eq!(unlimited.book(now, usize::MAX), now);
    for rate in [-1.0, 0.5, f64::NAN, f64::INFINITY] {
        assert!(Pace::new(rate).is_none(), "{rate}");
    }
}
