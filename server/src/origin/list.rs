//! From the URL of a data set to its objects.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use tokio::time::Instant;

use super::filter::Filter;
use super::identity::ObjectMeta;
use super::read::describe;
use super::store::{Access, Kind, Place};
use super::url::{Target, shown};
use super::{Listing, ListingKind, Origins, Progress, blocking, fault, files, limited};
use crate::error::{Error, ErrorKind, Result};

const LISTING: &str = "listing it";

/// How often a listing that broke is begun anew. It can't be resumed: not every server lists in the order of keys.
const RESTARTS: usize = 3;

/// Empty objects looked at at one time.
const LOOKS: usize = 8;

impl Origins {
    pub(super) async fn list_target(&self, url: &str) -> Result<Listing> {
        let target = self.target(url)?;
        let filter = target.filter()?;
        match self.place(&target)? {
            Place::File(_) => self.list_files(target, filter).await,
            Place::Store(access) => self.list_store(target, access, filter).await,
        }
    }

    async fn list_files(&self, target: Target, filter: Filter) -> Result<Listing> {
        let permit = self.permit().await?;
        self.0.counters.list.inc();
        let url = target.canonical();
        let asked = url.clone();
        let list = move |progress: &Progress| {
            let base = target.base();
            if base.is_none()
                && !target.is_directory()
                && let files::Found::File(object) = files::look(&target.file(), Arc::from(url.as_str()))?
            {
                return Ok(Listing { url, kind: ListingKind::Object, objects: vec![object] });
            }
            let directory = base.clone().unwrap_or_else(|| target.directory());
            let objects = files::list(&directory.file(), &directory.canonical(), &filter, progress)?;
            match base {
                Some(_) if objects.is_empty() => Err(unmatched(&url)),
                Some(_) => Ok(Listing { url, kind: ListingKind::Glob, objects }),
                None => Ok(Listing { url: directory.canonical(), kind: ListingKind::Prefix, objects }),
            }
        };
        blocking(self.0.settings.request_timeout, LISTING, &asked, permit, list).await
    }

    async fn list_store(&self, target: Target, access: Access, filter: Filter) -> Result<Listing> {
        let url = target.canonical();
        if target.is_glob() {
            let objects = self.below(&access, &url, &filter).await?.unwrap_or_default();
            if objects.is_empty() {
                return Err(unmatched(&url));
            }
            return Ok(Listing { url, kind: ListingKind::Glob, objects });
        }
        if matches!(access.kind, Kind::Http { .. }) && target.is_directory() {
            return Err(Error::unsupported(format!(
                "{}: HTTP has no listings, so a URL that ends with `/` can't be resolved: name one object",
                shown(&url)
            )));
        }
        let mut looked = "";
        if !target.is_directory() {
            match self.head_object(&access).await {
                // Some tools and servers leave empty objects where others have directories.
                Ok(object) if object.size == 0 && !matches!(access.kind, Kind::Http { .. }) => {
                    let objects = self.below(&access, &url, &filter).await?.filter(|objects| !objects.is_empty());
                    return Ok(match objects {
                        Some(objects) => Listing::prefix(&target, objects),
                        None => Listing { url, kind: ListingKind::Object, objects: vec![object] },
                    });
                }
                Ok(object) => return Ok(Listing { url, kind: ListingKind::Object, objects: vec![object] }),
                Err(e) if e.kind() == ErrorKind::NotFound && !matches!(access.kind, Kind::Http { .. }) => {
                    looked = "there is no object of this name, and ";
                }
                Err(e) => return Err(e),
            }
        }
        match self.below(&access, &url, &filter).await? {
            Some(objects) => Ok(Listing::prefix(&target, objects)),
            None => Err(Error::not_found(format!(
                "{}: {looked}no object lies below {}",
                shown(&url),
                shown(&target.directory().canonical())
            ))),
        }
    }

    /// The objects below a location that the filter accepts, in order; `None` if nothing at all lies there.
    async fn below(&self, access: &Access, url: &str, filter: &Filter) -> Result<Option<Vec<ObjectMeta>>> {
        let listed = self.listed(access, url, filter.depth() == 1).await?;
        if listed.is_empty() {
            return Ok(None);
        }
        let base = access.location.as_ref();
        let relative = |location: &Path| -> Option<String> {
            let below = location.as_ref().strip_prefix(base)?;
            Some(if base.is_empty() { below } else { below.strip_prefix('/')? }.to_owned())
        };
        let accepted = listed.iter().filter(|meta| {
            relative(&meta.location).is_some_and(|path| !path.is_empty() && filter.accepts(path.as_bytes()))
        });
        let mut objects: Vec<_> = accepted.cloned().collect();
        objects.sort_unstable_by(|a, b| a.location.as_ref().cmp(b.location.as_ref()));
        let markers = self.markers(access, &objects, &listed).await?;
        objects.retain(|meta| !markers.contains(&meta.location));
        Ok(Some(objects.iter().map(|meta| describe(access, &meta.location, meta)).collect()))
    }

    /// Which of the empty objects are mere directory markers: their keys end with `/`, which `object_store` cuts off, so
    /// that they look like empty objects. One that has something below it is a directory. Of the others, those that
    /// can't be found by the name without `/` are.
    async fn markers(
        &self,
        access: &Access,
        objects: &[object_store::ObjectMeta],
        listed: &[object_store::ObjectMeta],
    ) -> Result<HashSet<Path>> {
        let mut empty: HashSet<&str> = objects.iter().filter(|m| m.size == 0).map(|m| m.location.as_ref()).collect();
        let mut markers = HashSet::new();
        if empty.is_empty() {
            return Ok(markers);
        }
        for meta in listed {
            let path = meta.location.as_ref();
            for (at, _) in path.match_indices('/') {
                if empty.remove(&path[..at]) {
                    markers.extend(Path::parse(&path[..at]).ok());
                }
            }
        }
        let locations: Vec<Path> = empty.into_iter().filter_map(|path| Path::parse(path).ok()).collect();
        let looks = locations.into_iter().map(|location| async move {
            match self.head_object(&access.at(location.clone())).await {
                Ok(_) => Ok(None),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(Some(location)),
                Err(e) => Err(e),
            }
        });
        let looks: Vec<_> = futures::stream::iter(looks).buffer_unordered(LOOKS).try_collect().await?;
        markers.extend(looks.into_iter().flatten());
        Ok(markers)
    }

    /// All that lies below a location; only what lies directly below it if `shallow`.
    async fn listed(&self, access: &Access, url: &str, shallow: bool) -> Result<Vec<object_store::ObjectMeta>> {
        let _permit = self.permit().await?;
        access.ready(url).await?;
        self.0.counters.list.inc();
        let started = Instant::now();
        let mut restarts = RESTARTS.min(self.0.settings.retries);
        loop {
            let error = match self.listed_once(access, url, shallow).await? {
                Ok(listed) => return Ok(listed),
                Err(error) => error,
            };
            let again =
                fault::broke_in_listing(&error) && restarts > 0 && started.elapsed() < self.0.settings.retry_timeout;
            if !again {
                return Err(fault::explain(&error, &access.kind, LISTING, url));
            }
            restarts -= 1;
            tracing::info!(%error, "listing the origin anew");
        }
    }

    async fn listed_once(
        &self,
        access: &Access,
        url: &str,
        shallow: bool,
    ) -> Result<object_store::Result<Vec<object_store::ObjectMeta>>> {
        let prefix = Some(&access.location).filter(|location| !location.is_root());
        if shallow {
            let list = access.store.list_with_delimiter(prefix);
            return limited(self.deadline(), LISTING, url, async { Ok(list.await.map(|list| list.objects)) }).await;
        }
        let mut stream = access.store.list(prefix);
        let mut listed = Vec::new();
        // The limit is one for each page: a long listing may take as long as it goes on.
        while let Some(meta) = limited(self.deadline(), LISTING, url, async { Ok(stream.next().await) }).await? {
            match meta {
                Ok(meta) => listed.push(meta),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(listed))
    }
}

impl Listing {
    fn prefix(target: &Target, objects: Vec<ObjectMeta>) -> Self {
        Self { url: target.directory().canonical(), kind: ListingKind::Prefix, objects }
    }
}

fn unmatched(url: &str) -> Error {
    Error::not_found(format!(
        "{}: no object matches; if this names one object, write `*`, `?` and `[` in its name as %2A, %3F and %5B",
        shown(url)
    ))
}
