//! Which requests one of several receivers on a folder serves.

use crate::archive::slice::Slice;
use crate::error::{Error, ErrorKind, Result};

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceRequest {
    /// Each slice serves it: the status, an index, or the end of a transfer.
    OfEach,
    /// A block: a sender has to know which slice takes it in.
    Block,
    /// A batch of a log: its blocks come before it is known which slice takes them in.
    Log,
    /// The first slice alone serves it.
    OfFirst,
}

/// Refuses a request that slice `ours` does not serve, or a receiver that is no slice. `asked` is
/// what the sender speaks to, if it says that.
///
/// # Errors
/// [`ErrorKind::WrongSlice`].
pub(super) fn check(ours: Option<Slice>, asked: Option<Slice>, request: SliceRequest) -> Result<()> {
    let refused = |what: String, hint: &str| Err(Error::new(ErrorKind::WrongSlice, what).with_hint(hint));
    match (ours, asked) {
        (None, None) => Ok(()),
        (None, Some(asked)) => refused(
            format!("this receiver is no slice, and the request is for slice {asked}"),
            "start it with --slice, or run the sender again",
        ),
        (Some(ours), Some(asked)) if ours != asked => refused(
            format!("this receiver is slice {ours}, and the request is for slice {asked}"),
            "compare --slice and --peers of all receivers, and what leads to them",
        ),
        (Some(ours), None) if !ours.is_first() => refused(
            format!("this receiver is slice {ours}"),
            "give the address of the first slice: it names the others",
        ),
        (Some(ours), _) if request == SliceRequest::Log => refused(
            format!("this receiver is slice {ours}, which takes a whole index"),
            "make the index first: tar-like index, then tar-like upload",
        ),
        (Some(ours), None) if request == SliceRequest::Block => refused(
            format!("this receiver is slice {ours}, and the sender does not know of slices"),
            "use the same version of tar-like on all hosts",
        ),
        (Some(ours), Some(_)) if request == SliceRequest::OfFirst && !ours.is_first() => {
            refused(format!("this receiver is slice {ours}"), "the first slice serves that")
        }
        (Some(_), _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slice_serves_what_is_its_own() {
        use SliceRequest::{Block, Log, OfEach, OfFirst};
        let slice = |text: &str| text.parse::<Slice>().ok();
        // Ours, asked, and which requests are served.
        for (ours, asked, served) in [
            ("", "", vec![OfEach, Block, Log, OfFirst]),
            ("", "1/2", vec![]),
            ("1/2", "", vec![OfEach, OfFirst]),
            ("1/2", "1/2", vec![OfEach, Block, OfFirst]),
            ("1/2", "2/2", vec![]),
            ("1/2", "1/3", vec![]),
            ("2/2", "", vec![]),
            ("2/2", "2/2", vec![OfEach, Block]),
            ("2/2", "1/2", vec![]),
        ] {
            for request in [OfEach, Block, Log, OfFirst] {
                let outcome = check(slice(ours), slice(asked), request);
                let kind = outcome.err().map(|e| e.kind());
                let wanted = (!served.contains(&request)).then_some(ErrorKind::WrongSlice);
                assert_eq!(kind, wanted, "{ours} asked as {asked}: {request:?}");
            }
        }
    }
}
