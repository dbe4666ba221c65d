//! Comparing a content with the digest in the index.

use super::digest::{Blake3, Md5};
use super::entry::FileEntry;
use md5::Digest as _;

/// Compares a content with what the index says of it: by BLAKE3 where the index has one, else by
/// md5. Where the user left both out, the length alone is compared.
pub enum Verifier {
    /// Against [`FileEntry::blake3`].
    Blake3(Box<blake3::Hasher>, Blake3),
    /// Against [`FileEntry::md5`].
    Md5(md5::Md5, Md5),
    /// Bytes so far, against [`FileEntry::size`].
    Length(u64, u64),
}

impl Verifier {
    /// The comparison that `file` allows.
    #[must_use]
    pub fn of(file: &FileEntry) -> Self {
        match (file.blake3, file.md5) {
            (Some(expected), _) => Self::Blake3(Box::default(), expected),
            (None, Some(expected)) => Self::Md5(md5::Md5::new(), expected),
            (None, None) => Self::Length(0, file.size),
        }
    }

    /// Takes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher, _) => {
                hasher.update(bytes);
            }
            Self::Md5(hasher, _) => hasher.update(bytes),
            Self::Length(length, _) => *length += bytes.len() as u64,
        }
    }

    /// Whether the bytes so far are the whole content that the index says.
    #[must_use]
    pub fn is_verified(self) -> bool {
        match self {
            Self::Blake3(hasher, expected) => hasher.finalize() == blake3::Hash::from(*expected.as_bytes()),
            Self::Md5(hasher, expected) => Md5::from(<[u8; 16]>::from(hasher.finalize())) == expected,
            Self::Length(length, expected) => length == expected,
        }
    }
}

/// Whether `content`, one piece after the other, is the whole content that the index says of `file`.
#[must_use]
pub fn is_content_of<'a>(file: &FileEntry, content: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut verifier = Verifier::of(file);
    content.into_iter().for_each(|piece| verifier.update(piece));
    verifier.is_verified()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::{blake3, md5};
    use crate::archive::path::EntryPath;

    #[test]
    fn only_the_exact_content_is_verified() {
        let mut f = FileEntry {
            id: 0,
            path: EntryPath::new(&b"a"[..]).unwrap(),
            size: 3,
            offset: 0,
            fragmented: false,
            md5: Some(md5(b"abc")),
            blake3: Some(blake3(b"abc")),
            meta: None,
            origin: None,
            object: None,
        };
        let is = |f: &FileEntry, content: &[u8]| {
            let (start, end) = content.split_at(1);
            is_content_of(f, [content]) && is_content_of(f, [start, end])
        };
        assert!(is(&f, b"abc") && !is(&f, b"abd") && !is(&f, b"ab"));
        f.blake3 = None;
        assert!(is(&f, b"abc") && !is(&f, b"abd"));
        f.md5 = None;
        assert!(is(&f, b"abd") && !is(&f, b"ab") && !f.is_verifiable());
    }
}
