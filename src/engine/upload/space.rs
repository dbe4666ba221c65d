//! Whether the receiver has room for what it misses, before a byte is sent.

use super::job::Upload;
use super::options::SpacePolicy;
use crate::archive::protocol::Space;
use crate::archive::ranges::RangeSet;
use crate::archive::shown::counted;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Notice;
use std::path::Path;

/// What to do about a copy that does not fit on the disk of this host.
const NO_ROOM_HINT: &str = "free space there, or choose another destination; --no-space-check copies as far as \
                            there is room (a compressed file system may hold more than it says)";

impl Upload<'_> {
    /// Says what is needed and free where `missing` does not fit at the receiver.
    pub(super) async fn check_space(&self, missing: &RangeSet) -> Result<()> {
        if self.options.space == SpacePolicy::Ignore || missing.covered() == 0 {
            return Ok(());
        }
        let Some(space) = self.client.space().await? else { return Ok(()) };
        if space.needed_bytes <= space.free_bytes {
            return Ok(());
        }
        if let SpacePolicy::Refuse(folder) = &self.options.space {
            return Err(no_room(&space, folder));
        }
        self.monitor.notice(Notice::Warning(format!(
            "{}; what fits is sent, and the rest waits for space",
            shortage(&space, "the receiver's disk")
        )));
        Ok(())
    }
}

fn shortage(space: &Space, place: &str) -> String {
    let (needed, free) = (counted(space.needed_bytes, "byte"), counted(space.free_bytes, "byte"));
    format!("the copy needs {needed}, and {place} has {free} free")
}

/// The error that a copy does not fit into `folder` of this host.
pub fn no_room(space: &Space, folder: &Path) -> Error {
    Error::new(ErrorKind::NoSpace, shortage(space, &folder.display().to_string())).with_hint(NO_ROOM_HINT)
}
