//! `tar-like sync`

use super::adopt::{self, Adopting};
use super::append::AppendArgs;
use super::embedded::Embedded;
use super::output::{Outcome, Output};
use super::s3::{Place, S3Args};
use super::upload::Part;
use super::{args, default_database, index, plan, threads, upload};
use crate::archive::path::STATE_DIR;
use crate::db::index_read::IndexReader;
use crate::engine::index::{IndexOptions, IndexReport};
use crate::engine::upload::UploadReport;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Client;
use crate::source::Source;
use crate::source::base::{Base, folder_of, resolved};
use crate::source::disk::DiskSource;
use crate::source::s3::Bucket;
use clap::Args;
use rand::RngExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

const EXAMPLES: &str = "\
The contents of SOURCE become the contents of DESTINATION, as with `rsync -a SOURCE/ DESTINATION/`. Nothing is deleted there without --delete.
A file becomes a file of that name in DESTINATION; so does a block device, with the device's content.
The index is kept: running the same command again reads only what changed, and sends nothing if nothing did.

Examples:
  tar-like sync /data http://backup:8000/tar
  tar-like sync /data /mnt/disk/data -db /tmp/data.sqlite
  tar-like sync /data/disk.img http://backup:8000/tar -db disk.sqlite
  tar-like sync /dev/vg/snapshot /mnt/disk -db snapshot.sqlite
  tar-like sync s3://photos/2024 http://backup:8000/tar --s3-endpoint https://s3.example.org
  tar-like sync /data https://backup/tar --token-file token --dry-run
  tar-like sync /data /mnt/disk/restored --adopt -db /tmp/data.sqlite
  tar-like sync /var/log http://backup:8000/tar -db logs.sqlite --append spot

Exit codes: 0 the receiver confirmed every file, 1 error, 2 wrong usage, 3 some files failed or were skipped (they are
listed), 4 receiver full or degraded, 25 more to delete than --max-delete, 130 interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SyncArgs {
    /// The folder, file or block device to copy, or s3://bucket/prefix
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// A receiver (http://host:8000/tar) or a folder on this host
    #[arg(value_name = "DESTINATION")]
    destination: PathBuf,
    /// Where the index is kept, also -db [default: ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    database: Option<PathBuf>,
    /// Leave out relative paths that match this regular expression; may be given several times
    #[arg(short = 'x', long, value_name = "REGEX", value_parser = args::regex, allow_hyphen_values = true)]
    exclude: Vec<regex::bytes::Regex>,
    /// Replace an index that is there and read every file again
    #[arg(short, long)]
    clean: bool,
    /// Read every file, also those whose size and times say that they have not changed
    #[arg(long)]
    checksum: bool,
    #[command(flatten)]
    append: AppendArgs,
    /// Take what is below the destination already for a former copy, whoever made it: it is read there, and only what differs is sent. With
    /// --dry-run, say how much is the same
    #[arg(long)]
    adopt: bool,
    #[command(flatten)]
    transfer: upload::TransferArgs,
    #[command(flatten)]
    s3: S3Args,
}

/// Where the archive goes.
enum Destination {
    Remote(String),
    Local(PathBuf),
}

pub(super) async fn run(args: SyncArgs, output: &Arc<Output>) -> Result<Outcome> {
    // What is no source is refused before anything is made for it.
    let place = args.source.to_str().and_then(Place::of_url);
    let folder = place.is_none().then_some(&*args.source);
    folder.map(Base::open).transpose()?;
    let destination = destination(&args.destination, folder, args.transfer.dry_run)?;
    let bucket = match place {
        Some(place) => Some(args.s3.connect(place, output).await?),
        None => None,
    };
    let kept = args.database.map_or_else(default_database, Ok)?;
    if !args.clean {
        let base = match &bucket {
            Some(bucket) => Some(PathBuf::from(bucket.address())),
            None => resolved(&args.source).ok(),
        };
        index::check_same_source(&kept, base)?;
    }
    let adopt = if args.adopt { Some(adopt::request(&args.source, &args.exclude)?) } else { None };
    let scratch = tempfile::tempdir().map_err(|e| Error::io("cannot make a temporary folder", e))?;
    // What changed since the index was made shows without reading a file.
    let looks = !args.clean && !args.checksum && !args.adopt && kept.exists();
    let (database, reuse) = if args.transfer.dry_run && !looks {
        dry_database(&kept, scratch.path(), args.clean)?
    } else {
        (kept.clone(), !args.clean)
    };
    let options = IndexOptions {
        base: args.source.clone(),
        bucket: bucket.clone(),
        read_contents: true,
        database: database.clone(),
        exclude: args.exclude,
        own_files: vec![args.transfer.progress()?, kept.clone()],
        reuse,
        checksum: args.checksum,
        append: args.append.append(),
        threads: threads(),
    };
    // The first time, and whenever all must be read anyway, everything is read once: to be indexed and sent at the same time.
    let fresh = !args.transfer.dry_run && adopt.is_none() && (args.clean || !kept.exists());
    let planned = match args.transfer.dry_run && looks {
        true => Some(plan::look(options.clone(), args.transfer.block_size, false, output).await?),
        false => None,
    };
    if let (true, Destination::Local(folder)) = (args.transfer.dry_run, &destination)
        && !folder.join(STATE_DIR).join("journal.sqlite").exists()
    {
        // Nothing was ever received there: to ask would mean to make the receiver's folder.
        if let Some(plan) = planned {
            return Ok(plan::with_receiver(&plan, args.transfer.plan_from_nothing(database, output).await?));
        }
        let indexed = index::make(options, output).await?;
        let report = args.transfer.plan_from_nothing(database.clone(), output).await?;
        let outcome = outcome(&indexed, &report);
        let Some(request) = adopt else { return Ok(outcome) };
        let similarity = adopt::compare_here(folder.clone(), request, database, output).await?;
        return Ok(adopt::add(outcome, similarity));
    }
    let mut token = args.transfer.token()?;
    let mut embedded = None;
    let url = match destination {
        Destination::Remote(url) => url,
        Destination::Local(folder) => {
            let receiver = Embedded::start(&folder).await?;
            token = Some(receiver.token.clone());
            let url = receiver.url.clone();
            embedded = Some(receiver);
            url
        }
    };
    let send = async {
        let client = args.transfer.client(url, token, output)?;
        let ignore_done = args.transfer.ignore_done;
        let mut part = Part { range: (0, None), ignore_done, looked: None, all_seen: true, adopt: None };
        let source = |bucket: Option<Arc<Bucket>>| -> Result<Arc<dyn Source>> {
            Ok(match bucket {
                Some(bucket) => bucket,
                None => Arc::new(DiskSource::open(&args.source)?),
            })
        };
        if let Some(plan) = planned {
            let report = args.transfer.send(source(bucket)?, database, client, part, output).await?;
            return Ok(plan::with_receiver(&plan, report));
        }
        // Until the end: a look that is left alone is of no use to anybody.
        let mut looking = None;
        let adopting = match adopt {
            Some(request) => Adopting::begin(&kept, request, client.clone(), output).await?,
            None => None,
        };
        let streamed =
            if fresh { args.transfer.stream(options.clone(), client.clone(), output).await? } else { None };
        let indexed = match streamed {
            Some(indexed) => {
                // All of it was sent just now.
                part.ignore_done = false;
                indexed
            }
            None => {
                if reuse && !args.transfer.dry_run && adopting.is_none() {
                    let looking = looking.insert(Looking::begin(kept, client.clone()));
                    part.looked = Some(looking.name);
                }
                index::make(options, output).await?
            }
        };
        let mut similarity = None;
        if let Some(adopting) = adopting {
            part.adopt = Some(adopting.finish(output).await?);
            if args.transfer.dry_run {
                similarity = Some(args.transfer.compare(&database, part.adopt, &client, output).await?);
            }
        }
        part.all_seen = indexed.skipped == 0;
        let report = args.transfer.send(source(bucket)?, database, client, part, output).await?;
        let outcome = outcome(&indexed, &report);
        Ok(match similarity {
            Some(similarity) => adopt::add(outcome, similarity),
            None => outcome,
        })
    };
    let outcome = send.await;
    if let Some(embedded) = embedded {
        let stopped = embedded.stop().await;
        // What went wrong first is what the user wants to know.
        if outcome.is_ok() {
            stopped?;
        }
    }
    outcome
}

/// Nothing may have changed here: then all that is left is that the receiver looks at what it has. It does so while the folder is
/// gone through here. Ends when it is dropped.
struct Looking {
    name: u64,
    task: JoinHandle<()>,
}

impl Looking {
    fn begin(kept: PathBuf, client: Arc<Client>) -> Self {
        let name = rand::rng().random();
        let digest = move || {
            let former = IndexReader::open(&kept).ok().filter(IndexReader::is_ours)?;
            former.summary().ok().map(|summary| summary.digest)
        };
        let task = tokio::spawn(async move {
            let Ok(Some(digest)) = tokio::task::spawn_blocking(digest).await else { return };
            if let Err(e) = client.look(&digest, name).await {
                tracing::debug!("the receiver did not look at what it has: {e}");
            }
        });
        Self { name, task }
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn outcome(indexed: &IndexReport, report: &UploadReport) -> Outcome {
    let mut fields = upload::fields(report);
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("index".to_string(), index::fields(indexed));
    }
    let exit = if indexed.skipped > 0 { ErrorKind::Partial.exit_code() } else { 0 };
    Outcome {
        command: "sync",
        exit: upload::exit(report).max(exit),
        text: format!("{}; {}", index::describe(indexed), upload::describe(report)),
        fields,
    }
}

/// `source` is the folder or file that is copied, if it is no bucket.
fn destination(given: &Path, source: Option<&Path>, dry_run: bool) -> Result<Destination> {
    if let Some(url) =
        given.to_str().filter(|text| text.starts_with("http://") || text.starts_with("https://"))
    {
        return Ok(Destination::Remote(url.to_owned()));
    }
    if given.to_str().is_some_and(|text| text.contains("://")) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{} is neither an http(s) address nor a folder", given.display()),
        ));
    }
    let folder = resolve(given)
        .map_err(|e| Error::io(format!("cannot resolve the destination folder {}", given.display()), e))?;
    if folder.exists() && !folder.is_dir() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("the destination {} is no folder", folder.display()),
        )
        .hint("the copy gets the source's names in a folder; give that folder"));
    }
    let source = source.map(|source| {
        resolved(source).map_err(|e| Error::io(format!("cannot open the source {}", source.display()), e))
    });
    let Some(source) = source.transpose()? else { return local(folder, dry_run) };
    if !source.is_dir() && is_same_folder(folder_of(&source), &folder) {
        let what = format!("{} lies in the destination {}", source.display(), folder.display());
        return Err(Error::new(ErrorKind::Usage, what)
            .hint("the copy would take its own source's place; choose another folder"));
    }
    if folder.starts_with(&source) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("the destination {} lies in the source {}", folder.display(), source.display()),
        )
        .hint("the copy would contain itself; choose a destination outside"));
    }
    local(folder, dry_run)
}

fn local(folder: PathBuf, dry_run: bool) -> Result<Destination> {
    if !dry_run {
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::io(format!("cannot make the destination folder {}", folder.display()), e))?;
    }
    Ok(Destination::Local(folder))
}

/// Whether both are there, and the same, by whatever names.
fn is_same_folder(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.metadata().map(|folder| (folder.dev(), folder.ino())).ok();
    inode(one).is_some_and(|one| Some(one) == inode(other))
}

/// Where `path` leads, which need not be there yet.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    match path.canonicalize() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return std::path::absolute(path);
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(resolve(parent)?.join(name))
}

/// A dry run changes nothing, the index included: where files are read, it works on a copy.
fn dry_database(kept: &Path, scratch: &Path, clean: bool) -> Result<(PathBuf, bool)> {
    let copy = scratch.join("index.sqlite");
    if clean || !kept.exists() {
        return Ok((copy, false));
    }
    std::fs::copy(kept, &copy)
        .map_err(|e| Error::io(format!("cannot copy the index {}", kept.display()), e))?;
    Ok((copy, true))
}
