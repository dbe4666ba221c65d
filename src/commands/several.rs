//! `sync` of several sources: what is refused and said before the first run, and what all of them
//! end with.

use super::address::is_filled_by_others;
use super::output::{Outcome, Output, counted, human_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use serde_json::{Map, Value, json};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Refuses flags that are about one source. Each comes with whether it is given.
///
/// # Errors
/// [`ErrorKind::Usage`], with the flag and what to do.
pub(super) fn refuse(flags: &[(&'static str, bool)]) -> Result<()> {
    let Some((flag, _)) = flags.iter().find(|(_, is_given)| *is_given) else { return Ok(()) };
    Err(Error::new(ErrorKind::Usage, format!("{flag} is for one source, and there are several")).with_hint(
        "each source is an archive with an index of its own; run tar-like sync for each of them, or leave \
         out the flag (its variable, if it is set by that)",
    ))
}

/// Refuses a destination that seems to be the last name of a pattern such as `*`, behind which the
/// destination was forgotten: it lies beside all sources, and has what no run of ours has put there.
///
/// # Errors
/// [`ErrorKind::Usage`], with what to type.
pub(super) fn refuse_last_of_pattern(sources: &[&Path], destination: &Path) -> Result<()> {
    let is_beside = sources.iter().all(|source| source.parent() == destination.parent());
    if sources.len() < 2 || has_slash(destination) || !is_beside || !is_filled_by_others(destination) {
        return Ok(());
    }
    let name = destination.display();
    let what = format!("the last argument is the destination: {name}, which lies beside the sources");
    Err(Error::new(ErrorKind::Usage, what).with_hint(format!(
        "add the destination, if all of these are sources; if their contents are to come into {name}, \
         type {name}/"
    )))
}

fn has_slash(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

/// What to say where folders without a slash at the end are copied with other sources: rsync and cp
/// would make a folder for each of them.
pub(super) fn merged(sources: &[&Path], destination: &Path) -> Option<String> {
    if sources.len() < 2 {
        return None;
    }
    let named = |path: &&&Path| path.file_name().is_some() && path.is_dir() && !has_slash(path);
    let folders: Vec<&Path> = sources.iter().filter(named).copied().collect();
    let (first, destination) = (folders.first()?, destination.display());
    let names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let instead = match destination.to_string().contains("://") {
        true => "to keep them apart, give each one a receiver on a folder of its own".to_string(),
        false => {
            let name = Path::new(first.file_name()?).display();
            let slash = if destination.to_string().ends_with('/') { "" } else { "/" };
            let line = format!("tar-like sync {} {destination}{slash}{name}", first.display());
            format!("for a folder of each one in it, type {line}, and the same for the others")
        }
    };
    Some(format!(
        "the contents of {} come into {destination} itself; {instead}. A slash behind a source says that \
         this is meant",
        names.join(" and of ")
    ))
}

/// Exit codes, the worst first. Any other one is as bad as 1.
const WORST_FIRST: [u8; 8] = [130, 141, 2, 1, 4, 3, 25, 0];

fn worse(one: u8, other: u8) -> u8 {
    let rank = |code: u8| WORST_FIRST.iter().position(|worst| *worst == code).unwrap_or(3);
    if rank(other) < rank(one) { other } else { one }
}

/// Figures of a run that are added up.
const SUMS: [&str; 9] = [
    "files",
    "content_bytes",
    "sent_blocks",
    "sent_bytes",
    "reused_bytes",
    "wire_bytes",
    "retries",
    "failed_total",
    "deleted",
];

/// What all runs came to so far.
#[derive(Default)]
pub(super) struct Total {
    runs: u64,
    exit: u8,
    /// Sources whose run did not end with 0.
    failed: Vec<String>,
    sums: [u64; SUMS.len()],
    dry_run: bool,
}

impl Total {
    /// Waits for the run of `source`, and says how it ended. Gives whether the next one may begin.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) async fn add(
        &mut self,
        source: &Path,
        run: impl Future<Output = Result<Outcome>>,
        output: &Arc<Output>,
    ) -> Result<bool> {
        let begin = output.elapsed();
        output.counters().clear();
        let ended = run.await.map_err(Error::as_sender);
        let name = source.display().to_string();
        output.source_summary(&name, &ended, output.elapsed().saturating_sub(begin))?;
        let exit = match &ended {
            Ok(outcome) => {
                for (sum, key) in self.sums.iter_mut().zip(SUMS) {
                    *sum = sum.saturating_add(outcome.fields[key].as_u64().unwrap_or(0));
                }
                self.dry_run |= outcome.fields["dry_run"] == true;
                outcome.exit
            }
            Err(e) => e.kind().exit_code(),
        };
        (self.runs, self.exit) = (self.runs + 1, worse(self.exit, exit));
        if exit != 0 {
            self.failed.push(name);
        }
        let is_over =
            matches!(&ended, Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ReaderGone));
        Ok(!is_over && !output.is_cancelled())
    }

    /// What they ended with.
    pub(super) fn outcome(self, output: &Output) -> Outcome {
        let sum = |key: &str| SUMS.iter().position(|name| *name == key).map_or(0, |at| self.sums[at]);
        let state = match (&self.failed[..], self.dry_run) {
            ([], true) => String::new(),
            ([], false) => "; all of them confirmed by the receiver".to_string(),
            (failed, _) => format!("; NOT all is well with {}", failed.join(", ")),
        };
        let would = if self.dry_run { "would send" } else { "sent" };
        let (files, bytes) = (counted(sum("files"), "file"), human_bytes(sum("sent_bytes")));
        let sources = counted(self.runs, "source");
        // The average of the whole command is that of all runs.
        output.counters().sent_bytes.set(sum("sent_bytes"));
        let sums = SUMS.iter().zip(self.sums).map(|(key, sum)| ((*key).to_string(), Value::from(sum)));
        let mut fields: Map<String, Value> = sums.collect();
        let failed = json!(self.failed);
        fields.extend([
            ("sources".to_string(), self.runs.into()),
            ("failed_sources".to_string(), failed),
            ("dry_run".to_string(), self.dry_run.into()),
            ("complete".to_string(), (!self.dry_run && self.failed.is_empty()).into()),
        ]);
        Outcome {
            command: "sync",
            exit: self.exit,
            text: format!("{sources}, {files}: {would} {bytes}{state}"),
            fields: fields.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_exit_code_counts() {
        assert_eq!([0, 25, 3, 4, 1].into_iter().fold(0, worse), 1);
        assert_eq!([3, 25, 0].into_iter().fold(0, worse), 3);
        assert_eq!([1, 130, 2].into_iter().fold(0, worse), 130);
        assert_eq!(worse(0, 0), 0);
    }

    #[test]
    fn folders_without_a_slash_are_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, file] = ["a", "b", "file"].map(|name| folder.path().join(name));
        std::fs::create_dir(&a).unwrap();
        std::fs::create_dir(&b).unwrap();
        std::fs::write(&file, "x").unwrap();
        let slash = b.join("");
        let told = |sources: &[&Path], destination: &str| merged(sources, Path::new(destination));
        let line = format!("type tar-like sync {} DEST/a,", a.display());
        for destination in ["DEST", "DEST/"] {
            assert!(told(&[&a, &b], destination).unwrap().contains(&line));
        }
        assert!(told(&[&file, &b], "http://host:8000/tar").unwrap().contains("a receiver on a folder"));
        for silent in [&[&*a][..], &[&slash, &slash], &[&file, &file], &[&slash, Path::new(".")]] {
            assert_eq!(told(silent, "DEST"), None, "{silent:?}");
        }
    }
}
