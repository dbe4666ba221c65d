//! What is known of an object without its content.

use super::Bucket;
use super::retry::{Attempts, Trouble, trouble};
use super::when::{mode_of, modified_ns, mtime_of};
use crate::archive::digest::Md5;
use crate::archive::entry::{Meta, ObjectId};
use crate::archive::path::printable;
use std::collections::HashMap;

/// What the store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// In bytes.
    pub size: u64,
    /// Which state of the object this is.
    pub object: ObjectId,
    /// The time of its file, or of the object where nobody has recorded that, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Permissions of its file, where somebody has recorded them.
    pub mode: Option<u32>,
    /// Encrypted so that the ETag is no md5, although it may look like one.
    pub opaque_etag: bool,
}

/// Permissions of what has none in the bucket.
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

impl Head {
    /// The md5 of the content, if the ETag is one: not of an upload in parts, nor of an object whose key the store or the client
    /// keeps (SSE-KMS, SSE-C).
    #[must_use]
    pub fn md5(&self) -> Option<Md5> {
        if self.opaque_etag { None } else { self.object.etag.to_ascii_lowercase().parse().ok() }
    }

    /// As metadata of a file. Objects have no owners: a receiver that may set them sets its own.
    #[must_use]
    pub fn file_meta(&self) -> Meta {
        Meta { mode: self.mode.unwrap_or(FILE_MODE), mtime_ns: self.mtime_ns, uid: 0, gid: 0 }
    }

    /// The same of a folder.
    #[must_use]
    pub fn folder_meta(&self) -> Meta {
        Meta { mode: self.mode.unwrap_or(FOLDER_MODE), mtime_ns: self.mtime_ns, uid: 0, gid: 0 }
    }
}

/// An ETag without the quotes that belong to it, and that some stores leave out.
pub(super) fn plain_etag(etag: &str) -> &str {
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag)
}

/// Whether the ETag of an object with this encryption says nothing of its content.
fn is_opaque(encryption: Option<&str>, customer: Option<&str>) -> bool {
    customer.is_some() || encryption.is_some_and(|how| how.starts_with("aws:"))
}

/// The answers to HEAD and GET have the same fields, in different types.
macro_rules! head_of {
    ($answer:expr, $size:expr) => {
        $crate::source::s3::head::head_of_parts(
            $size,
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
    size: u64,
    etag: &str,
    version: Option<&str>,
    modified: Option<&aws_smithy_types::DateTime>,
    metadata: Option<&HashMap<String, String>>,
    (encryption, customer): (Option<&str>, Option<&str>),
) -> Head {
    Head {
        size,
        object: ObjectId {
            etag: plain_etag(etag).to_owned(),
            version: version.map(str::to_owned),
            modified_ns: None,
        },
        mtime_ns: metadata.and_then(mtime_of).unwrap_or_else(|| modified_ns(modified)),
        mode: metadata.and_then(mode_of),
        opaque_etag: is_opaque(encryption, customer),
    }
}

impl Bucket {
    /// Asks what is known of `key`.
    pub(super) async fn head(&self, key: &[u8]) -> Result<Head, String> {
        let Ok(_permit) = self.permits.acquire().await else { return Err("interrupted".to_string()) };
        let mut attempts = Attempts::new(&self.patience);
        loop {
            let (name, raw) = super::connect::key_of(key);
            let request = self.client.head_object().bucket(&self.name).key(name).customize();
            let request = request.mutate_request(super::connect::with_key(raw));
            let answer = async { request.send().await.map_err(|e| trouble(&e)) };
            let trouble = match self.unless_cancelled(answer).await {
                Ok(answer) => match answer.content_length().and_then(|size| u64::try_from(size).ok()) {
                    Some(size) => {
                        self.patience.succeeded();
                        return Ok(head_of!(answer, size));
                    }
                    None => Trouble::Passing("the store does not say its size".to_string()),
                },
                Err(trouble) => trouble,
            };
            tracing::debug!("HEAD \"{}\": {trouble:?}", printable(key));
            if self.monitor.is_cancelled()
                || !matches!(trouble, Trouble::Passing(_))
                || !attempts.again().await
            {
                return Err(trouble.reason());
            }
            self.monitor.counters().retries.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(etag: &str, opaque_etag: bool) -> Head {
        let object = ObjectId { etag: etag.into(), version: None, modified_ns: None };
        Head { size: 3, object, mtime_ns: 0, mode: None, opaque_etag }
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
