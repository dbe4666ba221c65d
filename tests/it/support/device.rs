//! Block devices.

use super::{is_root, need_tool, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device; detached when dropped.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    /// A device over the file `image`; `None`, with a printed reason, where that is not permitted.
    pub(crate) fn new(image: &Path) -> Option<Self> {
        if !is_root() {
            skip("only root may set up loop devices");
            return None;
        }
        need_tool("losetup", "apt-get install mount");
        let output = Command::new("losetup").args(["--find", "--show"]).arg(image).output().unwrap();
        if !output.status.success() {
            skip(&format!("no loop devices: {}", String::from_utf8_lossy(&output.stderr).trim()));
            return None;
        }
        Some(Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

impl Loop {
    /// Makes the device take the present size of its image.
    pub(crate) fn resize(&self) {
        assert!(Command::new("losetup").arg("-c").arg(&self.0).status().unwrap().success());
    }

    /// Makes the next read come from the image.
    pub(crate) fn forget(&self) {
        assert!(Command::new("blockdev").arg("--flushbufs").arg(&self.0).status().unwrap().success());
    }
}
