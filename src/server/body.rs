//! Request bodies: bounded in length and time.

use crate::archive::codec::FrameError;
use crate::archive::intake::{Intake, Taken};
use crate::error::{Error, ErrorKind, Result};
use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

/// A body that brings nothing for this long is given up.
const IDLE: Duration = Duration::from_secs(30);
/// A body may take this long whatever its length …
const GRACE: Duration = Duration::from_secs(60);
/// … and beyond that must come at this rate, in bytes a second. A drip of bytes holds no memory for ever.
const SLOWEST_RATE: u64 = 16 << 10;

/// The answer to a body in chunks, which no sender of ours makes.
pub(super) fn refuse_chunks() -> Error {
    Error::new(ErrorKind::LengthRequired, "a body needs a Content-Length; chunked bodies are not taken")
}

/// The length that the request declares.
pub(super) fn declared_length(headers: &HeaderMap) -> Result<u64> {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::LengthRequired, "a body needs a Content-Length"))
}

/// Gives the pieces of a body as they come.
struct Pieces {
    body: Body,
    deadline: Instant,
}

impl Pieces {
    fn new(body: Body, length: u64) -> Self {
        let allowed = GRACE + Duration::from_secs(length / SLOWEST_RATE);
        Self { body, deadline: Instant::now() + allowed }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let deadline = self.deadline.min(Instant::now() + IDLE);
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| {
                Error::new(ErrorKind::TooSlow, "the body came too slowly and was given up")
                    .hint("send it again")
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(Error::new(ErrorKind::TooSlow, "the body was cut").because(e)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Gives each piece of a body of exactly `length` bytes to `take`.
async fn each(body: Body, length: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
    let (mut pieces, mut left) = (Pieces::new(body, length), length);
    while let Some(piece) = pieces.next().await? {
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| Error::new(ErrorKind::Malformed, "the body is longer than its Content-Length"))?;
        take(&piece);
    }
    if left > 0 {
        return Err(Error::new(ErrorKind::TooSlow, "the body is shorter than its Content-Length"));
    }
    Ok(())
}

/// Makes `whole` a body of exactly `length` bytes; the caller has checked that this is little enough.
pub(super) async fn read(body: Body, length: u64, whole: &mut Vec<u8>) -> Result<()> {
    whole.clear();
    whole.reserve_exact(length as usize);
    each(body, length, |piece| whole.extend_from_slice(piece)).await
}

/// The same for the body of a block: where its content is stored, `whole` becomes the content. The inner error says that the body,
/// all of which has come, is no frame.
pub(super) async fn take_in(
    body: Body,
    length: u64,
    whole: &mut Vec<u8>,
) -> Result<std::result::Result<Taken, FrameError>> {
    whole.clear();
    whole.reserve_exact(length as usize);
    let mut intake = Intake::default();
    each(body, length, |piece| intake.feed(piece, whole)).await?;
    Ok(intake.finish(whole))
}

/// Writes a whole body to `file`.
pub(super) async fn save(body: Body, length: u64, file: std::fs::File) -> Result<()> {
    let io = |e: std::io::Error| Error::io("cannot keep the body", e);
    let mut file = tokio::fs::File::from_std(file);
    let mut pieces = Pieces::new(body, length);
    while let Some(piece) = pieces.next().await? {
        file.write_all(&piece).await.map_err(io)?;
    }
    file.flush().await.map_err(io)
}

/// Reads a body and throws it away. An answer that is sent while the body still comes is lost: the connection is reset.
pub(super) async fn drain(body: Body, limit_bytes: u64) {
    let mut pieces = Pieces::new(body, 0);
    let mut seen = 0;
    while let Ok(Some(piece)) = pieces.next().await {
        seen += piece.len() as u64;
        if seen > limit_bytes {
            return;
        }
    }
}
