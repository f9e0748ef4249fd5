//! Roost's half of `decode.py`: for each line on standard input, reads all files once, and prints how long it took.
//!
//! `decode` drops the batches as they come. `write` fills the cache with every row group, as a node does for its
//! readers, and empties it again when the clock has stopped. One decode at a time: `decode.py` pins the process to one
//! core.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use roost_server::cache::{Cache, CacheSettings, Limit, ReadRequest, Space, SpaceSettings};
use roost_server::dataset::{Catalog, CatalogSettings, Footer};
use roost_server::decode::{Decoder, Lane};
use roost_server::metrics::Metrics;
use roost_server::origin::{ObjectMeta, OriginCounters, OriginSettings, Origins};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What may be fetched and decoded ahead: a node's default.
const MEMORY: u64 = 1 << 30;

/// Decodes Parquet files with Roost's decoder, as often as it is told to on standard input.
#[derive(Parser)]
struct Args {
    /// An empty directory, for the cache.
    #[arg(long)]
    scratch: PathBuf,
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

struct Bench {
    decoder: Decoder,
    cache: Cache,
    objects: Vec<(ObjectMeta, Arc<Footer>)>,
}

impl Bench {
    async fn open(args: Args) -> anyhow::Result<Self> {
        let origins = Origins::new(OriginSettings::default(), OriginCounters::default())?;
        let catalog = Catalog::new(origins.clone(), CatalogSettings::default(), None);
        let mut objects = Vec::new();
        for file in &args.files {
            let object = origins.head(&file_url(file)?).await?;
            let footer = catalog.footer(&object).await?;
            objects.push((object, footer));
        }
        let metrics = Metrics::new();
        let decoder = || Decoder::new(origins.clone(), 1, MEMORY, metrics.clone());
        let space = Space::open(SpaceSettings {
            directories: vec![args.scratch],
            capacity: Limit::Share(1.0),
            min_free: Limit::Bytes(1 << 30),
        })?;
        let cache = Cache::open(CacheSettings::default(), space, decoder()?, metrics.clone());
        cache.recover();
        Ok(Self { decoder: decoder()?, cache, objects })
    }

    async fn decode(&self) -> anyhow::Result<u64> {
        let mut rows = 0;
        for (object, footer) in &self.objects {
            let columns: Vec<usize> = (0..footer.schema.fields().len()).collect();
            for &run in &footer.runs {
                let mut batches = self.decoder.open(Lane::Fill, object, footer, run, &columns).await?;
                while let Some(batch) = batches.next().await? {
                    rows += batch.num_rows() as u64;
                }
            }
        }
        Ok(rows)
    }

    async fn write(&self) -> anyhow::Result<u64> {
        let mut rows = 0;
        for (object, footer) in &self.objects {
            for &run in &footer.runs {
                let request = ReadRequest {
                    url: object.url.clone(),
                    key: object.key(),
                    object: Ok(object.clone()),
                    footer: footer.clone(),
                    run,
                    columns: (0..footer.schema.fields().len() as u32).collect(),
                    dataset: object.url.clone(),
                    ahead: false,
                };
                self.cache.warm(&request).await?;
                rows += run.rows;
            }
        }
        Ok(rows)
    }

    /// Empties the cache; answers how many fragments it had.
    async fn clear(&self) -> anyhow::Result<u64> {
        let mut fragments = 0;
        for (object, _) in &self.objects {
            fragments += self.cache.evict(&object.url).await?.0;
        }
        Ok(fragments)
    }
}

fn file_url(path: &Path) -> anyhow::Result<String> {
    let path = path.canonicalize().with_context(|| format!("can't find {}", path.display()))?;
    Ok(format!("file://{}", path.to_str().context("the path is not UTF-8")?))
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let bench = runtime.block_on(Bench::open(Args::parse()))?;
    let runs: usize = bench.objects.iter().map(|(_, footer)| footer.runs.len()).sum();
    println!("ready");
    for command in std::io::stdin().lines() {
        let (command, start) = (command?, Instant::now());
        let (rows, fragments) = match command.as_str() {
            "decode" => (runtime.block_on(bench.decode())?, 0),
            "write" => (runtime.block_on(bench.write())?, runs as u64),
            other => bail!("unknown command {other:?}: say decode or write"),
        };
        let seconds = start.elapsed().as_secs_f64();
        let written = runtime.block_on(bench.clear())?;
        ensure!(written == fragments, "{written} fragments were written, {fragments} were due");
        println!("{}", serde_json::json!({ "seconds": seconds, "rows": rows }));
    }
    Ok(())
}
