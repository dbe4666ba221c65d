//! What the store says of an object: in a list, in an answer; and which state of it a request
//! names.

use super::object_times::{mode_of, modified_ns, mtime_of};
use crate::archive::digest::Md5;
use crate::archive::entry::{FileEntry, Meta, ObjectId};
use std::collections::HashMap;

/// An object as a list describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key without the prefix.
    pub path: Vec<u8>,
    /// In bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was written, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// The key with the prefix as the list has it, if the list encodes it.
    pub encoded_key: Option<String>,
}

/// What the receiver of a list did with a listed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It was not listed before.
    New,
    /// It was listed before.
    Known,
    /// It is left out, and there is no record of whether it was listed before.
    LeftOut,
}

/// The answer to HEAD or GET without the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// In bytes.
    pub size: u64,
    /// Which state of the object this is.
    pub object: ObjectId,
    /// When the object was written, in nanoseconds since 1970; 0 if neither answer nor list says
    /// it.
    pub modified_ns: i64,
    /// The recorded time of its file, else that of the object, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// The recorded permissions of its file.
    pub mode: Option<u32>,
    /// It is encrypted so that the ETag is no md5, although it may look like one.
    pub opaque_etag: bool,
}

/// Permissions of a file or folder for which the bucket records none.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

impl Head {
    /// The md5 of the content, if the ETag is one. It is none for an upload in parts, nor for an
    /// object whose key the store or the client manages (SSE-KMS, SSE-C).
    #[must_use]
    pub fn md5(&self) -> Option<Md5> {
        if self.opaque_etag { None } else { self.object.etag.to_ascii_lowercase().parse().ok() }
    }

    /// As metadata of a file. Objects have no owners: a receiver that may set them sets its own.
    #[must_use]
    pub fn file_meta(&self) -> Meta {
        Meta { mode: self.mode.unwrap_or(FILE_MODE), mtime_ns: self.mtime_ns, uid: 0, gid: 0 }
    }

    /// As metadata of a folder.
    #[must_use]
    pub fn folder_meta(&self) -> Meta {
        Meta { mode: self.mode.unwrap_or(FOLDER_MODE), mtime_ns: self.mtime_ns, uid: 0, gid: 0 }
    }
}

/// An ETag without its quotes, which some stores leave out.
pub(super) fn plain_etag(etag: &str) -> &str {
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag)
}

/// Whether the ETag of an object with this encryption is unrelated to its content.
fn is_opaque(encryption: Option<&str>, customer: Option<&str>) -> bool {
    customer.is_some() || encryption.is_some_and(|how| how.starts_with("aws:"))
}

/// Makes a [`Head`] of an answer. HEAD and GET answer with the same fields in different types.
macro_rules! head_of {
    ($answer:expr, $size:expr, $listed_ns:expr) => {
        $crate::source::s3::object::head_of_parts(
            ($size, $listed_ns),
            $answer.e_tag().unwrap_or_default(),
            $answer.version_id(),
            $answer.last_modified(),
            $answer.metadata(),
            ($answer.server_side_encryption().map(|how| how.as_str()), $answer.sse_customer_algorithm()),
        )
    };
}
pub(super) use head_of;

pub(super) fn head_of_parts(
    (size, listed_ns): (u64, i64),
    etag: &str,
    version: Option<&str>,
    modified: Option<&aws_smithy_types::DateTime>,
    metadata: Option<&HashMap<String, String>>,
    (encryption, customer): (Option<&str>, Option<&str>),
) -> Head {
    // An answer may lack the time, or have it in an unknown form; the list may have one.
    let modified_ns = modified.map_or(listed_ns, |time| modified_ns(Some(time)));
    Head {
        size,
        modified_ns,
        object: ObjectId {
            etag: plain_etag(etag).to_owned(),
            version: version.map(str::to_owned),
            modified_ns: None,
        },
        mtime_ns: metadata.and_then(mtime_of).unwrap_or(modified_ns),
        mode: metadata.and_then(mode_of),
        opaque_etag: is_opaque(encryption, customer),
    }
}

/// One state of one object, whatever its key has become since.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectState {
    key: Vec<u8>,
    size: u64,
    object: ObjectId,
}

impl ObjectState {
    /// The state that the index records for a file. An index that comes from a receiver records
    /// none: any state then, since the receiver compares the content with the digest.
    ///
    /// # Errors
    /// The index records neither a state nor a digest.
    pub(super) fn of_file(file: &FileEntry, key: Vec<u8>) -> Result<Self, String> {
        match (file.object.as_deref().cloned(), file.md5) {
            (Some(object), _) => Ok(Self { key, size: file.size, object }),
            (None, Some(_)) => Ok(Self { size: file.size, ..Self::any(&key) }),
            (None, None) => Err("the index says neither which object it was, nor its md5".to_string()),
        }
    }

    /// The state that a list describes.
    pub(super) fn of_listed(listed: &Listed, key: Vec<u8>) -> Self {
        let modified_ns = Some(listed.modified_ns);
        Self {
            key,
            size: listed.size,
            object: ObjectId { etag: listed.etag.clone(), version: None, modified_ns },
        }
    }

    /// The state that an answer describes.
    pub(super) fn of_head(head: &Head, key: Vec<u8>) -> Self {
        let modified_ns = Some(head.modified_ns);
        Self { key, size: head.size, object: ObjectId { modified_ns, ..head.object.clone() } }
    }

    /// Any state of the object that is not empty.
    pub(super) fn any(key: &[u8]) -> Self {
        let object = ObjectId { etag: String::new(), version: None, modified_ns: None };
        Self { key: key.to_vec(), size: 1, object }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// `None` if the store has none.
    pub(super) fn etag(&self) -> Option<&str> {
        Some(&*self.object.etag).filter(|etag| !etag.is_empty())
    }

    pub(super) fn version(&self) -> Option<&str> {
        self.object.version.as_deref()
    }

    /// When it was written, in nanoseconds since 1970; 0 if it is unknown.
    pub(super) fn modified_ns(&self) -> i64 {
        self.object.modified_ns.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(etag: &str, opaque_etag: bool) -> Head {
        let object = ObjectId { etag: etag.into(), version: None, modified_ns: None };
        Head { size: 3, object, modified_ns: 0, mtime_ns: 0, mode: None, opaque_etag }
    }

    #[test]
    fn an_etag_is_an_md5_only_where_it_is_one() {
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        assert_eq!(head(md5, false).md5().unwrap().to_string(), md5);
        assert_eq!(head(&md5.to_uppercase(), false).md5().unwrap().to_string(), md5);
        assert_eq!(head(md5, true).md5(), None);
        for etag in ["", "900150983cd24fb0d6963f7d28e17f72-2", "0x8DC", "900150983cd24fb0d6963f7d28e17f7"] {
            assert_eq!(head(etag, false).md5(), None, "{etag}");
        }
        assert!(is_opaque(Some("aws:kms"), None) && is_opaque(Some("aws:kms:dsse"), None));
        assert!(
            is_opaque(None, Some("AES256")) && !is_opaque(Some("AES256"), None) && !is_opaque(None, None)
        );
    }

    #[test]
    fn quotes_are_no_part_of_an_etag() {
        assert_eq!(
            [plain_etag("\"a-1\""), plain_etag("a"), plain_etag("W/\"a\""), plain_etag("\"")],
            ["a-1", "a", "a", "\""]
        );
    }
}
