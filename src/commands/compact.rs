//! `tar-like compact`

use super::index_file::IndexFile;
use super::output::{Outcome, Output, counted, human_bytes};
use super::signals::interruptible;
use crate::db::generation::{Compacted, compact};
use crate::db::index_read::IndexReader;
use crate::engine::index_lock::IndexLock;
use crate::error::Result;
use crate::telemetry::Monitor;
use crate::telemetry::Notice;
use crate::unix_time::now_s;
use clap::Args;
use serde_json::json;
use std::sync::Arc;

const EXAMPLES: &str = "\
Lays the archive out again without gaps, as index -c does, but reads no file. The earlier
generations are dropped, so there is no way back to them. The next upload puts the whole index and
sends nothing that the receiver has. Afterwards the original program can read the index.

Examples:
  tar-like compact -db photos.sqlite

Exit codes: 0 done, 1 error, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompactArgs {
    #[command(flatten)]
    index: IndexFile,
}

pub(super) async fn run(args: CompactArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.index.path()?;
    let _lock = IndexLock::take(&database)?;
    output.notice(Notice::Phase("compacting"));
    let created_s = now_s();
    let path = database.clone();
    let compacted = interruptible(output, move || compact(&path, created_s)).await?;
    let Compacted { written, generation, previous, dropped, database_bytes, unchanged } = compacted;
    let without_md5 = IndexReader::open(&database)?.without_md5()?;
    if without_md5 > 0 {
        output.notice(Notice::Warning(format!(
            "the index has no md5 of {}: the original program cannot compare them with it. For an index that it \
             can use: tar-like index -c --digest md5,blake3",
            counted(without_md5, "file")
        )));
    }
    let text = if unchanged {
        format!("{}: generation {generation} is compact already", database.display())
    } else {
        format!(
            "{}: generation {generation}, {}; archive {} before, {} after; database {} before, {} after; {} dropped",
            database.display(),
            counted(written.files, "file"),
            human_bytes(previous.total_bytes),
            human_bytes(written.total_bytes),
            human_bytes(database_bytes[0]),
            human_bytes(database_bytes[1]),
            counted(dropped, "generation")
        )
    };
    Ok(Outcome {
        command: "compact",
        exit: 0,
        text,
        fields: json!({
            "generation": generation, "digest": written.digest.to_string(), "files": written.files, "unchanged": unchanged,
            "dropped": dropped, "total_bytes_before": previous.total_bytes, "total_bytes_after": written.total_bytes,
            "database_bytes_before": database_bytes[0], "database_bytes_after": database_bytes[1],
        }),
    })
}
