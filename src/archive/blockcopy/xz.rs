//! Blocks as xz streams, as the original sends them. The decoder's memory and what comes out of it
//! are bounded.

use liblzma::stream::{Action, Check, Status, Stream};

/// The level that the original uses: that of the library.
const LEVEL: u32 = 6;

/// The decoder's memory, in bytes: what the highest level needs, and a little.
const MEMORY: u64 = 80 << 20;

/// Why a body is no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XzError {
    /// It is no xz stream, it is damaged, or it asks for too much memory.
    #[error("no xz stream, or a damaged one, or one that asks for too much memory")]
    Corrupt,
    /// It ends in the middle of the stream, or goes on behind it.
    #[error("not exactly one xz stream")]
    NotWhole,
    /// The content is larger than a block may be.
    #[error("more content than a block may have")]
    TooLarge,
}

/// Makes `to` the xz stream of `content`, whatever was in it before, if that is smaller.
pub fn encode(content: &[u8], to: &mut Vec<u8>) -> bool {
    to.clear();
    // One byte less: what does not fit is not smaller.
    let Some(room) = content.len().checked_sub(1) else { return false };
    to.reserve_exact(room);
    let Ok(mut stream) = Stream::new_easy_encoder(LEVEL, Check::Crc64) else { return false };
    while let Ok(status) = stream.process_vec(&content[stream.total_in() as usize..], to, Action::Finish) {
        match status {
            Status::StreamEnd => return to.len() < content.len(),
            _ if to.len() >= room => return false,
            _ => {}
        }
    }
    false
}

/// Makes `content` the content of one whole xz stream, if that has at most `most` bytes.
///
/// # Errors
/// Says what is wrong with it; `content` is of no use then.
pub fn decode(body: &[u8], most: usize, content: &mut Vec<u8>) -> Result<(), XzError> {
    content.clear();
    let mut stream = Stream::new_stream_decoder(MEMORY, 0).map_err(|_| XzError::Corrupt)?;
    loop {
        // Whatever the capacity: a pooled buffer may have more than `most`.
        if content.len() > most {
            return Err(XzError::TooLarge);
        }
        // Capacity grows as it is needed: a short stream may claim a long content.
        if content.len() == content.capacity() {
            content.reserve_exact(content.capacity().max(1 << 17).min(most + 1 - content.len()));
        }
        let (taken, given) = (stream.total_in(), content.len());
        let rest = body.get(taken as usize..).unwrap_or_default();
        let status = stream.process_vec(rest, content, Action::Run).map_err(|_| XzError::Corrupt)?;
        match status {
            Status::StreamEnd if stream.total_in() != body.len() as u64 => return Err(XzError::NotWhole),
            Status::StreamEnd if content.len() > most => return Err(XzError::TooLarge),
            Status::StreamEnd => return Ok(()),
            _ if stream.total_in() == taken && content.len() == given => return Err(XzError::NotWhole),
            _ => {}
        }
    }
}
