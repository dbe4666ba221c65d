//! One request while it is served: its turn, and its body.

use super::body::{Incoming, Saved};
use super::permits::{Permit, Permits, Requester, busy};
use super::slots::{Doing, Slot};
use super::state::Server;
use crate::engine::tasks::blocking;
use crate::error::Result;
use axum::http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a request waits for its turn before the sender is asked to come back.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// One request, whose caller may do what it asks for.
pub(super) struct Call<'a> {
    pub(super) server: &'a Arc<Server>,
    /// `None` only where there is no connection.
    pub(super) slot: Option<Arc<Slot>>,
    pub(super) requester: Requester,
    pub(super) headers: &'a HeaderMap,
}

impl Call<'_> {
    pub(super) fn set(&self, doing: Doing) {
        if let Some(slot) = &self.slot {
            slot.set(doing);
        }
    }

    /// Reads a body that is not wanted, so that its sender hears why.
    pub(super) async fn drain(&self, body: Incoming, limit_bytes: u64) {
        self.set(Doing::Receiving);
        body.drain(limit_bytes).await;
    }

    /// Saves a body before it has its turn: it costs disk and nothing else until all of it is
    /// there.
    pub(super) async fn save(&self, body: Incoming, permit: Permit) -> Result<Saved> {
        let receiver = self.server.receiver.clone();
        let (saved, file) = blocking(move || Saved::new(&receiver)).await?;
        self.set(Doing::Receiving);
        body.save(&permit, file).await?;
        self.set(Doing::Serving);
        Ok(saved)
    }

    /// Waits for the first bytes of a body, and then for one of `permits`.
    pub(super) async fn permit(
        &self,
        permits: &Arc<Permits>,
        body: &mut Incoming,
        what: &str,
    ) -> Result<Permit> {
        self.set(Doing::Receiving);
        body.first().await?;
        self.set(Doing::Serving);
        permits.acquire(self.requester.clone(), TURN_TIMEOUT).await.ok_or_else(|| busy(what))
    }
}
