//! `tar-like gc`

use super::output::{Outcome, Output, counted, human_bytes};
use super::signals::interruptible;
use crate::archive::path::printable;
use crate::engine::history::collect_partial;
use crate::engine::receive::collect_garbage;
use crate::error::{Error, ErrorKind, Result};
use crate::sink::disk::Places;
use clap::Args;
use serde_json::json;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "\
Below a receiver's base folder, gc removes partial files, indexes and requests of transfers that
were replaced or given up. The proxy must not run; when it starts, it removes most of this itself.
Beside an index or a backup, gc removes unfinished files of runs that were killed more than a day
ago. Each removed file is a line on standard output: its path, and its bytes on the disk. Entries
that a killed receiver was about to delete are listed, too; they are put back in their places.

Examples:
  tar-like gc -b /srv/copy
  tar-like gc -db photos.sqlite --dry-run

Exit codes: 0 done, 1 error, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GcArgs {
    /// The base folder of a receiver; this, or -db, is needed
    #[arg(short, long, value_name = "FOLDER", required_unless_present = "database")]
    base_folder: Option<PathBuf>,
    /// An index, or the backup of one, also -db
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// The folder that the proxy's --state names; needed if it names one
    #[arg(long, value_name = "FOLDER", requires = "base_folder")]
    state: Option<PathBuf>,
    /// Remove nothing; name what would be removed
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: GcArgs, output: &Arc<Output>) -> Result<Outcome> {
    let GcArgs { base_folder, database, state, dry_run } = args;
    if let Some(database) = database.as_ref().filter(|database| database.file_name().is_none()) {
        return Err(Error::new(ErrorKind::Usage, format!("{} does not name a file", database.display())));
    }
    let found = interruptible(output, move || {
        let mut found = Vec::new();
        if let Some(base) = base_folder {
            let garbage = collect_garbage(&base, &Places { slice: None, state }, dry_run)?;
            found.extend(
                garbage
                    .into_iter()
                    .map(|garbage| (base.join(garbage.path), garbage.disk_bytes, garbage.is_entry)),
            );
        }
        if let Some(database) = database {
            let partial = collect_partial(&database, dry_run)?;
            found.extend(partial.into_iter().map(|(path, disk_bytes)| (path, disk_bytes, false)));
        }
        Ok(found)
    })
    .await?;
    let (mut bytes, mut count, mut entries) = (0, 0u64, 0u64);
    for (path, disk_bytes, is_entry) in &found {
        if *is_entry {
            entries += 1;
        } else {
            (bytes, count) = (bytes + disk_bytes, count + 1);
        }
        let removed = !dry_run && !is_entry;
        let path = printable(path.as_os_str().as_bytes());
        let value =
            || json!({"event": "garbage", "path": path, "disk_bytes": disk_bytes, "removed": removed});
        output.data(&format!("{path}\t{disk_bytes}"), value)?;
    }
    let verb = if dry_run { "would be removed" } else { "removed" };
    let kept = match entries {
        0 => String::new(),
        entries => format!(
            "; {} about to be deleted when a receiver was killed: {}",
            counted(entries, "entry"),
            if dry_run { "would be put back" } else { "put back, or left in place" }
        ),
    };
    Ok(Outcome {
        command: "gc",
        exit: 0,
        text: format!("{} {verb}, {}{kept}", counted(count, "left-over"), human_bytes(bytes)),
        fields: json!({"count": count, "entries": entries, "disk_bytes": bytes, "removed": !dry_run}),
    })
}
