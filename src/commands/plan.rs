//! `tar-like plan`

use super::args;
use super::environment::{default_progress, threads};
use super::filter_flags::FilterFlags;
use super::index_file::{IndexFile, database_to_plan};
use super::output::{Outcome, Output, counted, human_bytes, human_seconds};
use super::report::{explained, plan_entry, plan_exit, plan_fields, plan_notes, plan_table};
use super::s3::S3Args;
use super::signals::interruptible;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::ranges::RangeSet;
use crate::engine::index::{Append, IndexOptions, explain};
use crate::engine::index_source::refuse_other_index;
use crate::engine::plan::{BetweenOptions, Plan, PlanOptions, PlannedChange, between, plan};
use crate::error::Result;
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
plan compares names, sizes, times and owners, or the list of a bucket, with the newest generation of
the index. It reads no content, changes nothing and asks no receiver. It says what would be sent to
a receiver that has that generation. Each file is one of these:

  unchanged  the next run would not read it
  new        its path is new; it is sent, unless another file has its content
  changed    its size or time changed; at most all of it is sent
  grown      it is larger, and has the same inode: assumed to have grown at its end, which is sent
             (all of it, if it had less than 1 MiB)
  renamed    a removed file had its device, inode, size and time: assumed to be that file
  touched    only its mode, owner, inode or inode's time changed, or it changed just when the
             index was begun: assumed to have nothing to send
  removed    its path is gone
  filtered   the filter leaves it out now; it stays in the copy

The next run reads the file and shows whether an assumption was right. In a bucket, no file is grown
or renamed; touched is an object that was written again with the same size and ETag. With --from,
plan compares two generations of the index. Their contents are known, so everything is exact: grown
is a file that is larger than before, renamed a file at a new path with the content of a removed
file.

With --paths, each entry that changed is a line, with tabs between the columns: N, C, G, R, T, D
(removed) or F (filtered); f, d, l or h for file, folder, symbolic link and hard link; bytes; path; for a renamed
file also its previous path.

Examples:
  tar-like plan /data
  tar-like plan -b /data -db /tmp/data.sqlite --rate 100M
  tar-like plan --use-s3 --s3-bucket photos --s3-prefix 2024 -db photos.sqlite --json
  tar-like plan -db photos.sqlite --from 3 --to 5 --paths
  tar-like plan --source /srv/photos --from 3

Exit codes: 0 done, 1 error, 2 wrong usage, 3 some entries would be skipped (they are listed), 130
interrupted.";

const DEFAULT_BASE: &str = ".";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PlanArgs {
    /// The same as -b, or s3://bucket/prefix
    #[arg(value_name = "SOURCE", conflicts_with = "base_folder")]
    folder: Option<PathBuf>,
    /// The folder, file or block device to compare
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_BASE)]
    base_folder: PathBuf,
    /// Compare a bucket in S3, not a folder
    #[arg(long)]
    use_s3: bool,
    /// The index to compare with, also -db [default: that of sync for the same source, or
    /// ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    database: Option<PathBuf>,
    /// Take the index that sync keeps for this source, and compare this source unless another one is
    /// given; tar-like indexes lists them
    #[arg(long, value_name = "SOURCE")]
    source: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterFlags<false>,
    /// Say which rule decides whether PATH of the source is copied, and do nothing else
    #[arg(long, value_name = "PATH")]
    explain: Option<PathBuf>,
    /// Compare this generation of the index with a later one, and ignore the source; tar-like
    /// history lists the generations
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["folder", "base_folder", "use_s3", "exclude-regex", "exclude", "explain"])]
    from: Option<u64>,
    /// The later generation [default: the newest]
    #[arg(long, value_name = "NUMBER", requires = "from")]
    to: Option<u64>,
    /// The size of a block in bytes; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = DEFAULT_BLOCK_SIZE, value_parser = args::some_bytes)]
    block_size: u64,
    /// Say how long sending takes at this many bytes a second; K, M, G are powers of 1024, KB, MB,
    /// GB of 1000
    #[arg(long, value_name = "RATE", value_parser = args::some_bytes)]
    rate: Option<u64>,
    /// Name each entry that is not unchanged
    #[arg(long)]
    paths: bool,
    #[command(flatten)]
    s3: S3Args,
}

impl PlanArgs {
    /// What to compare: the source whose index is named, unless another one is given.
    fn base(&self) -> PathBuf {
        let given = self.folder.as_ref().unwrap_or(&self.base_folder);
        match &self.source {
            Some(source) if given == Path::new(DEFAULT_BASE) => source.clone(),
            _ => given.clone(),
        }
    }
}

pub(super) async fn run(args: PlanArgs, output: &Arc<Output>) -> Result<Outcome> {
    let PlanArgs { block_size, rate, paths, from, to, .. } = args;
    let base = args.base();
    let bucket = args.s3.bucket(args.use_s3, &base, DEFAULT_BASE, output).await?;
    let mut index = IndexOptions {
        base,
        filter: args.filter.filter(bucket.is_some(), output)?,
        bucket,
        read_contents: true,
        database: args.database.clone().unwrap_or_default(),
        own_files: default_progress().into_iter().collect(),
        reuse: true,
        checksum: false,
        append: Append::default(),
        md5: true,
        threads: threads(),
    };
    if let Some(path) = &args.explain {
        return Ok(explained("plan", &explain(&index, path)?));
    }
    if args.source.is_some() || args.database.is_none() {
        index.database = index_of(args.source, &index)?;
    }
    let database = index.database.clone();
    refuse_other_index(&index, from.is_none())?;
    output.notice(Notice::Phase("planning"));
    let watch = output.watch();
    let monitor = output.clone();
    let planned = interruptible(output, move || {
        let entry = |change: &PlannedChange<'_>| if paths { plan_entry(change, &monitor) } else { Ok(()) };
        let (scratch, missing) = (std::env::temp_dir(), RangeSet::default());
        match from {
            None => plan(&PlanOptions { index, block_size, scratch, missing }, &*monitor, entry),
            Some(from) => {
                let options = BetweenOptions { database, from, to, block_size, scratch, missing };
                between(&options, &*monitor, entry)
            }
        }
    });
    let plan = planned.await?;
    drop(watch);
    let mut fields = plan_fields(&plan);
    let seconds = rate.map(|rate| plan.send_bytes.div_ceil(rate));
    fields.extend([
        // Has the summary written to standard output: it is the result of the command.
        ("dry_run".to_string(), true.into()),
        ("block_size".to_string(), block_size.into()),
        ("rate".to_string(), rate.into()),
        ("estimated_s".to_string(), seconds.into()),
    ]);
    let time = rate
        .zip(seconds)
        .map(|(rate, seconds)| format!("; {} at {} a second", human_seconds(seconds), human_bytes(rate)));
    Ok(Outcome {
        command: "plan",
        exit: plan_exit(&plan),
        text: format!("{}\n{}", plan_table(&plan), totals(&plan, block_size, &time.unwrap_or_default())),
        fields: Value::Object(fields),
    })
}

/// The index that `sync` keeps for `source`, or that belongs to the source to compare.
fn index_of(source: Option<PathBuf>, options: &IndexOptions) -> Result<PathBuf> {
    match source {
        Some(source) => IndexFile { database: None, source: Some(source) }.path(),
        None => database_to_plan(&options.source_name()),
    }
}

/// How much would be sent. `time` says how long that takes.
fn totals(plan: &Plan, block_size: u64, time: &str) -> String {
    let at_most = if plan.at_most { "at most " } else { "" };
    let (bytes, blocks) = (human_bytes(plan.send_bytes), counted(plan.blocks, "block"));
    let size = human_bytes(block_size);
    format!("{at_most}{bytes} to send in {blocks} of {size}{time}{}", plan_notes(plan, plan.send_bytes))
}
