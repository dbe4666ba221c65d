//! Asking for an object without its content.

use super::bucket::Bucket;
use super::error::S3Error;
use super::keys::{PLACEHOLDER, with_key};
use super::object::{Head, Listed, ObjectState, head_of, plain_etag};
use super::retry::Attempts;
use crate::archive::path::printable;

impl Bucket {
    /// Asks for each of these objects without its content, several at once.
    pub fn heads(&self, objects: &[Listed]) -> Vec<Result<Head, String>> {
        self.each(objects, async |listed| self.head(&self.listed_state(listed)).await)
    }

    /// Asks for the object without its content.
    ///
    /// The size in `state` holds if the answer has none, or another one for the same ETag: the list
    /// said it, and a GET proves it.
    pub(super) async fn head(&self, state: &ObjectState) -> Result<Head, String> {
        let Ok(_permit) = self.permits.acquire().await else { return Err("interrupted".to_string()) };
        let key = state.key();
        let mut attempts = Attempts::new(&self.budget);
        loop {
            let answer = async {
                let request = self.client.head_object().bucket(&self.name).key(PLACEHOLDER).customize();
                match request.mutate_request(with_key(key)).send().await.map_err(|e| self.classify(&e)) {
                    Err(S3Error::Rejected(status @ (400 | 401 | 403), why)) => {
                        Err(self.why_refused(key).await.unwrap_or(S3Error::Rejected(status, why)))
                    }
                    answer => answer,
                }
            };
            let error = match self.unless_cancelled(answer).await {
                Ok(answer) => {
                    self.budget.record_success();
                    self.refusals.record_answer();
                    let size = answer.content_length().and_then(|size| u64::try_from(size).ok());
                    let is_listed = answer
                        .e_tag()
                        .map(plain_etag)
                        .is_some_and(|etag| !etag.is_empty() && Some(etag) == state.etag());
                    let size = size.filter(|_| !is_listed).unwrap_or(state.size());
                    return Ok(head_of!(answer, size, state.modified_ns()));
                }
                Err(error) => error,
            };
            tracing::debug!("HEAD \"{}\": {error:?}", printable(key));
            if self.monitor.is_cancelled() || !attempts.again(&error).await {
                return Err(error.reason());
            }
            self.monitor.counters().retries.add(1);
        }
    }
}
