//! Symbolic links and other entries planted in the base folder of a receiver, before and during a
//! transfer: nothing outside is touched, and after the planting the same command ends right (P3,
//! P5, P10).

mod planted;
mod race;
mod state;

use crate::support::index::{self, blake3_hex, frame};
use crate::support::stress::fingerprint;
use crate::support::{Lab, Output, Proxy, Tree, tree_diff};
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const SIZE: usize = 1000;

/// A source, a receiver's base, and a folder outside of it with the same names, which must stay
/// unchanged.
struct Setting {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    outside: PathBuf,
    db: PathBuf,
    before: Vec<String>,
}

impl Setting {
    fn new() -> Self {
        Self::with(tree)
    }

    fn with(build: impl FnOnce(&mut Tree)) -> Self {
        let lab = Lab::new();
        let (src, dst, outside) = (lab.path("src"), lab.dir("dst"), lab.path("outside"));
        build(&mut Tree::new(&src, 220));
        // Folders that only a user with rights may change: their times and modes show every touch.
        let mut victim = Tree::new(&outside, 221);
        victim.text("top", 300).text("sub/file", 300).text("sub/deep/file", 300).text("large", 2500);
        victim.text("file", 300).text("dir/file", 300).file("a-first", "precious").file("empty", "precious");
        victim.mode("file", 0o640).mode("sub", 0o750).dir("empty-dir").times();
        let db = lab.index(&src);
        let before = fingerprint(&outside);
        Self { lab, src, dst, outside, db, before }
    }

    fn proxy(&self) -> Proxy {
        self.lab.proxy(&self.dst)
    }

    fn upload(&self, proxy: &Proxy, more: Vec<OsString>) -> Output {
        self.lab.upload(&self.src, &self.db, &proxy.url, [args!["-s", SIZE.to_string()], more].concat())
    }

    /// Removes `name` from the base, and puts a link to `target` there.
    fn plant(&self, name: &str, target: &Path) {
        std::fs::create_dir_all(self.dst.join(name).parent().unwrap()).unwrap();
        // A large file may get its name just now: its verification comes after the answer to its
        // last block.
        for _ in 0..100 {
            remove(&self.dst.join(name));
            if symlink(target, self.dst.join(name)).is_ok() {
                return;
            }
        }
        panic!("{name} comes back each time it is removed");
    }

    /// The entries outside that have changed.
    fn touched(&self) -> Vec<String> {
        let now = fingerprint(&self.outside);
        let gone = self.before.iter().filter(|line| !now.contains(line)).map(|line| format!("- {line}"));
        gone.chain(now.iter().filter(|line| !self.before.contains(line)).map(|line| format!("+ {line}")))
            .collect()
    }

    #[track_caller]
    fn nothing_touched(&self, what: &str) {
        let differences = self.touched();
        assert!(differences.is_empty(), "{what}: touched outside: {differences:#?}");
    }

    /// Sends the index and the blocks as a sender does that is killed before `finish`.
    fn send_without_finish(&self, proxy: &Proxy) {
        let (archive, digest) = (index::archive(&self.src, &self.db), index::digest(&self.db));
        let named = ("x-tar-like-index", &*digest);
        let answer = proxy.request("PUT", "/tar/0/db", &[named], &index::frame_of(&self.db));
        assert_eq!(answer.status, 200, "{}", answer.text());
        for (number, content) in archive.chunks(SIZE).enumerate() {
            let headers = [named, ("x-tar-like-digest", &*blake3_hex(content))];
            let answer = proxy.request("PUT", &format!("/tar/0/{SIZE}/{number}"), &headers, &frame(content));
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }

    /// After the planting: the same command ends right, and claims success only if it is.
    #[track_caller]
    fn completes(&self, proxy: &Proxy, what: &str) {
        if let Err(why) = self.try_complete(proxy) {
            panic!("{what}: {why}");
        }
    }

    fn try_complete(&self, proxy: &Proxy) -> Result<(), String> {
        let output = self.upload(proxy, vec![]);
        let differences = tree_diff(&self.src, &self.dst);
        if output.code != 0 || !differences.is_empty() {
            return Err(format!("exit {}, {differences:#?}\n{}", output.code, output.stderr));
        }
        let touched = self.touched();
        if touched.is_empty() { Ok(()) } else { Err(format!("touched outside: {touched:#?}")) }
    }
}

/// Small and large files, empty ones, folders, links of both kinds, some levels deep.
fn tree(tree: &mut Tree) {
    tree.noise("dir/file", 300)
        .noise("dir/large", 2500)
        .noise("dir/sub/file", 200)
        .noise("dir/sub/deep/file", 100);
    tree.noise("top", 400)
        .noise("z-large", 3700)
        .file("empty", "")
        .file("dir/empty", "")
        .noise("a-first", 700);
    tree.dir("empty-dir")
        .dir("dir/sub/empty-dir/inner")
        .symlink("link", "top")
        .symlink("dir/link", "sub/file");
    tree.hardlink("hard", "a-first")
        .hardlink("dir/hard", "a-first")
        .hardlink("dir/sub/hard-large", "dir/large");
    tree.mode("dir/sub", 0o711).mode("empty-dir", 0o700).times();
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path).unwrap(),
        Ok(_) => std::fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}
