//! `tar-like rewind`

use super::connect::{ConnectArgs, Connection};
use super::destination::destination;
use super::index_file::IndexFile;
use super::output::{Outcome, Output, counted, human_count};
use super::signals::cancelled_by_signal;
use crate::archive::protocol::FinishAnswer;
use crate::engine::rewind::{RewindDestination, RewindReport, RewoundReceiver, rewind};
use crate::error::{ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
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

A rewind that was cut off goes on when the same command runs again.

Exit codes: 0 done, 1 error, 2 wrong usage or no earlier generation, 3 the receiver went back, but
not all of its files are in place, or files that the newest generation added stay, 4 receiver full
or degraded, 130 interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RewindArgs {
    /// The receiver (http://host:8000/tar) or the folder on this host that goes back, too
    #[arg(value_name = "DESTINATION")]
    destination: Option<PathBuf>,
    #[command(flatten)]
    index: IndexFile,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: RewindArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.index.path()?;
    let tar_id = args.connect.tar_id;
    let connection =
        Connection { connect: args.connect, connections: 1, bandwidth: None, output: output.clone() };
    let destination = args.destination.map(|given| destination(&given, connection)).transpose()?;
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
    if let Some(RewoundReceiver { answer, undeleted }) = receiver {
        text = format!("{text}; {}", describe(&answer, undeleted));
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

fn describe(answer: &FinishAnswer, undeleted: u64) -> String {
    let deleted = match undeleted {
        0 => format!("{} deleted there", human_count(answer.deleted)),
        count => format!("NOT DELETED there: {}", counted(count, "entry")),
    };
    if answer.complete {
        return format!("so is the receiver, {deleted}");
    }
    format!(
        "the receiver went back, {deleted}, but misses {} and {}; complete it with: tar-like upload",
        counted(answer.missing_bytes, "byte"),
        counted(answer.failed_total, "file")
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
