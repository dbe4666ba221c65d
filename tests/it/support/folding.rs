//! A file system that takes names that differ in case only for one.

use super::{Lab, is_root, need_tool, skip, wait_until};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Such a file system, by FUSE over a folder; unmounted when dropped.
pub(crate) struct Folding {
    pub(crate) path: PathBuf,
    server: Child,
}

impl Folding {
    /// Mounts it at the folder `name` of the lab; `None`, with a printed reason, where that is not
    /// permitted.
    pub(crate) fn mount(lab: &Lab, name: &str) -> Option<Self> {
        Self::mount_with(lab, name, None)
    }

    /// The same, but it folds names only in the folder `only` and below it.
    pub(crate) fn mount_with(lab: &Lab, name: &str, only: Option<&str>) -> Option<Self> {
        if !is_root() || !Path::new("/dev/fuse").exists() {
            skip("only root may mount, and only where there is /dev/fuse");
            return None;
        }
        need_tool("python3", "apt-get install python3");
        need_tool("fusermount3", "apt-get install fuse3");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/tools/fuse");
        assert!(
            modules.join("mfusepy.py").is_file(),
            "mfusepy is missing; install it with: scripts/setup test"
        );
        let (behind, path) = (lab.dir(&format!("{name}.behind")), lab.dir(name));
        let log = std::fs::File::create(lab.path(&format!("{name}.log"))).unwrap();
        let server = Command::new("python3")
            .arg(root.join("tests/it/support/folding.py"))
            .args([&behind, &path])
            .args(only)
            .env("PYTHONPATH", modules)
            // The search takes seconds.
            .env("FUSE_LIBRARY_PATH", "libfuse3.so.3")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut folding = Self { path, server };
        wait_until("the file system is mounted", Duration::from_secs(60), || {
            let said = || std::fs::read_to_string(lab.path(&format!("{name}.log")));
            assert!(folding.server.try_wait().unwrap().is_none(), "it ended: {:?}", said());
            folding.is_mounted()
        });
        Some(folding)
    }

    fn is_mounted(&self) -> bool {
        let device = |path: &Path| rustix::fs::stat(path).ok().map(|stat| stat.st_dev);
        device(&self.path) != device(self.path.parent().unwrap())
    }
}

impl Drop for Folding {
    fn drop(&mut self) {
        // Lazily: a test that fails may have left a receiver.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
