//! The messages between sender and receiver over HTTP (FORMAT.md 5.1 and 8).

use super::digest::{Blake3, IndexDigest, blake3};
use super::entry::Meta;
use super::ranges::RangeSet;
use super::skipped::FilteredPaths;
use crate::error::{Error, ErrorKind};
use serde::{Deserialize, Deserializer, Serialize};

/// On every answer of our receiver. It tells a sender that the receiver is not the original
/// program. Its value is [`VERSION`].
pub const HEADER_SERVER: &str = "x-tar-like";
/// The version of the protocol beyond the original's (FORMAT.md 5.1).
pub const VERSION: &str = "1";
/// On a PUT: the digest of the sender's index, as 64 hex digits.
pub const HEADER_INDEX: &str = "x-tar-like-index";
/// On the PUT of an index: the body is not the index, but a change of the one that this names, as
/// 64 hex digits, into that of [`HEADER_INDEX`]. The change is an LZ4 frame of batches
/// ([`super::change`]), each behind its length as u32, little-endian.
pub const HEADER_FROM: &str = "x-tar-like-from";
/// On a batch of a log: the stream that it belongs to, as 64 hex digits that the sender chose at
/// random. The batch follows the prefix of the log that [`HEADER_INDEX`] names.
pub const HEADER_STREAM: &str = "x-tar-like-stream";
/// On a batch of a log: its length before compression, in bytes.
pub const HEADER_LENGTH: &str = "x-tar-like-length";
/// On the PUT of a block: the digest of its uncompressed content
/// ([`super::block_digest::BlockDigest`]).
pub const HEADER_DIGEST: &str = "x-tar-like-digest";
/// On the PUT of a block of which only a part is sent: `start-end`, the half-open range of the
/// archive that the body is. It lies in the block. Only for receivers that say [`Status::parts`].
pub const HEADER_RANGE: &str = "x-tar-like-range";
/// On the PUT of a block: ids of files, separated by commas, whose bytes in this block are zeros
/// because they could not be read; a run of ids is `first-last`, both inclusive.
pub const HEADER_FAILED: &str = "x-tar-like-failed";

/// On the PUT of an index: the number of the adoption ([`AdoptRequest`]) whose result is the
/// previous state, in decimal. The index comes with its chunk maps ([`super::chunk_map`]).
pub const HEADER_ADOPT: &str = "x-tar-like-adopt";
/// On a change of an index ([`HEADER_FROM`]), with the value 1: the receiver retains what it
/// replaces and removes. [`FinishRequest::keep`] says how many generations stay retained. With the
/// value 0, on any index, all retained content is pruned before the index is stored, since there
/// may be no room for both. Only for receivers that say [`Status::keeps`].
pub const HEADER_KEEP: &str = "x-tar-like-keep";
/// On a change of an index that reverts the newest generation, with the value 1: the change is
/// refused unless the receiver has all content of the previous generation. Only for receivers that
/// say [`Status::keeps`].
pub const HEADER_REWIND: &str = "x-tar-like-rewind";
/// On an index or a change of one: the folder below the base folder
/// ([`super::source::encode_header`]) that gets what is about to be replaced. Only receivers that say
/// [`Status::backs_up`] do that; [`DeleteRequest::backup`] is for what is deleted.
pub const HEADER_BACKUP: &str = "x-tar-like-backup";
/// In place of [`HEADER_ADOPT`]: nothing changes, and the answer is a [`Similarity`].
pub const HEADER_COMPARE: &str = "x-tar-like-compare";

/// On every request of a sender that knows of slices ([`super::slice::Slice`]): which one it speaks
/// to, as `I/N`. A receiver that is another slice refuses it. Then a status is about the files of
/// that slice alone, and blocks may have none of other slices. Without it, the first slice speaks
/// for the whole archive, and takes no blocks. On every answer of a slice: which one it is.
pub const HEADER_SLICE: &str = "x-tar-like-slice";

/// On the PUT of an index, a batch of a log, an adoption and a `finish`: the source of the index
/// ([`super::source::SourceId`]), as 32 hex digits. The receiver binds the number of the archive to
/// it.
pub const HEADER_SOURCE_ID: &str = "x-tar-like-source-id";
/// With [`HEADER_SOURCE_ID`]: what people call the source
/// ([`super::source::SourceIdentity::name`]), percent-encoded.
pub const HEADER_SOURCE: &str = "x-tar-like-source";
/// With [`HEADER_SOURCE_ID`]: [`source_digest`] of both. A number that was bound to a source that no
/// sender has would be refused to all.
pub const HEADER_SOURCE_DIGEST: &str = "x-tar-like-source-digest";
/// With [`HEADER_SOURCE_ID`], with the value 1: the number is taken from the source that it is
/// bound to.
pub const HEADER_REPLACE_SOURCE: &str = "x-tar-like-replace-source";

/// On the 404 of a status that asks for space, where the archive has no index yet: what is free for
/// content ([`Space::free_bytes`]), in decimal.
pub const HEADER_FREE: &str = "x-tar-like-free";

/// The value of [`HEADER_SOURCE_DIGEST`]: the digest of the values of [`HEADER_SOURCE_ID`] and
/// [`HEADER_SOURCE`], one behind the other.
#[must_use]
pub fn source_digest(id: &[u8], name: &[u8]) -> Blake3 {
    blake3(&[id, name].concat())
}

/// How many missing ranges one status answer has. The sender asks for the rest with `from`.
pub const STATUS_RANGES: usize = 10_000;
/// How many failed files an answer names ...
pub const FAILED_NAMES: usize = 1_000;
/// ... if what is said of them has no more bytes than this.
pub const FAILED_BYTES: usize = 1 << 20;
/// How many bytes of paths one page of candidates has.
pub const PAGE_BYTES: u64 = 1 << 20;

/// Answer to the PUT of an index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IndexAnswer {
    /// `"ok"`; the original's clients look for a key of this name.
    pub rc: String,
    /// The digest that the receiver computed from the rows.
    pub digest: Option<String>,
    /// Whether the archive is finalized already.
    #[serde(default)]
    pub complete: bool,
}

/// Answer to a batch of a log ([`super::log`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogAnswer {
    /// The digest of the log up to and with the batch.
    pub digest: String,
    /// The index is sealed: the log has ended, and the rows are what its end says.
    pub sealed: bool,
    /// Which bytes that the batch lays out the receiver has already, as half-open ranges of the
    /// archive; at most [`STATUS_RANGES`].
    pub held: Vec<(u64, u64)>,
}

/// Answer to the PUT of a block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockAnswer {
    /// The block's number.
    pub blk_no: u64,
    /// The block size of the URL, in bytes.
    pub blk_size: u64,
    /// How many files have bytes in the block.
    pub frags: u64,
    /// `[tar_id, blk_size, blk_no]`. It is not read: earlier receivers had it as text.
    #[serde(default, skip_deserializing)]
    pub path: [u64; 3],
    /// How long the receiver took, in seconds.
    pub dur: f64,
    /// Length of the body, in bytes.
    pub in_len: u64,
    /// Ids of files whose bytes are not what the index says. Their bytes were not accepted and stay
    /// missing.
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
    /// About how many bytes it takes in an answer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.path.len() + self.reason.len() + 50
    }
}

/// Answer to `GET status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The archive.
    pub tar_id: u64,
    /// The receiver's generation of the index, from 1 on.
    pub generation: u64,
    /// The digest of the active index.
    pub digest: String,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
    /// How many bytes of the archive are on stable storage.
    pub done_bytes: u64,
    /// What is missing from `from` on, as half-open byte ranges of the archive; at most
    /// [`STATUS_RANGES`].
    pub missing: Vec<(u64, u64)>,
    /// Where to go on asking, if `missing` was cut.
    pub next: Option<u64>,
    /// The block size that the next two are counted in, in bytes.
    pub blk_size: u64,
    /// Blocks of the archive.
    pub blocks_total: u64,
    /// Blocks of which every byte is durable.
    pub blocks_done: u64,
    /// Files of the index.
    pub files_total: u64,
    /// Files that have their final name.
    pub files_published: u64,
    /// The receiver takes parts of blocks ([`HEADER_RANGE`]).
    #[serde(default)]
    pub parts: bool,
    /// The receiver spares what [`DeleteRequest::spare`] names.
    #[serde(default)]
    pub spares: bool,
    /// The receiver spares what [`DeleteRequest::filtered`] says.
    #[serde(default)]
    pub filters: bool,
    /// The receiver can retain what a generation replaces ([`HEADER_KEEP`]), and rewind to it
    /// ([`HEADER_REWIND`]).
    #[serde(default)]
    pub keeps: bool,
    /// The receiver reads what it has published, and compares it with the index
    /// ([`VerifyRequest`]).
    #[serde(default)]
    pub verifies: bool,
    /// The receiver moves also what it replaces to a backup folder ([`HEADER_BACKUP`]).
    #[serde(default)]
    pub backs_up: bool,
    /// The receiver says what it could delete ([`CandidatesRequest`]).
    #[serde(default)]
    pub lists: bool,
    /// Files that could not be published so far; at most [`FAILED_NAMES`].
    pub failed: Vec<FailedFile>,
    /// The archive is finalized: files are published, and directories, links and metadata in place.
    pub complete: bool,
    /// All of the index is here.
    #[serde(default)]
    pub sealed: bool,
    /// The source that the number is bound to ([`HEADER_SOURCE_ID`]), if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// What people call that source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// A random number that this receiver's state folder has for ever, in hexadecimal: whichever
    /// address a sender reaches it by, it is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiver_id: Option<String>,
    /// Whether what is missing fits on the disk, where the request asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<Space>,
    /// Which of several receivers on one folder it is, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<SliceStatus>,
}

/// One of several receivers on one folder ([`super::slice`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceStatus {
    /// Its number, from 1 on.
    pub number: u64,
    /// How many there are.
    pub count: u64,
    /// The length of a stripe ([`super::slice::Stripes`]), in bytes.
    pub stripe_bytes: u64,
    /// A random number that the folder has for ever, in hexadecimal: receivers that do not say the
    /// same are not on one folder.
    pub tree: String,
    /// The base addresses of all slices, in their order; empty where all are reached by one address
    /// that leads on by [`HEADER_SLICE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
}

/// What a receiver needs to take what it misses, and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// What is missing of the archive, less what the files have now that will be replaced. More
    /// may be needed for a while; metadata of the file system are not counted.
    pub needed_bytes: u64,
    /// Free for content.
    pub free_bytes: u64,
}

/// Body of `POST finish`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishRequest {
    /// Create empty files, directories and links even if content is missing.
    #[serde(default)]
    pub partial: bool,
    /// The precheck of this name counts: what it found in place is not checked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked: Option<u64>,
    /// Delete what previous generations put in place and this one does not have, when nothing is
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<DeleteRequest>,
    /// How many generations stay retained ([`HEADER_KEEP`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u64>,
    /// A folder below the base folder that gets what is about to be replaced, as with
    /// [`HEADER_BACKUP`]: here that is what was changed since it was put in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Metadata of the source folder itself, which has no row. The base folder gets them, if it has
    /// this archive alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<TopFolder>,
    /// Ids of empty files that the source does not have, as [`format_ids`] writes them: they are not
    /// made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed: String,
    /// A number that no other sender uses. A repeated request, after a 202 or a lost answer, has
    /// the same number. Its answer is that of the `finish` which the first request started or
    /// joined.
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

/// Body of `POST adopt`: the receiver indexes what is below its base folder, which another program
/// may have copied there. The repeated request asks how far it is. The answer is 202 with an
/// [`AdoptAnswer`] while the receiver reads, and 200 with one at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptRequest {
    /// A number that no other sender uses. A new number starts a new adoption.
    pub name: u64,
    /// Only the file of this name, at the top of the base folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// Regular expressions on paths relative to the base folder. What one of them matches is left
    /// out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Rules for such paths ([`super::path_rules::PathRule::to_text`]), in place of `exclude`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Every file of the index has a BLAKE3, by which it is found: md5 need not be computed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blake3: bool,
}

/// Answer to `POST adopt`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptAnswer {
    /// Files that were read so far.
    pub files: u64,
    /// Bytes of content that were read so far.
    pub bytes: u64,
}

/// How much of an archive the base folder has, in a copy that another program may have made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Similarity {
    /// Files of the archive.
    pub files: u64,
    /// Files that are there under their path with their content.
    pub same_files: u64,
    /// Other files whose content is there under another path.
    pub known_files: u64,
    /// Other files of whose content a part is there.
    pub similar_files: u64,
    /// Size of all files, in bytes.
    pub total_bytes: u64,
    /// How much of that is there.
    pub same_bytes: u64,
}

/// What may be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRequest {
    /// The most entries to delete. If there are more candidates, none is deleted.
    pub most: u64,
    /// A folder below the base folder to which they are moved instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Only what the generation put there that was just reverted, not what earlier ones
    /// left there.
    #[serde(default, rename = "taken_back", skip_serializing_if = "std::ops::Not::not")]
    pub only_reverted: bool,
    /// Paths to spare, as [`super::path::printable`] text: the source may still have them. A path
    /// with a `/` at its end includes all paths below it. Only for receivers that say
    /// [`Status::spares`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spare: Vec<String>,
    /// What a filter left out of the source, to spare as well. Only for receivers that say
    /// [`Status::filters`].
    #[serde(default, skip_serializing_if = "FilteredPaths::is_empty")]
    pub filtered: FilteredPaths,
}

/// Body of `POST candidates`: the receiver lists the entries that a `finish` with a deletion would
/// take away now, if nothing was spared. It changes nothing. The answer is 202 with an empty
/// [`CandidatesAnswer`] while the receiver looks, and 200 with a page of the list at the end. Only
/// for receivers that say [`Status::lists`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidatesRequest {
    /// A number that no other sender uses. A new number makes a new list.
    pub name: u64,
    /// List also what the active index has in place: all of that would be a candidate if an index
    /// without any of it took its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// List instead what this adoption ([`AdoptRequest`]) has found: all of that would be a candidate
    /// if an index without any of it came with it. The archive need not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<u64>,
    /// Say also what is no candidate because it was changed or removed, of what the active index
    /// has in place and of what previous ones have left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed: bool,
    /// Which page of the list: the first one is 0.
    #[serde(default)]
    pub page: u64,
}

/// Answer to `POST candidates`: a page of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidatesAnswer {
    /// The letter of each entry's kind (`f` for a file), its size in bytes, and its path as
    /// [`super::path::printable`] text. In all about [`PAGE_BYTES`] of paths at most.
    pub entries: Vec<(String, u64, String)>,
    /// There are more pages.
    #[serde(default)]
    pub more: bool,
    /// Why the receiver would delete nothing, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What was changed since it was put in place, if the request wants that; the same on each page.
    #[serde(default, skip_serializing_if = "EntryPaths::is_empty")]
    pub changed: EntryPaths,
    /// What the active index had in place and was removed since, likewise.
    #[serde(default, skip_serializing_if = "EntryPaths::is_empty")]
    pub absent: EntryPaths,
}

/// Entries by their paths, named as far as an answer has room for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPaths {
    /// Their paths, as [`super::path::printable`] text; at most [`FAILED_NAMES`], and
    /// [`FAILED_BYTES`] in all.
    pub paths: Vec<String>,
    /// How many there are, named or not.
    pub total: u64,
}

impl EntryPaths {
    /// Adds the path of an entry.
    pub fn add(&mut self, path: String) {
        self.total += 1;
        let bytes: usize = self.paths.iter().map(String::len).sum();
        if self.paths.len() < FAILED_NAMES && bytes + path.len() <= FAILED_BYTES {
            self.paths.push(path);
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// Body of `POST look`: a precheck of the files that have their final names. It changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrecheckRequest {
    /// Names the precheck; chosen at random.
    pub name: u64,
    /// Instead of a precheck, the answer says which of these entries another archive would keep out
    /// of their places, and whether there is any. With an empty list, it says that of the entries
    /// of the active index that are not in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<Vec<ProposedEntry>>,
}

/// An entry that a sender would bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposedEntry {
    /// Its path, as [`super::path::printable`] text.
    pub path: String,
    /// The letter of its kind: `f` for each name of a file.
    pub kind: String,
    /// The size of a file, in bytes.
    #[serde(default)]
    pub size: u64,
    /// The digests of a file that the sender has read, as hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// The metadata of a file, as far as they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<TopFolder>,
    /// The target of a symbolic link, as printable text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Answer to `POST look`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrecheckAnswer {
    /// Where the files are in the archive that are gone or were changed since they got their final
    /// names, as half-open byte ranges; at most [`STATUS_RANGES`].
    pub changed: Vec<(u64, u64)>,
    /// Of a request with `entries`: other archives are received into the folder, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Which entries these keep out of their places, and why; at most [`FAILED_NAMES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<FailedFile>,
    /// How many there are, named or not.
    #[serde(default)]
    pub conflicts_total: u64,
}

/// Body of `POST verify`: the receiver reads the files that have their final names, and asks for
/// those again whose contents are not what the index says. The repeated request asks how far it is.
/// The answer is 202 with a [`VerifyAnswer`] while the receiver reads, and 200 with one at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// A number that no other sender uses. A new number reads once more.
    pub name: u64,
    /// Only the files of these paths, as [`super::path::printable`] text; all files without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Only say what differs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// Answer to `POST verify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// Files that were read so far.
    pub files: u64,
    /// Bytes of content that were read so far.
    pub bytes: u64,
    /// Files of which the content is another one, or that are missing.
    pub different: u64,
    /// How many of these are missing. Earlier receivers do not count them.
    #[serde(default)]
    pub missing: u64,
    /// The bytes that these files have in the index.
    pub different_bytes: u64,
    /// Files that the receiver may not read.
    pub unreadable: u64,
    /// At the end of a check that only says what differs: where these files are in the archive, as
    /// half-open byte ranges; at most [`STATUS_RANGES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<(u64, u64)>,
}

/// Answer to `POST finish` with status 202: how far it is, and the sender asks again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FinishProgress {
    /// Files that are done: a file counts half when it has its final name, and whole when it was
    /// confirmed there.
    pub files_done: u64,
    /// Files of the index.
    pub files_total: u64,
}

/// Answer to `POST finish` with status 200: the outcome.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FinishAnswer {
    /// Everything that the index says is in place and verified.
    pub complete: bool,
    /// Bytes that were never accepted, or were invalidated.
    pub missing_bytes: u64,
    /// Files that have their final name.
    pub files_published: u64,
    /// Entries that could not be put in place; at most [`FAILED_NAMES`].
    pub failed: Vec<FailedFile>,
    /// How many there are, named or not.
    pub failed_total: u64,
    /// Entries of previous generations that were deleted.
    #[serde(default)]
    pub deleted: u64,
    /// The number of candidates, if it is more than the request allows. None was deleted then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_many: Option<u64>,
    /// Entries of previous generations that stay because they were changed.
    #[serde(default, skip_serializing_if = "EntryPaths::is_empty")]
    pub changed: EntryPaths,
    /// What the receiver has lost of its state of the archive, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// How many entries would get their places if more were allowed to be deleted.
    #[serde(default)]
    pub blocked: u64,
}

/// Body of every answer that reports an error.
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

/// The name that a job has in a queue (FORMAT.md 8.7): all hosts that send blocks of `block_size` of
/// this index to this archive of this receiver find it.
#[must_use]
pub fn job_name(index: &IndexDigest, tar_id: u64, block_size: u64, receiver: &str) -> String {
    let digest = blake3::hash(format!("{index} {tar_id} {block_size} {receiver}").as_bytes());
    digest.to_hex().chars().take(32).collect()
}

/// Writes ids, ascending, as the value of [`HEADER_FAILED`].
#[must_use]
pub fn format_ids(ids: &[u64]) -> String {
    format_runs(&ids.iter().map(|&id| id..id.saturating_add(1)).collect())
}

/// Writes a set of ids in the same way.
#[must_use]
pub fn format_runs(ids: &RangeSet) -> String {
    let run = |ids: std::ops::Range<u64>| match (ids.start, ids.end - 1) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    ids.iter().map(run).collect::<Vec<_>>().join(",")
}

/// Reads the value of [`HEADER_FAILED`]; `None` if it is malformed.
#[must_use]
pub fn parse_ids(text: &str) -> Option<RangeSet> {
    // `parse` alone takes signs, too. Ids fit in 63 bits, so that the end of a run does not
    // overflow.
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
