//! Which of the paths below a directory belong to a data set. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobMatcher};

/// Leaves out what is hidden, and what a glob does not match. Paths are relative to the data set's base.
pub(super) struct Filter {
    glob: Option<Glob>,
}

struct Glob {
    matcher: GlobMatcher,
    /// The segments of the pattern that begin with `_` or `.`: what they match is asked for, not hidden.
    outspoken: Vec<GlobMatcher>,
    /// The number of segments of every path that matches; `None` if `**` lets it vary.
    depth: Option<usize>,
}

impl Filter {
    /// All that is not hidden.
    pub(super) fn visible() -> Self {
        Self { glob: None }
    }

    /// `segments` in globset's syntax.
    pub(super) fn glob(segments: &[String]) -> Result<Self, String> {
        let outspoken = segments.iter().filter(|s| s.starts_with(['_', '.'])).map(|s| compile(s));
        let glob = Glob {
            matcher: compile(&segments.join("/"))?,
            outspoken: outspoken.collect::<Result<_, _>>()?,
            depth: (!segments.iter().any(|s| s == "**")).then_some(segments.len()),
        };
        Ok(Self { glob: Some(glob) })
    }

    /// How many segments deep a path can lie and still be accepted.
    pub(super) fn depth(&self) -> usize {
        self.glob.as_ref().and_then(|glob| glob.depth).unwrap_or(usize::MAX)
    }

    /// Whether a file or directory of this name is left out with all below it.
    pub(super) fn hides(&self, segment: &[u8]) -> bool {
        let outspoken = self.glob.iter().flat_map(|glob| &glob.outspoken);
        matches!(segment.first(), Some(b'_' | b'.'))
            && !outspoken.into_iter().any(|m| m.is_match(OsStr::from_bytes(segment)))
    }

    pub(super) fn accepts(&self, path: &[u8]) -> bool {
        !path.split(|b| *b == b'/').any(|segment| self.hides(segment))
            && self.glob.as_ref().is_none_or(|glob| glob.matcher.is_match(OsStr::from_bytes(path)))
    }
}

fn compile(pattern: &str) -> Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(false).build();
    Ok(glob.map_err(|e| e.kind().to_string())?.compile_matcher())
}
