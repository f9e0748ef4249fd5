//! The decode threads: few and always the same.
//!
//! tokio's blocking pool grows to hundreds of threads, and each that has ever decoded keeps what its allocator holds
//! back: on a small memory limit that alone breaks it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

#[derive(Clone)]
pub struct Pool(Arc<ThreadPool>);

impl Pool {
    pub fn new(threads: usize) -> Result<Self> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("decode-{n}")).build();
        Ok(Self(Arc::new(pool.map_err(|e| Error::unavailable(format!("decode threads can't be started: {e}")))?)))
    }

    /// Runs `work` in its turn. An error is the message of its panic.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let (sender, receiver) = oneshot::channel();
        self.0.spawn_fifo(move || {
            // What a panic leaves behind is dropped with the closure.
            let done = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(panic.as_ref()));
            // Who asked may be gone.
            let _ = sender.send(done);
        });
        receiver.await.unwrap_or_else(|_| Err("the decode threads are gone".into()))
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
