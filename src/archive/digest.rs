//! Digests of contents: md5 and BLAKE3.

use md5::Digest as _;
use std::fmt;
use std::str::FromStr;

/// A digest of `N` bytes that is read and written as lowercase hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest<const N: usize>([u8; N]);

/// md5 of a file's content: what the original program verifies.
pub type Md5 = Digest<16>;
/// BLAKE3 of a file's content or of an uncompressed block: what the receiver verifies.
pub type Blake3 = Digest<32>;
/// Names one state of an index; see [`super::index_digest::IndexDigester`].
pub type IndexDigest = Digest<32>;

/// The text is no lowercase hex of the right length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a lowercase hexadecimal digest of the right length")]
pub struct NotADigest;

impl<const N: usize> Digest<N> {
    /// All zeros.
    pub const ZERO: Self = Self([0; N]);

    /// The digest's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> From<[u8; N]> for Digest<N> {
    fn from(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Digest<N> {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(NotADigest),
        };
        let text = text.as_bytes();
        if text.len() != 2 * N {
            return Err(NotADigest);
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

/// BLAKE3 of `bytes`.
#[must_use]
pub fn blake3(bytes: &[u8]) -> Blake3 {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// Computes BLAKE3 of a content that comes in pieces.
#[derive(Default)]
pub struct Blake3Hasher(blake3::Hasher);

impl Blake3Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far.
    #[must_use]
    pub fn finish(&self) -> Blake3 {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// md5 of `bytes`.
#[must_use]
pub fn md5(bytes: &[u8]) -> Md5 {
    Digest(md5::Md5::digest(bytes).into())
}

/// md5 of each of `contents`, in their order.
#[must_use]
pub fn md5_of_each(contents: &[&[u8]]) -> Vec<Md5> {
    super::md5::digest_many(contents).into_iter().map(Digest).collect()
}

/// Computes the digests of a content in one pass.
pub struct ContentHasher {
    md5: Option<super::md5::Stream>,
    blake3: blake3::Hasher,
}

impl ContentHasher {
    /// Computes BLAKE3, and `md5` as well if that is wanted.
    #[must_use]
    pub fn new(md5: bool) -> Self {
        Self { md5: md5.then(Default::default), blake3: blake3::Hasher::new() }
    }

    /// Takes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.blake3.update(bytes);
    }

    /// The digests of all bytes so far.
    #[must_use]
    pub fn finish(self) -> (Option<Md5>, Blake3) {
        let md5 = self.md5.map(|md5| Digest(md5.finish()));
        (md5, Digest(*self.blake3.finalize().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(md5(b"abc").to_string(), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(
            blake3(b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!("900150983cd24fb0d6963f7d28e17f72".parse(), Ok(md5(b"abc")));
        assert_eq!("900150983CD24FB0D6963F7D28E17F72".parse::<Md5>(), Err(NotADigest));
        assert_eq!("90".parse::<Md5>(), Err(NotADigest));
        for with_md5 in [true, false] {
            let mut hasher = ContentHasher::new(with_md5);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish(), (with_md5.then(|| md5(b"abc")), blake3(b"abc")));
        }
    }
}
