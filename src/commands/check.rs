//! `tar-like check`

use super::args;
use super::digest::DigestArgs;
use super::environment::threads;
use super::index_file::{IndexFile, warn_of_overwritten};
use super::output::{Outcome, Output, human_count};
use super::repair::{self, Damage};
use super::report::{upload_fields, upload_text};
use super::s3::S3Args;
use super::signals::{cancelled_by_signal, interruptible};
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::db::generation::rebuild;
use crate::db::index_read::IndexReader;
use crate::engine::check::{CheckOptions, CheckReport, Finding, check, other_generation};
use crate::engine::upload::UploadReport;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
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

The copy is compared with the newest generation of the index, which has what the filter of its last
run left. If that run was one to another destination, a warning names the generation that this copy
was made of.

Exit codes: 0 no difference, or all was repaired, 1 differences, unverified files, an error, or
nothing left to compare, 2 wrong usage.";

const DEFAULT_BASE: &str = "tmp/recv";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// The same as -b, or s3://bucket/prefix
    #[arg(value_name = "FOLDER", conflicts_with = "base_folder")]
    folder: Option<PathBuf>,
    /// The folder to compare, or the file or block device that was indexed; the default is that of
    /// the original program
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
    #[command(flatten)]
    digest: DigestArgs,
    /// Take what differs or is missing from here again: the folder that was copied, or
    /// s3://bucket/prefix. No receiver may be running on the copy
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["use_s3", "generation"])]
    repair: Option<PathBuf>,
    /// The folder that the --state of the copy's proxy names, where it has one: needed for --repair
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    #[command(flatten)]
    s3: S3Args,
}

pub(super) async fn run(args: CheckArgs, output: &Arc<Output>) -> Result<Outcome> {
    let (first, last) = (args.first_block, args.last_block);
    args::block_range(first, last)?;
    let base = args.folder.unwrap_or(args.base_folder);
    if !args.use_s3 && base == Path::new(DEFAULT_BASE) && !base.exists() {
        return Err(no_folder());
    }
    let bucket = args.s3.bucket(args.use_s3, &base, DEFAULT_BASE, output).await?;
    let mut database = index_of(args.index, args.repair.as_deref())?;
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
    let is_chosen = args.generation.is_some() || bucket.is_some();
    warn_of_other_generation(&base, args.state.as_deref(), &database, is_chosen, output)?;
    let source = match args.repair {
        Some(given) => {
            Some(repair::source(given, (&base, args.state.as_deref()), &database, args.s3, output).await?)
        }
        None => None,
    };
    let index = database.clone();
    let filter = IndexReader::open(&index)?.skipped()?.and_then(|skipped| skipped.filter_text());
    let options = CheckOptions {
        base: base.clone(),
        bucket,
        database,
        first,
        last,
        block_size: args.block_size,
        extra: args.extra,
        metadata: !args.no_metadata,
        md5: args.digest.has_md5(),
        threads: threads(),
        scratch: std::env::temp_dir(),
    };
    output.notice(Notice::Phase("checking"));
    let watch = output.watch();
    let (report, damage) = compare(options, output).await?;
    let repaired = match source {
        Some((source, given)) if damage.count > 0 => {
            let job = repair::run(source, (base, args.state), index.clone(), damage, output.clone());
            Some((cancelled_by_signal(output, job).await?, given))
        }
        _ => None,
    };
    drop(watch);
    if report.compared() == 0 {
        output.notice(Notice::Warning(compared_nothing(&index, first, last)?));
    }
    let has_compared = report.compared() > 0 || is_unlimited(filter.as_deref(), first, last);
    Ok(outcome(&report, has_compared, args.extra, filter.as_deref(), repaired.as_ref()))
}

/// No folder is given, and that of the original program is not there.
fn no_folder() -> Error {
    let what = format!("no folder to compare is given, and {DEFAULT_BASE} is not there");
    Error::new(ErrorKind::Usage, what).with_hint(
        "give the folder of the copy: tar-like check FOLDER. Without it, the original program's default \
         counts, which is that path below the present folder",
    )
}

/// The index to compare with.
///
/// # Errors
/// None is named, and there is none at the usual place.
fn index_of(named: IndexFile, repair: Option<&Path>) -> Result<PathBuf> {
    let is_named = named.database.is_some() || named.source.is_some();
    let database = named.path_of(repair)?;
    if is_named || database.exists() {
        return Ok(database);
    }
    let what = format!("no index is given, and {} is not there", database.display());
    Err(Error::new(ErrorKind::Io, what).with_hint(
        "name the source of the copy, whose index sync keeps: --source SOURCE (tar-like indexes lists them); or an index: -db FILE",
    ))
}

/// Warns where the copy in `base` is of another generation than the newest one, with which it is
/// compared: the last run was one to another destination, perhaps with another filter.
fn warn_of_other_generation(
    base: &Path,
    state: Option<&Path>,
    database: &Path,
    is_chosen: bool,
    output: &Output,
) -> Result<()> {
    let Some((theirs, newest)) = (if is_chosen { None } else { other_generation(base, state, database)? })
    else {
        return Ok(());
    };
    output.notice(Notice::Warning(format!(
        "{} is a copy of generation {theirs} of the index, and is compared with generation {newest}; \
         --generation {theirs} compares it with what it was made of",
        base.display()
    )));
    Ok(())
}

/// Whether all of the source is compared. The copy of an empty source is right if it is empty; where a
/// filter or a range leaves nothing to compare, that is not known.
fn is_unlimited(filter: Option<&str>, first: u64, last: Option<u64>) -> bool {
    filter.is_none() && first == 0 && last.is_none()
}

/// Why nothing was compared.
fn compared_nothing(index: &Path, first: u64, last: Option<u64>) -> Result<String> {
    let summary = IndexReader::open(index)?.summary()?;
    let base =
        summary.base.map_or_else(|| "an unknown source".to_string(), |base| base.display().to_string());
    let index = format!("the index {} of {base}", index.display());
    Ok(match summary.files + summary.nodes {
        0 => format!("nothing was compared: {index} has no entries"),
        _ => match last {
            Some(last) => format!("nothing was compared: {index} has no file in blocks {first} to {last}"),
            None => format!("nothing was compared: {index} has no file from block {first} on"),
        },
    })
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

fn outcome(
    report: &CheckReport,
    has_compared: bool,
    looks_for_extra: bool,
    filter: Option<&str>,
    repaired: Option<&(UploadReport, PathBuf)>,
) -> Outcome {
    let is_equal = match repaired {
        None => report.is_equal() && has_compared,
        // Neither what the index does not have nor what it cannot verify was repaired.
        Some((upload, _)) => {
            upload.complete && upload.failed_total == 0 && (report.extra, report.unverified) == (0, 0)
        }
    };
    let mut text = describe(report, looks_for_extra);
    if let Some(filter) = filter {
        text.push_str(&format!("; the index is without {filter}"));
    }
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
            "unverified": report.unverified, "filter": filter, "repair": repaired.map(|(upload, _)| upload_fields(upload)),
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

fn describe(report: &CheckReport, looks_for_extra: bool) -> String {
    let unverified = match report.unverified {
        0 => String::new(),
        count => format!(", {} UNVERIFIED: the index has no md5 for them", human_count(count)),
    };
    // Not looked for is not none.
    let extra =
        if looks_for_extra { format!(", {} extra", human_count(report.extra)) } else { String::new() };
    format!(
        "{} ok, {} different, {} missing{extra}{unverified}",
        human_count(report.ok),
        human_count(report.different),
        human_count(report.missing),
    )
}
