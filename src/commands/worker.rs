//! `tar-like worker`: a further host for uploads that share a queue, and what there is in a queue.

use super::args;
use super::connect::{ConnectArgs, Connection};
use super::environment::{cache_folder, threads};
use super::output::{Outcome, Output, counted, human_bytes, human_count};
use super::queue::{EngineArgs, host_name};
use super::report::{upload_exit, upload_fields, upload_text};
use super::s3::S3Args;
use super::signals::cancelled_by_signal;
use super::transfer::Compress;
use crate::engine::upload::{QueueOptions, UploadOptions};
use crate::engine::worker::{Connect, ServedJob, WorkerOptions, WorkerReport, work};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::lease::{ALL_HOSTS, Engine, JobDetails, JobHost, JobParameters, Jobs};
use crate::remote::Bandwidth;
use crate::telemetry::{Monitor, Notice};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

const EXAMPLES: &str = "\
A worker needs the source, the queue and the receiver, and nothing else: it finds in the queue what
is being uploaded to this receiver, gets the index from the receiver, and sends what is free. The
first host runs `tar-like sync --queue URL`, or upload. A worker may start and stop at any time. Its token
needs the scopes upload and index.

Examples:
  tar-like worker --queue redis://queue -u https://backup/tar -b /data --token-file token
  tar-like worker --queue redis://queue -u https://backup/tar -b /data --follow
  tar-like worker list --queue redis://queue           jobs, and who is at them
  tar-like worker drain web2 --queue redis://queue     the workers of web2 end after their blocks

Exit codes: 0 the receiver has all of each job, or the worker was asked to leave, 1 error, or there
is no job, 2 wrong usage, 3 some files failed (they are listed), 4 receiver full or degraded, 130
interrupted.";

const LIST_EXAMPLES: &str = "\
Each job has a line, and below it one for each host. A host of which nothing was heard for two
leases is gone. What no host could send is parked; the next round of the job tries it again.

Examples:
  tar-like worker list --queue redis://queue
  tar-like worker list --queue redis://queue --metrics > /var/lib/node_exporter/tarlike_queue.prom

Exit codes: 0 listed, 1 error, 2 wrong usage.";

const DRAIN_EXAMPLES: &str = "\
A worker that is asked to leave sends the blocks that are on their way, gives back the others, and
ends with exit code 0. One that starts later is not asked. Hosts that run upload are not asked.

Examples:
  tar-like worker drain web2 web3 --queue redis://queue
  tar-like worker drain web2/4711/0badcafe --queue redis://queue
  tar-like worker drain --all --queue redis://queue

Exit codes: 0 asked, 1 error, 2 wrong usage.";

const FORGET_EXAMPLES: &str = "\
For jobs that no host will ever end, because the receiver is gone for example. The receiver is not
asked, and nothing of it changes. Other jobs go by themselves: when the receiver has everything, or
a week after the last host was there.

Examples:
  tar-like worker forget 4f2a --queue redis://queue

Exit codes: 0 removed, 1 error, or hosts are at it, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct WorkerArgs {
    #[command(flatten)]
    work: WorkArgs,
    #[command(subcommand)]
    command: Option<WorkerCommand>,
}

#[derive(Subcommand)]
enum WorkerCommand {
    /// List the jobs of a queue, and the hosts that are at them
    List(ListArgs),
    /// Ask workers to leave
    Drain(DrainArgs),
    /// Remove a job from the queue
    Forget(ForgetArgs),
}

#[derive(Args)]
struct WorkArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// The receiver
    #[arg(
        short,
        long,
        value_name = "URL",
        default_value = "http://localhost:8000/tar",
        env = "TARLIKE_UPLOAD_URL",
        hide_env_values = true
    )]
    upload_url: String,
    /// The folder, file or block device that was indexed, as this host has it; with --use-s3 the
    /// prefix of the bucket
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_BASE)]
    base_folder: PathBuf,
    /// Read from the bucket that was indexed, not from a folder
    #[arg(long)]
    use_s3: bool,
    /// Do not end when there is nothing to do: wait for further jobs
    #[arg(long)]
    follow: bool,
    /// The folder in which the indexes of receivers are kept, with a cache of the blocks that were
    /// accepted [default: ~/.cache/tar-like]
    #[arg(long, value_name = "FOLDER")]
    index_cache: Option<PathBuf>,
    /// How many blocks are read, compressed and sent at the same time
    #[arg(short = 'p', long, value_name = "NUMBER", default_value_t = 5, alias = "workers", env = "TARLIKE_WORKERS", value_parser = clap::value_parser!(u16).range(1..))]
    no_processes: u16,
    /// Send at most this many bytes a second; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(long, value_name = "RATE", env = "TARLIKE_BWLIMIT", value_parser = args::some_bytes)]
    bwlimit: Option<u64>,
    /// How blocks are compressed: auto goes by the speed of the link and the cores; lz4; zstd, if
    /// the receiver takes it; none
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Compress::Auto)]
    compress: Compress,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    s3: S3Args,
}

const DEFAULT_BASE: &str = ".";

#[derive(Args)]
#[command(after_help = LIST_EXAMPLES)]
struct ListArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Write metrics in the text format of Prometheus
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
}

#[derive(Args)]
#[command(after_help = DRAIN_EXAMPLES)]
struct DrainArgs {
    /// Nodes, all of whose workers are meant, or hosts, as `worker list` names them
    #[arg(value_name = "HOST", required_unless_present = "all")]
    hosts: Vec<String>,
    /// All workers of all jobs
    #[arg(long, conflicts_with = "hosts")]
    all: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Args)]
#[command(after_help = FORGET_EXAMPLES)]
struct ForgetArgs {
    /// The name of the job, or how it begins
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) async fn run(args: WorkerArgs, output: &Arc<Output>) -> Result<Outcome> {
    match args.command {
        None => serve(args.work, output).await,
        Some(WorkerCommand::List(args)) => list(&args, output).await,
        Some(WorkerCommand::Drain(args)) => drain(&args, output).await,
        Some(WorkerCommand::Forget(args)) => forget(&args).await,
    }
}

async fn serve(args: WorkArgs, output: &Arc<Output>) -> Result<Outcome> {
    let address = args.engine.needed()?;
    let bucket = args.s3.bucket(args.use_s3, &args.base_folder, DEFAULT_BASE, output).await?;
    let upload = UploadOptions {
        workers: usize::from(args.no_processes),
        compression: args.compress.into(),
        cores: threads(),
        scratch: std::env::temp_dir(),
        ..UploadOptions::default()
    };
    // The job says how long a lease is, and what the limit of all hosts is.
    let queue = QueueOptions {
        address,
        host: host_name(),
        lease: Duration::default(),
        limit: None,
        leaves: Arc::default(),
    };
    let cache = args.index_cache.map_or_else(cache_folder, Ok)?;
    let upload = UploadOptions { progress: cache.join("progress.sqlite"), ..upload };
    let options = WorkerOptions {
        queue,
        tar_id: args.connect.tar_id,
        upload,
        base: args.base_folder,
        bucket,
        cache,
        follow: args.follow,
        limit: args.bwlimit,
    };
    let connection = Connection {
        connect: args.connect,
        connections: usize::from(args.no_processes),
        bandwidth: None,
        output: output.clone(),
    };
    let (url, token) = (args.upload_url, connection.token()?);
    connection.warn(&url, token.as_deref());
    let connect = Box::new(move |bandwidth: Option<Arc<Bandwidth>>| {
        connection.client_with(url.clone(), token.clone(), bandwidth)
    });
    serve_with(options, connect, output).await
}

async fn serve_with(options: WorkerOptions, connect: Connect, output: &Arc<Output>) -> Result<Outcome> {
    let exit = AtomicU8::new(0);
    let ended = |job: ServedJob| {
        let code = tell(&job, output);
        exit.fetch_max(code, Ordering::Relaxed);
    };
    let watch = output.watch();
    let ended = cancelled_by_signal(output, work(options, connect, output.clone(), ended)).await;
    drop(watch);
    let report = ended?;
    let exit = match report.left {
        true => 0,
        false if report.jobs == 0 => ErrorKind::NotFound.exit_code(),
        false => exit.into_inner(),
    };
    Ok(Outcome {
        command: "worker",
        exit,
        text: worker_text(&report),
        fields: json!({"jobs": report.jobs, "other_jobs": report.others, "left": report.left}),
    })
}

fn worker_text(report: &WorkerReport) -> String {
    let left = if report.left { "; left, as it was asked to" } else { "" };
    match (report.jobs, report.others) {
        (0, _) if report.left => "left, as it was asked to".to_string(),
        (0, 0) => {
            "there is no job in the queue: one begins when sync or upload with --queue has its index and sends; --follow waits for it"
                .to_string()
        }
        (0, others) => format!(
            "there is no job for this receiver in the queue, and {} of others: look at `tar-like worker list`, and at the address of \
             the receiver",
            human_count(others)
        ),
        (jobs, _) => format!("took part in {}{left}", counted(jobs, "job")),
    }
}

/// Says how a job ended; gives its exit code.
fn tell(job: &ServedJob, output: &Output) -> u8 {
    let ServedJob { name, tar_id, outcome } = job;
    let mut fields = json!({"event": "job_ended", "job": name, "tar_id": tar_id});
    let (exit, text) = match outcome {
        Ok(report) => {
            if let Value::Object(fields) = &mut fields {
                fields.extend(upload_fields(report));
            }
            (upload_exit(report), upload_text(report))
        }
        Err(e) => {
            fields["error"] = json!(e.to_string());
            fields["hint"] = json!(e.hint());
            let hint = e.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            (e.kind().exit_code(), format!("nothing is sent from here: {e}{hint}"))
        }
    };
    output.announce(&format!("archive {tar_id}, job {}: {text}", short(name)), &fields);
    exit
}

/// A name of a job as people need it.
fn short(name: &str) -> &str {
    name.get(..8).unwrap_or(name)
}

const HEADS: [&str; 9] =
    ["job", "archive", "receiver", "blocks", "left", "block size", "hosts", "leases", "parked"];
/// How wide a line of the list is.
const LINE_COLUMNS: usize = 100;

fn line(cells: [&str; 9]) -> String {
    let [job, archive, receiver, blocks, left, size, hosts, leases, parked] = cells;
    format!(
        "{job:<8}  {archive:>12}  {receiver:<8}  {blocks:>12}  {left:>12}  {size:>10}  {hosts:>5}  {leases:>6}  {parked:>6}"
    )
}

async fn list(args: &ListArgs, output: &Arc<Output>) -> Result<Outcome> {
    let jobs = Jobs::new(Engine::new(&args.engine.needed()?)?);
    let (mut count, mut hosts, mut all) = (0, 0, Vec::new());
    for (name, parameters) in jobs.list().await? {
        if let Some(details) = jobs.details(&name).await? {
            count += 1;
            hosts += details.state.hosts;
            all.push((name, parameters, details));
        }
    }
    if args.metrics {
        output.text(metrics(&all).trim_end())?;
    } else {
        if !all.is_empty() {
            output.heads(LINE_COLUMNS, &line(HEADS))?;
        }
        for (name, parameters, details) in &all {
            list_job(name, parameters, details, output)?;
        }
    }
    let text = format!("{} with {} in {}", counted(count, "job"), counted(hosts, "host"), jobs.engine());
    Ok(Outcome { command: "worker list", exit: 0, text, fields: json!({"jobs": count, "hosts": hosts}) })
}

fn list_job(name: &str, job: &JobParameters, details: &JobDetails, output: &Output) -> Result<()> {
    let state = details.state;
    let cells = [
        short(name).to_owned(),
        job.tar_id.to_string(),
        short(&job.receiver).to_owned(),
        human_count(job.blocks),
        human_count(state.left),
        human_bytes(job.block_size),
        human_count(state.hosts),
        human_count(state.leases),
        human_count(state.parked),
    ];
    let cells = cells.each_ref().map(String::as_str);
    let named: Vec<_> = HEADS.into_iter().zip(cells).collect();
    output.row(LINE_COLUMNS, &line(cells), &named, || {
        json!({
            "event": "job", "job": name, "tar_id": job.tar_id, "receiver": job.receiver, "index": job.index,
            "block_size": job.block_size, "blocks": job.blocks, "left": state.left, "round": state.round,
            "hosts": state.hosts, "leases": state.leases, "helped": details.helped,
            "attempts": details.attempts, "parked": state.parked, "begun_s": job.begun_s,
            "lease_s": job.lease_s, "bytes_per_second": job.limit,
        })
    })?;
    for JobHost { name: host, version, rate, silent, blocks } in &details.hosts {
        let gone = if *silent > 2 * job.lease() { "  gone" } else { "" };
        let text = format!(
            "  {host}  {}/s, has {}, heard of {} s ago, version {version}{gone}",
            human_bytes(*rate),
            counted(*blocks, "block"),
            silent.as_secs(),
        );
        output.data(&text, || {
            json!({
                "event": "host", "job": name, "host": host, "version": version, "bytes_per_second": rate,
                "silent_s": silent.as_secs(), "blocks": blocks,
            })
        })?;
    }
    for (blocks, attempts, host) in &details.parked {
        let text = format!(
            "  parked: blocks {} to {}, tried {}, the last time by {host}",
            blocks.start,
            blocks.end.saturating_sub(1),
            counted(*attempts, "time"),
        );
        output.data(&text, || {
            json!({
                "event": "parked", "job": name, "first": blocks.start, "end": blocks.end,
                "attempts": attempts, "host": host,
            })
        })?;
    }
    Ok(())
}

/// The list in the text format of Prometheus.
fn metrics(jobs: &[(String, JobParameters, JobDetails)]) -> String {
    type Value = fn(&JobParameters, &JobDetails) -> u64;
    let values: [(&str, &str, Value); 8] = [
        ("blocks", "Blocks of the archive.", |job, _| job.blocks),
        ("blocks_left", "Blocks that no host has confirmed.", |_, job| job.state.left),
        ("round", "The round that is on.", |_, job| job.state.round),
        ("hosts", "Hosts that take part.", |_, job| job.state.hosts),
        ("leases", "Ranges that hosts have leased.", |_, job| job.state.leases),
        ("leases_helped", "Leases that a second host helps with.", |_, job| job.helped),
        ("attempts", "How often what is leased now was given out before.", |_, job| job.attempts),
        ("parked_ranges", "Ranges that no host could send.", |_, job| job.state.parked),
    ];
    let mut text = String::new();
    for (name, help, value) in values {
        text += &format!("# HELP tarlike_queue_{name} {help}\n# TYPE tarlike_queue_{name} gauge\n");
        for (job, parameters, details) in jobs {
            let (archive, value) = (parameters.tar_id, value(parameters, details));
            text += &format!("tarlike_queue_{name}{{job=\"{job}\",archive=\"{archive}\"}} {value}\n");
        }
    }
    let name = "tarlike_queue_host_bytes_per_second";
    text += &format!("# HELP {name} What a host sends.\n# TYPE {name} gauge\n");
    for (job, _, details) in jobs {
        for JobHost { name: host, rate, .. } in &details.hosts {
            let host: String = host.chars().filter(|c| !"\\\"\n".contains(*c)).collect();
            text += &format!("{name}{{job=\"{job}\",host=\"{host}\"}} {rate}\n");
        }
    }
    text
}

async fn drain(args: &DrainArgs, output: &Arc<Output>) -> Result<Outcome> {
    let jobs = Jobs::new(Engine::new(&args.engine.needed()?)?);
    let whom = if args.all { vec![ALL_HOSTS.to_string()] } else { args.hosts.clone() };
    let mut at_jobs = Vec::new();
    for (name, _) in jobs.list().await? {
        let hosts = jobs.details(&name).await?.map(|details| details.hosts).unwrap_or_default();
        at_jobs.extend(hosts.into_iter().map(|host| host.name));
    }
    for host in &whom {
        jobs.ask_to_leave(host).await?;
        let is_meant = |name: &String| name == host || name.split('/').next() == Some(host);
        if !args.all && !at_jobs.iter().any(is_meant) {
            output.notice(Notice::Warning(format!(
                "no host called {host} is at a job: only a worker that waits for one can have heard it. \
                 `tar-like worker list` names hosts"
            )));
        }
    }
    let named =
        if args.all { "all workers".to_string() } else { format!("the workers of {}", whom.join(", ")) };
    let text = format!("asked {named} to leave; each does within seconds, when its blocks are sent");
    Ok(Outcome { command: "worker drain", exit: 0, text, fields: json!({"hosts": whom}) })
}

async fn forget(args: &ForgetArgs) -> Result<Outcome> {
    let jobs = Jobs::new(Engine::new(&args.engine.needed()?)?);
    let mut found = jobs.list().await?;
    found.retain(|(name, _)| !args.job.is_empty() && name.starts_with(&args.job));
    let [(name, job)] = &*found else {
        let what = match found.len() {
            0 => format!("no job begins with {}", args.job),
            several => format!("{several} jobs begin with {}", args.job),
        };
        return Err(Error::new(ErrorKind::NotFound, what)
            .with_hint("tar-like worker list --json has the whole names"));
    };
    let hosts = jobs.details(name).await?.map(|details| details.hosts).unwrap_or_default();
    if let Some(host) = hosts.iter().find(|host| host.silent <= 2 * job.lease()) {
        let what = format!("{} is at this job, and would begin it again", host.name);
        return Err(Error::new(ErrorKind::InUse, what).with_hint(
            "end the hosts that upload, ask workers to leave with worker drain, and wait for two leases",
        ));
    }
    jobs.forget(name).await?;
    let text = format!("removed job {} of archive {} from {}", short(name), job.tar_id, jobs.engine());
    Ok(Outcome {
        command: "worker forget",
        exit: 0,
        text,
        fields: json!({"job": name, "tar_id": job.tar_id}),
    })
}
