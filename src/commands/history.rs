//! `tar-like history`: the generations of an index, and their backup.

use super::index_file::{IndexFile, warn_of_overwritten};
use super::output::{Outcome, Output, counted, human_bytes, human_count};
use super::signals::interruptible;
use crate::db::generation::{Generation, History};
use crate::engine::history::backup::Damage;
use crate::engine::history::{RestoreReport, SaveReport, compact_backup, restore, save};
use crate::engine::index_lock::IndexLock;
use crate::error::{ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use crate::unix_time::local_date;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
Without a command, lists the generations: number, local time, files, bytes, bytes that the
generation added to the archive, and the start of its digest. `*` marks the current generation, `-`
one that rewind has abandoned.

Examples:
  tar-like history -db photos.sqlite
  tar-like history backup /mnt/safe/photos.backup -db photos.sqlite
  tar-like history restore /mnt/safe/photos.backup -db photos.sqlite

Exit codes: 0 done, 1 error, 2 wrong usage.";

const BACKUP_EXAMPLES: &str = "\
The backup begins with a snapshot of the index and grows by the changes of each generation. Run this
command after each run of index or sync. Keep the backup on another disk than the index.

Examples:
  tar-like history backup --init /mnt/safe/photos.backup -db photos.sqlite    the first time
  tar-like history backup /mnt/safe/photos.backup -db photos.sqlite

Exit codes: 0 the backup has the newest generation, 1 error, or the backup belongs to another index,
2 wrong usage.";

const RESTORE_EXAMPLES: &str = "\
Generations that rewind has abandoned are never restored. If the end of the backup is damaged, the
newest generation before the damage is restored.

Examples:
  tar-like history restore /mnt/safe/photos.backup -db photos.sqlite
  tar-like history restore /mnt/safe/photos.backup -db then.sqlite --generation 7

Exit codes: 0 restored, 1 error, 2 wrong usage, 3 restored, but newer generations of the backup are
lost.";

const COMPACT_EXAMPLES: &str = "\
Merges all changes but the last one into a new snapshot. The old backup stays until the new one is
complete, so there must be room for both.

Examples:
  tar-like history compact /mnt/safe/photos.backup

Exit codes: 0 done, 1 error, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct HistoryArgs {
    #[command(flatten)]
    index: IndexFile,
    #[command(subcommand)]
    command: Option<HistoryCommand>,
}

#[derive(Subcommand)]
enum HistoryCommand {
    /// Append the new generations of an index to a backup, or begin one
    Backup(BackupArgs),
    /// Rebuild an index from its backup
    Restore(RestoreArgs),
    /// Make a backup smaller
    Compact(CompactArgs),
}

#[derive(Args)]
#[command(after_help = BACKUP_EXAMPLES)]
struct BackupArgs {
    /// The backup; a missing one is begun
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    #[command(flatten)]
    index: IndexFile,
    /// Begin a new backup; the file must not exist
    #[arg(long)]
    init: bool,
}

#[derive(Args)]
#[command(after_help = RESTORE_EXAMPLES)]
struct RestoreArgs {
    /// The backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    #[command(flatten)]
    index: IndexFile,
    /// Restore this generation [default: the newest]
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
    /// Replace an existing index
    #[arg(short, long)]
    clean: bool,
}

#[derive(Args)]
#[command(after_help = COMPACT_EXAMPLES)]
struct CompactArgs {
    /// The backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
}

pub(super) async fn run(args: HistoryArgs, output: &Arc<Output>) -> Result<Outcome> {
    match args.command {
        None => list(&args.index.path()?, output),
        Some(HistoryCommand::Backup(args)) => backup(args, output).await,
        Some(HistoryCommand::Restore(args)) => restore_index(args, output).await,
        Some(HistoryCommand::Compact(args)) => compact(args, output).await,
    }
}

/// How wide a line of the list is.
const LINE_COLUMNS: usize = 96;

/// The local time when a generation was made, if the index says so.
fn date(created_s: u64) -> String {
    let ns = i64::try_from(created_s).ok().and_then(|s| s.checked_mul(1_000_000_000));
    ns.filter(|&ns| ns > 0).map_or("-".to_string(), local_date)
}

fn list(database: &Path, output: &Output) -> Result<Outcome> {
    warn_of_overwritten(database, output)?;
    let history = History::open(database)?;
    let active = history.active()?.number;
    let widths = [10, 25, 12, 12, 12];
    let heads = ["generation", "date", "files", "bytes", "added"];
    let row = |cells: [&str; 5], digest: &str, mark: &str| {
        let mut line = format!("{:>1$}", cells[0], widths[0]);
        for (cell, width) in cells.iter().zip(widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        format!("{line}  {digest:12} {mark}").trim_end().to_string()
    };
    output.heads(LINE_COLUMNS, &row(heads, "digest", ""))?;
    for generation in history.generations() {
        let mark = match generation {
            g if g.number == active => "*",
            g if g.abandoned => "-",
            _ => "",
        };
        let digest = generation.digest.to_string();
        let digest = digest.get(..12).unwrap_or_default();
        let cells = [
            format!("{}", generation.number),
            date(generation.created_s),
            human_count(generation.files),
            human_bytes(generation.bytes),
            human_bytes(generation.appended_bytes),
        ];
        let line = row(cells.each_ref().map(String::as_str), digest, mark);
        let marked = format!("{digest} {mark}");
        let named = heads.into_iter().zip(cells.iter().map(String::as_str));
        let named: Vec<_> = named.chain([("digest", &*marked)]).collect();
        output.row(LINE_COLUMNS, &line, &named, || fields(generation, active))?;
    }
    let count = history.generations().len();
    Ok(Outcome {
        command: "history",
        exit: 0,
        text: counted(count as u64, "generation"),
        fields: json!({"generations": count, "active": active}),
    })
}

fn fields(generation: &Generation, active: u64) -> Value {
    json!({
        "event": "generation", "number": generation.number, "parent": generation.parent, "format": generation.format,
        "digest": generation.digest.to_string(), "created_s": generation.created_s, "files": generation.files,
        "nodes": generation.nodes, "bytes": generation.bytes, "total_bytes": generation.total_bytes,
        "appended_bytes": generation.appended_bytes, "active": generation.number == active,
        "abandoned": generation.abandoned,
    })
}

/// Says what is wrong with a backup.
fn warn(damage: Option<Damage>, backup: &Path, output: &Output) {
    let backup = backup.display();
    match damage {
        None => {}
        Some(Damage::Unfinished { at }) => output.notice(Notice::Info(format!(
            "{backup}: an interrupted run left an incomplete record behind byte {at}; it is ignored"
        ))),
        Some(Damage::Lost { at, newest }) => output.notice(Notice::Warning(format!(
            "{backup} is damaged from byte {at} on; before that, it went up to generation {newest}"
        ))),
    }
}

async fn backup(args: BackupArgs, output: &Arc<Output>) -> Result<Outcome> {
    let (database, target, init) = (args.index.path()?, args.backup, args.init);
    output.notice(Notice::Phase("saving"));
    let watch = output.watch();
    let (monitor, path) = (output.clone(), target.clone());
    let report = interruptible(output, move || save(&database, &path, init, &*monitor)).await?;
    drop(watch);
    warn(report.damage, &target, output);
    if report.created && !init {
        output.notice(Notice::Warning(format!(
            "there was no backup {}, so a new one was begun. If the name is mistyped, remove it; otherwise give --init the first time",
            target.display()
        )));
    }
    let SaveReport { created, ref added, rewound_to, newest, file_bytes, .. } = report;
    let what = match (created, added.as_slice(), rewound_to) {
        (true, ..) => format!("begun with generation {newest}"),
        (_, [], None) => format!("nothing new since generation {newest}"),
        (_, [], Some(to)) => format!("taken back to generation {to}"),
        (_, added, None) => format!("{} generations added, up to {newest}", added.len()),
        (_, added, Some(to)) => {
            format!("taken back to generation {to}, {} generations added, up to {newest}", added.len())
        }
    };
    Ok(Outcome {
        command: "history backup",
        exit: 0,
        text: format!("{}: {what}; {}", target.display(), human_bytes(file_bytes)),
        fields: json!({
            "created": created, "added": added, "rewound_to": rewound_to, "newest": newest, "file_bytes": file_bytes,
            "damaged": matches!(report.damage, Some(Damage::Lost { .. })),
        }),
    })
}

async fn restore_index(args: RestoreArgs, output: &Arc<Output>) -> Result<Outcome> {
    let RestoreArgs { backup, index, generation, clean } = args;
    let database = index.path()?;
    let _lock = IndexLock::take(&database)?;
    output.notice(Notice::Phase("restoring"));
    let watch = output.watch();
    let (monitor, from, to) = (output.clone(), backup.clone(), database.clone());
    let report = interruptible(output, move || restore(&from, &to, generation, clean, &*monitor)).await?;
    drop(watch);
    warn(report.damage, &backup, output);
    let RestoreReport { generation, digest, files, lost, damage } = report;
    for number in &lost {
        output.notice(Notice::Failed {
            path: format!("generation {number}"),
            reason: format!("its records in {} are damaged", backup.display()),
        });
    }
    let is_less = !lost.is_empty() || matches!(damage, Some(Damage::Lost { .. }));
    Ok(Outcome {
        command: "history restore",
        exit: if is_less { ErrorKind::Partial.exit_code() } else { 0 },
        text: format!(
            "{}: restored at generation {generation}, {}",
            database.display(),
            counted(files, "file")
        ),
        fields: json!({
            "generation": generation, "digest": digest.to_string(), "files": files, "lost": lost, "damaged": is_less,
        }),
    })
}

async fn compact(args: CompactArgs, output: &Arc<Output>) -> Result<Outcome> {
    output.notice(Notice::Phase("compacting"));
    let watch = output.watch();
    let (monitor, path) = (output.clone(), args.backup.clone());
    let [before, after] = interruptible(output, move || compact_backup(&path, &*monitor)).await?;
    drop(watch);
    Ok(Outcome {
        command: "history compact",
        exit: 0,
        text: format!(
            "{}: {} before, {} after",
            args.backup.display(),
            human_bytes(before),
            human_bytes(after)
        ),
        fields: json!({"bytes_before": before, "bytes_after": after}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_that_no_index_says_is_a_dash() {
        assert_eq!((date(0), date(u64::MAX)), ("-".into(), "-".into()));
        assert!(date(1_700_000_000).starts_with("2023-11-1"));
    }
}
