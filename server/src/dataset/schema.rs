//! PURE: the Arrow schema an object is served with, and one schema for many objects.
//!
//! The aim is what `pyarrow.parquet.read_table` gives for the same path. parquet-rs infers nearly the same schema; the
//! differences are mended here.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use base64::Engine;
use parquet::arrow::{ARROW_SCHEMA_META_KEY, parquet_to_arrow_schema};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// First 16 bytes of the SHA-256 of a schema as an IPC message.
pub type Fingerprint = [u8; 16];

/// An object's columns, two ways. They differ in what a cast mends on serving.
pub struct ObjectSchema {
    /// As pyarrow reads them.
    pub served: SchemaRef,
    /// As they are decoded and kept: every dictionary has int32 indices, since a fragment's one dictionary may outgrow
    /// what each chunk's own needed.
    pub stored: SchemaRef,
}

pub fn object_schema(url: &str, meta: &ParquetMetaData) -> Result<ObjectSchema> {
    let file = meta.file_metadata();
    let inferred = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()).map_err(|e| match e {
        ParquetError::NYI(_) => Error::unsupported(format!("{url}: its schema can't be read as Arrow: {e}")),
        e => Error::corrupt(format!("{url}: its schema can't be read as Arrow: {e}")),
    })?;
    let mut seen = HashMap::new();
    for (index, field) in inferred.fields().iter().enumerate() {
        if let Some(first) = seen.insert(field.name().clone(), index) {
            return Err(Error::unsupported(format!(
                "{url}: columns {first} and {index} are both named {:?}; columns are read by name, rename one",
                field.name()
            )));
        }
    }
    let embedded = embedded_schema(meta);
    let with = |change: &dyn Fn(&FieldRef) -> FieldRef| {
        let fields: Fields = inferred.fields().iter().map(change).collect();
        Arc::new(Schema::new_with_metadata(fields, inferred.metadata().clone()))
    };
    let served = with(&|field| {
        let field = served_field(field);
        let original = embedded.as_ref().and_then(|schema| schema.field_with_name(field.name()).ok());
        original.map_or_else(|| field.clone(), |original| with_zones(&field, original))
    });
    Ok(ObjectSchema { served, stored: with(&stored_field) })
}

/// The Arrow schema that the writer embedded, if it can be read.
fn embedded_schema(meta: &ParquetMetaData) -> Option<Schema> {
    let pairs = meta.file_metadata().key_value_metadata()?;
    let text = pairs.iter().find(|pair| pair.key == ARROW_SCHEMA_META_KEY)?.value.as_ref()?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let message = bytes.strip_prefix(&[0xFF; 4]).unwrap_or(&bytes).get(4..)?;
    arrow_ipc::convert::try_schema_from_flatbuffer_bytes(message).ok()
}

/// Puts the writer's time zones in place of UTC, at any depth. parquet-rs does so only where the unit is kept too, which
/// Parquet can't for seconds.
fn with_zones(field: &FieldRef, original: &Field) -> FieldRef {
    let data_type = match (field.data_type(), original.data_type()) {
        (DataType::Timestamp(unit, Some(_)), DataType::Timestamp(_, Some(zone))) => {
            DataType::Timestamp(*unit, Some(zone.clone()))
        }
        (DataType::Struct(fields), DataType::Struct(originals)) if fields.len() == originals.len() => {
            DataType::Struct(fields.iter().zip(originals).map(|(f, o)| with_zones(f, o)).collect())
        }
        (nested, DataType::List(o) | DataType::LargeList(o) | DataType::FixedSizeList(o, _) | DataType::Map(o, _)) => {
            map_children(nested, &|child| with_zones(child, o))
        }
        (same, _) => same.clone(),
    };
    with_type(field, data_type)
}

/// pyarrow honours a dictionary in the embedded schema for text only, and reads date64 as date32.
fn served_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Dictionary(index, value) if is_text(value) => DataType::Dictionary(index.clone(), value.clone()),
        DataType::Dictionary(_, plain) => plain.as_ref().clone(),
        DataType::Date64 => DataType::Date32,
        other => map_children(other, &served_field),
    };
    with_type(field, data_type)
}

fn stored_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Dictionary(_, value) if is_text(value) => {
            DataType::Dictionary(Box::new(DataType::Int32), value.clone())
        }
        DataType::Dictionary(_, plain) => plain.as_ref().clone(),
        DataType::Date64 => DataType::Date32,
        other => map_children(other, &stored_field),
    };
    with_type(field, data_type)
}

fn is_text(value: &DataType) -> bool {
    matches!(value, DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary)
}

fn map_children(data_type: &DataType, change: &dyn Fn(&FieldRef) -> FieldRef) -> DataType {
    match data_type {
        DataType::List(f) => DataType::List(change(f)),
        DataType::LargeList(f) => DataType::LargeList(change(f)),
        DataType::ListView(f) => DataType::ListView(change(f)),
        DataType::LargeListView(f) => DataType::LargeListView(change(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(change(f), *n),
        DataType::Map(f, sorted) => DataType::Map(change(f), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(change).collect()),
        same => same.clone(),
    }
}

fn with_type(field: &FieldRef, data_type: DataType) -> FieldRef {
    if &data_type == field.data_type() {
        return field.clone();
    }
    let ordered = field.dict_is_ordered().unwrap_or(false) && matches!(data_type, DataType::Dictionary(_, _));
    let changed = Field::new(field.name(), data_type, field.is_nullable()).with_metadata(field.metadata().clone());
    Arc::new(changed.with_dict_is_ordered(ordered))
}

/// One schema for all objects of a data set: the first object's fields in order, then fields that others add.
/// A field that some object lacks becomes nullable; where types differ the wider one is served.
pub struct Unifier {
    fields: Vec<FieldRef>,
    /// Index in `fields`, and the object that brought the field's type.
    by_name: HashMap<String, (usize, Arc<str>)>,
    metadata: HashMap<String, String>,
    objects: usize,
}

impl Unifier {
    pub fn new() -> Self {
        Self { fields: Vec::new(), by_name: HashMap::new(), metadata: HashMap::new(), objects: 0 }
    }

    pub fn add(&mut self, url: &Arc<str>, schema: &Schema) -> Result<()> {
        if self.objects == 0 {
            self.metadata = schema.metadata().clone();
        }
        let mut present = vec![false; self.fields.len()];
        for field in schema.fields() {
            match self.by_name.get_mut(field.name()) {
                None => {
                    // Objects before this one lack the field: their rows have nulls.
                    let field = if self.objects == 0 { field.clone() } else { nullable(field) };
                    self.by_name.insert(field.name().clone(), (self.fields.len(), url.clone()));
                    self.fields.push(field);
                }
                Some((index, brought_by)) => {
                    if *index < present.len() {
                        present[*index] = true;
                    }
                    let known = &self.fields[*index];
                    if known == field {
                        continue;
                    }
                    let data_type = wider(known.data_type(), field.data_type()).ok_or_else(|| {
                        Error::invalid(format!(
                            "column {:?} is {} in {brought_by} but {} in {url}: no type holds both; \
                             read them apart or rewrite one",
                            field.name(),
                            known.data_type(),
                            field.data_type(),
                        ))
                    })?;
                    if &data_type != known.data_type() {
                        *brought_by = url.clone();
                    }
                    let merged = Field::new(known.name(), data_type, known.is_nullable() || field.is_nullable())
                        .with_metadata(known.metadata().clone());
                    self.fields[*index] = Arc::new(merged);
                }
            }
        }
        for (index, present) in present.into_iter().enumerate() {
            if !present {
                self.fields[index] = nullable(&self.fields[index]);
            }
        }
        self.objects += 1;
        Ok(())
    }

    /// The unified schema, with `partitions` behind the objects' own fields.
    pub fn finish(mut self, partitions: impl IntoIterator<Item = FieldRef>) -> SchemaRef {
        for field in partitions {
            if !self.by_name.contains_key(field.name()) {
                self.fields.push(field);
            }
        }
        Arc::new(Schema::new_with_metadata(self.fields, self.metadata))
    }
}

impl Default for Unifier {
    fn default() -> Self {
        Self::new()
    }
}

fn nullable(field: &FieldRef) -> FieldRef {
    if field.is_nullable() { field.clone() } else { Arc::new(field.as_ref().clone().with_nullable(true)) }
}

/// The type that holds the values of both, if one does without loss.
fn wider(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::*;
    if a == b {
        return Some(a.clone());
    }
    // The same but for names inside.
    if a.equals_datatype(b) {
        return Some(a.clone());
    }
    if let Some(wide) = wider_integer(a, b) {
        return Some(wide);
    }
    let pair = match (a, b) {
        (Null, other) | (other, Null) => other.clone(),
        (Float32, Float64) | (Float64, Float32) => Float64,
        (Float16, wide @ (Float32 | Float64)) | (wide @ (Float32 | Float64), Float16) => wide.clone(),
        (Utf8, LargeUtf8) | (LargeUtf8, Utf8) => LargeUtf8,
        (Binary, LargeBinary) | (LargeBinary, Binary) => LargeBinary,
        (Dictionary(i, v), Dictionary(j, w)) if v == w => Dictionary(Box::new(wider_integer(i, j)?), v.clone()),
        (Dictionary(_, value), plain) | (plain, Dictionary(_, value)) if value.as_ref() == plain => plain.clone(),
        (Timestamp(u, za), Timestamp(v, zb)) if za == zb => Timestamp(*u.max(v), za.clone()),
        (List(x), List(y)) => List(wider_field(x, y)?),
        (LargeList(x), LargeList(y)) => LargeList(wider_field(x, y)?),
        (FixedSizeList(x, n), FixedSizeList(y, m)) if n == m => FixedSizeList(wider_field(x, y)?, *n),
        // Struct members are matched by position and name: adding members inside a struct is not unified.
        (Struct(x), Struct(y)) if x.len() == y.len() && x.iter().zip(y).all(|(f, g)| f.name() == g.name()) => {
            Struct(x.iter().zip(y).map(|(f, g)| wider_field(f, g)).collect::<Option<Fields>>()?)
        }
        _ => return None,
    };
    Some(pair)
}

fn wider_integer(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::*;
    fn class(t: &DataType) -> Option<(bool, u32)> {
        Some(match t {
            Int8 => (true, 8),
            Int16 => (true, 16),
            Int32 => (true, 32),
            Int64 => (true, 64),
            UInt8 => (false, 8),
            UInt16 => (false, 16),
            UInt32 => (false, 32),
            UInt64 => (false, 64),
            _ => return None,
        })
    }
    let ((sa, wa), (sb, wb)) = (class(a)?, class(b)?);
    let (signed, width) = match (sa, sb) {
        (x, y) if x == y => (x, wa.max(wb)),
        (true, false) => (true, wa.max(wb * 2)),
        _ => (true, wb.max(wa * 2)),
    };
    Some(match (signed, width) {
        (true, 8) => Int8,
        (true, 16) => Int16,
        (true, 32) => Int32,
        (true, 64) => Int64,
        (false, 8) => UInt8,
        (false, 16) => UInt16,
        (false, 32) => UInt32,
        (false, 64) => UInt64,
        _ => return None,
    })
}

fn wider_field(a: &FieldRef, b: &FieldRef) -> Option<FieldRef> {
    let data_type = wider(a.data_type(), b.data_type())?;
    Some(Arc::new(
        Field::new(a.name(), data_type, a.is_nullable() || b.is_nullable()).with_metadata(a.metadata().clone()),
    ))
}

/// A schema as an encapsulated IPC message's flatbuffer.
pub fn ipc_message(schema: &Schema) -> Vec<u8> {
    let mut tracker = DictionaryTracker::new(false);
    IpcDataGenerator::default()
        .schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &IpcWriteOptions::default())
        .ipc_message
}

pub fn fingerprint(schema: &Schema) -> Fingerprint {
    // Metadata is a hash map: sort it, so that equal schemas have equal fingerprints.
    let mut metadata: Vec<_> = schema.metadata().iter().collect();
    metadata.sort();
    let mut hash = Sha256::new();
    hash.update(ipc_message(&Schema::new(without_metadata(schema.fields()))));
    for (key, value) in metadata {
        hash.update((key.len() as u64).to_le_bytes());
        hash.update(key);
        hash.update((value.len() as u64).to_le_bytes());
        hash.update(value);
    }
    for field in schema.flattened_fields() {
        let mut metadata: Vec<_> = field.metadata().iter().collect();
        metadata.sort();
        hash.update(format!("{metadata:?}"));
    }
    let digest = hash.finalize();
    let mut out = [0; 16];
    out.copy_from_slice(&digest[..16]);
    out
}

fn without_metadata(fields: &Fields) -> Fields {
    fn bare(field: &FieldRef) -> FieldRef {
        let data_type = map_children(field.data_type(), &bare);
        let ordered = field.dict_is_ordered().unwrap_or(false);
        Arc::new(Field::new(field.name(), data_type, field.is_nullable()).with_dict_is_ordered(ordered))
    }
    fields.iter().map(bare).collect()
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
