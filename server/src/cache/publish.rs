//! Runs fills to their end: writes, publishes by rename, merges what has become too many files.

use std::fs;
use std::sync::Arc;

use super::fill::{Fill, Phase};
use super::fragment::{FileName, FillId, FragmentInfo};
use super::index::Fragment;
use super::mapped::{Verified, project};
use super::reader::ReadRequest;
use super::writer::{FragmentWriter, WriteError};
use super::{Cache, Inner, RunKey};
use crate::dataset::off_async;
use crate::decode::Lane;
use crate::error::{Error, Result};
use crate::origin::ObjectMeta;

/// Above this many fragments in one row group they are merged: each costs a read a map and a header.
const FRAGMENTS_MAX: usize = 8;

/// Ends the fill also when its task panics or is dropped: readers must never wait for nothing.
struct EndGuard(Arc<Inner>, Arc<Fill>, RunKey);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let Self(inner, fill, key) = self;
        fill.end(Phase::Failed(Error::unavailable("the fill was broken off: read again")));
        let mut state = inner.state.lock();
        if fill.is_shareable() && !fill.keep {
            // Nothing else has these bytes: who comes a moment later shares them still.
            state.lingering.push((*key, fill.clone()));
        } else {
            state.index.remove_fill(key, fill);
        }
        drop(state);
        inner.metrics.fills_active.dec();
        if fill.keep {
            let path = fill.space().directory().temporary(fill.id);
            // Published files are not there any more; the rest must not stay.
            let remove = move || drop(fs::remove_file(path));
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(remove)),
                Err(_) => remove(),
            }
        }
    }
}

impl Inner {
    pub(super) async fn run_fill(
        self: Arc<Self>,
        fill: Arc<Fill>,
        request: ReadRequest,
        object: ObjectMeta,
        key: RunKey,
    ) {
        self.metrics.fills.inc();
        self.metrics.fills_active.inc();
        let guard = EndGuard(self.clone(), fill.clone(), key);
        let columns: Vec<usize> = fill.columns.iter().map(|&c| c as usize).collect();
        let written = match self.decoder.open(Lane::Fill, &object, &request.footer, request.run, &columns).await {
            Ok(batches) => fill.write(batches, self.settings.compression, self.metrics.clone()).await,
            Err(error) => Err(WriteError::Batch(error)),
        };
        let ended = match written {
            Ok(writer) if fill.keep => self.finish(&fill, &request, key, writer).await,
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        let phase = match ended {
            Ok(kept) => Phase::Done { kept },
            Err(WriteError::Batch(error)) => {
                self.metrics.fill_errors.inc();
                tracing::warn!(row_group = %request.id(), %error, "a fill failed");
                Phase::Failed(error)
            }
            Err(WriteError::Disk(error)) => Phase::Diskless(self.disk_failed(&fill, &error)),
        };
        fill.end(phase);
        let crowded = {
            let state = self.state.lock();
            state.index.row(&key).is_some_and(|row| row.fragments.len() > FRAGMENTS_MAX)
        };
        drop(guard);
        if crowded && let Err(error) = self.merge(request, key).await {
            tracing::debug!(%error, "fragments were not merged");
        }
    }

    fn disk_failed(&self, fill: &Fill, error: &std::io::Error) -> String {
        self.metrics.write_errors.inc();
        let directory = fill.space().directory();
        let why = format!("cache directory {} can't be written: {error}", directory.root().display());
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        if full {
            self.space.exhausted();
        } else {
            directory.set_error(Some(error.to_string()));
        }
        tracing::warn!(%why, "reads go on without it");
        why
    }

    async fn finish(
        self: &Arc<Self>,
        fill: &Arc<Fill>,
        request: &ReadRequest,
        key: RunKey,
        writer: FragmentWriter,
    ) -> Result<bool, WriteError> {
        let info = FragmentInfo {
            url: request.url.to_string(),
            object: key.object,
            dataset: request.dataset.to_string(),
            first: request.run.first,
            count: request.run.count,
            rows: request.run.rows,
            batch_rows: request.run.batch_rows,
            columns: fill.columns.clone(),
        };
        let (inner, fill, ahead) = (self.clone(), fill.clone(), request.ahead);
        off_async(move || {
            let reserved = fill.space().bytes();
            let Some(fragment) = inner.publish(&fill, info.clone(), writer, reserved)? else { return Ok(false) };
            let (url, dataset): (Arc<str>, Arc<str>) = (info.url.as_str().into(), info.dataset.as_str().into());
            let mut state = inner.state.lock();
            let owner = state.owner_for(&url, ahead);
            let added = state.index.add_fragment(key, &url, &dataset, fragment.clone());
            if added {
                state.policy.add(key, owner, fragment.bytes);
                // In one step, so that no read finds the columns twice or not at all.
                state.index.remove_fill(&key, &fill);
            }
            drop(state);
            if !added {
                super::space::unlink(&fragment.path);
            }
            Ok(added)
        })
        .await
        .map_err(WriteError::Batch)?
    }

    /// Finishes the file and gives it its name. `None`: it grew beyond what may be kept.
    fn publish(
        self: &Arc<Self>,
        fill: &Fill,
        info: FragmentInfo,
        writer: FragmentWriter,
        reserved: u64,
    ) -> Result<Option<Arc<Fragment>>, WriteError> {
        let (footer_crc, bytes) = writer.finish(&info)?;
        fill.space().set(bytes);
        if bytes > reserved && self.space.staying() > self.space.limit() {
            return Ok(None);
        }
        fail::fail_point!("fill::publish", |_| Err(WriteError::Disk(std::io::Error::other("failpoint"))));
        let directory = fill.space().directory();
        let name = FileName { first: info.first, count: info.count, fill: fill.id, footer_crc };
        let (from, home) = (directory.temporary(fill.id), directory.object(info.object));
        let path = home.join(name.to_string());
        let mut renamed = Ok(());
        // Eviction of the object's last other fragment removes the directory, maybe just now.
        for _ in 0..8 {
            renamed = fs::create_dir_all(&home).and_then(|()| fs::rename(&from, &path));
            match &renamed {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
        renamed?;
        let batches = info.rows.div_ceil(u64::from(info.batch_rows.max(1))) as usize;
        Ok(Some(Arc::new(Fragment {
            id: self.next_id(),
            path,
            name,
            // This process wrote it: what it reads back is in memory or was just there.
            verified: Verified::all(batches, info.columns.len()),
            columns: info.columns,
            bytes,
            space: fill.space().clone(),
        })))
    }

    /// Writes the fragments of a crowded row group as one.
    async fn merge(self: &Arc<Self>, request: ReadRequest, key: RunKey) -> Result<()> {
        let old: Vec<Arc<Fragment>> = {
            let state = self.state.lock();
            state.index.row(&key).map(|row| row.fragments.clone()).unwrap_or_default()
        };
        let mut columns: Vec<u32> = old.iter().flat_map(|f| f.columns.iter().copied()).collect();
        columns.sort_unstable();
        let bytes = old.iter().map(|f| f.bytes).sum();
        if self.space.staying() + bytes > self.space.limit() {
            return Err(Error::exhausted("no room for the merged copy"));
        }
        let space = self.space.claim(bytes, false).ok_or_else(|| Error::unavailable("no cache directory works"))?;
        let id = FillId { boot: self.boot, number: self.next_id() };
        let schema = project(&request.footer.schema, &columns);
        let fill = Fill::new(id, columns.clone(), schema.clone(), request.run.batches(), Arc::new(space), true);
        let path = fill.space().directory().temporary(id);
        let disk = |e: WriteError| match e {
            WriteError::Batch(error) => error,
            WriteError::Disk(error) => Error::unavailable(error.to_string()),
        };
        let request = ReadRequest { columns: columns.clone(), ..request };
        let mut reader = Cache(self.clone()).read(request.clone()).await?;
        let made = {
            let (path, codec) = (path.clone(), self.settings.compression);
            off_async(move || FragmentWriter::create(&path, schema, codec)).await?.map_err(disk)
        };
        let merged = async {
            let mut writer = made?;
            for index in 0..reader.batches() {
                let batch = reader.batch(index).await?;
                writer = off_async(move || writer.write(&batch).map(|_| writer)).await?.map_err(disk)?;
            }
            let info = FragmentInfo {
                url: request.url.to_string(),
                object: key.object,
                dataset: request.dataset.to_string(),
                first: request.run.first,
                count: request.run.count,
                rows: request.run.rows,
                batch_rows: request.run.batch_rows,
                columns,
            };
            let (inner, fill) = (self.clone(), fill.clone());
            off_async(move || inner.publish(&fill, info, writer, bytes)).await?.map_err(disk)
        }
        .await;
        let fragment = match merged {
            Ok(Some(fragment)) => fragment,
            other => {
                off_async(move || drop(fs::remove_file(path))).await?;
                return other.map(drop);
            }
        };
        let gone = {
            let mut state = self.state.lock();
            let (url, dataset) = (request.url.clone(), request.dataset.clone());
            let still = old
                .iter()
                .all(|f| state.index.row(&key).is_some_and(|row| row.fragments.iter().any(|other| other.id == f.id)));
            if still {
                for fragment in &old {
                    state.index.remove_fragment(&key, fragment.id);
                    state.policy.subtract(&key, fragment.bytes);
                }
                let owner = state.owner_of(&url);
                state.index.add_fragment(key, &url, &dataset, fragment.clone());
                state.policy.add(key, owner, fragment.bytes);
                old
            } else {
                vec![fragment]
            }
        };
        let inner = self.clone();
        off_async(move || inner.destroy(gone)).await
    }
}
