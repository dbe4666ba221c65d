//! Verification of objects by ETags that look like an md5.

use super::entry::LargeObject;
use crate::archive::chunk_map::{ChunkMapHasher, Hashed};
use crate::archive::digest::Md5;
use crate::engine::buffers::Buffers;
use crate::source::s3::ObjectReader;

/// Parts in which a large object is read if only its digests are needed.
const PART_BYTES: usize = 4 << 20;

/// Parts of the second read. A store that answers ranges wrongly gives other contents for other
/// ranges.
const SECOND_PART_BYTES: usize = 3 << 20;

/// Verifies the `first` read of an object by its ETag, if that looks like an md5. If the md5
/// differs, it reads the object again and gives the read that is right. Two equal reads are no
/// damage: the ETag is something else than an md5.
pub(super) fn verified<T>(
    etag: Option<Md5>,
    first: T,
    md5: impl Fn(&T) -> Md5,
    read_again: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let Some(etag) = etag.filter(|etag| *etag != md5(&first)) else { return Ok(first) };
    let second = read_again()?;
    match md5(&second) {
        digest if digest == md5(&first) => Ok(first),
        digest if digest == etag => Ok(second),
        _ => Err("its content came differently each time it was read".to_string()),
    }
}

impl LargeObject {
    /// Reads, hashes and verifies it; `record` gets the number of bytes of each part.
    pub(super) fn hash(&self, mut record: impl FnMut(usize) -> Result<(), String>) -> Result<Hashed, String> {
        let first = self.hash_once(PART_BYTES, &mut record)?;
        self.verified(first)
    }

    /// Verifies the `first` read of it.
    pub(super) fn verified(&self, first: Hashed) -> Result<Hashed, String> {
        // An object's md5 is always computed.
        let md5 = |hashed: &Hashed| hashed.md5.unwrap_or(Md5::ZERO);
        verified(self.etag, first, md5, || self.hash_once(SECOND_PART_BYTES, |_| Ok(())))
    }

    fn hash_once(
        &self,
        part_bytes: usize,
        mut record: impl FnMut(usize) -> Result<(), String>,
    ) -> Result<Hashed, String> {
        let mut reader = ObjectReader::new(self.bucket.clone(), self.state.clone(), part_bytes);
        let mut hasher = ChunkMapHasher::new(self.mean_chunk, None, true);
        let parts = Buffers::new(usize::MAX);
        while let Some(part) = reader.next_part(|| parts.take()) {
            let part = part?;
            record(part.len())?;
            hasher.update(&part);
        }
        Ok(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::md5;

    #[test]
    fn of_two_different_reads_the_one_with_the_etag_counts() {
        let etag = Some(md5(b"right"));
        let read = |etag, first: &'static str, second: Option<&'static str>| {
            let read_again = || second.ok_or_else(|| "read again".to_string());
            verified(etag, first, |content| md5(content.as_bytes()), read_again).ok()
        };
        assert_eq!((read(etag, "right", None), read(None, "other", None)), (Some("right"), Some("other")));
        assert_eq!(read(etag, "other", Some("other")), Some("other"), "its ETag is something else");
        assert_eq!(read(etag, "wrong", Some("right")), Some("right"));
        assert_eq!((read(etag, "wrong", Some("worse")), read(etag, "wrong", None)), (None, None));
    }
}
