//! Taking over: the first of several receivers on a folder looks at what the others have published,
//! and journals it as its own.

use super::super::archive::Archive;
use super::super::archive::gate::Shared;
use super::super::context::Context;
use super::handover::{Handover, offered};
use super::parts::{PART_FILES, in_parts};
use super::published::is_in_place;
use crate::archive::ranges::RangeSet;
use crate::error::Result;
use parking_lot::Mutex;
use std::ops::ControlFlow;

/// What other receivers hand over.
#[derive(Default)]
pub(crate) struct TakenOver {
    /// Ids of files that were seen in place.
    pub(crate) ids: RangeSet,
    /// Ids of files that wait at another receiver for a folder to leave their place.
    pub(crate) waiting: RangeSet,
}

/// Takes over what other receivers have published of the active index. Also what was published when
/// there were more receivers, or fewer.
///
/// # Errors
/// What is not the fault of one file.
pub(crate) fn take_over(context: &Context, archive: &Archive, _: &Shared<'_>) -> Result<TakenOver> {
    let mut taken = TakenOver::default();
    if context.hands_over() {
        return Ok(taken);
    }
    let index = archive.progress.head().digest;
    for handover in offered(context, archive.tar_id)? {
        if handover.index == index {
            let ids = take(context, archive, &handover)?;
            ids.iter().for_each(|ids| taken.ids.insert(ids));
            // Former slices do not come to put anything there.
            let waiting = handover.offer.waiting.iter().filter(|_| !handover.is_former);
            waiting.for_each(|ids| taken.waiting.insert(ids));
        } else if handover.is_former {
            // It says nothing of this index, and its folder is not removed before.
            handover.set_taken()?;
        }
    }
    Ok(taken)
}

fn take(context: &Context, archive: &Archive, handover: &Handover) -> Result<RangeSet> {
    let published = archive.progress.published();
    let wanted = handover.offer.published.iter().flat_map(|ids| published.missing(ids)).collect();
    let taken = Mutex::new(RangeSet::default());
    in_parts(&wanted, PART_FILES, |part, cache| {
        let (mut ids, mut bytes) = (RangeSet::default(), RangeSet::default());
        archive.with_index(|index| {
            index.files_of(part, |file| {
                if is_in_place(context, archive, &file, cache)? {
                    ids.insert(file.id..file.id + 1);
                    index.pieces_of(&file, |piece| {
                        bytes.insert(piece.range);
                        Ok(ControlFlow::Continue(()))
                    })?;
                }
                Ok(ControlFlow::Continue(()))
            })
        })?;
        archive.progress.take_over(&context.committer, &ids, &bytes, &context.archives.names.place())?;
        let mut taken = taken.lock();
        ids.iter().for_each(|ids| taken.insert(ids));
        Ok(())
    })?;
    let published = archive.progress.published();
    if handover.offer.published.iter().all(|ids| published.contains(ids)) {
        handover.set_taken()?;
    } else {
        // Its receiver finds that, too, and takes them in again.
        tracing::info!("some files that another receiver has put in place are not there any more");
    }
    Ok(taken.into_inner())
}
