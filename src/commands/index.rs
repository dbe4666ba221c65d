//! `tar-like index`

use super::append::AppendArgs;
use super::digest::DigestArgs;
use super::environment::{default_database, default_progress, threads};
use super::filter_flags::FilterFlags;
use super::output::{Outcome, Output};
use super::report::{index_exit, index_fields, index_text, of_empty_source};
use super::s3::S3Args;
use super::signals::interruptible;
use crate::db::index_read::IndexReader;
use crate::engine::index::{IndexOptions, IndexReport, index, index_from_list, refuse_foreign};
use crate::engine::index_lock::IndexLock;
use crate::engine::index_source::{refuse_other_base, refuse_other_source};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  tar-like index /data
  tar-like index -c -b /data -db /tmp/data.sqlite -x '\\.tmp$' -x '^cache/'
  tar-like index -b /data -db src.sqlite --exclude-glob 'cache/' --filter-file .gitignore
  tar-like index -b /data/disk.img -db image.sqlite
  tar-like index /var/log -db logs.sqlite --append spot
  tar-like index --use-s3 --s3-bucket photos --s3-prefix 2024 -db photos.sqlite
  cd /data && find . -type f -exec md5sum {} + > /tmp/list
  tar-like index -c --from-list /tmp/list -b /data

Exit codes: 0 everything is indexed, 1 error, 2 wrong usage, 3 some entries were skipped (they are
listed).";

const DEFAULT_BASE: &str = ".";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct IndexArgs {
    /// The same as -b, or s3://bucket/prefix
    #[arg(value_name = "SOURCE", conflicts_with = "base_folder")]
    source: Option<PathBuf>,
    /// The folder, file or block device to index; with --use-s3 a prefix of the bucket
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_BASE)]
    base_folder: PathBuf,
    /// Index a bucket in S3, not a folder
    #[arg(long)]
    use_s3: bool,
    /// Do not read objects whose ETag is not an md5. Their contents cannot be verified then, and
    /// check calls them unverified
    #[arg(long, requires = "use_s3")]
    s3_no_md5: bool,
    /// Where the index goes, also -db [default: ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    database: Option<PathBuf>,
    /// Make the index from lines of this file, without reading contents; `-` is standard input. A
    /// line is `MD5  PATH`, as md5sum writes it, or `MD5 SIZE PATH`. Paths are relative to the base
    /// folder, which is asked for what the list does not say
    #[arg(long, value_name = "FILE", conflicts_with_all = ["use_s3", "checksum"])]
    from_list: Option<PathBuf>,
    /// Replace an existing index by a fresh one. Without this flag, its next generation is made
    #[arg(short, long)]
    clean: bool,
    /// Read every file, even if its size and times say that it has not changed
    #[arg(long)]
    checksum: bool,
    #[command(flatten)]
    append: AppendArgs,
    #[command(flatten)]
    digest: DigestArgs,
    #[command(flatten)]
    filter: FilterFlags<true>,
    #[command(flatten)]
    s3: S3Args,
}

pub(super) async fn run(args: IndexArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.database.map_or_else(default_database, Ok)?;
    let base = args.source.unwrap_or(args.base_folder);
    let bucket = args.s3.bucket(args.use_s3, &base, DEFAULT_BASE, output).await?;
    let options = IndexOptions {
        base,
        filter: args.filter.filter(bucket.is_some(), output)?,
        bucket,
        read_contents: !args.s3_no_md5,
        database,
        own_files: default_progress().into_iter().collect(),
        reuse: !args.clean,
        checksum: args.checksum,
        append: args.append.append(),
        md5: args.digest.has_md5(),
        threads: threads(),
    };
    let _lock = IndexLock::take(&options.database)?;
    refuse_foreign(&options)?;
    refuse_another_source(&options, output)?;
    output.notice(Notice::Phase("indexing"));
    let watch = output.watch();
    let monitor = output.clone();
    let report = match args.from_list {
        Some(list) => interruptible(output, move || from_list(&list, &options, &monitor)).await?,
        None => interruptible(output, move || index(&options, &*monitor)).await?,
    };
    drop(watch);
    if let Some(why) = of_empty_source(report.files + report.nodes, report.excluded, report.skipped) {
        output.notice(Notice::Warning(why.to_string()));
    }
    Ok(Outcome {
        command: "index",
        exit: index_exit(&report),
        text: index_text(&report),
        fields: index_fields(&report).into(),
    })
}

/// Makes a fresh index of the list in a file.
fn from_list(list: &Path, options: &IndexOptions, monitor: &Output) -> Result<IndexReport> {
    if options.reuse && options.database.exists() {
        let what = format!("{} exists, and a list makes no next generation", options.database.display());
        return Err(Error::new(ErrorKind::Usage, what)
            .with_hint("give -c to replace that index, or -db to write another one"));
    }
    let read: Box<dyn BufRead> = if list.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(list)
            .map_err(|e| Error::io(format!("cannot read the list {}", list.display()), e))?;
        Box::new(BufReader::new(file))
    };
    index_from_list(read, options, monitor)
}

/// Refuses to go on with the index of another source. Where the folder of that source is gone, and
/// this one has files of the index, it may have been moved, or be another snapshot: that is a warning.
fn refuse_another_source(options: &IndexOptions, output: &Arc<Output>) -> Result<()> {
    if !options.reuse || !options.database.exists() {
        return Ok(());
    }
    let previous = IndexReader::open(&options.database)?.base()?;
    let base = options.source_name();
    let Some(previous) = previous.filter(|previous| *previous != base) else { return Ok(()) };
    let may_have_moved = previous.is_absolute() && !previous.exists() && options.bucket.is_none();
    if !may_have_moved || refuse_other_base(&options.database, &options.base, None).is_err() {
        return refuse_other_source(options);
    }
    output.notice(Notice::Warning(format!(
        "{} was the index of {} until now; its next generation is one of {}",
        options.database.display(),
        previous.display(),
        base.display()
    )));
    Ok(())
}
