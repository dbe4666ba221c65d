//! `tar-like indexes`

use super::environment::{default_database, index_folder};
use super::output::{Outcome, Output, counted, human_bytes, human_count};
use crate::engine::indexes::{KeptGeneration, KeptIndex, list};
use crate::error::Result;
use crate::unix_time::local_date;
use clap::Args;
use serde_json::json;
use std::sync::Arc;

const EXAMPLES: &str = "\
sync keeps one index for each source, unless -db names one: below $XDG_STATE_HOME/tar-like, or
~/.local/state/tar-like. Each line is an index: its newest generation, when that was made (local
time), its files, their bytes, the source and the file of the index, and what the filter of the last
run left out. --source SOURCE of other commands takes the index of that source. ~/.tar_like.sqlite,
the index of all other commands, is listed with them.

Examples:
  tar-like indexes
  tar-like indexes --json

Exit codes: 0 done, also where an index is damaged, 1 error.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct IndexesArgs {}

pub(super) fn run(_: &IndexesArgs, output: &Arc<Output>) -> Result<Outcome> {
    let (folder, other) = (index_folder()?, default_database().ok());
    let indexes = list(&folder, other.as_deref())?;
    if !indexes.is_empty() {
        output.heads(LINE_COLUMNS, &line(HEADS))?;
    }
    for index in &indexes {
        let (cells, fields) = describe(index);
        let cells = cells.each_ref().map(String::as_str);
        let named: Vec<_> = HEADS.into_iter().zip(cells).collect();
        output.row(LINE_COLUMNS, &line(cells), &named, || fields)?;
    }
    let count = indexes.iter().filter(|index| index.path.starts_with(&folder)).count() as u64;
    let other = other.filter(|other| indexes.iter().any(|index| index.path == *other));
    let other = other.map(|other| format!(", and {}", other.display())).unwrap_or_default();
    Ok(Outcome {
        command: "indexes",
        exit: 0,
        text: format!("{} in {}{other}", counted(count, "index"), folder.display()),
        fields: json!({"count": count, "folder": folder.display().to_string()}),
    })
}

const HEADS: [&str; 6] = ["generation", "date", "files", "bytes", "source", "index"];
/// How wide a line is with a short source and file.
const LINE_COLUMNS: usize = 72;

fn line(cells: [&str; 6]) -> String {
    let [generation, date, files, bytes, source, file] = cells;
    format!("{generation:>10}  {date:>16}  {files:>12}  {bytes:>12}  {source}  {file}")
}

/// The cells of an index, and its fields.
fn describe(index: &KeptIndex) -> ([String; 6], serde_json::Value) {
    let file = index.path.display().to_string();
    match &index.newest {
        Ok(KeptGeneration { number, created_s, files, bytes, base, filter }) => {
            let name = base.as_ref().map(|base| base.display().to_string());
            let shown = name.as_deref().unwrap_or("-");
            let is_gone = base.as_ref().is_some_and(|base| base.is_absolute() && !base.exists());
            let source = if is_gone { format!("{shown} (not there)") } else { shown.to_string() };
            let date = local_minute(*created_s);
            let fields = json!({
                "event": "kept_index", "path": file, "source": name, "generation": number, "files": files,
                "bytes": bytes, "created_s": created_s, "filter": filter, "reason": null,
            });
            let filter = filter.as_ref().map(|filter| format!("  without {filter}")).unwrap_or_default();
            let (number, files) = (number.to_string(), human_count(*files));
            ([number, date, files, human_bytes(*bytes), source, format!("{file}{filter}")], fields)
        }
        Err(e) => {
            let reason = e.to_string();
            let [generation, date, files, bytes] = ["-"; 4].map(str::to_owned);
            let cells = [generation, date, files, bytes, format!("not readable: {reason}"), file.clone()];
            (cells, json!({"event": "kept_index", "path": file, "source": null, "reason": reason}))
        }
    }
}

/// A time in seconds since 1970 as the date and minute of this host; nothing for 0, which is unknown.
fn local_minute(s: u64) -> String {
    if s == 0 {
        return String::new();
    }
    let date = local_date(i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000));
    date.get(..16).map_or(date.clone(), |minute| minute.replace('T', " "))
}
