//! `tar-like check`

use super::args;
use super::environment::threads;
use super::index_file::{IndexFile, warn_of_overwritten};
use super::output::{Outcome, Output, human_count};
use super::repair::{self, Damage};
use super::report::{upload_fields, upload_text};
use super::s3::S3Args;
use super::signals::{cancelled_by_signal, interruptible};
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::db::generation::rebuild;
use crate::engine::check::{CheckOptions, CheckReport, Finding, check};
use crate::engine::upload::UploadReport;
use crate::error::{ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "\
Each difference is a line on standard output: `different`, `missing` or `extra`, the path, and how
it differs. `unverified` is a file whose digest the index does not have.

Examples:
  tar-like check /srv/copy
  tar-like check -b /srv/copy -db /tmp/data.sqlite --extra
  tar-like check -b /mnt/backup/photos --source /srv/photos
  tar-like check -b /srv/copy -f 0 -l 99          only files of the first 100 blocks
  tar-like check -b /srv/old-copy --generation 3  compare with an earlier generation
  tar-like check -b /srv/copy --repair /data      take what differs from /data again

Exit codes: 0 no difference, or all was repaired, 1 differences, unverified files or an error, 2 wrong usage.";

const DEFAULT_BASE: &str = "tmp/recv";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// The same as -b, or s3://bucket/prefix
    #[arg(value_name = "FOLDER", conflicts_with = "base_folder")]
    folder: Option<PathBuf>,
    /// The folder to compare, or the file or block device that was indexed
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_BASE)]
    base_folder: PathBuf,
    /// Compare a bucket in S3, not a folder. All of its contents are read
    #[arg(long)]
    use_s3: bool,
    #[command(flatten)]
    index: IndexFile,
    /// Compare with an earlier generation of the index; tar-like history lists them
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
    /// Compare only files from this block on
    #[arg(short, long, value_name = "BLOCK", default_value_t = 0)]
    first_block: u64,
    /// Compare only files up to this block, inclusive [default: the last one]
    #[arg(short, long, value_name = "BLOCK")]
    last_block: Option<u64>,
    /// The size of these blocks in bytes; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = DEFAULT_BLOCK_SIZE, value_parser = args::some_bytes)]
    block_size: u64,
    /// Report also entries of the folder that are not in the index
    #[arg(long)]
    extra: bool,
    /// Compare names and contents only, not permissions, times and owners
    #[arg(long)]
    no_metadata: bool,
    /// Take what differs or is missing from here again: the folder that was copied, or
    /// s3://bucket/prefix. No receiver may be running on the copy
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["use_s3", "generation"])]
    repair: Option<PathBuf>,
    #[command(flatten)]
    s3: S3Args,
}

pub(super) async fn run(args: CheckArgs, output: &Arc<Output>) -> Result<Outcome> {
    args::block_range(args.first_block, args.last_block)?;
    let base = args.folder.unwrap_or(args.base_folder);
    let bucket = args.s3.bucket(args.use_s3, &base, DEFAULT_BASE, output).await?;
    let mut database = args.index.path()?;
    warn_of_overwritten(&database, output)?;
    // Removed when this function ends.
    let _previous = match args.generation {
        Some(number) => {
            let (index, scratch) = (database.clone(), std::env::temp_dir());
            let previous = interruptible(output, move || rebuild(&index, number, &scratch)).await?;
            database = previous.to_path_buf();
            Some(previous)
        }
        None => None,
    };
    let source = match args.repair {
        Some(given) => Some((repair::source(&given, &base, args.s3, output).await?, given)),
        None => None,
    };
    let index = database.clone();
    let options = CheckOptions {
        base: base.clone(),
        bucket,
        database,
        first: args.first_block,
        last: args.last_block,
        block_size: args.block_size,
        extra: args.extra,
        metadata: !args.no_metadata,
        threads: threads(),
        scratch: std::env::temp_dir(),
    };
    output.notice(Notice::Phase("checking"));
    let watch = output.watch();
    let (report, damage) = compare(options, output).await?;
    let repaired = match source {
        Some((source, given)) if damage.count > 0 => {
            let job = repair::run(source, base, index, damage, output.clone());
            Some((cancelled_by_signal(output, job).await?, given))
        }
        _ => None,
    };
    let outcome = outcome(&report, repaired.as_ref());
    drop(watch);
    Ok(outcome)
}

/// Compares, and collects what could be repaired.
async fn compare(options: CheckOptions, output: &Arc<Output>) -> Result<(CheckReport, Damage)> {
    let monitor = output.clone();
    interruptible(output, move || {
        let mut damage = Damage::default();
        let report = check(&options, &*monitor, |finding| {
            damage.add(finding);
            tell(finding, &monitor)
        })?;
        Ok((report, damage))
    })
    .await
}

fn outcome(report: &CheckReport, repaired: Option<&(UploadReport, PathBuf)>) -> Outcome {
    let is_equal = match repaired {
        None => report.is_equal(),
        // Neither what the index does not have nor what it cannot verify was repaired.
        Some((upload, _)) => {
            upload.complete && upload.failed_total == 0 && (report.extra, report.unverified) == (0, 0)
        }
    };
    let mut text = describe(report);
    if let Some((upload, given)) = repaired {
        let state = if upload.complete { "repaired" } else { "NOT repaired" };
        text.push_str(&format!("; {state} from {}: {}", given.display(), upload_text(upload)));
    }
    Outcome {
        command: "check",
        exit: if is_equal { 0 } else { ErrorKind::Different.exit_code() },
        text,
        fields: json!({
            "ok": report.ok, "different": report.different, "missing": report.missing, "extra": report.extra,
            "unverified": report.unverified, "repair": repaired.map(|(upload, _)| upload_fields(upload)),
        }),
    }
}

/// Writes a finding as a line, with tabs between the columns.
fn tell(finding: &Finding, output: &Output) -> Result<()> {
    let (event, path, reason) = match finding {
        Finding::Different(path, reason) => ("different", path, Some(reason)),
        Finding::Missing(path) => ("missing", path, None),
        Finding::Extra(path) => ("extra", path, None),
        Finding::Unverified(path) => ("unverified", path, None),
    };
    let text = match reason {
        Some(reason) => format!("{event}\t{path}\t{reason}"),
        None => format!("{event}\t{path}"),
    };
    output.data(&text, || json!({"event": event, "path": path, "reason": reason}))
}

fn describe(report: &CheckReport) -> String {
    let unverified = match report.unverified {
        0 => String::new(),
        count => format!(", {} UNVERIFIED: the index has no md5 for them", human_count(count)),
    };
    format!(
        "{} ok, {} different, {} missing, {} extra{unverified}",
        human_count(report.ok),
        human_count(report.different),
        human_count(report.missing),
        human_count(report.extra)
    )
}
