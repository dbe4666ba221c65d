//! `tar-like rewind`

use super::history::IndexFile;
use super::interruptible;
use super::output::{Outcome, Output, human_count};
use crate::db::generation::{History, rewind};
use crate::error::Result;
use clap::Args;
use serde_json::json;
use std::sync::Arc;

const EXAMPLES: &str = "\
Takes the index back to the generation that the newest one was made of. That one is abandoned: its number is not used again, and neither
history backup nor upload ever goes back to it. One generation can be taken back; a second rewind in a row is refused.

Examples:
  tar-like rewind -db photos.sqlite

Exit codes: 0 done, 1 error, 2 wrong usage, or there is nothing to go back to.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RewindArgs {
    #[command(flatten)]
    index: IndexFile,
}

pub(super) async fn run(args: RewindArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.index.path()?;
    let path = database.clone();
    let (abandoned, applied) = interruptible(output, move || {
        let abandoned = History::open(&path)?.active()?.number;
        Ok((abandoned, rewind(&path)?))
    })
    .await?;
    let generation = History::open(&database)?.active()?.number;
    let end = applied.end;
    Ok(Outcome {
        command: "rewind",
        exit: 0,
        text: format!(
            "{}: generation {abandoned} is abandoned, the index is at generation {generation}, {} files",
            database.display(),
            human_count(end.files)
        ),
        fields: json!({
            "generation": generation, "abandoned": abandoned, "digest": end.digest.to_string(), "files": end.files,
            "nodes": end.nodes, "total_bytes": end.total_bytes,
        }),
    })
}
