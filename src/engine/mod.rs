//! What the program does: index, plan, upload, receive, check, sync. It never prints and never reads the environment.

pub mod blockcopy;
pub mod buffers;
pub mod check;
pub mod history;
pub mod index;
pub mod index_body;
mod opener;
mod pace;
mod pipeline;
pub mod plan;
pub mod receive;
pub mod rewind;
pub mod stream;
pub mod upload;

use crate::error::{Error, ErrorKind, Result};

/// Does work that blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.map_err(|e| Error::new(ErrorKind::Internal, "a task crashed").because(e))?
}
