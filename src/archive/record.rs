//! The codec of records: what logs, changes and backups are made of.
//!
//! A *batch* is any number of whole records; each begins with one byte that names its kind. Numbers
//! are little-endian. A text is a u16 length and so many bytes. An optional value is `0`, or `1`
//! and the value. Metadata is mode u32, mtime i64 (ns since 1970), uid u32, gid u32. A digest is
//! its bytes. A *sealed* record has a fixed length and ends with the BLAKE3 of all bytes before.

use super::digest::{Digest, blake3};
use super::entry::{Meta, Node, NodeKind};
use super::path::{EntryPath, printable};
use std::fmt::Display;

/// A record of a batch.
pub(super) trait Record: Sized {
    /// Adds the record to `batch`.
    fn write(&self, batch: &mut Writer<'_>);

    /// Reads the next record.
    ///
    /// # Errors
    /// The record is cut, of an unknown kind, or says what no index can.
    fn read(fields: &mut Reader<'_>) -> Result<Self, Fault>;
}

/// Why a batch is refused. Records count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A record is cut, or of an unknown kind.
    #[error("record {0} is malformed")]
    Malformed(usize),
    /// A record says what no index can.
    #[error("record {0}: {1}")]
    Invalid(usize, String),
}

/// Why a record cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The record is cut, or of an unknown kind.
    Malformed,
    /// The record says what no index can.
    Invalid(String),
}

/// Adds `record` to `batch`.
pub(super) fn push(batch: &mut Vec<u8>, record: &impl Record) {
    record.write(&mut Writer(batch));
}

/// The records of a batch, one after another: all of them at once take many times the memory of the
/// batch. Every record is checked for all that can be said of it alone. An error is the last item.
pub(super) fn records<R: Record>(batch: &[u8]) -> impl Iterator<Item = Result<R, BatchError>> + Clone {
    let (mut rest, mut number) = (Reader(batch), 0);
    std::iter::from_fn(move || {
        if rest.0.is_empty() {
            return None;
        }
        number += 1;
        let outcome = R::read(&mut rest).map_err(|fault| match fault {
            Fault::Malformed => BatchError::Malformed(number),
            Fault::Invalid(why) => BatchError::Invalid(number, why),
        });
        if outcome.is_err() {
            rest = Reader(&[]);
        }
        Some(outcome)
    })
}

/// Writes fields behind each other.
pub(crate) struct Writer<'a>(pub(crate) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    pub(crate) fn byte(&mut self, byte: impl Into<u8>) {
        self.0.push(byte.into());
    }

    pub(super) fn u16(&mut self, number: u16) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    pub(crate) fn digest<const N: usize>(&mut self, digest: &Digest<N>) {
        self.bytes(digest.as_bytes());
    }

    /// A path or target, at most 4,095 bytes long.
    pub(super) fn text(&mut self, text: &[u8]) {
        self.u16(text.len() as u16);
        self.bytes(text);
    }

    pub(super) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn meta(&mut self, meta: Option<Meta>) {
        self.optional(meta, |to, Meta { mode, mtime_ns, uid, gid }| {
            to.u32(mode);
            to.bytes(&mtime_ns.to_le_bytes());
            to.u32(uid);
            to.u32(gid);
        });
    }

    /// The fields of a directory or link.
    pub(super) fn node(&mut self, node: &Node) {
        self.bytes(node.kind.letter().as_bytes());
        self.text(node.path.as_bytes());
        self.text(&node.target);
        self.meta(node.meta);
    }
}

/// Reads fields one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Fault::Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        self.bytes().map(|[byte]| byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool, Fault> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Fault::Malformed),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.bytes().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        self.bytes().map(u64::from_le_bytes)
    }

    pub(crate) fn digest<const N: usize>(&mut self) -> Result<Digest<N>, Fault> {
        self.bytes().map(Digest::from)
    }

    pub(super) fn text(&mut self) -> Result<&'a [u8], Fault> {
        let length = usize::from(self.u16()?);
        let (head, tail) = self.0.split_at_checked(length).ok_or(Fault::Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn path(&mut self) -> Result<EntryPath, Fault> {
        let bytes = self.text()?;
        EntryPath::new(bytes)
            .map_err(|why| Fault::Invalid(format!("its path \"{}\" {why}", printable(bytes))))
    }

    /// The metadata of `owner`, which stands for the entry in messages.
    pub(super) fn meta(&mut self, owner: impl Display) -> Result<Option<Meta>, Fault> {
        let meta = self.optional(|from| {
            Ok(Meta {
                mode: from.u32()?,
                mtime_ns: i64::from_le_bytes(from.bytes()?),
                uid: from.u32()?,
                gid: from.u32()?,
            })
        })?;
        match meta {
            Some(meta) if meta.mode > 0o7777 => {
                Err(Fault::Invalid(format!("the mode of {owner} is not valid")))
            }
            meta => Ok(meta),
        }
    }

    /// The fields of a directory or link.
    pub(super) fn node(&mut self) -> Result<Node, Fault> {
        let letter = [self.byte()?];
        let path = self.path()?;
        let target = self.text()?.into();
        let meta = self.meta(format_args!("\"{path}\""))?;
        let kind = std::str::from_utf8(&letter).ok().and_then(NodeKind::from_letter);
        let Some(kind) = kind else {
            return Err(Fault::Invalid(format!("the kind of \"{path}\" is not d, l or h")));
        };
        let node = Node { kind, path, target, meta };
        match node.has_good_target() {
            true => Ok(node),
            false => Err(Fault::Invalid(format!("the target of \"{}\" is not valid", node.path))),
        }
    }
}

/// Bytes of the check at the end of a sealed record.
pub(super) const CHECK_BYTES: usize = 32;

/// A sealed record of `N` bytes. Its fields take `N` less [`CHECK_BYTES`].
pub(super) fn sealed<const N: usize>(fields: impl FnOnce(&mut Writer<'_>)) -> [u8; N] {
    let mut content = Vec::with_capacity(N);
    fields(&mut Writer(&mut content));
    let mut bytes = [0; N];
    let (checked, check) = bytes.split_at_mut(N - CHECK_BYTES);
    checked.copy_from_slice(&content);
    check.copy_from_slice(blake3(checked).as_bytes());
    bytes
}

/// The fields of a sealed record; `None` if its check does not fit.
pub(super) fn unsealed<const N: usize>(bytes: &[u8; N]) -> Option<Reader<'_>> {
    let (checked, check) = bytes.split_at(N - CHECK_BYTES);
    (blake3(checked).as_bytes() == check).then_some(Reader(checked))
}
