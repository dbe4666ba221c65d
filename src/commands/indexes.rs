//! `tar-like indexes`

use super::environment::{default_database, index_folder};
use super::output::{Outcome, Output, counted, human_bytes, human_count};
use crate::engine::indexes::{KeptIndex, list};
use crate::error::Result;
use clap::Args;
use serde_json::json;
use std::sync::Arc;
use time::OffsetDateTime;

const EXAMPLES: &str = "\
sync keeps one index for each source, unless -db names one: below $XDG_STATE_HOME/tar-like, or
~/.local/state/tar-like. Each line is an index: its newest generation, when that was made (UTC), its
files, their bytes, the source and the file of the index. --source SOURCE of other commands takes
the index of that source.

Examples:
  tar-like indexes
  tar-like indexes --json

Exit codes: 0 done, also where an index is damaged, 1 error.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct IndexesArgs {}

pub(super) fn run(_: &IndexesArgs, output: &Arc<Output>) -> Result<Outcome> {
    let folder = index_folder()?;
    let indexes = list(&folder, default_database().ok().as_deref())?;
    let mut head = Some(row(["generation", "date (UTC)", "files", "bytes"], "source", "index"));
    for index in &indexes {
        let (text, fields) = describe(index);
        let text = head.take().map_or_else(|| text.clone(), |head| format!("{head}\n{text}"));
        output.data(&text, || fields)?;
    }
    let count = indexes.len() as u64;
    Ok(Outcome {
        command: "indexes",
        exit: 0,
        text: format!("{} in {}", counted(count, "index"), folder.display()),
        fields: json!({"count": count, "folder": folder.display().to_string()}),
    })
}

fn row(cells: [&str; 4], source: &str, file: &str) -> String {
    let [generation, date, files, bytes] = cells;
    format!("{generation:>10}  {date:>16}  {files:>12}  {bytes:>12}  {source}  {file}")
}

fn describe(index: &KeptIndex) -> (String, serde_json::Value) {
    let file = index.path.display().to_string();
    match &index.summary {
        Ok((summary, bytes)) => {
            let base = summary.base.as_ref().map(|base| base.display().to_string());
            let shown = base.as_deref().unwrap_or("-");
            let is_gone = summary.base.as_ref().is_some_and(|base| base.is_absolute() && !base.exists());
            let source = if is_gone { format!("{shown} (not there)") } else { shown.to_string() };
            let date = i64::try_from(summary.created_s)
                .ok()
                .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
            let date = date
                .map_or_else(String::new, |at| format!("{} {:02}:{:02}", at.date(), at.hour(), at.minute()));
            let cells = [
                &*summary.generation.to_string(),
                &*date,
                &*human_count(summary.files),
                &*human_bytes(*bytes),
            ];
            let fields = json!({
                "event": "kept_index", "path": file, "source": base, "generation": summary.generation,
                "files": summary.files, "bytes": bytes, "created_s": summary.created_s, "reason": null,
            });
            (row(cells, &source, &file), fields)
        }
        Err(e) => {
            let reason = e.to_string();
            let text = row(["-"; 4], &format!("not readable: {reason}"), &file);
            (text, json!({"event": "kept_index", "path": file, "source": null, "reason": reason}))
        }
    }
}
