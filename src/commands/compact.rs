//! `tar-like compact`

use super::history::IndexFile;
use super::interruptible;
use super::output::{Outcome, Output, human_bytes, human_count};
use crate::db::generation::{Afresh, lay_out_afresh};
use crate::error::Result;
use crate::telemetry::Monitor;
use crate::telemetry::Notice;
use clap::Args;
use serde_json::json;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const EXAMPLES: &str = "\
Lays the archive out afresh, as index -c does, but reads no file: what earlier generations have left behind goes, and with it the way back
to them. The next upload puts the index as a whole, and sends nothing that the receiver has. The original program can read the index then.

Examples:
  tar-like compact -db photos.sqlite

Exit codes: 0 done, 1 error, 2 wrong usage, 4 disk full.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompactArgs {
    #[command(flatten)]
    index: IndexFile,
}

pub(super) async fn run(args: CompactArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.index.path()?;
    output.notice(Notice::Phase("compacting"));
    let created_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let path = database.clone();
    let afresh = interruptible(output, move || lay_out_afresh(&path, created_s)).await?;
    let Afresh { written, generation, former, dropped, database_bytes, unchanged } = afresh;
    let text = if unchanged {
        format!("{}: generation {generation} is laid out afresh already", database.display())
    } else {
        format!(
            "{}: generation {generation}, {} files; archive {} before, {} after; database {} before, {} after; {} generations dropped",
            database.display(),
            human_count(written.files),
            human_bytes(former.total_bytes),
            human_bytes(written.total_bytes),
            human_bytes(database_bytes[0]),
            human_bytes(database_bytes[1]),
            human_count(dropped)
        )
    };
    Ok(Outcome {
        command: "compact",
        exit: 0,
        text,
        fields: json!({
            "generation": generation, "digest": written.digest.to_string(), "files": written.files, "unchanged": unchanged,
            "dropped": dropped, "total_bytes_before": former.total_bytes, "total_bytes_after": written.total_bytes,
            "database_bytes_before": database_bytes[0], "database_bytes_after": database_bytes[1],
        }),
    })
}
