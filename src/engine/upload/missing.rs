//! Asking a receiver what it misses of an index.

use crate::archive::digest::IndexDigest;
use crate::archive::protocol::Status;
use crate::archive::ranges::RangeSet;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;

fn replaced() -> Error {
    Error::new(ErrorKind::Malformed, "the receiver was replaced by another program")
}

/// The status of the archive, which must have the index `digest`.
///
/// # Errors
/// It has another one, or the receiver does not answer.
pub(super) async fn status_of(
    client: &dyn ReceiverClient,
    block_size: u64,
    digest: &IndexDigest,
) -> Result<Status> {
    let status = client.status(block_size, 0).await?.ok_or_else(replaced)?;
    if status.digest == digest.to_string() {
        return Ok(status);
    }
    let what = format!("another sender put index {} in place of ours, {digest}", status.digest);
    Err(Error::new(ErrorKind::WrongIndex, what)
        .with_hint("let only senders with the same index use the same archive number, or give --tar-id"))
}

/// What the receiver misses of the index `digest`.
///
/// # Errors
/// As [`status_of`].
pub(super) async fn missing_of(
    client: &dyn ReceiverClient,
    block_size: u64,
    digest: &IndexDigest,
) -> Result<RangeSet> {
    let status = status_of(client, block_size, digest).await?;
    all_missing(client, block_size, status).await
}

/// All pages of what is missing, of which `status` is the first.
///
/// # Errors
/// The receiver does not answer.
pub(super) async fn all_missing(
    client: &dyn ReceiverClient,
    block_size: u64,
    mut status: Status,
) -> Result<RangeSet> {
    let mut missing = RangeSet::default();
    loop {
        for (start, end) in &status.missing {
            missing.insert(*start..*end);
        }
        let Some(next) = status.next else { return Ok(missing) };
        status = client.status(block_size, next).await?.ok_or_else(replaced)?;
    }
}
