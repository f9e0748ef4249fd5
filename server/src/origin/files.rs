//! Files of this machine. Blocking: called where that hurts nobody.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::filter::Filter;
use super::identity::{ObjectMeta, Tag};
use super::url::{encode, shown};
use super::{Progress, fault};
use crate::error::{Error, Result};

/// What a path is.
pub(super) enum Found {
    File(ObjectMeta),
    Directory,
}

pub(super) fn look(path: &Path, url: Arc<str>) -> Result<Found> {
    let metadata = fs::metadata(path).map_err(|e| fault::file(&e, "looking it up", &url))?;
    if metadata.is_dir() {
        return Ok(Found::Directory);
    }
    if !metadata.is_file() {
        return Err(Error::invalid(format!("{}: neither a file nor a directory", shown(&url))));
    }
    Ok(Found::File(describe(url, &metadata)))
}

pub(super) fn head(path: &Path, url: Arc<str>) -> Result<ObjectMeta> {
    match look(path, Arc::clone(&url))? {
        Found::File(object) => Ok(object),
        Found::Directory => Err(Error::invalid(format!("{}: is a directory, not a file", shown(&url)))),
    }
}

fn describe(url: Arc<str>, metadata: &Metadata) -> ObjectMeta {
    ObjectMeta { url, size: metadata.len(), tag: tag(metadata) }
}

fn tag(metadata: &Metadata) -> Tag {
    let mtime_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    Tag::File { mtime_ns, inode: metadata.ino() }
}

/// One copy, from the page cache into memory that was not cleared first.
pub(super) fn read(path: &Path, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes> {
    let fail = |e: io::Error| fault::file(&e, "reading a range of it", &object.url);
    let wanted = usize::try_from(range.end - range.start)
        .map_err(|_| Error::internal(format!("{}: the range {range:?} exceeds memory", shown(&object.url))))?;
    // Should a pipe stand here now, opening it must not wait for a writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(fail)?;
    let mut buffer = Vec::with_capacity(wanted);
    while buffer.len() < wanted {
        let at = range.start + buffer.len() as u64;
        match rustix::io::pread(&file, spare_capacity(&mut buffer), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(fail(errno.into())),
        }
    }
    // Looked at after reading: a file that was written before or while it was read shows it now.
    let now = file.metadata().map_err(fail)?;
    if now.len() != object.size || tag(&now) != object.tag {
        let how = format!("{} bytes and {:?}, not {} and {:?}", now.len(), tag(&now), object.size, object.tag);
        return Err(fault::changed(&object.url, &how));
    }
    if buffer.len() < wanted {
        let got = buffer.len();
        return Err(Error::unavailable(format!(
            "{}: the file ended after {got} of the {wanted} bytes of the range {range:?}",
            shown(&object.url)
        )));
    }
    // The allocator may have given more room than asked for, and `pread` filled it.
    buffer.truncate(wanted);
    Ok(buffer.into())
}

/// A directory that is still to be listed.
struct Pending {
    path: PathBuf,
    /// Relative to the base; no `/` at either end.
    below: Vec<u8>,
    depth: usize,
    /// Device and inode of each directory from the base to this one.
    line: Vec<(u64, u64)>,
}

/// The files below `base`, whose canonical URL `url` ends with `/`. Follows symbolic links, as pyarrow does. A file that
/// goes away meanwhile, a dangling link, a socket or a pipe is no file.
pub(super) fn list(base: &Path, url: &str, filter: &Filter, progress: &Progress) -> Result<Vec<ObjectMeta>> {
    let fail = |e: io::Error, path: &Path| {
        fault::file(&e, "listing it", &format!("file://{}", encode(path.as_os_str().as_bytes())))
    };
    let root = fs::metadata(base).map_err(|e| fail(e, base))?;
    let line = vec![(root.dev(), root.ino())];
    let mut pending = vec![Pending { path: base.to_owned(), below: Vec::new(), depth: 0, line }];
    let mut found: Vec<(Vec<u8>, Metadata)> = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory.path).map_err(|e| fail(e, &directory.path))? {
            progress.step();
            let entry = entry.map_err(|e| fail(e, &directory.path))?;
            let name = entry.file_name();
            if filter.hides(name.as_bytes()) {
                continue;
            }
            let path = entry.path();
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(fail(e, &path)),
            };
            let mut below = directory.below.clone();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.as_bytes());
            let depth = directory.depth + 1;
            if metadata.is_file() && filter.accepts(&below) {
                found.push((below, metadata));
            } else if metadata.is_dir() && depth < filter.depth() {
                let id = (metadata.dev(), metadata.ino());
                if directory.line.contains(&id) {
                    return Err(fail(Errno::LOOP.into(), &path));
                }
                let line = directory.line.iter().copied().chain([id]).collect();
                pending.push(Pending { path, below, depth, line });
            }
        }
    }
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let describe =
        |(below, metadata): (Vec<u8>, Metadata)| describe(Arc::from(format!("{url}{}", encode(&below))), &metadata);
    Ok(found.into_iter().map(describe).collect())
}
