//! `check --repair`: what the check has found is taken from the source again.

use super::address::refuse_remote_source;
use super::connect::Connection;
use super::environment::threads;
use super::local_receiver::LocalReceiver;
use super::output::Output;
use super::s3::{Place, S3Args};
use crate::engine::check::Finding;
use crate::engine::destination::Destination;
use crate::engine::index_source::refuse_other_base;
use crate::engine::repair::{archive_number, repair};
use crate::engine::upload::{ContentScope, UploadOptions, UploadReport};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::refuse_base_without_state;
use crate::source::Source;
use crate::source::disk::DiskSource;
use crate::source::s3::Bucket;
use crate::telemetry::{Monitor, Notice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What of a list of paths fits into a request, in bytes. With more, all files are read again.
const MAX_PATHS_BYTES: usize = 512 << 10;

const IN_USE_HINT: &str = "if a proxy receives into this folder, stop it; or let it run, and send to its address with: tar-like sync SOURCE \
                           http://HOST:8000/tar --checksum";

const STATE_HINT: &str = "run check on that host, with --state FOLDER; or let the receiver run, and send to its address with: tar-like sync \
                          SOURCE http://HOST:8000/tar --checksum";

/// Paths that are to be repaired.
#[derive(Default)]
pub(super) struct Damage {
    paths: Vec<String>,
    bytes: usize,
    pub(super) count: u64,
}

impl Damage {
    pub(super) fn add(&mut self, finding: &Finding) {
        let (Finding::Different(path, _) | Finding::Missing(path)) = finding else { return };
        self.count += 1;
        self.bytes += 2 * path.len() + 8;
        match self.bytes <= MAX_PATHS_BYTES {
            true => self.paths.push(path.clone()),
            false => self.paths.clear(),
        }
    }

    fn scope(self) -> ContentScope {
        if self.bytes <= MAX_PATHS_BYTES { ContentScope::Paths(self.paths) } else { ContentScope::All }
    }
}

/// Refuses to repair a copy whose receiver's journal is elsewhere, as long as `state` does not say
/// where that is: a check of hours would have been in vain.
fn check_state(base: &Path, state: Option<&Path>) -> Result<()> {
    let Some(state) = state else {
        return refuse_base_without_state(base).map_err(|e| e.with_hint(STATE_HINT));
    };
    match state.join("journal.sqlite").is_file() {
        true => Ok(()),
        false => {
            let what = format!("{} is no state folder of a receiver: it has no journal", state.display());
            Err(Error::new(ErrorKind::Usage, what).with_hint(STATE_HINT))
        }
    }
}

/// The source `given` of the copy `base`, which is compared with the index at `database`, and whose
/// receiver has the state folder `state`, if that is not `.tar-like`.
///
/// # Errors
/// It cannot be read, is no source of this index, or the receiver cannot be started: a check of
/// hours would have been in vain.
pub(super) async fn source(
    given: PathBuf,
    (base, state): (&Path, Option<&Path>),
    database: &Path,
    s3: S3Args,
    output: &Arc<Output>,
) -> Result<(Arc<dyn Source>, PathBuf)> {
    check_state(base, state)?;
    if !base.is_dir() {
        let what = format!("{} is not a folder", base.display());
        return Err(Error::new(ErrorKind::Usage, what).with_hint("only a folder can be repaired"));
    }
    let text = given.to_str().unwrap_or_default();
    if text.starts_with("http://") || text.starts_with("https://") {
        let what = format!("{text} is a receiver, which sends nothing");
        return Err(Error::new(ErrorKind::Usage, what).with_hint(
            "give the folder that was copied, or s3://bucket/prefix. If it is on another host only, run there: \
             tar-like sync SOURCE URL --checksum",
        ));
    }
    let refuse_other = |bucket: Option<&Bucket>| {
        let warning = refuse_other_base(database, &given, bucket).map_err(|e| match e.kind() {
            ErrorKind::Source => e.with_hint(
                "give the source that was copied: --repair SOURCE; or the index of this copy: -db FILE or \
                 --source SOURCE",
            ),
            _ => e,
        })?;
        warning.into_iter().for_each(|warning| output.notice(Notice::Warning(warning)));
        Ok::<_, Error>(())
    };
    if let Some(place) = Place::of_url(text) {
        let bucket = s3.connect(place, output).await?;
        refuse_other(Some(&bucket))?;
        return Ok((bucket, given));
    }
    refuse_remote_source(&given)?;
    let source = DiskSource::open(&given)?;
    refuse_other(None)?;
    Ok((Arc::new(source), given))
}

/// Brings `base`, whose receiver has the state folder `state`, if that is not `.tar-like`, to what the index at `database` says.
pub(super) async fn run(
    source: Arc<dyn Source>,
    (base, state): (PathBuf, Option<PathBuf>),
    database: PathBuf,
    damage: Damage,
    output: Arc<Output>,
) -> Result<UploadReport> {
    let tar_id = archive_number(&base, state.as_deref(), &database)?;
    let scratch = std::env::temp_dir();
    let own = tempfile::tempdir_in(&scratch).map_err(|e| Error::io("cannot make a temporary folder", e))?;
    let options = UploadOptions {
        database,
        progress: own.path().join("progress.sqlite"),
        verify: damage.scope(),
        cores: threads(),
        scratch,
        ..UploadOptions::default()
    };
    let connection = Connection::of_this_process(&output);
    let starter = Arc::new(LocalReceiver { connection, state, in_use_hint: IN_USE_HINT });
    repair(source, Destination::Folder { path: base, starter }, tar_id, options, output).await
}
