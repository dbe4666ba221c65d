//! Parsing the stream, and verifying each block; on any thread.

use super::super::wire::{Input, Neighbour};
use crate::archive::blockcopy::data::{Block, Coding, DataRecord};
use crate::archive::blockcopy::head::{Head, Stream};
use crate::archive::blockcopy::{BadRecord, MAX_BLOCK, xz};
use crate::archive::digest::{Blake3, blake3};
use crate::archive::zstd;
use crate::engine::buffers::{Buffer, Buffers};
use crate::engine::pipeline::Feed;
use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;

/// A part of the stream.
pub(super) enum Part {
    Head(Head),
    /// Content, ready to be written; from our own `retrieve` if it `is_native`.
    Content {
        position: u64,
        content: Buffer,
        is_native: bool,
    },
    Equal {
        position: u64,
        length: u64,
    },
    Zeros {
        position: u64,
        length: u64,
    },
    Root {
        end: u64,
        root: Blake3,
    },
    Done,
}

/// The same before it was decoded.
pub(super) enum Raw {
    Ready(Part),
    Xz { position: u64, body: Buffer },
    Block { block: Block, body: Buffer },
}

/// Adjacent small records of the original are joined, up to so many bytes.
const MAX_JOINED_BYTES: usize = 1 << 20;

/// Takes the stream apart.
pub(super) fn parse(
    input: &mut Input<'_>,
    buffers: &Arc<Buffers>,
    feed: &Feed<Raw, Result<Part>>,
) -> Result<()> {
    let mut head = Vec::new();
    // Content of the original to which the next record may be joined.
    let mut open: Option<(u64, Buffer)> = None;
    loop {
        let tag = input.record(&mut head, DataRecord::length)?;
        let record = DataRecord::parse(tag, &head).map_err(|bad| input.bad(bad))?;
        if let DataRecord::Data { position, length } = record
            && let Some((start, content)) = &mut open
            && *start + content.len() as u64 == position
            && content.len() + length as usize <= MAX_JOINED_BYTES
        {
            let at = content.len();
            content.resize(at + length as usize, 0);
            input.exact(&mut content[at..])?;
            continue;
        }
        if let Some((position, content)) = open.take()
            && !feed.push(Raw::Ready(Part::Content { position, content, is_native: false }))
        {
            return Ok(());
        }
        let mut body = |length: u32| {
            let mut body = buffers.take();
            body.resize(length as usize, 0);
            input.exact(&mut body).map(|()| body)
        };
        let raw = match record {
            DataRecord::Data { position, length } => {
                open = Some((position, body(length)?));
                continue;
            }
            DataRecord::Head(head) if head.stream == Stream::Data => Raw::Ready(Part::Head(head)),
            DataRecord::Head(_) => return Err(input.bad(BadRecord::Unknown)),
            DataRecord::Xz { position, length } => Raw::Xz { position, body: body(length)? },
            DataRecord::Block(block) => Raw::Block { block, body: body(block.coded_length)? },
            DataRecord::Equal { position, length } => Raw::Ready(Part::Equal { position, length }),
            DataRecord::Zeros { position, length } => Raw::Ready(Part::Zeros { position, length }),
            DataRecord::Root { end, root } => Raw::Ready(Part::Root { end, root }),
            DataRecord::Done => {
                feed.push(Raw::Ready(Part::Done));
                return Ok(());
            }
        };
        if !feed.push(raw) {
            return Ok(());
        }
    }
}

/// Decompresses a block and compares its hash.
pub(super) fn decode(raw: Raw, buffers: &Arc<Buffers>) -> Result<Part> {
    match raw {
        Raw::Ready(part) => Ok(part),
        Raw::Xz { position, body } => {
            let mut content = buffers.take();
            xz::decode(&body, MAX_BLOCK as usize, &mut content)
                .map_err(|e| damaged(position).with_source(e))?;
            if position.checked_add(content.len() as u64).is_none_or(|end| i64::try_from(end).is_err()) {
                return Err(Neighbour::RetrieveBefore.sent(BadRecord::TooLarge));
            }
            Ok(Part::Content { position, content, is_native: false })
        }
        Raw::Block { block, body } => {
            let position = block.position;
            let content = match block.coding {
                Coding::Plain => body,
                Coding::Zstd => {
                    let mut content = buffers.take();
                    zstd::decode(&body, block.length as usize, &mut content)
                        .map_err(|e| damaged(position).with_source(e))?;
                    content
                }
            };
            if blake3(&content) != block.hash {
                return Err(damaged(position));
            }
            Ok(Part::Content { position, content, is_native: true })
        }
    }
}

fn damaged(position: u64) -> Error {
    Error::new(
        ErrorKind::Malformed,
        format!("the block at {position} is not what was announced; it was not written"),
    )
    .with_hint("something between the processes changes bytes; run all three again")
}
