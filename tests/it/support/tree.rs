//! Building folders; the same seed makes the same folder.

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Random enough for contents; the same seed gives the same bytes.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9E37_79B9_7F4A_7C15)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Incompressible bytes.
    pub(crate) fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }

    /// Compressible bytes.
    pub(crate) fn text(&mut self, length: usize) -> Vec<u8> {
        let words = ["block ", "index ", "archive ", "of ", "the\n", "receiver ", "generation ", "0x"];
        let mut bytes = Vec::with_capacity(length + 16);
        while bytes.len() < length {
            bytes.extend(words[self.below(8) as usize].as_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// A folder that is being built. Names are relative to it; missing folders are made.
pub(crate) struct Tree {
    root: PathBuf,
    pub(crate) rng: Rng,
}

impl Tree {
    /// Makes `root` if it is missing.
    pub(crate) fn new(root: &Path, seed: u64) -> Self {
        std::fs::create_dir_all(root).unwrap();
        Self { root: root.to_path_buf(), rng: Rng::new(seed) }
    }

    pub(crate) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.root.join(Path::new(name.as_ref()))
    }

    pub(crate) fn file(&mut self, name: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> &mut Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// An incompressible file.
    pub(crate) fn noise(&mut self, name: impl AsRef<OsStr>, length: usize) -> &mut Self {
        let content = self.rng.noise(length);
        self.file(name, content)
    }

    /// A compressible file.
    pub(crate) fn text(&mut self, name: impl AsRef<OsStr>, length: usize) -> &mut Self {
        let content = self.rng.text(length);
        self.file(name, content)
    }

    pub(crate) fn dir(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        std::fs::create_dir_all(self.path(name)).unwrap();
        self
    }

    pub(crate) fn symlink(&mut self, name: impl AsRef<OsStr>, target: impl AsRef<OsStr>) -> &mut Self {
        std::os::unix::fs::symlink(target.as_ref(), self.path(name)).unwrap();
        self
    }

    /// `name` becomes a further name of `target`, which is relative to the root too.
    pub(crate) fn hardlink(&mut self, name: impl AsRef<OsStr>, target: impl AsRef<OsStr>) -> &mut Self {
        std::fs::hard_link(self.path(target), self.path(name)).unwrap();
        self
    }

    /// Removes a file, a link or a folder with all that it contains.
    pub(crate) fn remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        let path = self.path(name);
        let is_dir = path.symlink_metadata().unwrap().is_dir();
        if is_dir {
            std::fs::remove_dir_all(path).unwrap()
        } else {
            std::fs::remove_file(path).unwrap()
        }
        self
    }

    pub(crate) fn mode(&mut self, name: impl AsRef<OsStr>, mode: u32) -> &mut Self {
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Sets the time of a file, directory or link itself, in nanoseconds since 1970.
    pub(crate) fn mtime(&mut self, name: impl AsRef<OsStr>, mtime_ns: i64) -> &mut Self {
        set_mtime(&self.path(name), mtime_ns);
        self
    }

    /// Gives every entry a time of its own, some of them before 1970, directories after what they
    /// contain.
    pub(crate) fn times(&mut self) -> &mut Self {
        for entry in walkdir::WalkDir::new(&self.root).min_depth(1).contents_first(true).sort_by_file_name() {
            let ns = self.rng.below(1_700_000_000_000_000_000) as i64;
            let before = self.rng.below(8) == 0;
            set_mtime(entry.unwrap().path(), if before { -ns / 4 } else { ns });
        }
        self
    }

    /// One of everything that a folder may hold and a transfer keeps: about 60 entries, `scale`
    /// bytes in the largest file.
    pub(crate) fn rich(&mut self, scale: usize) -> &mut Self {
        self.text("text/compressible.txt", scale)
            .noise("noise/random.bin", scale / 2)
            .file("zeros", vec![0; scale / 3]);
        self.file("empty", "").file("a/first/empty", "").file("zz/last/empty", "");
        for number in 0..20 {
            let length = self.rng.below(3000) as usize;
            self.noise(format!("many/{}/f{number}", number % 3), length);
        }
        self.file("one-byte", "x").file("a/deeper/and/deeper/file", "deep");
        self.file("sort/a-b", "1").file("sort/a/b", "2").file("sort/a.b", "3").file("sort/A", "4");
        for name in [
            &b"names/latin1-\xe9\xff\xfe"[..],
            b"names/new\nline",
            b"names/tab\tand \"quotes\" 'and' \\backslash\\",
            "names/\u{fc}n\u{ef}c\u{f6}de \u{1f980}".as_bytes(),
            b"names/ leading and trailing ",
            b"names/-rf",
            b"names/%2e%2e?&#*",
            b"names/\x1b[31mred",
            b"names/\xf0\x28\x8c\xbc/inside-non-utf8",
        ] {
            self.text(OsStr::from_bytes(name), 700);
        }
        self.file(format!("names/{}", "n".repeat(255)), "longest name");
        self.dir("empty-dir").dir("nest/of/empty/dirs").dir(".hidden").file(".hidden/.file", "hidden");
        self.file("not-at-the-top/.tar-like/file", "ours only at the top");
        self.symlink("link-to-file", "text/compressible.txt")
            .symlink("link-to-dir", "many")
            .symlink("dangling", "no/such/place");
        self.symlink("a/absolute", "/etc/hostname")
            .symlink("a/up", "../..")
            .symlink("link-to-self", "link-to-self");
        self.symlink(OsStr::from_bytes(b"odd-link"), OsStr::from_bytes(b"\xff\xfe\n target"));
        self.hardlink("a/hard", "text/compressible.txt").hardlink("zz/hard", "text/compressible.txt");
        self.hardlink("zz/hard-one-byte", "one-byte").hardlink("zz/hard-empty", "empty");
        self.mode("one-byte", 0o640)
            .mode("many/0/f0", 0o755)
            .mode("many/1/f1", 0o600)
            .mode("many/2/f2", 0o4755);
        self.mode("a/first/empty", 0o444)
            .mode("empty-dir", 0o1777)
            .mode(".hidden", 0o700)
            .mode("nest/of", 0o2755);
        self.times();
        self.mode("nest/of/empty", 0o555)
    }
}

/// Sets the time of `path` itself, in nanoseconds since 1970.
pub(crate) fn set_mtime(path: &Path, mtime_ns: i64) {
    let time =
        Timespec { tv_sec: mtime_ns.div_euclid(1_000_000_000), tv_nsec: mtime_ns.rem_euclid(1_000_000_000) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
