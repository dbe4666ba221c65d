//! `tar-like rewind`

use super::address::address;
use super::connect::{ConnectArgs, Connection};
use super::destination::destination;
use super::index_file::{IndexFile, database_of_source};
use super::output::{Outcome, Output, counted, human_count};
use super::signals::cancelled_by_signal;
use super::ssh::SshArgs;
use crate::archive::protocol::FinishAnswer;
use crate::db::index_read::IndexReader;
use crate::engine::rewind::{RewindDestination, RewindReport, RewoundReceiver, rewind};
use crate::error::{ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
The index goes back to the generation that the newest one was made of. With a DESTINATION, the
receiver goes back, too: it restores the files that the newest generation replaced or removed, from
its retained content (--keep of sync and upload), and deletes the files that were added. If any
content was not retained, nothing changes, and the exit code is 1. The source is not read. The
newest generation is abandoned: its number is never used again, and neither history backup nor
upload returns to it. Only one generation can be taken back; a second rewind in a row is refused.

Examples:
  tar-like rewind --source /srv/photos http://backup:8000/tar
  tar-like rewind -db photos.sqlite /mnt/disk/photos
  tar-like rewind -db photos.sqlite                         the index alone

A rewind that was cut off goes on when the same command runs again. After a rewind of the index
alone, one with a DESTINATION takes the copy back, too, until a run makes the next generation.

Exit codes: 0 done, 1 error, 2 wrong usage or no earlier generation, 3 the receiver went back, but
not all of its files are in place, or files that the newest generation added stay, 4 receiver full
or degraded, 130 interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RewindArgs {
    /// The receiver (http://host:8000/tar) or the folder, on this host or another one
    /// (user@host:/folder), that goes back, too
    #[arg(value_name = "DESTINATION")]
    destination: Option<PathBuf>,
    #[command(flatten)]
    index: IndexFile,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    ssh: SshArgs,
}

pub(super) async fn run(args: RewindArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.index.path()?;
    let tar_id = args.connect.tar_id;
    let earlier = EarlierRuns { database: database.clone(), tar_id, flags: args.connect.flags() };
    let given = args.destination.clone();
    let connection =
        Connection { connect: args.connect, connections: 1, bandwidth: None, output: output.clone() };
    let destination =
        args.destination.map(|given| destination(&given, connection, &args.ssh, false)).transpose()?;
    let destination = destination.map(|destination| RewindDestination { destination, tar_id });
    let job = rewind(database.clone(), destination, std::env::temp_dir(), output.clone());
    let RewindReport { abandoned, generation, index, receiver } = cancelled_by_signal(output, job).await?;
    let end = index;
    let mut text = format!(
        "{}: generation {abandoned} is abandoned, the index is at generation {generation}, {}",
        database.display(),
        counted(end.files, "file")
    );
    let mut fields = json!({
        "generation": generation, "abandoned": abandoned, "digest": end.digest.to_string(), "files": end.files,
        "nodes": end.nodes, "total_bytes": end.total_bytes,
    });
    let mut exit = 0;
    if receiver.is_none() {
        output.notice(Notice::Warning(format!(
            "only the index went back: a copy that has generation {abandoned} still has it"
        )));
        // A line of its own, since people copy it.
        output.notice(Notice::Warning(format!("take such a copy back, too, with: {}", earlier.rewind())));
    }
    if let Some(RewoundReceiver { answer, undeleted, tar_id }) = receiver {
        text = format!("{text}; {}", describe(&answer, undeleted, end.files));
        if !answer.complete {
            let command = earlier.command(&given.unwrap_or_default(), tar_id);
            // A line of its own, since people copy it.
            output.notice(Notice::Warning(format!("complete it with: {command}")));
        }
        if undeleted > 0 {
            exit = ErrorKind::Partial.exit_code();
        }
        if !answer.complete {
            exit = ErrorKind::Partial.exit_code();
            for failed in &answer.failed {
                let (path, reason) = (failed.path.clone(), failed.reason.clone());
                output.notice(Notice::Failed { path, reason });
            }
        }
        fields["receiver"] = fields_of(&answer, undeleted);
    }
    Ok(Outcome { command: "rewind", exit, text, fields })
}

/// How the receiver was filled.
struct EarlierRuns {
    database: PathBuf,
    /// The number of the archive, if it was given.
    tar_id: Option<u64>,
    /// The flags by which the receiver is reached.
    flags: Vec<OsString>,
}

impl EarlierRuns {
    /// The command that sends again what is missing at `destination`, in archive `tar_id` there.
    ///
    /// `upload` sends what the index has. Only `sync` takes a folder; it sends also what has changed
    /// in the source since.
    fn command(&self, destination: &Path, tar_id: u64) -> String {
        let (base, is_kept) = self.base();
        let is_folder = address(destination).is_none();
        let from_bucket = base.as_ref().is_some_and(|base| address(base).is_some());
        let base = base.unwrap_or_else(|| "SOURCE".into()).into_os_string();
        let (database, destination) = (self.database.clone().into(), destination.as_os_str().to_owned());
        let mut words: Vec<OsString> = vec!["tar-like".into()];
        if is_folder || from_bucket {
            words.extend(["sync".into(), base, destination]);
            words.extend((!is_kept).then(|| ["-db".into(), database]).into_iter().flatten());
            let number = self.tar_id.map(|number| ["--tar-id".into(), number.to_string().into()]);
            words.extend(number.into_iter().flatten());
        } else {
            words.extend(["upload".into(), "-b".into(), base, "-db".into(), database]);
            words.extend(["--tar-id".into(), tar_id.to_string().into(), "-u".into(), destination]);
        }
        self.line(words)
    }

    /// The command that takes a copy back after its index.
    fn rewind(&self) -> String {
        let index: [OsString; 2] = match self.base() {
            (Some(base), true) => ["--source".into(), base.into()],
            _ => ["-db".into(), self.database.clone().into()],
        };
        let number =
            self.tar_id.into_iter().flat_map(|number| ["--tar-id".into(), number.to_string().into()]);
        let words = ["tar-like".into(), "rewind".into()].into_iter().chain(index);
        self.line(words.chain(["DESTINATION".into()]).chain(number).collect())
    }

    /// The source, and whether the index is the one that `sync` keeps for it.
    fn base(&self) -> (Option<PathBuf>, bool) {
        let base = IndexReader::open(&self.database).and_then(|reader| reader.base()).ok().flatten();
        let is_kept = base
            .as_ref()
            .is_some_and(|base| database_of_source(base).is_ok_and(|kept| kept == self.database));
        (base, is_kept)
    }

    /// The command line of `words`, with the flags by which the receiver is reached.
    fn line(&self, mut words: Vec<OsString>) -> String {
        words.extend_from_slice(&self.flags);
        words.iter().map(|word| for_shell(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }
}

/// `word` as one word of a shell's command line.
fn for_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// What the receiver did; the generation to which it went back has so many `files`.
fn describe(answer: &FinishAnswer, undeleted: u64, files: u64) -> String {
    let deleted = match undeleted {
        0 => format!("{} deleted there", human_count(answer.deleted)),
        count => format!("NOT DELETED there: {}", counted(count, "entry")),
    };
    if answer.complete {
        return format!("so is the receiver, {deleted}");
    }
    format!(
        "the receiver went back, {deleted}, but misses {} with {}",
        counted(files.saturating_sub(answer.files_published).max(answer.failed_total), "file"),
        counted(answer.missing_bytes, "byte")
    )
}

fn fields_of(answer: &FinishAnswer, undeleted: u64) -> Value {
    let failed: Vec<Value> =
        answer.failed.iter().map(|failed| json!({"path": failed.path, "reason": failed.reason})).collect();
    json!({
        "complete": answer.complete, "deleted": answer.deleted, "missing_bytes": answer.missing_bytes, "failed": failed,
        "failed_total": answer.failed_total, "undeleted": undeleted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        let shown = ["/a/b-c.1", "http://h:1/tar", "a b", "it's", ""].map(for_shell);
        assert_eq!(shown, ["/a/b-c.1", "http://h:1/tar", "'a b'", r"'it'\''s'", "''"]);
    }
}
