//! Request bodies: bounded in length and time.

use super::permits::Permit;
use crate::archive::codec::FrameError;
use crate::archive::intake::{Intake, Taken};
use crate::engine::receive::Receiver;
use crate::error::{Error, ErrorKind, Result};
use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

/// A body that brings nothing for this long is given up ...
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// ... and so is one that does not bring so many bytes ...
const FLOOR_BYTES: u64 = 16 << 10;
/// ... again and again within this time. That is little: a slow link may have an idle receiver for
/// itself. Where others wait, more is asked for ([`super::permits`]).
const FLOOR_TIMEOUT: Duration = Duration::from_secs(60);
/// So much of a body is there before anything is reserved for it, in bytes, or all of a shorter one
/// ...
const INITIAL_BYTES: usize = 16 << 10;
/// ... within this time.
const INITIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer from a file is read in pieces of so many bytes.
const ANSWER_PIECE_BYTES: u64 = 256 << 10;

/// The answer to a body in chunks, which no sender of ours makes.
pub(super) fn refuse_chunks() -> Error {
    Error::new(ErrorKind::LengthRequired, "a body needs a Content-Length; chunked bodies are not taken")
}

/// The body of an answer: all of `file` from where it stands.
pub(super) fn of_file(file: std::fs::File) -> Body {
    Body::from_stream(futures_util::stream::unfold(file, |file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = Vec::new();
            let outcome = (&file).take(ANSWER_PIECE_BYTES).read_to_end(&mut piece);
            (file, outcome.map(|_| Bytes::from(piece)))
        });
        let (file, piece) = read.await.ok()?;
        if piece.as_ref().is_ok_and(Bytes::is_empty) { None } else { Some((piece, file)) }
    }))
}

/// The length that the request declares.
pub(super) fn declared_length(headers: &HeaderMap) -> Result<u64> {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::LengthRequired, "a body needs a Content-Length"))
}

/// A body that was saved, with room beside it for what is made of it.
pub(super) struct Saved(Option<tempfile::TempDir>);

impl Saved {
    /// Where a body can be saved, in a folder of its own below those of `receiver`.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn new(receiver: &Receiver) -> Result<(Self, std::fs::File)> {
        match Self::below(&receiver.incoming_path()) {
            // Whether there is room was asked before; there may be no name left.
            Err(e) if e.kind() == ErrorKind::NoSpace && receiver.release_reserve() => {
                Self::below(&receiver.incoming_path())
            }
            other => other,
        }
    }

    fn below(parent: &Path) -> Result<(Self, std::fs::File)> {
        let io = |e: std::io::Error| Error::io("cannot save the body of a request", e);
        let saved = Self(Some(tempfile::tempdir_in(parent).map_err(io)?));
        let file = std::fs::File::create_new(saved.path()).map_err(io)?;
        Ok((saved, file))
    }

    /// Does `work` with it, and removes it; on a thread that may block.
    pub(super) fn with<T>(mut self, work: impl FnOnce(&Self) -> T) -> T {
        let outcome = work(&self);
        drop(self.0.take());
        outcome
    }

    /// The body's own path.
    pub(super) fn path(&self) -> PathBuf {
        self.beside("body")
    }

    /// The path of something else.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.0.as_ref().map(|folder| folder.path().join(name)).unwrap_or_default()
    }

    /// The body.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        std::fs::read(self.path()).map_err(|e| Error::io("cannot read the body of a request back", e))
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        let Some(folder) = self.0.take() else { return };
        // Gigabytes may have to go, and the worker that gave up the request is one that other
        // requests wait for.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(folder))),
            Err(_) => drop(folder),
        }
    }
}

/// A body on its way.
pub(super) struct Incoming {
    body: Body,
    /// What is still to come, in bytes, by its Content-Length.
    left: u64,
    /// What came before the body was wanted.
    first: Vec<u8>,
    /// Since when the next [`FLOOR_BYTES`] are waited for, and how many of them have come.
    floor: (Instant, u64),
}

pub(super) fn too_slow() -> Error {
    Error::new(ErrorKind::TooSlow, "the body came too slowly and was given up").with_hint("send it again")
}

impl Incoming {
    pub(super) fn new(body: Body, length: u64) -> Self {
        Self { body, left: length, first: Vec::new(), floor: (Instant::now(), 0) }
    }

    /// The length that was declared, as long as nothing was read.
    pub(super) fn declared(&self) -> u64 {
        self.left
    }

    /// The next piece; `None` at the end of exactly as many bytes as were declared.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if !self.first.is_empty() {
            return Ok(Some(std::mem::take(&mut self.first).into()));
        }
        loop {
            let now = Instant::now();
            if self.floor.1 >= FLOOR_BYTES {
                self.floor = (now, 0);
            }
            let deadline = (now + IDLE_TIMEOUT).min(self.floor.0 + FLOOR_TIMEOUT);
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| too_slow())?;
            let frame = match frame {
                None if self.left > 0 => {
                    return Err(Error::new(
                        ErrorKind::TooSlow,
                        "the body is shorter than its Content-Length",
                    ));
                }
                None => return Ok(None),
                Some(frame) => {
                    frame.map_err(|e| Error::new(ErrorKind::TooSlow, "the body was cut").with_source(e))?
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            self.floor.1 += data.len() as u64;
            self.left = self.left.checked_sub(data.len() as u64).ok_or_else(|| {
                Error::new(ErrorKind::Malformed, "the body is longer than its Content-Length")
            })?;
            return Ok(Some(data));
        }
    }

    /// Waits for the first bytes: a request that sends none holds up no other.
    pub(super) async fn first(&mut self) -> Result<()> {
        let deadline = Instant::now() + INITIAL_TIMEOUT;
        let mut first = Vec::new();
        while first.len() < INITIAL_BYTES && self.left > 0 {
            let piece = timeout_at(deadline, self.next()).await.map_err(|_| too_slow())??;
            first.extend_from_slice(&piece.unwrap_or_default());
        }
        self.first = first;
        Ok(())
    }

    /// Gives each piece to `take`, as long as `permit` is not taken away.
    async fn each(mut self, permit: Option<&Permit>, mut take: impl FnMut(&[u8])) -> Result<()> {
        let Some(permit) = permit else {
            while let Some(piece) = self.next().await? {
                take(&piece);
            }
            return Ok(());
        };
        permit.begin_body();
        while let Some(piece) = self.next_unless_preempted(permit).await? {
            take(&piece);
        }
        permit.end_body();
        Ok(())
    }

    async fn next_unless_preempted(&mut self, permit: &Permit) -> Result<Option<Bytes>> {
        let piece = tokio::select! {
            piece = self.next() => piece?,
            preempted = permit.preempted() => return Err(preempted),
        };
        permit.record_bytes(piece.as_ref().map_or(0, Bytes::len) as u64);
        Ok(piece)
    }

    /// Makes `whole` the body; the caller has checked that its length is little enough.
    pub(super) async fn read(self, permit: Option<&Permit>, whole: &mut Vec<u8>) -> Result<()> {
        whole.clear();
        whole.reserve_exact(self.length());
        self.each(permit, |piece| whole.extend_from_slice(piece)).await
    }

    /// The same for the body of a block: where its content is stored, `whole` becomes the content.
    /// The inner error says that the body, all of which has come, is no frame.
    pub(super) async fn take_in(
        self,
        permit: &Permit,
        whole: &mut Vec<u8>,
    ) -> Result<std::result::Result<Taken, FrameError>> {
        whole.clear();
        whole.reserve_exact(self.length());
        let mut intake = Intake::default();
        self.each(Some(permit), |piece| intake.feed(piece, whole)).await?;
        Ok(intake.finish(whole))
    }

    fn length(&self) -> usize {
        self.first.len() + self.left as usize
    }

    /// Writes the body to `file`, as long as `permit` is not taken away.
    pub(super) async fn save(mut self, permit: &Permit, file: std::fs::File) -> Result<()> {
        let io = |e: std::io::Error| Error::io("cannot save the body", e).limited();
        let mut file = tokio::fs::File::from_std(file);
        permit.begin_body();
        while let Some(piece) = self.next_unless_preempted(permit).await? {
            file.write_all(&piece).await.map_err(io)?;
        }
        file.flush().await.map_err(io)
    }

    /// Reads the body and throws it away. An answer that is sent while the body still comes is
    /// lost: the connection is reset.
    pub(super) async fn drain(mut self, limit_bytes: u64) {
        let mut seen = 0;
        while let Ok(Some(piece)) = self.next().await {
            seen += piece.len() as u64;
            if seen > limit_bytes {
                return;
            }
        }
    }
}
