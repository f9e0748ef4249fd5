//! What tells one object from the next version of it.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::url;

/// An object as it was listed: where, how large, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectMeta {
    /// The canonical URL.
    pub url: Arc<str>,
    pub size: u64,
    pub tag: Tag,
}

/// What an origin offers to tell versions of an object apart, best first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tag {
    /// The version id of a store that lists versions.
    Version(String),
    /// A strong entity tag, as the origin writes it, quotes included.
    ETag(String),
    /// The time of the last change, in whole seconds: HTTP headers tell no more, so that a listing that does must not
    /// make another identity of it.
    Modified {
        unix_ns: i64,
    },
    File {
        mtime_ns: i64,
        inode: u64,
    },
    /// Nothing: the object can be read, but not cached.
    None,
}

impl Tag {
    /// The identity in what a store said about an object. `remote` stores speak HTTP, where entity tags are quoted; a
    /// few servers leave the quotes out of listings.
    pub(super) fn of(meta: &object_store::ObjectMeta, remote: bool) -> Self {
        if let Some(tag) = meta.e_tag.as_deref().and_then(|tag| strong(tag, remote)) {
            return Self::ETag(tag);
        }
        // After the entity tag: S3 tells the version of an object when asked for it, but not in listings.
        if let Some(version) = meta.version.as_deref().filter(|version| !version.is_empty() && *version != "null") {
            return Self::Version(version.to_owned());
        }
        match meta.last_modified.timestamp() {
            // `object_store` says 1970 where the origin says nothing.
            0 => Self::None,
            seconds => Self::Modified { unix_ns: seconds.saturating_mul(1_000_000_000) },
        }
    }

    /// Whether an answer can be of the object that `self` was taken from. Compares what `self` knows: an answer may
    /// carry more than the listing did.
    pub(super) fn agrees(&self, answered: &object_store::ObjectMeta, remote: bool) -> bool {
        match self {
            Self::ETag(tag) => answered.e_tag.as_deref().and_then(|tag| strong(tag, remote)).as_ref() == Some(tag),
            Self::Version(version) => answered.version.as_ref() == Some(version),
            Self::Modified { unix_ns } => answered.last_modified.timestamp().saturating_mul(1_000_000_000) == *unix_ns,
            Self::File { .. } => false,
            Self::None => true,
        }
    }
}

/// The entity tag if it is one that can only ever stand for the same bytes, and can be sent back.
fn strong(tag: &str, remote: bool) -> Option<String> {
    let opaque = tag.trim_matches('"');
    // A weak tag stands for bytes that mean the same, which is no help to someone who joins ranges.
    if opaque.is_empty() || tag.starts_with("W/") || tag.starts_with("w/") {
        return None;
    }
    let tag = if remote { format!("\"{opaque}\"") } else { tag.to_owned() };
    // It goes into a header: what does not fit there can't be asked for.
    ::http::HeaderValue::from_str(&tag).is_ok().then_some(tag)
}

/// A short name of one version of one object, for paths and maps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ObjectKey(pub [u8; 16]);

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Names this encoding. Caches on disk hold keys: whoever changes what is hashed below changes this too.
const KEY_VERSION: &[u8] = b"roost.object.v1\0";

impl ObjectMeta {
    /// The key of this very version, or `None` if nothing tells its versions apart: such an object is not cached.
    pub fn key(&self) -> Option<ObjectKey> {
        let mut hash = Sha256::new();
        hash.update(KEY_VERSION);
        text(&mut hash, &self.url);
        hash.update(self.size.to_le_bytes());
        match &self.tag {
            Tag::Version(version) => {
                hash.update([1]);
                text(&mut hash, version);
            }
            Tag::ETag(tag) => {
                hash.update([2]);
                text(&mut hash, tag);
            }
            Tag::Modified { unix_ns } => {
                hash.update([3]);
                hash.update(unix_ns.to_le_bytes());
            }
            Tag::File { mtime_ns, inode } => {
                hash.update([4]);
                hash.update(mtime_ns.to_le_bytes());
                hash.update(inode.to_le_bytes());
            }
            Tag::None => return None,
        }
        let digest = hash.finalize();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Some(ObjectKey(key))
    }

    /// The path in the URL, decoded: what hive partitions are read from. Bytes that are no UTF-8 become U+FFFD.
    pub fn path(&self) -> String {
        url::decoded_path(&self.url)
    }
}

/// Length first, so that no two sequences of texts hash alike.
fn text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text.as_bytes());
}
