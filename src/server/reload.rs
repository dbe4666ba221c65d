//! Files that are read again while the server runs.

use crate::archive::digest::blake3;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Counter;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A longer one is none of ours.
const MAX_BYTES: u64 = 1 << 20;
/// A file that was changed just now may change once more without another time.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// How often something was read again, for the metrics.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    pub(super) ok: Counter,
    pub(super) failed: Counter,
    /// 1 while what is in use is not what the files say.
    pub(super) stale: Counter,
}

impl Reloads {
    pub(super) fn count<T>(&self, outcome: &Result<T>) {
        let counter = if outcome.is_ok() { &self.ok } else { &self.failed };
        counter.add(1);
        self.stale.set(u64::from(outcome.is_err()));
    }
}

/// Reads a setting; what is wrong with it is wrong usage.
pub(super) fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| {
        Error::io(format!("cannot read {what} {}", path.display()), e).with_kind(ErrorKind::Usage)
    };
    let mut content = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut content)).map_err(failed)?;
    if content.len() as u64 > MAX_BYTES {
        let why = format!("{what} {} has more than {MAX_BYTES} bytes", path.display());
        return Err(Error::new(ErrorKind::Usage, why));
    }
    Ok(content)
}

/// By what a change shows without reading.
#[derive(Debug, PartialEq, Eq)]
struct Stamp([i64; 4], u64, u64);

impl Stamp {
    /// `None` where the next change may not show.
    fn of(metadata: &Metadata) -> Option<Self> {
        let age = SystemTime::now().duration_since(metadata.modified().ok()?).ok()?;
        let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        (age > CLOCK_GRAIN).then(|| Self(times, metadata.ino(), metadata.len()))
    }
}

/// A file that is checked now and then.
#[derive(Debug)]
pub(super) struct Watched {
    what: &'static str,
    path: PathBuf,
    stamp: Option<Stamp>,
    /// The digest of the content, or why there is none.
    seen: Option<std::result::Result<[u8; 32], String>>,
}

impl Watched {
    pub(super) fn new(what: &'static str, path: PathBuf) -> Self {
        Self { what, path, stamp: None, seen: None }
    }

    /// The content, if it is another one than before, or if it is `wanted` anyway. An error is told
    /// once.
    pub(super) fn read_if_changed(&mut self, wanted: bool) -> Result<Option<Vec<u8>>> {
        let stamp = std::fs::metadata(&self.path).ok().as_ref().and_then(Stamp::of);
        if !wanted && stamp.is_some() && stamp == self.stamp {
            return Ok(None);
        }
        let read = read(self.what, &self.path);
        let seen = match &read {
            Ok(content) => Ok(*blake3(content).as_bytes()),
            Err(e) => Err(e.to_string()),
        };
        self.stamp = stamp;
        let same = self.seen.as_ref() == Some(&seen);
        self.seen = Some(seen);
        if same && !wanted { Ok(None) } else { read.map(Some) }
    }

    /// An error that names the file.
    pub(super) fn error(&self, e: Error) -> Error {
        let named = Error::new(e.kind(), format!("{} {}: {e}", self.what, self.path.display()));
        e.hint().map(str::to_owned).into_iter().fold(named, Error::with_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_an_error_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let mut watched = Watched::new("the tokens file", path.clone());
        assert!(watched.read_if_changed(false).is_err() && watched.read_if_changed(false).unwrap().is_none());
        std::fs::write(&path, "a").unwrap();
        assert_eq!(watched.read_if_changed(false).unwrap().as_deref(), Some(&b"a"[..]));
        assert_eq!(watched.read_if_changed(false).unwrap(), None);
        assert_eq!(watched.read_if_changed(true).unwrap().as_deref(), Some(&b"a"[..]));
        // The same length, and perhaps the same time.
        std::fs::write(&path, "b").unwrap();
        assert_eq!(watched.read_if_changed(false).unwrap().as_deref(), Some(&b"b"[..]));
        let old = SystemTime::now() - Duration::from_secs(3600);
        File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        assert_eq!(watched.read_if_changed(false).unwrap(), None, "the content is the same");
        assert!(watched.stamp.is_some());
        std::fs::write(&path, vec![0; MAX_BYTES as usize + 1]).unwrap();
        assert!(watched.read_if_changed(false).is_err());
    }
}
