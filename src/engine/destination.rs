//! Where a run sends to: a receiver that answers already, or a folder on which one is started for
//! the run.

use crate::archive::path::STATE_DIR;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{Answer, ReceiverClient};
use crate::sink::is_used;
use rustix::fs::{Access, PROC_SUPER_MAGIC, access, statfs};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a run sends to.
#[derive(Clone)]
pub enum Destination {
    /// A receiver that is reached by this client.
    Receiver(Arc<dyn ReceiverClient>),
    /// A folder of this host.
    Folder {
        /// Its path; `Destination::open` does not make it.
        path: PathBuf,
        /// Starts the receiver.
        starter: Arc<dyn StartReceiver>,
    },
    /// A folder of another host, on which one is started for the run.
    Remote {
        /// Its path on that host.
        path: PathBuf,
        /// Starts the receiver.
        starter: Arc<dyn StartReceiver>,
    },
}

/// Starts a receiver on a folder. The server is a layer above the engine, so the front
/// end brings it along.
pub trait StartReceiver: Send + Sync {
    /// Starts a receiver on `folder`, which exists.
    ///
    /// # Errors
    /// The folder cannot be used, or another receiver uses it.
    fn start(&self, folder: PathBuf) -> Answer<'_, StartedReceiver>;
}

/// A receiver that runs in this process. It stops when `stop` is dropped.
pub struct StartedReceiver {
    /// Reaches it.
    pub client: Arc<dyn ReceiverClient>,
    /// Stops it, and ends when everything is on stable storage.
    pub stop: Answer<'static, ()>,
}

impl Destination {
    /// The folder, if it is one of this host.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder { path, .. } => Some(path),
            Self::Receiver(_) | Self::Remote { .. } => None,
        }
    }

    /// The folder, if nothing was ever received into it.
    pub(super) fn unused_folder(&self) -> Option<&Path> {
        self.folder().filter(|path| !is_used(path))
    }

    /// Does `work` with a client of the receiver, which is started before and stopped afterwards if
    /// it is a folder's.
    pub(super) async fn with_client<T>(
        &self,
        work: impl AsyncFnOnce(Arc<dyn ReceiverClient>) -> Result<T>,
    ) -> Result<T> {
        let (path, starter) = match self {
            Self::Receiver(client) => return work(client.clone()).await,
            Self::Folder { path, starter } | Self::Remote { path, starter } => (path.clone(), starter),
        };
        let StartedReceiver { client, stop } = starter.start(path).await?;
        let outcome = work(client).await;
        let stopped = stop.await;
        // The error that came first says more.
        if outcome.is_ok() {
            stopped?;
        }
        outcome
    }

    /// Makes the folder if it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make_folder(&self) -> Result<Option<NewFolder>> {
        let Self::Folder { path, .. } = self else { return Ok(None) };
        NewFolder::make(path)
    }

    /// Says ahead of [`make_folder`](Self::make_folder) where it fails, and makes nothing.
    ///
    /// # Errors
    /// The folder is missing, and the nearest folder above it takes no new one.
    pub(super) fn check_new_folder(&self) -> Result<()> {
        let Self::Folder { path, .. } = self else { return Ok(()) };
        let above = path.ancestors().find(|above| above.exists());
        let Some(above) = above.filter(|above| above != path) else { return Ok(()) };
        let check = || {
            access(above, Access::WRITE_OK | Access::EXEC_OK)?;
            // By its modes root may write to it, and it takes no folder of any user.
            if statfs(above)?.f_type == PROC_SUPER_MAGIC { Err(Errno::NOENT) } else { Ok(()) }
        };
        check().map_err(|e: Errno| cannot_make(path, e.into()))
    }
}

/// The same kinds as where the folder exists: it is the receiver that cannot store anything.
fn cannot_make(path: &Path, error: std::io::Error) -> Error {
    let error = Error::io(format!("cannot make the destination folder {}", path.display()), error);
    match error.os_error() {
        Some(Errno::ROFS) => error.with_kind(ErrorKind::Degraded),
        _ => error.of_receiver(),
    }
}

/// A destination folder that was made for this run.
pub struct NewFolder(PathBuf);

impl NewFolder {
    /// Makes the folder `path`; `None` if it is there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(path: &Path) -> Result<Option<Self>> {
        if path.exists() {
            return Ok(None);
        }
        std::fs::create_dir_all(path).map_err(|e| cannot_make(path, e))?;
        Ok(Some(Self(path.to_path_buf())))
    }

    /// Removes the folder if the receiver has not even got an index. Entries that others have put
    /// into it stay, and the folder with them.
    pub fn remove_if_unused(&self) {
        let state = self.0.join(STATE_DIR);
        let is_unused =
            std::fs::read_dir(state.join("archives")).is_ok_and(|mut indexes| indexes.next().is_none());
        if is_unused && std::fs::remove_dir_all(&state).is_ok() {
            let _ = std::fs::remove_dir(&self.0);
        }
    }
}
