//! The scripts that the engine runs, each as one step that nothing comes between.

use super::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use redis::{FromRedisValue, Script, Value};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A job in an engine: the blocks that some receiver misses of some archive.
#[derive(Debug)]
pub struct Job {
    pub(super) engine: Arc<Engine>,
    pub(super) name: String,
    pub(super) keys: Vec<String>,
    pub(super) scripts: Scripts,
}

#[derive(Debug)]
pub(super) struct Scripts {
    seed: Script,
    claim: Script,
    renew: Script,
    release: Script,
    fail: Script,
    state: Script,
    take: Script,
    pub(super) details: Script,
}

/// What a host asks for.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    /// The name of this process.
    pub host: &'a str,
    /// What it says of itself, for people.
    pub about: &'a str,
    /// Blocks at most.
    pub blocks: u64,
    /// How many blocks the archive has.
    pub all_blocks: u64,
    /// How long the lease holds without a word.
    pub lease: Duration,
    /// How often a range is tried.
    pub attempts: u64,
    /// The number of a lease that is done.
    pub done: Option<&'a str>,
}

/// What the engine gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// No round was begun, or the engine has forgotten it.
    Nothing,
    /// All of this round is confirmed or parked.
    Drained {
        /// Its number.
        round: u64,
        /// How many ranges no host could send.
        parked: u64,
    },
    /// Others are at what is left.
    Wait,
    /// A range of blocks.
    Range {
        /// The number of the lease.
        id: String,
        /// The blocks.
        blocks: Range<u64>,
        /// How often they were given out before.
        attempts: u64,
        /// They were sent before, and the receiver did not find what the index says.
        again: bool,
        /// What is free is gone with the next claims: others may help soon.
        ends: bool,
        /// The lease is another host's: help it from the far end.
        helps: bool,
    },
}

/// How a renewal ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// All is confirmed, or the lease was taken over.
    Gone,
    /// The lease holds.
    Held {
        /// What neither the owner nor its helper has confirmed.
        open: Range<u64>,
        /// What is free is gone with the next claims: others may help soon.
        ends: bool,
    },
}

/// How far a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobState {
    /// The round that is on, from 1.
    pub round: u64,
    /// Blocks that it began with.
    pub blocks: u64,
    /// Blocks that no host has confirmed.
    pub left: u64,
    /// Leases that are held.
    pub leases: u64,
    /// Ranges that no host could send.
    pub parked: u64,
    /// Hosts that were heard of lately.
    pub hosts: u64,
}

const COMMON: &str = include_str!("common.lua");

fn script(text: &str) -> Script {
    Script::new(&format!("{COMMON}{text}"))
}

impl Job {
    /// The job of this name in `engine`.
    #[must_use]
    pub fn new(engine: Engine, name: &str) -> Self {
        Self::of(Arc::new(engine), name)
    }

    /// The same in an engine that others use, too.
    pub(super) fn of(engine: Arc<Engine>, name: &str) -> Self {
        let key = |what: &str| format!("tl:{{{name}}}:{what}");
        let keys = ["job", "free", "lease", "owner", "host", "about", "parked"].map(key).into();
        let scripts = Scripts {
            seed: script(include_str!("seed.lua")),
            claim: script(include_str!("claim.lua")),
            renew: script(include_str!("renew.lua")),
            release: script(include_str!("release.lua")),
            fail: script(include_str!("fail.lua")),
            state: script(include_str!("state.lua")),
            take: script(include_str!("take.lua")),
            details: script(include_str!("details.lua")),
        };
        Self { engine, name: name.to_owned(), keys, scripts }
    }

    /// The engine's address, for people.
    #[must_use]
    pub fn engine(&self) -> &str {
        self.engine.name()
    }

    pub(super) async fn run<T: FromRedisValue>(&self, script: &Script, arguments: &[String]) -> Result<T> {
        self.engine.run(script, &self.keys, arguments).await
    }

    /// Begins the round after `before` with `ranges` of blocks, unless another host has; gives the
    /// round that is on. `again` says that all of them were sent in vain.
    ///
    /// # Errors
    /// The engine does not answer ([`ErrorKind::Unreachable`]), or never will.
    pub async fn seed(&self, before: u64, ranges: &[Range<u64>], again: bool) -> Result<u64> {
        let ends: Vec<String> =
            ranges.iter().flat_map(|range| [range.start.to_string(), range.end.to_string()]).collect();
        let again = u8::from(again).to_string();
        self.run(&self.scripts.seed, &[before.to_string(), format!("[{}]", ends.join(",")), again]).await
    }

    /// Asks for a range.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn claim(&self, wish: &Wish<'_>) -> Result<Grant> {
        let arguments = [
            wish.host.to_owned(),
            wish.blocks.to_string(),
            wish.lease.as_millis().to_string(),
            wish.attempts.to_string(),
            wish.about.to_owned(),
            wish.done.unwrap_or_default().to_owned(),
            wish.all_blocks.to_string(),
        ];
        let answer: Vec<Value> = self.run(&self.scripts.claim, &arguments).await?;
        let mut fields = Fields(answer.into_iter());
        Ok(match fields.text()?.as_str() {
            "none" => Grant::Nothing,
            "drained" => Grant::Drained { round: fields.number()?, parked: fields.number()? },
            "wait" => Grant::Wait,
            what => Grant::Range {
                helps: what == "help",
                id: fields.text()?,
                blocks: fields.range()?,
                attempts: fields.number()?,
                again: fields.number()? == 1,
                ends: fields.number()? == 1,
            },
        })
    }

    /// Says how far a lease is, and holds it for another `lease`; not if it has stood still for
    /// `standstill`. Gives how far the job is, too; `None` if no round was ever begun.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn renew(
        &self,
        wish: &Wish<'_>,
        id: &str,
        reached: u64,
        standstill: Duration,
    ) -> Result<(Renewal, Option<JobState>)> {
        let arguments = [
            wish.host.to_owned(),
            id.to_owned(),
            reached.to_string(),
            wish.lease.as_millis().to_string(),
            standstill.as_millis().to_string(),
            wish.about.to_owned(),
            wish.blocks.to_string(),
        ];
        let answer: Vec<Value> = self.run(&self.scripts.renew, &arguments).await?;
        let mut fields = Fields(answer.into_iter());
        let (what, state) = (fields.text()?, job_state(&fields.next::<Vec<u64>>()?));
        Ok(match what.as_str() {
            "gone" => (Renewal::Gone, state),
            _ => (Renewal::Held { open: fields.range()?, ends: fields.number()? == 1 }, state),
        })
    }

    /// Gives back what is left of a lease, and says that the host stops.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn release(&self, host: &str, lease: Option<(&str, u64)>) -> Result<()> {
        let (id, reached) = lease.unwrap_or_default();
        let arguments = [host.to_owned(), id.to_owned(), reached.to_string()];
        self.run::<u64>(&self.scripts.release, &arguments).await.map(|_| ())
    }

    /// Says that `host` cannot send `block`, which was tried `attempts` times with this one. Another
    /// host gets it, unless it was tried as often as `most`.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn fail(&self, host: &str, block: u64, attempts: u64, most: u64) -> Result<()> {
        let arguments = [host.to_owned(), block.to_string(), attempts.to_string(), most.to_string()];
        self.run::<u64>(&self.scripts.fail, &arguments).await.map(|_| ())
    }

    /// After which time `bytes` may be sent, if all hosts together are to send `rate` bytes a second.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn take(&self, bytes: u64, rate: u64) -> Result<Duration> {
        let arguments = [bytes.to_string(), rate.max(1).to_string()];
        self.run(&self.scripts.take, &arguments).await.map(Duration::from_millis)
    }

    /// How far the job is; `None` if no round was ever begun. Hosts count for two `lease`s.
    ///
    /// # Errors
    /// As [`Job::seed`].
    pub async fn state(&self, lease: Duration) -> Result<Option<JobState>> {
        let answer: Vec<u64> = self.run(&self.scripts.state, &[lease.as_millis().to_string()]).await?;
        Ok(job_state(&answer))
    }
}

/// What `state_of` of the scripts says.
fn job_state(answer: &[u64]) -> Option<JobState> {
    match *answer {
        [round, blocks, left, leases, parked, hosts] => {
            Some(JobState { round, blocks, left, leases, parked, hosts })
        }
        _ => None,
    }
}

/// The fields of an answer, one after the other.
struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    fn next<T: FromRedisValue>(&mut self) -> Result<T> {
        let strange = || Error::new(ErrorKind::Unreachable, "the queue answers something strange");
        T::from_redis_value(self.0.next().ok_or_else(strange)?).map_err(|e| strange().with_source(e))
    }

    fn text(&mut self) -> Result<String> {
        self.next()
    }

    fn number(&mut self) -> Result<u64> {
        self.next()
    }

    fn range(&mut self) -> Result<Range<u64>> {
        Ok(self.number()?..self.number()?)
    }
}
