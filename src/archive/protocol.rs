//! What sender and receiver say to each other over HTTP (FORMAT.md 5.1 and 8).

use super::entry::Meta;
use super::ranges::RangeSet;
use crate::error::{Error, ErrorKind};
use serde::{Deserialize, Deserializer, Serialize};

/// On every answer of our receiver; tells a sender that it does not talk to the original program. Its value is [`VERSION`].
pub const HEADER_SERVER: &str = "x-tar-like";
/// The version of the protocol beyond the original's (FORMAT.md 5.1).
pub const VERSION: &str = "1";
/// On a PUT: the digest of the index that the sender works by, as 64 hex digits.
pub const HEADER_INDEX: &str = "x-tar-like-index";
/// On the PUT of an index: the body is not the index, but a change of the one that this names, as 64 hex digits, into that of
/// [`HEADER_INDEX`]. The change is an LZ4 frame of batches ([`super::change`]), each behind its length as u32, little-endian.
pub const HEADER_FROM: &str = "x-tar-like-from";
/// On a batch of a log: the stream that it belongs to, as 64 hex digits that the sender chose at random. The batch follows the
/// prefix of the log that [`HEADER_INDEX`] names.
pub const HEADER_STREAM: &str = "x-tar-like-stream";
/// On a batch of a log: its length before compression, in bytes.
pub const HEADER_LENGTH: &str = "x-tar-like-length";
/// On the PUT of a block: the digest of its uncompressed content ([`super::block_digest::BlockDigest`]).
pub const HEADER_DIGEST: &str = "x-tar-like-digest";
/// On the PUT of a block of which only a part is sent: `start-end`, the half-open range of the archive that the body is. It lies in the
/// block. Only for receivers that say [`Status::parts`].
pub const HEADER_RANGE: &str = "x-tar-like-range";
/// On the PUT of a block: ids of files, separated by commas, whose bytes in this block are zeros because they could not be
/// read; a run of ids is `first-last`, both inclusive.
pub const HEADER_FAILED: &str = "x-tar-like-failed";

/// On the PUT of an index: the adoption ([`AdoptRequest`]) by whose result it is taken in, as a decimal number. What the receiver found in
/// its base folder counts as the previous state, and the index has its chunk maps ([`super::chunk_map`]) with it.
pub const HEADER_ADOPT: &str = "x-tar-like-adopt";
/// On a change of an index ([`HEADER_FROM`]), with the value 1: it keeps what it replaces and takes away. How many generations go on doing so, says
/// [`FinishRequest::keep`]. With the value 0, on any index, all that is kept is let go of before the index is stored: there may be no room for both.
/// Only for receivers that say [`Status::keeps`].
pub const HEADER_KEEP: &str = "x-tar-like-keep";
/// On a change of an index that takes the newest generation back, with the value 1: it is refused if not all content of the previous one is
/// there. Only for receivers that say [`Status::keeps`].
pub const HEADER_REWIND: &str = "x-tar-like-rewind";
/// In place of [`HEADER_ADOPT`]: nothing changes, and the answer is a [`Similarity`].
pub const HEADER_COMPARE: &str = "x-tar-like-compare";

/// How many missing ranges one status answer names; the rest follows with `from`.
pub const STATUS_RANGES: usize = 10_000;
/// How many failed files an answer names ...
pub const FAILED_NAMES: usize = 1_000;
/// ... if what is said of them has no more bytes than this.
pub const FAILED_BYTES: usize = 1 << 20;

/// Answer to the PUT of an index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexAnswer {
    /// `"ok"`; the original's clients look for a key of this name.
    pub rc: String,
    /// The digest that the receiver computed from the rows.
    pub digest: Option<String>,
    /// Whether everything is in place already.
    #[serde(default)]
    pub complete: bool,
}

/// Answer to a batch of a log ([`super::log`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogAnswer {
    /// Names the log with the batch.
    pub digest: String,
    /// The log is at its end: the index is complete, and its rows are what the end says.
    pub sealed: bool,
    /// What the receiver has already of what the batch lays out, as half-open byte ranges of the archive; at most
    /// [`STATUS_RANGES`].
    pub held: Vec<(u64, u64)>,
}

/// Answer to the PUT of a block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockAnswer {
    /// The block's number.
    pub blk_no: u64,
    /// The block size of the URL, in bytes.
    pub blk_size: u64,
    /// How many files the block touched.
    pub frags: u64,
    /// `[tar_id, blk_size, blk_no]`. Nobody reads it: earlier receivers had it as text.
    #[serde(default, skip_deserializing)]
    pub path: [u64; 3],
    /// How long the receiver took, in seconds.
    pub dur: f64,
    /// Length of the body, in bytes.
    pub in_len: u64,
    /// Ids of files whose bytes are not what the index says. They were not accepted and count as missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<u64>,
}

/// A file that is not published, and why.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct FailedFile {
    /// The file's id in the index; absent for a directory or link.
    pub id: Option<u64>,
    /// Its path, printable.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl FailedFile {
    /// About how many bytes it has in an answer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.path.len() + self.reason.len() + 50
    }

    /// Adds it to what an answer names, if there is room: the count of all says that there are more.
    pub fn name_in(self, named: &mut Vec<Self>) {
        let named_bytes: usize = named.iter().map(Self::bytes).sum();
        if named.len() < FAILED_NAMES && named_bytes + self.bytes() <= FAILED_BYTES {
            named.push(self);
        }
    }
}

/// Answer to `GET status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The archive.
    pub tar_id: u64,
    /// Which state of the index this is, counted from 1.
    pub generation: u64,
    /// The digest of the active index.
    pub digest: String,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
    /// How many of them are on stable storage.
    pub done_bytes: u64,
    /// What is missing from `from` on, as half-open byte ranges of the archive; at most [`STATUS_RANGES`].
    pub missing: Vec<(u64, u64)>,
    /// Where to go on asking, if `missing` was cut.
    pub next: Option<u64>,
    /// The block size that the next two are counted in, in bytes.
    pub blk_size: u64,
    /// Blocks of the archive.
    pub blocks_total: u64,
    /// Blocks of which every byte is done.
    pub blocks_done: u64,
    /// Files of the index.
    pub files_total: u64,
    /// Files that have their final name.
    pub files_published: u64,
    /// A block may come in part ([`HEADER_RANGE`]).
    #[serde(default)]
    pub parts: bool,
    /// It leaves alone what [`DeleteRequest::spare`] names.
    #[serde(default)]
    pub spares: bool,
    /// It can keep what a generation replaces ([`HEADER_KEEP`]), and go back to it ([`HEADER_REWIND`]).
    #[serde(default)]
    pub keeps: bool,
    /// Files that could not be published so far; at most [`FAILED_NAMES`].
    pub failed: Vec<FailedFile>,
    /// Everything is published, and directories, links and metadata are in place.
    pub complete: bool,
    /// All of the index is here.
    #[serde(default)]
    pub sealed: bool,
}

/// Body of `POST finish`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishRequest {
    /// Create empty files, directories and links even if content is missing.
    #[serde(default)]
    pub partial: bool,
    /// What this look has found in place need not be looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked: Option<u64>,
    /// Delete what previous generations put in place and this one does not have, once everything else is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<DeleteRequest>,
    /// Only so many generations go on keeping what they replaced ([`HEADER_KEEP`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
    /// How the source folder itself is, which has no row: the base folder becomes the same, if it is for this archive alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<TopFolder>,
    /// Any number that nobody else uses: the same request again, after a 202 or a lost answer, has the same one. Its answer is that of the
    /// `finish` which the first of them has started or joined, whatever else came meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<u64>,
}

/// Owner, permissions and time of a source folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopFolder {
    /// Permission bits.
    pub mode: u32,
    /// In nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

impl From<TopFolder> for Meta {
    fn from(TopFolder { mode, mtime_ns, uid, gid }: TopFolder) -> Self {
        Self { mode: mode & 0o7777, mtime_ns, uid, gid }
    }
}

impl From<Meta> for TopFolder {
    fn from(Meta { mode, mtime_ns, uid, gid }: Meta) -> Self {
        Self { mode, mtime_ns, uid, gid }
    }
}

/// Body of `POST adopt`: the receiver is to find out what is below its base folder, as a copy that somebody else may have made. The same
/// request again asks how far it is: the answer is 202 with an [`AdoptAnswer`] as long as it reads, and 200 with one when it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// Any number that nobody else uses. One that is new begins afresh.
    pub name: u64,
    /// Only the file of this name, at the top of the base folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// What matches one of these regular expressions, with its path relative to the base folder, is nobody's business.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// Answer to `POST adopt`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptAnswer {
    /// Files that were read so far.
    pub files: u64,
    /// Bytes of content that were read so far.
    pub bytes: u64,
}

/// How much of an archive is there already, in a copy that somebody else may have made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Similarity {
    /// Files of the archive.
    pub files: u64,
    /// Of these, files that are there under their path with their content.
    pub same_files: u64,
    /// Others whose content is there as another file.
    pub known_files: u64,
    /// Others of which some of the content is there.
    pub similar_files: u64,
    /// Size of all files, in bytes.
    pub total_bytes: u64,
    /// How much of that is there.
    pub same_bytes: u64,
}

/// What may be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// So many entries at most; if there are more, none is.
    pub most: u64,
    /// A folder below the base folder that takes them instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Only what a generation had put there that was taken back just now, not what earlier ones left there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken_back: bool,
    /// Paths that stay, as [`super::path::printable`] text: the source may still have them. One with a `/` at its end stands for whatever lies
    /// below it, too. Only for receivers that say [`Status::spares`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spare: Vec<String>,
}

/// Body of `POST look`: look whether the files that have their final names are still there, and change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookRequest {
    /// Names this look; chosen at random.
    pub name: u64,
}

/// Answer to `POST finish`: with status 200 the outcome, with 202 how far it is (ask again).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FinishAnswer {
    /// Everything that the index says is in place and proven.
    pub complete: bool,
    /// Bytes that were never accepted, or not any more.
    pub missing_bytes: u64,
    /// Files that have their final name.
    pub files_published: u64,
    /// What could not be put in place; at most [`FAILED_NAMES`].
    pub failed: Vec<FailedFile>,
    /// How many there are, named or not.
    pub failed_total: u64,
    /// Entries of previous generations that were deleted.
    #[serde(default)]
    pub deleted: u64,
    /// So many would have had to be deleted, more than the request allows: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_many: Option<u64>,
    /// What the receiver has lost of what it knew of the archive, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Of what could not be put in place, so many would get their places if more were allowed to be deleted.
    #[serde(default)]
    pub blocked: u64,
}

/// Body of every answer that is no success.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What happened.
    pub error: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What sort of thing happened; `None` where no name came, or one that this version does not
    /// know. The status is what counts then.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_kind")]
    pub kind: Option<ErrorKind>,
}

fn known_kind<'de, D: Deserializer<'de>>(value: D) -> Result<Option<ErrorKind>, D::Error> {
    Ok(ErrorKind::deserialize(serde_json::Value::deserialize(value)?).ok())
}

impl From<&Error> for ErrorAnswer {
    fn from(error: &Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { error: error.to_string(), hint, kind: Some(error.kind()) }
    }
}

/// Writes ids, ascending, as the value of [`HEADER_FAILED`].
#[must_use]
pub fn format_ids(ids: &[u64]) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &id in ids {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(id) => *last = id,
            _ => runs.push((id, id)),
        }
    }
    let runs: Vec<String> = runs
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    runs.join(",")
}

/// Reads the value of [`HEADER_FAILED`]; `None` if it is malformed.
#[must_use]
pub fn parse_ids(text: &str) -> Option<RangeSet> {
    // `parse` alone takes signs, too. Ids fit in 63 bits, so that the end of a run does not overflow.
    let id = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|&id: &u64| digits && i64::try_from(id).is_ok())
    };
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (id(first)?, id(last)?);
            (first <= last).then_some(first..last + 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_lists_round_trip() {
        assert_eq!(format_ids(&[1, 2, 3, 7, 9, 10]), "1-3,7,9-10");
        assert_eq!(parse_ids("1-3,7, 9-10").map(|ids| ids.iter().collect()), Some(vec![1..4, 7..8, 9..11]));
        assert_eq!(parse_ids(""), Some(RangeSet::default()));
        for bad in ["x", "3-1", "-1", "1-", "1;2", "+1", "1-+2", "0-18446744073709551615"] {
            assert_eq!(parse_ids(bad), None, "{bad}");
        }
    }
}
