//! Whether the receiver has room for what it misses: before a byte is sent where that can be known,
//! else when its disk is full.

use super::job::Upload;
use super::options::UploadOptions;
use crate::archive::protocol::Space;
use crate::archive::ranges::RangeSet;
use crate::archive::shown::counted;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ReceiverClient;
use crate::telemetry::{Monitor, Notice};
use std::path::Path;

/// What to do about a copy that does not fit on the disk of this host.
const NO_ROOM_HINT: &str = "free space there, or choose another destination; sync --adopt takes the files that \
                            are there already; --no-space-check copies as far as there is room (a compressed \
                            file system may hold more than it says)";

impl Upload {
    /// Says what is needed and free where `missing` does not fit at the receiver.
    pub(super) async fn check_space(&self, missing: &RangeSet) -> Result<()> {
        if !self.options.checks_space || missing.covered() == 0 {
            return Ok(());
        }
        match self.client.space().await? {
            Some(space) => check_room(&space, &self.options, &*self.monitor),
            None => Ok(()),
        }
    }

    /// What a run would need that sends `needed_bytes`, and what is free; says so where it does not
    /// fit.
    pub(super) async fn forecast(&self, needed_bytes: u64) -> Result<Option<Space>> {
        if !self.options.checks_space {
            return Ok(None);
        }
        let space = self.client.space().await?.map(|space| Space { needed_bytes, ..space });
        space.iter().try_for_each(|space| check_room(space, &self.options, &*self.monitor))?;
        Ok(space)
    }
}

/// Says what is needed and free where that does not fit.
///
/// # Errors
/// It does not fit into a folder of this host, unless this is a dry run.
pub fn check_room(space: &Space, options: &UploadOptions, monitor: &dyn Monitor) -> Result<()> {
    if space.needed_bytes <= space.free_bytes {
        return Ok(());
    }
    let place = options.folder.as_ref().map(|folder| folder.display().to_string());
    let place = place.as_deref().unwrap_or("the receiver's disk");
    let (needed, free) = (counted(space.needed_bytes, "byte"), counted(space.free_bytes, "byte"));
    let shortage = format!("the copy needs {needed}, and {place} has {free} free");
    if options.folder.is_some() && !options.dry_run {
        return Err(Error::new(ErrorKind::NoSpace, shortage).with_hint(NO_ROOM_HINT));
    }
    let goes_on = if options.dry_run { "" } else { "; what fits is sent, and the rest waits for space" };
    monitor.notice(Notice::Warning(shortage + goes_on));
    Ok(())
}

/// The error of a run that has filled the disk of this host, as one about the copy. Of what is still
/// to come, this side knows `known_bytes`.
pub async fn when_full(
    error: Error,
    client: &dyn ReceiverClient,
    folder: Option<&Path>,
    known_bytes: u64,
) -> Error {
    let Some(folder) = folder.filter(|_| error.kind() == ErrorKind::NoSpace) else { return error };
    let space = client.space().await.ok().flatten();
    let needed_bytes = space.map_or(0, |space| space.needed_bytes.max(known_bytes));
    // Otherwise it is not room for content that lacks, and the error says what does.
    let Some(space) = space.filter(|space| needed_bytes > space.free_bytes) else { return error };
    let (needed, free) = (counted(needed_bytes, "byte"), counted(space.free_bytes, "byte"));
    let what = format!("{} is full: it has {free} free, and the copy needs {needed} more", folder.display());
    Error::new(ErrorKind::NoSpace, what)
        .with_hint("free space there, then run the same command again: it goes on where it was")
}
