//! `tar-like gc`

use super::interruptible;
use super::output::{Outcome, Output, human_bytes, human_count};
use crate::engine::history::collect_partial;
use crate::engine::receive::collect_garbage;
use crate::error::{Error, ErrorKind, Result};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "\
Below a receiver's base folder: partial files, indexes and requests of transfers that were replaced or given up. The proxy must not run; it
removes most of this itself when it starts. Beside an index or a backup: unfinished files of runs that were killed more than a day ago.
Each thing removed is a line on standard output: its path, and its bytes on the disk.

Examples:
  tar-like gc -b /srv/copy
  tar-like gc -db photos.sqlite --dry-run

Exit codes: 0 done, 1 error, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GcArgs {
    /// The base folder of a receiver
    #[arg(short, long, value_name = "FOLDER", required_unless_present = "database")]
    base_folder: Option<PathBuf>,
    /// An index, or the backup of one, also -db
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// Remove nothing; name what would go
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: GcArgs, output: &Arc<Output>) -> Result<Outcome> {
    let GcArgs { base_folder, database, dry_run } = args;
    if let Some(database) = database.as_ref().filter(|database| database.file_name().is_none()) {
        return Err(Error::new(ErrorKind::Usage, format!("{} is no file", database.display())));
    }
    let found = interruptible(output, move || {
        let mut found = Vec::new();
        if let Some(base) = base_folder {
            let garbage = collect_garbage(&base, dry_run)?;
            found.extend(garbage.into_iter().map(|garbage| (base.join(garbage.path), garbage.disk_bytes)));
        }
        if let Some(database) = database {
            found.extend(collect_partial(&database, dry_run)?);
        }
        Ok(found)
    })
    .await?;
    let mut bytes = 0;
    for (path, disk_bytes) in &found {
        bytes += disk_bytes;
        let path = path.display().to_string();
        let value =
            || json!({"event": "garbage", "path": path, "disk_bytes": disk_bytes, "removed": !dry_run});
        output.data(&format!("{path}\t{disk_bytes}"), value)?;
    }
    let verb = if dry_run { "would be removed" } else { "removed" };
    let count = found.len() as u64;
    Ok(Outcome {
        command: "gc",
        exit: 0,
        text: format!("{} left-overs {verb}, {}", human_count(count), human_bytes(bytes)),
        fields: json!({"count": count, "disk_bytes": bytes, "removed": !dry_run}),
    })
}
