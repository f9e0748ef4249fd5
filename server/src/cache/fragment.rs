//! The fragment file's format: its name, its metadata, its checksums.
//!
//! A fragment is a plain Arrow IPC file, so any Arrow reader opens it. What Roost adds stands in the footer's custom
//! metadata; the footer's own CRC32C stands in the file's name, since nothing can follow the footer. Every other byte
//! that a read depends on is covered by a checksum in the metadata. `docs/FORMAT.md` is the contract.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use super::RunKey;
use crate::error::{Error, Result};
use crate::origin::ObjectKey;

/// Bumped when older files can't be read any more; it names the directory, so that they are never looked at.
pub const VERSION: &str = "roost-v1";

/// What a fragment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FragmentInfo {
    pub url: String,
    pub object: ObjectKey,
    /// The data set through which it was first read.
    pub dataset: String,
    pub first: u32,
    pub count: u32,
    pub rows: u64,
    pub batch_rows: u32,
    /// Ordinals of the object's top-level columns, in the order of the file's schema.
    pub columns: Vec<u32>,
}

impl FragmentInfo {
    pub fn key(&self) -> RunKey {
        RunKey { object: self.object, first: self.first }
    }

    pub fn to_metadata(&self, checksums: &Checksums) -> HashMap<String, String> {
        let columns: Vec<_> = self.columns.iter().map(u32::to_string).collect();
        [
            ("roost.format", "1".to_owned()),
            ("roost.writer", concat!("roost ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("roost.url", self.url.clone()),
            ("roost.object", hex::encode(self.object.0)),
            ("roost.dataset", self.dataset.clone()),
            ("roost.row_group", self.first.to_string()),
            ("roost.row_groups", self.count.to_string()),
            ("roost.rows", self.rows.to_string()),
            ("roost.batch_rows", self.batch_rows.to_string()),
            ("roost.columns", columns.join(",")),
            ("roost.crc32c", checksums.to_text()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    pub fn from_metadata(metadata: &HashMap<String, String>) -> Result<(Self, Checksums)> {
        let text = |key: &str| {
            metadata.get(key).map(String::as_str).ok_or_else(|| Error::corrupt(format!("the footer lacks {key}")))
        };
        fn number<T: std::str::FromStr>(key: &str, value: &str) -> Result<T> {
            value.parse().map_err(|_| Error::corrupt(format!("{key} is {value:?}, no number")))
        }
        if text("roost.format")? != "1" {
            return Err(Error::corrupt("the format is not 1"));
        }
        let mut object = [0; 16];
        hex::decode_to_slice(text("roost.object")?, &mut object).map_err(|e| Error::corrupt(e.to_string()))?;
        let columns = match text("roost.columns")? {
            "" => Vec::new(),
            list => list.split(',').map(|c| number("roost.columns", c)).collect::<Result<_>>()?,
        };
        let info = Self {
            url: text("roost.url")?.to_owned(),
            object: ObjectKey(object),
            dataset: text("roost.dataset")?.to_owned(),
            first: number("roost.row_group", text("roost.row_group")?)?,
            count: number("roost.row_groups", text("roost.row_groups")?)?,
            rows: number("roost.rows", text("roost.rows")?)?,
            batch_rows: number("roost.batch_rows", text("roost.batch_rows")?)?,
            columns,
        };
        Ok((info, Checksums::from_text(text("roost.crc32c")?)?))
    }
}

/// CRC32Cs of everything in front of the footer that a read depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checksums {
    /// Whole dictionary messages, in the footer's order.
    pub dictionaries: Vec<u32>,
    pub batches: Vec<BatchChecksums>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchChecksums {
    /// The message's prefix and flatbuffer.
    pub header: u32,
    /// Each buffer, by column.
    pub columns: Vec<Vec<u32>>,
}

impl Checksums {
    fn to_text(&self) -> String {
        let mut out = Vec::new();
        let mut put = |n: u32| out.extend_from_slice(&n.to_le_bytes());
        put(self.dictionaries.len() as u32);
        self.dictionaries.iter().for_each(|&crc| put(crc));
        put(self.batches.len() as u32);
        for batch in &self.batches {
            put(batch.header);
            put(batch.columns.len() as u32);
            for column in &batch.columns {
                put(column.len() as u32);
                column.iter().for_each(|&crc| put(crc));
            }
        }
        BASE64.encode(out)
    }

    fn from_text(text: &str) -> Result<Self> {
        let bytes = BASE64.decode(text).map_err(|e| Error::corrupt(format!("roost.crc32c: {e}")))?;
        let mut numbers = bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        let mut next = || numbers.next().ok_or_else(|| Error::corrupt("roost.crc32c is cut off"));
        let mut checksums = Self::default();
        for _ in 0..next()? {
            checksums.dictionaries.push(next()?);
        }
        for _ in 0..next()? {
            let mut batch = BatchChecksums { header: next()?, columns: Vec::new() };
            for _ in 0..next()? {
                let count = next()?;
                batch.columns.push((0..count).map(|_| next()).collect::<Result<_>>()?);
            }
            checksums.batches.push(batch);
        }
        Ok(checksums)
    }
}

/// `<fan>/<object>`: the directory of an object's fragments below `fragments/`.
pub fn object_directory(object: ObjectKey) -> PathBuf {
    let name = hex::encode(object.0);
    Path::new(&name[..2]).join(&name)
}

/// What a fragment's file name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileName {
    pub first: u32,
    pub count: u32,
    /// Unique among all fills of all nodes that ever wrote here.
    pub fill: FillId,
    /// CRC32C of the IPC footer.
    pub footer_crc: u32,
}

/// Which start of a node, and which of its fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FillId {
    pub boot: u64,
    pub number: u64,
}

impl FileName {
    pub fn parse(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".arrow")?.strip_prefix("rg")?;
        let mut parts = stem.split('-');
        let name = Self {
            first: parts.next()?.parse().ok()?,
            count: parts.next()?.parse().ok()?,
            fill: FillId {
                boot: u64::from_str_radix(parts.next()?, 16).ok()?,
                number: u64::from_str_radix(parts.next()?, 16).ok()?,
            },
            footer_crc: u32::from_str_radix(parts.next()?, 16).ok()?,
        };
        parts.next().is_none().then_some(name)
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first, count, fill, footer_crc } = self;
        write!(f, "rg{first}-{count}-{:016x}-{:x}-{footer_crc:08x}.arrow", fill.boot, fill.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_and_names_come_back() {
        let info = FragmentInfo {
            url: "s3://b/a.parquet".into(),
            object: ObjectKey([7; 16]),
            dataset: "s3://b/".into(),
            first: 3,
            count: 2,
            rows: 1000,
            batch_rows: 64,
            columns: vec![4, 0],
        };
        let checksums = Checksums {
            dictionaries: vec![9],
            batches: vec![BatchChecksums { header: 1, columns: vec![vec![2, 3], vec![]] }],
        };
        let mut metadata = info.to_metadata(&checksums);
        assert_eq!(FragmentInfo::from_metadata(&metadata).unwrap(), (info, checksums));
        metadata.insert("roost.crc32c".into(), "AAAA".into());
        assert!(FragmentInfo::from_metadata(&metadata).is_err());

        let name = FileName { first: 3, count: 2, fill: FillId { boot: 0xAB, number: 17 }, footer_crc: 5 };
        assert_eq!(name.to_string(), "rg3-2-00000000000000ab-11-00000005.arrow");
        assert_eq!(FileName::parse(&name.to_string()), Some(name));
        for bad in ["", "rg3.arrow", "rg3-2-1-1-1-1.arrow", "rg3-2-1-1-x.arrow", "rg3-2-1-1-1.tmp"] {
            assert_eq!(FileName::parse(bad), None, "{bad}");
        }
    }
}
