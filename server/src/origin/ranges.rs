//! Which ranges to ask for. Pure.

use std::ops::Range;

/// The requests that cover `ranges`: sorted, disjoint, joined where the hole between two is at most `gap` bytes, then
/// cut into pieces of nearly equal size of at most `piece` bytes. Empty ranges ask for nothing.
///
/// `object_store::coalesce_ranges` joins as well, but it also fetches, ten at a time, and never cuts; here the caller
/// decides when each piece is fetched.
pub fn coalesce(ranges: &[Range<u64>], gap: u64, piece: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|r| (r.start, r.end));
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start.saturating_sub(last.end) <= gap => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined.into_iter().flat_map(|range| cut(range, piece.max(1))).collect()
}

/// `range` in the fewest pieces of at most `piece` bytes; their sizes differ by at most one.
fn cut(range: Range<u64>, piece: u64) -> impl Iterator<Item = Range<u64>> {
    let length = range.end - range.start;
    let count = length.div_ceil(piece);
    let (size, longer) = (length / count, length % count);
    let mut start = range.start;
    (0..count).map(move |i| {
        let end = start + size + u64::from(i < longer);
        let cut = start..end;
        start = end;
        cut
    })
}
