//! md5 and BLAKE3 of contents, and the digest that names one state of an index.

use super::entry::{FileEntry, Meta, Node};
use super::extent::Extent;
use md5::Digest as _;
use std::fmt;
use std::str::FromStr;

/// A digest of `N` bytes that is read and written as lowercase hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest<const N: usize>([u8; N]);

/// md5 of a file's content: what the index promises and `check` verifies.
pub type Md5 = Digest<16>;
/// BLAKE3 of a file's content or of an uncompressed block: what the receiver proves.
pub type Blake3 = Digest<32>;
/// Names one state of an index; see [`IndexDigester`].
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

/// Computes both digests of a content in one pass.
#[derive(Default)]
pub struct ContentHasher {
    md5: super::md5::Stream,
    blake3: blake3::Hasher,
}

/// Takes the next bytes of two contents, which is faster than one after the other.
pub fn update_pair(a: (&mut ContentHasher, &[u8]), b: (&mut ContentHasher, &[u8])) {
    super::md5::update_pair((&mut a.0.md5, a.1), (&mut b.0.md5, b.1));
    a.0.blake3.update(a.1);
    b.0.blake3.update(b.1);
}

impl ContentHasher {
    /// Takes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.blake3.update(bytes);
    }

    /// The digests of all bytes so far.
    #[must_use]
    pub fn finish(self) -> (Md5, Blake3) {
        (Digest(self.md5.finish()), Digest(*self.blake3.finalize().as_bytes()))
    }
}

/// The proof that a content is what the index says: BLAKE3 where the index has it, else md5, and where the index has neither
/// because the user left both out, its length.
pub enum ProofHasher {
    /// Against [`FileEntry::blake3`].
    Blake3(Box<blake3::Hasher>, Blake3),
    /// Against [`FileEntry::md5`].
    Md5(md5::Md5, Md5),
    /// Bytes so far, against [`FileEntry::size`].
    Length(u64, u64),
}

impl ProofHasher {
    /// The proof that `file` asks for.
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

    /// Whether the bytes so far are the whole content that the index promises.
    #[must_use]
    pub fn proven(self) -> bool {
        match self {
            Self::Blake3(hasher, expected) => hasher.finalize() == blake3::Hash::from(expected.0),
            Self::Md5(hasher, expected) => Digest(hasher.finalize().into()) == expected,
            Self::Length(length, expected) => length == expected,
        }
    }
}

/// Whether `content` is all of what the index says of `file`.
#[must_use]
pub fn proves(file: &FileEntry, content: &[u8]) -> bool {
    let mut proof = ProofHasher::of(file);
    proof.update(content);
    proof.proven()
}

/// Computes the digest of an index: BLAKE3 over a tag, the digest of all file rows in id order, the digest of all nodes in
/// order, and both counts. A row enters as fixed-width little-endian numbers and length-prefixed bytes, so that no two
/// different indexes give the same input. What is only of use on the host that indexed ([`FileEntry::origin`]) stays out:
/// indexing the same tree twice gives the same digest.
///
/// Format 2, which later generations have, adds each file's id before its row, and behind it whether the file is fragmented, and its
/// extents.
pub struct IndexDigester {
    tag: &'static [u8],
    files: blake3::Hasher,
    nodes: blake3::Hasher,
    file_count: u64,
    node_count: u64,
    row: Vec<u8>,
}

impl Default for IndexDigester {
    fn default() -> Self {
        Self {
            tag: Self::TAG,
            files: blake3::Hasher::new(),
            nodes: blake3::Hasher::new(),
            file_count: 0,
            node_count: 0,
            row: Vec::new(),
        }
    }
}

impl IndexDigester {
    const TAG: &[u8] = b"tar-like index 1\n";
    const TAG_2: &[u8] = b"tar-like index 2\n";

    /// For an index of this format, 1 or 2.
    #[must_use]
    pub fn of_format(format: u8) -> Self {
        Self { tag: if format == 1 { Self::TAG } else { Self::TAG_2 }, ..Self::default() }
    }

    /// Takes the next file; files come in id order.
    pub fn file(&mut self, file: &FileEntry) {
        let mut row = std::mem::take(&mut self.row);
        row.clear();
        if self.tag == Self::TAG_2 {
            row.extend(file.id.to_le_bytes());
        }
        Self::push_file(&mut row, file);
        if self.tag == Self::TAG_2 {
            row.push(u8::from(file.fragmented));
        }
        self.file_row(&row);
        self.row = row;
    }

    /// Takes the next extent of the fragmented file that came last.
    pub fn extent(&mut self, extent: &Extent) {
        self.files.update(&extent.length.to_le_bytes());
        self.files.update(&extent.offset.to_le_bytes());
    }

    /// The same for a row that [`IndexDigester::push_file`] has made; in format 1 only.
    pub fn file_row(&mut self, row: &[u8]) {
        self.files.update(row);
        self.file_count += 1;
    }

    /// Adds what of `file` enters the digest to `row`.
    pub fn push_file(row: &mut Vec<u8>, file: &FileEntry) {
        push_bytes(row, file.path.as_bytes());
        row.extend(file.size.to_le_bytes());
        row.extend(file.offset.to_le_bytes());
        match &file.md5 {
            Some(md5) => row.extend(md5.as_bytes()),
            // A length that no BLAKE3 has: the row of a file whose md5 is all zeros is another one.
            None => row.extend([[0; 16], [0xff; 16]].concat()),
        }
        push_bytes(row, file.blake3.as_ref().map_or(&[], |d| &d.as_bytes()[..]));
        push_meta(row, file.meta);
    }

    /// Takes the next node, in the order of the index.
    pub fn node(&mut self, node: &Node) {
        self.row.clear();
        self.row.extend(node.kind.letter().as_bytes());
        push_bytes(&mut self.row, node.path.as_bytes());
        push_bytes(&mut self.row, &node.target);
        push_meta(&mut self.row, node.meta);
        self.nodes.update(&self.row);
        self.node_count += 1;
    }

    /// The digest of everything so far.
    #[must_use]
    pub fn finish(&self) -> IndexDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.tag);
        for (rows, count) in [(&self.files, self.file_count), (&self.nodes, self.node_count)] {
            hasher.update(rows.finalize().as_bytes());
            hasher.update(&count.to_le_bytes());
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

fn push_bytes(row: &mut Vec<u8>, bytes: &[u8]) {
    row.extend((bytes.len() as u64).to_le_bytes());
    row.extend(bytes);
}

fn push_meta(row: &mut Vec<u8>, meta: Option<Meta>) {
    match meta {
        None => row.push(0),
        Some(meta) => {
            row.push(1);
            row.extend(meta.mode.to_le_bytes());
            row.extend(meta.mtime_ns.to_le_bytes());
            row.extend(meta.uid.to_le_bytes());
            row.extend(meta.gid.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::entry::NodeKind;
    use crate::archive::path::EntryPath;

    fn file(path: &str) -> FileEntry {
        FileEntry {
            id: 0,
            path: EntryPath::new(path.as_bytes()).unwrap(),
            size: 3,
            offset: 0,
            fragmented: false,
            md5: Some(md5(b"abc")),
            blake3: Some(blake3(b"abc")),
            meta: Some(Meta { mode: 0o644, mtime_ns: -1, uid: 0, gid: 0 }),
            origin: None,
            object: None,
        }
    }

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
        let mut both = ContentHasher::default();
        both.update(b"a");
        both.update(b"bc");
        assert_eq!(both.finish(), (md5(b"abc"), blake3(b"abc")));
    }

    #[test]
    fn a_proof_needs_the_exact_content() {
        let mut f = file("a");
        assert!(proves(&f, b"abc") && !proves(&f, b"abd") && !proves(&f, b"ab"));
        f.blake3 = None;
        assert!(proves(&f, b"abc") && !proves(&f, b"abd"));
        f.md5 = None;
        assert!(proves(&f, b"abd") && !proves(&f, b"ab") && !f.is_provable());
    }

    #[test]
    fn every_field_counts_and_origin_does_not() {
        let digest = |file: &FileEntry, node: Option<&Node>| {
            let mut digester = IndexDigester::default();
            digester.file(file);
            if let Some(node) = node {
                digester.node(node);
            }
            digester.finish()
        };
        let base = file("a");
        let reference = digest(&base, None);
        // The format is a promise to other versions: a change of this value is a new index format.
        assert_eq!(reference.to_string(), "b782dae976bc9d1b9f0adaacdac66337a72aeccea3229177e0b07041136fcd9e");
        let mut variants = vec![file("b")];
        for change in [
            |f: &mut FileEntry| f.size = 4,
            |f: &mut FileEntry| f.offset = 1,
            |f: &mut FileEntry| f.md5 = Some(md5(b"x")),
            |f: &mut FileEntry| f.md5 = Some(Digest([0; 16])),
            |f: &mut FileEntry| f.md5 = None,
            |f: &mut FileEntry| f.blake3 = None,
            |f: &mut FileEntry| f.meta = None,
            |f: &mut FileEntry| f.meta = Some(Meta { mode: 0o600, mtime_ns: -1, uid: 0, gid: 0 }),
        ] {
            let mut variant = base.clone();
            change(&mut variant);
            variants.push(variant);
        }
        for variant in &variants {
            assert_ne!(digest(variant, None), reference, "{variant:?}");
        }
        let second = |change: fn(&mut FileEntry), extent: Option<Extent>| {
            let mut file = base.clone();
            change(&mut file);
            let mut digester = IndexDigester::of_format(2);
            digester.file(&file);
            if let Some(extent) = extent {
                digester.extent(&extent);
            }
            digester.finish()
        };
        let reference_2 = second(|_| {}, None);
        assert_eq!(
            reference_2.to_string(),
            "21c32dc023699b4229d84dbd12f75fc22c989ae44a4b1e9c10610eae865acfd4"
        );
        let extent = |length, offset| Some(Extent { length, offset });
        let fragmented =
            [extent(3, 0), extent(3, 1), extent(2, 0)].map(|e| second(|f| f.fragmented = true, e));
        let mut all = vec![reference, reference_2, second(|f| f.id = 1, None)];
        all.extend(fragmented);
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
        let mut same = base.clone();
        same.origin = Some(crate::archive::entry::Origin { dev: 1, ino: 2, ctime_ns: 3 });
        assert_eq!(digest(&same, None), reference);
        let node = Node {
            kind: NodeKind::Dir,
            path: EntryPath::new(&b"d"[..]).unwrap(),
            target: Box::default(),
            meta: None,
        };
        assert_ne!(digest(&base, Some(&node)), reference);
    }
}
