//! `tar-like sync`

use super::address::{is_filled_by_others, refuse_remote_source};
use super::append::AppendArgs;
use super::destination::destination;
use super::digest::DigestArgs;
use super::environment::{index_folder, threads};
use super::filter_flags::FilterFlags;
use super::index_file::{confirm_clean, database_of_source};
use super::output::{Outcome, Output};
use super::queue::QueueArgs;
use super::report;
use super::rsync_flags::RsyncFlags;
use super::s3::{Place, S3Args};
use super::several::{self, Total};
use super::signals::cancelled_by_signal;
use super::ssh::SshArgs;
use super::transfer::TransferArgs;
use crate::engine::destination::Destination;
use crate::engine::index::{IndexOptions, explain};
use crate::engine::sync::{SyncOptions, SyncReport, check_places, sync};
use crate::engine::upload::{ContentScope, UploadOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::source::filter::Filter;
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
The contents of SOURCE become the contents of DESTINATION, as with `rsync -a SOURCE/ DESTINATION/`.
A slash at the end of either changes nothing. Nothing is deleted there without --delete. DESTINATION
is a folder also where SOURCE is a file: the file keeps its name in it. (A new one with an ending, or
with the name of the file, needs a slash at its end then.) A block device becomes a file with the
content of the device. The index stays, so the same command again reads only changed files, and
sends only their changes. rsync's -a, -z, -P and the like are accepted: they say what happens
anyway.

With several sources, the contents of each one come into DESTINATION, also where there is no slash
behind the source. Each one is an archive with an index of its own, and one run follows another. Where
two of them have different contents at one path, the first one stays, and the other one fails (exit
code 3). --delete deletes what the same source had put there. With several exit codes, the first one
of these counts: 130, 141, 2, 1, 4, 3, 25, 0.

Examples:
  tar-like sync /data backup:/srv/data
  tar-like sync /data http://backup:8000/tar
  tar-like sync /data /mnt/disk/data
  tar-like sync a.txt b.txt /mnt/disk
  tar-like sync /data/disk.img http://backup:8000/tar -db disk.sqlite
  tar-like sync /dev/vg/snapshot /mnt/disk
  tar-like sync s3://photos/2024 http://backup:8000/tar --s3-endpoint https://s3.example.org
  tar-like sync /home /mnt/disk/home --exclude '*.tmp' --exclude cache/ --filter-file .gitignore
  tar-like sync /data https://backup/tar --token-file token --dry-run
  tar-like sync /data /mnt/disk/restored --adopt
  tar-like sync /var/log http://backup:8000/tar --append spot
  tar-like sync /data http://backup:8000/tar --queue redis://queue    others help: tar-like worker

Exit codes: 0 the receiver confirmed every file, 1 error, 2 wrong usage, 3 some files failed or were
skipped (they are listed), 4 receiver full or degraded, 25 more to delete than --max-delete, 130
interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES, override_usage = "tar-like sync [OPTIONS] <SOURCE>... <DESTINATION>")]
pub(super) struct SyncArgs {
    /// The folder, file or block device to copy, or s3://bucket/prefix; there may be several
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// A folder on this host, one on another host that ssh reaches (user@host:/folder), or a
    /// receiver (http://host:8000/tar). All arguments but the last one are sources
    #[arg(value_name = "DESTINATION", required = true)]
    destination: Vec<PathBuf>,
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
    digest: DigestArgs,
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
    queue: QueueArgs,
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    ssh: SshArgs,
    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    rsync: RsyncFlags,
}

pub(super) async fn run(args: SyncArgs, output: &Arc<Output>) -> Result<Outcome> {
    for warning in args.rsync.warnings() {
        output.notice(Notice::Warning(warning.to_owned()));
    }
    let (sources, given) = args.places();
    if sources.len() > 1 {
        several::refuse(&args.flags_of_one_source())?;
        several::refuse_last_of_pattern(&sources, given)?;
    }
    let queue = args.queue.options(args.transfer.bwlimit)?;
    let mut connection = args.transfer.connection(output);
    if let Some(limit) = queue.as_ref().and_then(|queue| queue.limit.clone()) {
        connection.bandwidth = Some(limit.own);
    }
    let destination = destination(given, connection, &args.ssh, args.transfer.dry_run)?;
    refuse_queue(queue.is_some(), &args, &destination)?;
    let is_remote = matches!(destination, Destination::Receiver(_));
    if queue.is_some() && !is_remote {
        output.notice(Notice::Warning(
            "the queue is not used: other hosts cannot send to a receiver of this run alone".to_string(),
        ));
    }
    let filter = args.filter.filter(sources.iter().any(|source| bucket_of(source).is_some()), output)?;
    if args.adopt && args.filter.has_shard() {
        let what = "--adopt is for a whole source: a receiver cannot tell which files are of other parts";
        return Err(Error::new(ErrorKind::Usage, what)
            .with_hint("run it once without --shard: what is the same stays in place"));
    }
    if let (Some(path), [source]) = (&args.explain, &sources[..]) {
        let index = args.index(source, filter, output).await?;
        return Ok(report::explained("sync", &explain(&index, path)?));
    }
    let mut runs = Vec::new();
    for source in &sources {
        let mut options = args.options(source, filter.clone(), output).await?;
        options.upload.queue = queue.clone().filter(|_| is_remote);
        match check_places(&destination, &options.index) {
            // What was typed is refused before the first run; everything else fails in its run.
            Err(e) if sources.len() > 1 && e.kind() == ErrorKind::Usage => return Err(e),
            _ => runs.push(options),
        }
    }
    if let ([source], Destination::Folder { path, .. }) = (&sources[..], &destination)
        && !args.adopt
        && (source.is_dir() || bucket_of(source).is_some())
        && is_filled_by_others(path)
    {
        output.notice(Notice::Warning(format!(
            "{} has entries that no run of tar-like has put there: those at paths of the source are replaced, \
             all others stay. With --adopt, what is the same already is taken for a copy",
            path.display()
        )));
    }
    if let Some(notice) = several::merged(&sources, given) {
        output.notice(Notice::Warning(notice));
    }
    copy_all(&sources, runs, &destination, args.stats, output).await
}

/// One run for each source.
async fn copy_all(
    sources: &[&Path],
    runs: Vec<SyncOptions>,
    destination: &Destination,
    stats: bool,
    output: &Arc<Output>,
) -> Result<Outcome> {
    let mut total = Total::default();
    for (source, options) in sources.iter().zip(runs) {
        let name = if sources.len() > 1 { format!("{}:\n", source.display()) } else { String::new() };
        let run = copy(options, destination.clone(), stats.then_some(&*name), output);
        if sources.len() == 1 {
            return run.await;
        }
        if !total.add(source, run, output).await? {
            break;
        }
    }
    Ok(total.outcome(output))
}

/// Refuses a queue where no other host could help.
fn refuse_queue(is_given: bool, args: &SyncArgs, destination: &Destination) -> Result<()> {
    let refuse = |what, hint| Err(Error::new(ErrorKind::Usage, what).with_hint(hint));
    match destination {
        _ if !is_given => Ok(()),
        _ if args.filter.has_shard() => refuse(
            "--shard and --queue are two ways to share one job",
            "leave out one of them: with a queue, hosts share the work by themselves",
        ),
        // TARLIKE_QUEUE may stand for other runs.
        Destination::Folder { .. } | Destination::Remote { .. } | Destination::Receiver(_) => Ok(()),
    }
}

fn bucket_of(source: &Path) -> Option<Place> {
    source.to_str().and_then(Place::of_url)
}

impl SyncArgs {
    /// The sources and the destination.
    fn places(&self) -> (Vec<&Path>, &Path) {
        let (more, destination) = match &self.destination[..] {
            [more @ .., last] => (more, last),
            [] => (&[][..], &self.source),
        };
        let sources = std::iter::once(&self.source).chain(more);
        (sources.map(PathBuf::as_path).collect(), destination)
    }

    /// Flags that are about one source, and whether they are given.
    fn flags_of_one_source(&self) -> [(&'static str, bool); 7] {
        [
            ("--database (-db)", self.database.is_some()),
            ("--tar-id", self.transfer.connect.tar_id.is_some()),
            ("--replace-source", self.transfer.replace_source),
            ("--explain", self.explain.is_some()),
            ("--adopt", self.adopt),
            ("--queue", self.queue.is_given()),
            ("--files-from", self.filter.has_list()),
        ]
    }

    async fn index(&self, source: &Path, filter: Filter, output: &Arc<Output>) -> Result<IndexOptions> {
        let bucket = match bucket_of(source) {
            Some(place) => Some(self.s3.connect(place, output).await?),
            None => {
                refuse_remote_source(source)?;
                None
            }
        };
        Ok(IndexOptions {
            base: source.to_path_buf(),
            filter,
            bucket,
            read_contents: true,
            database: self.database.clone().unwrap_or_default(),
            // The indexes of other sources are no content of this one.
            own_files: index_folder().into_iter().collect(),
            reuse: !self.clean,
            checksum: self.checksum,
            append: self.append.append(),
            md5: self.digest.has_md5(),
            threads: threads(),
        })
    }

    async fn options(&self, source: &Path, filter: Filter, output: &Arc<Output>) -> Result<SyncOptions> {
        let verify = if self.checksum { ContentScope::All } else { ContentScope::Nothing };
        let upload = UploadOptions { verify, ..self.transfer.options()? };
        let mut index = self.index(source, filter, output).await?;
        let index_folder = self.database.is_none().then(index_folder).transpose()?;
        if index_folder.is_some() {
            index.database = database_of_source(&index.source_name())?;
        }
        if self.clean {
            confirm_clean(&index.database, self.yes, upload.dry_run, output)?;
        }
        let entries = report::entry_sink(self.itemize, upload.delete.is_some(), output);
        let (tar_id, replace_source) = (self.transfer.connect.tar_id, self.transfer.replace_source);
        Ok(SyncOptions { index, index_folder, upload, adopt: self.adopt, entries, tar_id, replace_source })
    }
}

/// One run. With `stats`, its figures go to standard output, below that heading.
async fn copy(
    options: SyncOptions,
    destination: Destination,
    stats: Option<&str>,
    output: &Arc<Output>,
) -> Result<Outcome> {
    let begin = output.elapsed();
    let watch = output.watch();
    let copied = cancelled_by_signal(output, sync(options, destination, output.clone())).await;
    drop(watch);
    let copied = copied?;
    if let Some(heading) = stats {
        let figures = report::stats(&copied, output.elapsed().saturating_sub(begin));
        output.text(&format!("{heading}{figures}"))?;
    }
    let empty = match &copied {
        SyncReport::Planned { plan, .. } => {
            report::of_empty_source(plan.total_entries(), plan.excluded, plan.skipped.total())
        }
        SyncReport::Copied { index, .. } => {
            report::of_empty_source(index.files + index.nodes, index.excluded, index.skipped)
        }
    };
    if let Some(why) = empty {
        output.notice(Notice::Warning(why.to_string()));
    }
    Ok(match copied {
        SyncReport::Planned { plan, upload } => report::planned(&plan, upload),
        SyncReport::Copied { index, upload, similarity } => report::copied(&index, &upload, similarity),
    })
}
