//! The limits that the system sets to this process.

use crate::error::{Error, Result};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Raises the soft limit of open files to the hard one. A receiver of many archives needs more than
/// the usual 1024. The soft limit protects programs that use `select`, which cannot handle larger
/// descriptors.
pub(super) fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Handles SIGXFSZ, which would end the process when a file becomes larger than allowed (`ulimit
/// -f`). The write fails then, so only that file fails. Must be called in a runtime.
pub(super) fn survive_large_files() {
    // The handler stays when the returned stream is dropped.
    let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
}

/// Checks that a thread can be started.
///
/// # Errors
/// No thread can be started. The runtime would abort the process then.
pub(super) fn check_threads() -> Result<()> {
    let thread = std::thread::Builder::new().spawn(|| {}).map_err(Error::thread)?;
    // An empty thread cannot fail.
    let _ = thread.join();
    Ok(())
}
