//! `tar-like rewind`

use super::connect::ConnectArgs;
use super::embedded::Embedded;
use super::history::IndexFile;
use super::output::{Outcome, Output, human_count};
use super::{interrupted, interruptible, stop_signal};
use crate::archive::path::STATE_DIR;
use crate::archive::protocol::FinishAnswer;
use crate::db::generation::Rewound;
use crate::engine::rewind::rewind;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
Takes the index back to the generation that the newest one was made of, and with a DESTINATION what was received there, too: what the newest
generation replaced or took away comes back out of what the receiver keeps (--keep of sync and upload), what it added is deleted. If not all of it
is there, nothing is touched, and the exit code is 1. The source is not read.
The newest generation is abandoned: its number is not used again, and neither history backup nor upload ever goes back to it. One
generation can be taken back; a second rewind in a row is refused.

Examples:
  tar-like rewind -db photos.sqlite http://backup:8000/tar
  tar-like rewind -db photos.sqlite /mnt/disk/photos
  tar-like rewind -db photos.sqlite                         the index alone

Exit codes: 0 done, 1 error, 2 wrong usage, or there is nothing to go back to, 3 the receiver went back, but not all of its files are in place,
4 receiver full or degraded, 130 interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RewindArgs {
    /// The receiver (http://host:8000/tar) or the folder on this host that is to go back, too
    #[arg(value_name = "DESTINATION")]
    destination: Option<PathBuf>,
    #[command(flatten)]
    index: IndexFile,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(super) async fn run(args: RewindArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.index.path()?;
    let path = database.clone();
    let rewound = interruptible(output, move || Rewound::prepare(&path)).await?;
    let answer = match &args.destination {
        None => None,
        Some(destination) => {
            let answer = send(destination, &args.connect, &rewound, &database, output);
            // What went back before an interruption goes on with the same command.
            Some(answer.await?)
        }
    };
    let (abandoned, generation) = (rewound.abandoned.number, rewound.parent.number);
    let end = rewound.put_in_place()?.end;
    let mut text = format!(
        "{}: generation {abandoned} is abandoned, the index is at generation {generation}, {} files",
        database.display(),
        human_count(end.files)
    );
    let mut fields = json!({
        "generation": generation, "abandoned": abandoned, "digest": end.digest.to_string(), "files": end.files,
        "nodes": end.nodes, "total_bytes": end.total_bytes,
    });
    let mut exit = 0;
    if let Some(answer) = answer {
        text = format!("{text}; {}", describe(&answer));
        if !answer.complete {
            exit = ErrorKind::Partial.exit_code();
            for failed in &answer.failed {
                let (path, reason) = (failed.path.clone(), failed.reason.clone());
                output.notice(Notice::Failed { path, reason });
            }
        }
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("receiver".to_string(), receiver(&answer));
        }
    }
    Ok(Outcome { command: "rewind", exit, text, fields })
}

fn describe(answer: &FinishAnswer) -> String {
    let deleted = format!("{} deleted there", human_count(answer.deleted));
    if answer.complete {
        return format!("so is the receiver, {deleted}");
    }
    format!(
        "the receiver went back, {deleted}, but lacks {} bytes and {} file(s); complete it with: tar-like upload",
        human_count(answer.missing_bytes),
        human_count(answer.failed_total)
    )
}

fn receiver(answer: &FinishAnswer) -> Value {
    let failed: Vec<Value> =
        answer.failed.iter().map(|failed| json!({"path": failed.path, "reason": failed.reason})).collect();
    json!({
        "complete": answer.complete, "deleted": answer.deleted, "missing_bytes": answer.missing_bytes, "failed": failed,
        "failed_total": answer.failed_total,
    })
}

/// Takes the receiver back.
async fn send(
    destination: &Path,
    connect: &ConnectArgs,
    rewound: &Rewound,
    database: &Path,
    output: &Arc<Output>,
) -> Result<FinishAnswer> {
    let url = destination.to_str().filter(|text| text.starts_with("http://") || text.starts_with("https://"));
    let (url, token, embedded) = match url {
        Some(url) => (url.to_owned(), connect.token()?, None),
        None => {
            let journal = destination.join(STATE_DIR).join("journal.sqlite");
            if !journal.is_file() {
                let what = format!("{} is no folder that was ever received into", destination.display());
                return Err(Error::new(ErrorKind::Usage, what).hint("name the destination of the passes"));
            }
            let embedded = Embedded::start(destination).await?;
            (embedded.url.clone(), Some(embedded.token.clone()), Some(embedded))
        }
    };
    let scratch = std::env::temp_dir();
    let work = async {
        let client = connect.client(url, token, 1, None, output)?;
        rewind(&client, rewound, database, &scratch, &**output).await
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = stop_signal() => Err(interrupted()),
    };
    if let Some(embedded) = embedded {
        let stopped = embedded.stop().await;
        // What went wrong first is what the user wants to know.
        if outcome.is_ok() {
            stopped?;
        }
    }
    outcome
}
