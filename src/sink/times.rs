//! What the file system makes of a time.

use super::disk::DiskSink;
use crate::archive::entry::Meta;
use crate::error::{Error, Result};
use crate::folder::{is_common_time, mtime_ns, timestamps};

/// A scratch file to try times on; made when it is needed.
#[derive(Default)]
pub struct Scratch(Option<tempfile::NamedTempFile>);

impl DiskSink {
    /// The time that a file has once it was given `wanted_ns`, in nanoseconds since 1970. Not every
    /// file system keeps times before 1970 or after 2038; then one of its own stands for it, which
    /// only a trial can tell.
    ///
    /// # Errors
    /// The system's error.
    pub fn kept_time(&self, wanted_ns: i64, scratch: &mut Scratch) -> Result<i64> {
        if is_common_time(wanted_ns) {
            return Ok(wanted_ns);
        }
        let mut attempt = || -> std::io::Result<i64> {
            let file = match &mut scratch.0 {
                Some(file) => file,
                none => none.insert(tempfile::NamedTempFile::new_in(self.state_path().join("incoming"))?),
            };
            let meta = Meta { mode: 0, mtime_ns: wanted_ns, uid: 0, gid: 0 };
            rustix::fs::futimens(file.as_file(), &timestamps(&meta))?;
            Ok(mtime_ns(&rustix::fs::fstat(file.as_file())?))
        };
        attempt().map_err(|e| Error::io("cannot find out how the file system keeps times", e))
    }
}
