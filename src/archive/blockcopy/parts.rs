//! Parsing and writing records.

use super::{BadRecord, MAX_POSITION, Tag};
use crate::archive::digest::blake3;

/// Bytes of a check sum behind a head of ours.
pub(super) const CHECK: usize = 8;

/// The check sum of the bytes so far, tag included.
pub(super) fn check_of(bytes: &[u8]) -> [u8; CHECK] {
    let digest = blake3(bytes);
    let mut check = [0; CHECK];
    check.copy_from_slice(&digest.as_bytes()[..CHECK]);
    check
}

/// Puts the check sum behind what `to` has from `start` on.
pub(super) fn seal(to: &mut Vec<u8>, start: usize) {
    let check = check_of(&to[start..]);
    to.extend(check);
}

/// The head without its check sum, if that is right.
pub(super) fn unseal<'b>(tag: Tag, head: &'b [u8]) -> Result<Parts<'b>, BadRecord> {
    let (content, check) = head.split_at_checked(head.len().wrapping_sub(CHECK)).ok_or(BadRecord::Damaged)?;
    match check_of(&[&tag[..], content].concat()) == check {
        true => Ok(Parts(content)),
        false => Err(BadRecord::Damaged),
    }
}

/// The fields of a head, one after the other. Heads have fixed lengths, so a missing field means
/// damage.
pub(super) struct Parts<'b>(pub(super) &'b [u8]);

impl Parts<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], BadRecord> {
        let (field, rest) = self.0.split_first_chunk().ok_or(BadRecord::Damaged)?;
        self.0 = rest;
        Ok(*field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, BadRecord> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, BadRecord> {
        self.bytes().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, BadRecord> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// A position or size.
    pub(super) fn position(&mut self) -> Result<u64, BadRecord> {
        self.u64().and_then(|n| if n <= MAX_POSITION { Ok(n) } else { Err(BadRecord::TooLarge) })
    }

    /// The length of something at `position`.
    pub(super) fn length(&mut self, position: u64, most: u32) -> Result<u32, BadRecord> {
        let length = self.u32()?;
        let fits = length <= most && position + u64::from(length) <= MAX_POSITION;
        if fits { Ok(length) } else { Err(BadRecord::TooLarge) }
    }

    /// The length of a run at `position`.
    pub(super) fn run(&mut self, position: u64) -> Result<u64, BadRecord> {
        let length = self.position()?;
        if position + length <= MAX_POSITION { Ok(length) } else { Err(BadRecord::TooLarge) }
    }
}

/// A record of a tag, a position and the length of a run, with its check sum.
pub(super) fn push_run(to: &mut Vec<u8>, tag: Tag, position: u64, length: u64) {
    let start = to.len();
    to.extend(tag);
    to.extend(position.to_be_bytes());
    to.extend(length.to_be_bytes());
    seal(to, start);
}

/// Bytes of such a record behind its tag.
pub(super) const RUN: usize = 16 + CHECK;
