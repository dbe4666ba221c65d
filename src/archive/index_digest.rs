//! The digest that names one state of an index (FORMAT.md 3.4).

use super::digest::IndexDigest;
use super::entry::{FileEntry, Meta, Node};
use super::extent::Extent;

/// Computes the digest of an index: BLAKE3 over a tag, the digest of all file rows in id order, the
/// digest of all nodes in order, and both counts. A row enters as fixed-width little-endian numbers
/// and length-prefixed bytes, so that no two different indexes give the same input. What is only of
/// use on the host that indexed ([`FileEntry::origin`]) stays out: indexing the same tree twice
/// gives the same digest.
///
/// Format 2, which later generations have, adds each file's id before its row, and behind it
/// whether the file is fragmented, and its extents.
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
        IndexDigest::from(*hasher.finalize().as_bytes())
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
    use crate::archive::digest::{Md5, blake3, md5};
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
            |f: &mut FileEntry| f.md5 = Some(Md5::ZERO),
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
