//! The jobs of an engine: which there are, who is at them, and which hosts are asked to leave.

use super::engine::Engine;
use super::scripts::{Job, JobState};
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::job_name;
use crate::archive::shown::shown;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The key with the parameters of all jobs, as JSON by their names.
const JOBS: &str = "tl:jobs";
/// The key with what is asked to leave: nodes or hosts, and when that was asked.
const LEAVING: &str = "tl:leaving";
/// How long these keys stay after the last change.
const TTL_S: u64 = 7 * 24 * 3600;
/// The same of the latter. A host asks every few seconds.
const LEAVING_TTL_S: u64 = 3600;
/// A job has at most so many seconds of lease.
pub const MAX_LEASE_S: u64 = 3600;
/// Stands for every host where hosts are asked to leave.
pub const ALL_HOSTS: &str = "*";

/// What a further host has to know of a job. No path and no secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobParameters {
    /// The digest of the index.
    pub index: String,
    /// The number of the archive.
    pub tar_id: u64,
    /// In bytes.
    pub block_size: u64,
    /// How many blocks the archive has.
    pub blocks: u64,
    /// The identity of the receiver.
    pub receiver: String,
    /// How long a host may be silent before others take over what it has.
    pub lease_s: u64,
    /// The limit on what all hosts together send, in bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// When a host announced it first, in seconds since 1970.
    pub begun_s: u64,
}

impl JobParameters {
    /// The name of the job; `None` where another program has made these parameters.
    fn name(&self) -> Option<String> {
        let is_sound = self.block_size > 0 && (1..=MAX_LEASE_S).contains(&self.lease_s);
        let index = self.index.parse::<IndexDigest>().ok().filter(|_| is_sound)?;
        Some(job_name(&index, self.tar_id, self.block_size, &self.receiver))
    }

    /// How long a host may be silent.
    #[must_use]
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_s)
    }
}

/// A host that takes part in a job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobHost {
    /// `NODE/PID/RANDOM`.
    pub name: String,
    /// Its version of this program.
    pub version: String,
    /// What it sends, in bytes a second.
    pub rate: u64,
    /// How long nothing was heard of it.
    pub silent: Duration,
    /// The blocks that it has leased and not confirmed.
    pub blocks: u64,
}

/// What an engine knows of a job.
#[derive(Debug, Clone, Default)]
pub struct JobDetails {
    /// How far it is.
    pub state: JobState,
    /// Who is at it, by name.
    pub hosts: Vec<JobHost>,
    /// Leases that a second host helps with.
    pub helped: u64,
    /// How often what is leased now was given out before.
    pub attempts: u64,
    /// Ranges that no host could send: the blocks, how often each was tried, and by whom last.
    pub parked: Vec<(Range<u64>, u64, String)>,
}

/// A lease, as the scripts write it.
#[derive(Deserialize)]
struct Lease {
    first: u64,
    last: u64,
    attempts: u64,
    host: String,
    helper: Option<String>,
}

#[derive(Default, Deserialize)]
struct About {
    version: String,
    rate: u64,
}

/// The jobs of an engine.
pub struct Jobs(Arc<Engine>);

impl Jobs {
    /// The jobs that `engine` has.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self(Arc::new(engine))
    }

    /// The engine's address, for people.
    #[must_use]
    pub fn engine(&self) -> &str {
        self.0.name()
    }

    /// The jobs that are on, by name, in the order in which they began. What is no job of ours, or
    /// was forgotten, is left out.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn list(&self) -> Result<Vec<(String, JobParameters)>> {
        let all: HashMap<String, String> = self.0.command(redis::cmd("HGETALL").arg(JOBS)).await?;
        let parsed = all.into_iter().filter_map(|(name, text)| {
            let parameters: JobParameters = serde_json::from_str(&text).ok()?;
            (parameters.name()? == name).then_some((name, parameters))
        });
        let mut jobs: Vec<_> = parsed.collect();
        jobs.sort_by(|(name, job), (other, next)| (job.begun_s, name).cmp(&(next.begun_s, other)));
        Ok(jobs)
    }

    /// What is known of the job `name`; `None` where it is over.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn details(&self, name: &str) -> Result<Option<JobDetails>> {
        Job::of(self.0.clone(), name).details().await
    }

    /// Removes all that the engine has of the job `name`. Hosts that are at it begin it again.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn forget(&self, name: &str) -> Result<()> {
        Job::of(self.0.clone(), name).forget().await
    }

    /// Asks `whom` to leave: a host, all hosts of a node, or [`ALL_HOSTS`]. A host that starts
    /// later is not asked.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn ask_to_leave(&self, whom: &str) -> Result<()> {
        let now_ms = self.now_ms().await?;
        self.0.command::<()>(redis::cmd("HSET").arg(LEAVING).arg(whom).arg(now_ms)).await?;
        self.0.command(redis::cmd("EXPIRE").arg(LEAVING).arg(LEAVING_TTL_S)).await
    }

    /// Whether `host`, which has started at `started_ms`, was asked to leave.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn is_asked_to_leave(&self, host: &str, started_ms: u64) -> Result<bool> {
        let node = host.split('/').next().unwrap_or_default();
        let asked = redis::cmd("HMGET").arg(LEAVING).arg(&[host, node, ALL_HOSTS]).to_owned();
        let asked: Vec<Option<u64>> = self.0.command(&asked).await?;
        Ok(asked.into_iter().flatten().any(|at_ms| at_ms >= started_ms))
    }

    /// The engine's clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn now_ms(&self) -> Result<u64> {
        let (seconds, micros): (u64, u64) = self.0.command(&redis::cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }
}

impl Job {
    /// Lets other hosts find the job.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn announce(&self, parameters: &JobParameters) -> Result<()> {
        let text = serde_json::to_string(parameters).unwrap_or_default();
        self.engine.command::<()>(redis::cmd("HSETNX").arg(JOBS).arg(&self.name).arg(text)).await?;
        self.engine.command(redis::cmd("EXPIRE").arg(JOBS).arg(TTL_S)).await
    }

    /// Removes all that the engine has of it.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn forget(&self) -> Result<()> {
        self.engine.command::<()>(redis::cmd("DEL").arg(&self.keys)).await?;
        self.engine.command(redis::cmd("HDEL").arg(JOBS).arg(&self.name)).await
    }

    /// What the engine knows of it; `None` where it is over.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn details(&self) -> Result<Option<JobDetails>> {
        type Answer = (
            u64,
            Vec<(String, f64)>,
            HashMap<String, String>,
            HashMap<String, String>,
            HashMap<String, String>,
            HashMap<String, String>,
        );
        let (now_ms, hosts, about, leases, parked, job): Answer =
            self.run(&self.scripts.details, &[]).await?;
        let number = |key: &str| job.get(key).and_then(|text| text.parse::<u64>().ok());
        let Some(round) = number("round") else { return Ok(None) };
        let leases: Vec<Lease> = leases.values().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let parked: Vec<_> = parked.iter().filter_map(|(range, by)| parse_parked(range, by)).collect();
        let mut hosts: Vec<JobHost> = hosts
            .into_iter()
            .map(|(name, heard_ms)| {
                let About { version, rate } =
                    about.get(&name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
                let silent = Duration::from_millis(now_ms.saturating_sub(heard_ms.max(0.0) as u64));
                let blocks = leases
                    .iter()
                    .filter(|lease| lease.host == name)
                    .map(|lease| lease.last.saturating_sub(lease.first))
                    .sum();
                JobHost { name: shown(&name), version: shown(&version), rate, silent, blocks }
            })
            .collect();
        hosts.sort_by(|host, other| host.name.cmp(&other.name));
        let state = JobState {
            round,
            blocks: number("blocks").unwrap_or_default(),
            left: number("left").unwrap_or_default(),
            leases: leases.len() as u64,
            parked: parked.len() as u64,
            hosts: hosts.len() as u64,
        };
        let helped = leases.iter().filter(|lease| lease.helper.is_some()).count() as u64;
        let attempts = leases.iter().map(|lease| lease.attempts).sum();
        Ok(Some(JobDetails { state, hosts, helped, attempts, parked }))
    }
}

/// Reads `FIRST:END` and `ATTEMPTS:HOST`.
fn parse_parked(range: &str, by: &str) -> Option<(Range<u64>, u64, String)> {
    let (first, end) = range.split_once(':')?;
    let (attempts, host) = by.split_once(':')?;
    Some((first.parse().ok()?..end.parse().ok()?, attempts.parse().ok()?, shown(host)))
}
