//! `tar-like sync`

use super::append::AppendArgs;
use super::destination::{destination, refuse_remote_source};
use super::environment::{index_folder, threads};
use super::filter_flags::FilterFlags;
use super::index_file::{confirm_clean, database_of_source};
use super::output::{Outcome, Output};
use super::report;
use super::rsync_flags::RsyncFlags;
use super::s3::{Place, S3Args};
use super::signals::cancelled_by_signal;
use super::transfer::TransferArgs;
use crate::engine::index::{IndexOptions, explain};
use crate::engine::plan::{ChangeKind, EntrySink};
use crate::engine::sync::{SyncOptions, SyncReport, sync};
use crate::engine::upload::{ContentScope, UploadOptions};
use crate::error::Result;
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "\
The contents of SOURCE become the contents of DESTINATION, as with `rsync -a SOURCE/ DESTINATION/`.
A slash at the end of either changes nothing. Nothing is deleted there without --delete. DESTINATION
is a folder also where SOURCE is a file: the file keeps its name in it. A block device becomes a
file with the content of the device. The index stays, so the same command
again reads only changed files, and sends only their changes. rsync's -a, -z, -P and the like are
accepted: they say what happens anyway.

Examples:
  tar-like sync /data http://backup:8000/tar
  tar-like sync /data /mnt/disk/data
  tar-like sync /data/disk.img http://backup:8000/tar -db disk.sqlite
  tar-like sync /dev/vg/snapshot /mnt/disk
  tar-like sync s3://photos/2024 http://backup:8000/tar --s3-endpoint https://s3.example.org
  tar-like sync /home /mnt/disk/home --exclude '*.tmp' --exclude cache/ --filter-file .gitignore
  tar-like sync /data https://backup/tar --token-file token --dry-run
  tar-like sync /data /mnt/disk/restored --adopt
  tar-like sync /var/log http://backup:8000/tar --append spot

Exit codes: 0 the receiver confirmed every file, 1 error, 2 wrong usage, 3 some files failed or were
skipped (they are listed), 4 receiver full or degraded, 25 more to delete than --max-delete, 130
interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SyncArgs {
    /// The folder, file or block device to copy, or s3://bucket/prefix
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// A receiver (http://host:8000/tar) or a folder on this host
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,
    /// Where the index is kept, also -db [default: a file for each source, which tar-like indexes
    /// lists]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    database: Option<PathBuf>,
    /// Drop the index and its generations, and read every file again. On a terminal, asks before
    /// more than one generation is lost
    #[arg(long)]
    clean: bool,
    /// Answer the question of --clean with yes
    #[arg(long)]
    yes: bool,
    /// Read every file on both sides, even if size and times say that it has not changed. What is
    /// damaged at the destination is sent again
    #[arg(long)]
    checksum: bool,
    #[command(flatten)]
    append: AppendArgs,
    #[command(flatten)]
    filter: FilterFlags<false>,
    /// Say which rule decides whether PATH of the source is copied, and do nothing else
    #[arg(long, value_name = "PATH")]
    explain: Option<PathBuf>,
    /// Use the contents of the destination as a previous copy, whichever program made them. The
    /// receiver reads them, and only differences are sent. With --dry-run, say how much is the same
    #[arg(long)]
    adopt: bool,
    /// Name each entry that is sent, or would be, with what is new about it: N, C, G, R, T, D or M
    /// (new, changed, grown, renamed, touched, deleted, missing), as `plan --paths` does. -v gives
    /// the names alone
    #[arg(short, long, visible_alias = "itemize-changes")]
    itemize: bool,
    /// Write the figures of the run to standard output at its end
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    rsync: RsyncFlags,
}

pub(super) async fn run(args: SyncArgs, output: &Arc<Output>) -> Result<Outcome> {
    for warning in args.rsync.warnings() {
        output.notice(Notice::Warning(warning.to_owned()));
    }
    let verify = if args.checksum { ContentScope::All } else { ContentScope::Nothing };
    let upload = UploadOptions { verify, ..args.transfer.options()? };
    let (tar_id, replace_source) = (args.transfer.connect.tar_id, args.transfer.replace_source);
    let destination = destination(&args.destination, args.transfer.connection(output))?;
    let bucket = match args.source.to_str().and_then(Place::of_url) {
        Some(place) => Some(args.s3.connect(place, output).await?),
        None => {
            refuse_remote_source(&args.source)?;
            None
        }
    };
    let mut index = IndexOptions {
        base: args.source,
        filter: args.filter.filter(bucket.is_some(), output)?,
        bucket,
        read_contents: true,
        database: args.database.clone().unwrap_or_default(),
        // The indexes of other sources are no content of this one.
        own_files: index_folder().into_iter().collect(),
        reuse: !args.clean,
        checksum: args.checksum,
        append: args.append.append(),
        threads: threads(),
    };
    if let Some(path) = &args.explain {
        return Ok(report::explained("sync", &explain(&index, path)?));
    }
    let index_folder = args.database.is_none().then(index_folder).transpose()?;
    if index_folder.is_some() {
        index.database = database_of_source(&index.source_name())?;
    }
    if args.clean {
        confirm_clean(&index.database, args.yes, upload.dry_run, output)?;
    }
    let entries = entry_sink(args.itemize, upload.delete.is_some(), output);
    let options =
        SyncOptions { index, index_folder, upload, adopt: args.adopt, entries, tar_id, replace_source };
    let watch = output.watch();
    let copied = cancelled_by_signal(output, sync(options, destination, output.clone())).await;
    drop(watch);
    let copied = copied?;
    if args.stats {
        output.text(&report::stats(&copied, output.elapsed()))?;
    }
    Ok(match copied {
        SyncReport::Planned { plan, upload } => report::planned(&plan, upload),
        SyncReport::Copied { index, upload, similarity } => report::copied(&index, &upload, similarity),
    })
}

/// Writes the names of entries to standard output, if they are wanted. Without `--delete`, what left
/// the source is no change of the destination.
fn entry_sink(itemize: bool, deletes: bool, output: &Arc<Output>) -> Option<EntrySink> {
    let output = output.clone();
    (itemize || output.is_verbose()).then(|| {
        EntrySink::new(move |change| match change.kind {
            ChangeKind::Removed if !deletes => Ok(()),
            _ if itemize => report::plan_entry(change, &output),
            _ => report::entry_name(change, &output),
        })
    })
}
