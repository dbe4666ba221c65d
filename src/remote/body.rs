//! Request bodies that come in pieces.

use super::limit::{Bandwidth, piece_bytes};
use super::stall_timeout::StallTimeout;
use super::throughput::Sending;
use crate::archive::frame::Frame;
use crate::error::{Error, Result};
use crate::telemetry::Departure;
use bytes::Bytes;
use reqwest::Body;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

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
    let mut file = file.try_clone().map_err(io)?;
    std::io::Seek::rewind(&mut file).map_err(io)?;
    let (timeout, piece_bytes) = (timeout.clone(), piece_bytes(bandwidth.as_deref(), length));
    let pieces = futures_util::stream::unfold(
        (file, bandwidth, timeout),
        move |(file, bandwidth, timeout)| async move {
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = Vec::new();
                let outcome = (&file).take(piece_bytes as u64).read_to_end(&mut piece);
                (file, outcome.map(|_| Bytes::from(piece)))
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
            timeout.record(piece.as_ref().map_or(0, Bytes::len));
            Some((piece, (file, bandwidth, timeout)))
        },
    );
    Ok(Body::wrap_stream(pieces))
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
