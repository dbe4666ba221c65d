//! Request bodies that come in pieces.

use super::limit::{Bandwidth, piece_bytes};
use super::retry::Failed;
use super::stall_timeout::StallTimeout;
use super::throughput::Sending;
use crate::archive::frame::Frame;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Departure;
use bytes::Bytes;
use reqwest::{Body, Response};
use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// A body of all that is in `file`, which are `length` bytes.
///
/// # Errors
/// The file cannot be read.
pub(super) fn of_file(
    file: &File,
    length: u64,
    bandwidth: Option<Arc<Bandwidth>>,
    timeout: &StallTimeout,
) -> Result<Body> {
    let io = |e: std::io::Error| Error::io("cannot read back the compressed index", e);
    let file = file.try_clone().map_err(io)?;
    let (timeout, piece_bytes) = (timeout.clone(), piece_bytes(bandwidth.as_deref(), length));
    // By position: the same file may be sent to several receivers at the same time.
    let pieces = futures_util::stream::unfold(
        (file, 0, bandwidth, timeout),
        move |(file, at, bandwidth, timeout)| async move {
            let read = tokio::task::spawn_blocking(move || {
                let outcome = read_piece(&file, at, piece_bytes);
                (file, outcome)
            });
            let (file, piece) = match read.await {
                Ok((file, piece)) => (file, piece),
                Err(_) => return None,
            };
            match &piece {
                Ok(bytes) if bytes.is_empty() => return None,
                Ok(bytes) => {
                    if let Some(bandwidth) = &bandwidth {
                        bandwidth.take(bytes.len()).await;
                    }
                }
                Err(_) => {}
            }
            let length = piece.as_ref().map_or(0, Bytes::len);
            timeout.record(length);
            Some((piece, (file, at + length as u64, bandwidth, timeout)))
        },
    );
    Ok(Body::wrap_stream(pieces))
}

/// What `file` has from `at` on, at most `length` bytes; nothing at its end.
fn read_piece(file: &File, at: u64, length: usize) -> std::io::Result<Bytes> {
    let (mut piece, mut filled) = (vec![0; length], 0);
    while filled < length {
        match file.read_at(&mut piece[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    piece.truncate(filled);
    Ok(Bytes::from(piece))
}

/// Writes the body of an answer to `target`, from its start. It must be as long as it says, and at
/// most `limit_bytes`.
pub(super) async fn to_file(
    mut response: Response,
    target: &File,
    limit_bytes: u64,
    timeout: &StallTimeout,
) -> std::result::Result<(), Failed> {
    let io = |e: std::io::Error| Error::io("cannot save what the receiver answers", e).of_this_host();
    let cut = |e: reqwest::Error| {
        Error::new(ErrorKind::Unreachable, "the receiver's answer was cut").with_source(e.without_url())
    };
    let rewound = || -> std::io::Result<File> {
        let mut file = target.try_clone()?;
        file.set_len(0)?;
        file.rewind().map(|()| file)
    };
    let mut file = tokio::fs::File::from_std(rewound().map_err(io)?);
    let (expected, mut written) = (response.content_length(), 0);
    while let Some(piece) = response.chunk().await.map_err(cut)? {
        written += piece.len() as u64;
        if written > limit_bytes {
            let what = format!("the receiver's answer is longer than {limit_bytes} bytes");
            return Err(Error::new(ErrorKind::TooLarge, what).into());
        }
        file.write_all(&piece).await.map_err(io)?;
        timeout.record(piece.len());
    }
    file.flush().await.map_err(io)?;
    match expected {
        Some(expected) if expected != written => {
            Err(Error::new(ErrorKind::Unreachable, "the receiver's answer was cut").into())
        }
        _ => Ok(()),
    }
}

/// A piece of a body. The HTTP client drops it when the socket has taken all of it.
struct DepartingPiece {
    bytes: Bytes,
    departure: Departure,
}

impl AsRef<[u8]> for DepartingPiece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for DepartingPiece {
    fn drop(&mut self) {
        self.departure.record(self.bytes.len());
    }
}

/// A body whose pieces tell that it moves: whatever the rate of the link, only a body that stands
/// still is given up. `departure` is told what the socket has taken.
pub(super) fn of_frame(
    frame: &Frame,
    bandwidth: Option<Arc<Bandwidth>>,
    sending: Sending,
    timeout: &StallTimeout,
    departure: Option<Departure>,
) -> Body {
    struct Unsent {
        pieces: std::vec::IntoIter<Bytes>,
        piece: Bytes,
        bandwidth: Option<Arc<Bandwidth>>,
        timeout: StallTimeout,
        sending: Sending,
        departure: Option<Departure>,
        piece_bytes: usize,
    }
    let piece_bytes = piece_bytes(bandwidth.as_deref(), frame.length());
    let unsent = Unsent {
        pieces: frame.pieces().to_vec().into_iter(),
        piece: Bytes::new(),
        bandwidth,
        timeout: timeout.clone(),
        sending,
        departure,
        piece_bytes,
    };
    let pieces = futures_util::stream::unfold(unsent, |mut unsent| async move {
        if unsent.piece.is_empty() {
            unsent.piece = unsent.pieces.next()?;
        }
        let piece = unsent.piece.split_to(unsent.piece_bytes.min(unsent.piece.len()));
        if let Some(bandwidth) = &unsent.bandwidth {
            bandwidth.take(piece.len()).await;
        }
        unsent.timeout.record(piece.len());
        unsent.sending.record(piece.len());
        let piece = match unsent.departure.clone() {
            Some(departure) => Bytes::from_owner(DepartingPiece { bytes: piece, departure }),
            None => piece,
        };
        Some((Ok::<_, std::io::Error>(piece), unsent))
    });
    Body::wrap_stream(pieces)
}
