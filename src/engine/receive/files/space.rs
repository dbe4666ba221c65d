//! Whether what is missing of an archive fits on the disk.

use super::super::archive::Archive;
use super::super::context::Context;
use super::published::each_unpublished;
use crate::archive::protocol::Space;
use crate::error::Result;
use crate::sink::disk::FolderCache;

/// The size of a block of `st_blocks`, in bytes.
const STAT_BLOCK_BYTES: u64 = 512;

/// What is needed for what is missing. Where that seems not to fit, files that will be replaced are
/// looked at: they give their room back. What a deletion frees comes too late to count.
///
/// # Errors
/// The file system does not answer, or the index cannot be read.
pub(crate) fn forecast(context: &Context, archive: &Archive) -> Result<Space> {
    let free_bytes = context.free_for_content()?;
    let missing_bytes = archive.progress.missing_bytes();
    if missing_bytes <= free_bytes {
        return Ok(Space { needed_bytes: missing_bytes, free_bytes });
    }
    let (mut cache, mut freed_bytes) = (FolderCache::default(), 0u64);
    let published = archive.progress.published();
    archive.with_index(|index| {
        each_unpublished(index, &published, |file| {
            let stat = context.sink.stat(&file.path, &mut cache).unwrap_or(None);
            // Content with another name, as what is retained, stays.
            if let Some(stat) = stat.filter(|stat| stat.st_nlink == 1) {
                let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
                freed_bytes = freed_bytes.saturating_add(blocks.saturating_mul(STAT_BLOCK_BYTES));
            }
            Ok(())
        })
    })?;
    Ok(Space { needed_bytes: missing_bytes.saturating_sub(freed_bytes), free_bytes })
}
