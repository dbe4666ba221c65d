//! `tar-like index`

use super::append::AppendArgs;
use super::output::{Outcome, Output, human_bytes, human_count};
use super::s3::S3Args;
use super::{args, default_database, default_progress, interruptible, threads};
use crate::db::index_read::IndexReader;
use crate::engine::index::{IndexOptions, IndexReport, index, refuse_foreign};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  tar-like index -b /data
  tar-like index -c -b /data -db /tmp/data.sqlite -x '\\.tmp$' -x '^cache/'
  tar-like index -b /data/disk.img -db image.sqlite
  tar-like index -b /var/log -db logs.sqlite --append spot
  tar-like index --use-s3 --s3-bucket photos --s3-prefix 2024 -db photos.sqlite

Exit codes: 0 everything is indexed, 1 error, 2 wrong usage, 3 some entries were skipped (they are listed).";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct IndexArgs {
    /// The folder, file or block device to index
    #[arg(short, long, value_name = "PATH", default_value = ".")]
    base_folder: PathBuf,
    /// Index a bucket in S3 instead of a folder
    #[arg(long)]
    use_s3: bool,
    /// Do not read objects whose ETag is no md5: nothing can prove their contents then, and check calls them unverified
    #[arg(long, requires = "use_s3")]
    s3_no_md5: bool,
    /// Where the index goes, also -db [default: ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    database: Option<PathBuf>,
    /// Leave out relative paths that match this regular expression; may be given several times
    #[arg(short = 'x', long, value_name = "REGEX", value_parser = args::regex, allow_hyphen_values = true)]
    exclude: Vec<regex::bytes::Regex>,
    /// Replace an index that is there by a fresh one; without, the next generation of it is made
    #[arg(short, long)]
    clean: bool,
    /// Read every file, also those whose size and times say that they have not changed
    #[arg(long)]
    checksum: bool,
    #[command(flatten)]
    append: AppendArgs,
    #[command(flatten)]
    s3: S3Args,
}

pub(super) async fn run(args: IndexArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.database.map_or_else(default_database, Ok)?;
    let bucket = match args.use_s3 {
        true => Some(args.s3.connect(args.s3.place()?, output).await?),
        false => None,
    };
    let options = IndexOptions {
        base: args.base_folder,
        bucket,
        read_contents: !args.s3_no_md5,
        database,
        exclude: args.exclude,
        own_files: default_progress().into_iter().collect(),
        reuse: !args.clean,
        checksum: args.checksum,
        append: args.append.append(),
        threads: threads(),
    };
    refuse_foreign(&options)?;
    warn_of_another_source(&options, output)?;
    let report = make(options, output).await?;
    Ok(Outcome {
        command: "index",
        exit: if report.skipped > 0 { 3 } else { 0 },
        text: describe(&report),
        fields: fields(&report),
    })
}

/// Makes an index, with progress.
pub(super) async fn make(options: IndexOptions, output: &Arc<Output>) -> Result<IndexReport> {
    output.notice(Notice::Phase("indexing"));
    let _watch = output.watch();
    let monitor = output.clone();
    interruptible(output, move || index(&options, &*monitor)).await
}

pub(super) fn describe(report: &IndexReport) -> String {
    let skipped =
        if report.skipped > 0 { format!(", {} skipped", human_count(report.skipped)) } else { String::new() };
    let changes = match &report.changes {
        None => String::new(),
        Some(_) if report.unchanged => format!("; nothing changed since generation {}", report.generation),
        Some(changes) => format!(
            "; generation {}: {} new or changed, {} of other metadata, {} gone, {} to send",
            report.generation,
            human_count(changes.added),
            human_count(changes.touched),
            human_count(changes.removed),
            human_bytes(changes.appended_bytes)
        ),
    };
    format!(
        "indexed {} files, {} folders and links, {}{skipped}{changes}",
        human_count(report.files),
        human_count(report.nodes),
        human_bytes(report.total_bytes)
    )
}

/// The folder may have been moved, or be a snapshot of the same one; or it is a mistake.
fn warn_of_another_source(options: &IndexOptions, output: &Arc<Output>) -> Result<()> {
    if !options.reuse || !options.database.exists() {
        return Ok(());
    }
    let former = IndexReader::open(&options.database)?.summary()?.base;
    let base = options.source_name();
    if let Some(former) = former.filter(|former| *former != base) {
        output.notice(Notice::Warning(format!(
            "{} was the index of {} so far; its next generation is that of {}",
            options.database.display(),
            former.display(),
            base.display()
        )));
    }
    Ok(())
}

/// The index of another source is not replaced by accident: the usual place is the same for every one. `source` is the folder
/// without links, or the address of the bucket.
pub(super) fn check_same_source(database: &Path, source: Option<PathBuf>) -> Result<()> {
    if !database.exists() {
        return Ok(());
    }
    let former = IndexReader::open(database)?;
    let base = if former.is_ours() { former.summary()?.base } else { None };
    if base.is_some() && base == source {
        return Ok(());
    }
    let of = base.map_or_else(|| "another program".to_string(), |base| base.display().to_string());
    Err(Error::new(ErrorKind::Source, format!("{} is the index of {of}", database.display()))
        .hint("give -db FILE to keep an index for each source, or -c to replace this one"))
}

/// What compares with the index can do so with none but ours; where the source counts, only with its own.
pub(super) fn refuse_other_index(options: &IndexOptions, has_source: bool) -> Result<()> {
    let source = || match has_source {
        true => check_same_source(&options.database, Some(options.source_name())),
        false => Ok(()),
    };
    refuse_foreign(options).and_then(|()| source()).map_err(|e| match e.kind() {
        ErrorKind::Source => {
            e.hint("give its own index with -db FILE, or the name of one that is not there yet")
        }
        _ => e,
    })
}

pub(super) fn fields(report: &IndexReport) -> Value {
    json!({
        "files": report.files, "nodes": report.nodes, "total_bytes": report.total_bytes, "skipped": report.skipped,
        "digest": report.digest.to_string(), "unchanged": report.unchanged, "generation": report.generation,
        "changes": report.changes.map(|changes| json!({
            "added": changes.added, "known": changes.known, "touched": changes.touched, "removed": changes.removed,
            "appended_bytes": changes.appended_bytes,
        })),
    })
}
