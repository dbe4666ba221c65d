//! The bucket: what all of its requests share. They end together when the user interrupts them, or
//! when one of them fails in a way that all others would (see [`Outage`]).

use super::clock::Clock;
use super::error::{OTHER_REGION, S3Error, SKEWED_CODE, classify};
use super::http::WEB_PAGE;
use super::object::{Head, Listed, ObjectState};
use super::outage::{Outage, Refusals};
use super::retry::StoreBudget;
use super::whole_objects::WholeObjects;
use crate::error::{Error, ErrorKind};
use crate::telemetry::{Monitor, Notice};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use futures_util::StreamExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// A prefix of a bucket whose objects are read. Its methods may be called from threads that may
/// block, not from those of the runtime.
pub struct Bucket {
    pub(super) client: aws_sdk_s3::Client,
    /// The endpoint, or the region of AWS, for messages.
    pub(super) store: String,
    pub(super) name: String,
    /// Empty, or with a `/` at its end.
    pub(super) prefix: String,
    /// The key of the single object that is the source.
    pub(super) only: Option<String>,
    pub(super) list_v1: bool,
    pub(super) list_plain: bool,
    /// As the user has given it.
    pub(super) region: Option<String>,
    pub(super) timeout: Duration,
    pub(super) clock: Clock,
    /// One for each request that may be in flight.
    pub(super) permits: Arc<Semaphore>,
    pub(super) requests: usize,
    /// One for each part of a large object that a reader requests ahead beyond its own share.
    pub(super) ahead: Arc<Semaphore>,
    /// Objects of a store that ignores ranges.
    pub(super) whole_objects: WholeObjects,
    pub(super) budget: StoreBudget,
    pub(super) refusals: Refusals,
    pub(super) outage: OnceLock<Outage>,
    pub(super) runtime: Handle,
    pub(super) monitor: Arc<dyn Monitor>,
}

/// Without secrets.
impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// How often a request in flight checks whether the user wants to stop.
const CANCEL_TICK: Duration = Duration::from_millis(200);

impl Bucket {
    /// The address of the source for people and for the index: `s3://bucket/prefix/`, or
    /// `s3://bucket/key`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("s3://{}/{}", self.name, self.only.as_deref().unwrap_or(&self.prefix))
    }

    /// The address with the store, for messages.
    pub(super) fn place(&self) -> String {
        format!("{} at {}", self.address(), self.store)
    }

    /// The key of the object with this path below the prefix.
    pub(super) fn key(&self, path: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), path].concat()
    }

    /// The state of an object that a list describes.
    #[must_use]
    pub fn listed_state(&self, listed: &Listed) -> ObjectState {
        ObjectState::of_listed(listed, self.key(&listed.path))
    }

    /// The state of the object at `path` that an answer describes.
    #[must_use]
    pub fn head_state(&self, path: &[u8], head: &Head) -> ObjectState {
        ObjectState::of_head(head, self.key(path))
    }

    /// Runs `work` for each of `jobs`, as many at once as there may be requests; gives the results
    /// in the order of the jobs.
    pub(super) fn each<T, R, F: Future<Output = R>>(
        &self,
        jobs: impl IntoIterator<Item = T>,
        work: impl Fn(T) -> F,
    ) -> Vec<R> {
        let jobs = futures_util::stream::iter(jobs).map(work).buffered(self.requests);
        self.runtime.block_on(jobs.collect())
    }

    /// Does `work` until the user interrupts it: a request may hang for long.
    pub(super) async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, S3Error>>,
    ) -> Result<T, S3Error> {
        let cancelled = async {
            while !self.monitor.is_cancelled() {
                tokio::time::sleep(CANCEL_TICK).await;
            }
        };
        if let Some(error) = self.outage() {
            return Err(S3Error::Rejected(0, error.to_string()));
        }
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome,
            () = cancelled => Err(S3Error::interrupted()),
        };
        if let Err(error) = &outcome {
            self.record_failure(error);
        }
        outcome
    }

    /// The class of the SDK's error, after the clock has followed the store's if that is the
    /// reason.
    pub(super) fn classify<E>(&self, error: &SdkError<E, HttpResponse>) -> S3Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let mut class = classify(error);
        if let S3Error::Credentials { were_valid, .. } = &mut class {
            *were_valid |= self.budget.has_ever_succeeded();
        }
        let Some(answer) = error.raw_response().filter(|answer| answer.status().as_u16() == 403) else {
            return class;
        };
        // The refusal of a HEAD has no body with the reason, so the time of the answer has to tell.
        match self.clock.follow_answer(answer) {
            Some(ahead_s) => {
                self.monitor.notice(Notice::Warning(format!(
                    "the clock of this host is {} seconds {} that of the store; requests are signed with the store's time",
                    ahead_s.unsigned_abs(),
                    if ahead_s > 0 { "behind" } else { "ahead of" }
                )));
                S3Error::Transient("the store's clock shows another time".to_string())
            }
            None if error.code() == Some(SKEWED_CODE) && self.clock.was_corrected() => {
                // Another request has corrected the clock after this one was signed.
                S3Error::Transient("the store's clock shows another time".to_string())
            }
            None => class,
        }
    }

    /// Records a failure that every other request would meet, too.
    fn record_failure(&self, error: &S3Error) {
        let (is_outage, what, more) = match error {
            S3Error::Credentials { .. } => (true, "", ""),
            S3Error::Unreachable(_) => (self.budget.is_unreachable(), "", ""),
            S3Error::Rejected(401 | 403, _) => {
                let more = "; if only some objects may be read, leave out the others: -x";
                (self.refusals.record_refusal(), "the store refuses every object: ", more)
            }
            _ => (false, "", ""),
        };
        if is_outage && !self.monitor.is_cancelled() {
            let why = format!("cannot read {}: {what}{}", self.place(), error.clone().message());
            let _ = self.outage.set(Outage { why, hint: self.hint_for(error) + more });
        }
    }

    /// Why nothing can be read any more, once that is so: a failure from then on is not that of its
    /// object.
    #[must_use]
    pub fn outage(&self) -> Option<Error> {
        let Outage { why, hint } = self.outage.get()?;
        Some(Error::new(ErrorKind::Source, why.clone()).with_hint(hint.clone()))
    }

    /// What the user can do about an error.
    pub(super) fn hint_for(&self, error: &S3Error) -> String {
        let hint = match error {
            error if error.why().contains(WEB_PAGE) => {
                "is the endpoint right (TARLIKE_S3_ENDPOINT or --s3-endpoint)? It is the address of the store's S3 service, \
                 without the bucket"
            }
            S3Error::Credentials { were_valid: false, .. } => {
                "are the credentials right (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile), and of this store?"
            }
            S3Error::Credentials { .. } => {
                let renew = "renew the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the \
                             profile) and run the same command again";
                let resumes = if self.budget.has_ever_succeeded() { ": it goes on where it was" } else { "" };
                return format!("{renew}{resumes}");
            }
            S3Error::NotFound(_) => {
                "is the bucket's name right? A store that wants it before the host's name: --s3-addressing virtual"
            }
            S3Error::Rejected(301 | 307, why) => return self.region_hint(why),
            S3Error::Rejected(_, why)
                if why.contains("region") || why.contains("AuthorizationHeaderMalformed") =>
            {
                return self.region_hint(why);
            }
            S3Error::Rejected(_, why) if why.contains(SKEWED_CODE) => "set the clock of this host",
            S3Error::Rejected(401 | 403, _) => {
                "are the credentials right (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile), and may they list this \
                 bucket and read its objects? A public bucket needs none: --no-sign-request. An HCP: --s3-addressing virtual"
            }
            S3Error::Rejected(_, why) | S3Error::Transient(why) | S3Error::Unreachable(why)
                if why.contains("certificate") =>
            {
                "name the authority that has signed the store's certificate: AWS_CA_BUNDLE=FILE"
            }
            S3Error::Rejected(0, _) => {
                "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or the host's role; a public \
                 bucket needs none: --no-sign-request"
            }
            S3Error::Unreachable(why) if self.budget.was_ever_reached() || is_timeout(why) => {
                return format!(
                    "the store has not answered; if it only takes long, wait longer for it: --s3-timeout SECONDS (now {})",
                    self.timeout.as_secs()
                );
            }
            _ => "is the endpoint right (TARLIKE_S3_ENDPOINT or --s3-endpoint)?",
        };
        hint.to_owned()
    }

    fn region_hint(&self, why: &str) -> String {
        if let Some((_, region)) = why.split_once(OTHER_REGION) {
            return format!("give --s3-region {region}");
        }
        match &self.region {
            None => "the bucket lies in another region: give --s3-region".to_owned(),
            Some(region) => format!("the bucket does not lie in the region {region}"),
        }
    }
}

fn is_timeout(why: &str) -> bool {
    why.contains("timed out") || why.contains("in time")
}
