//! Reloads the tokens and certificates of a running proxy when their files change.

use super::output::Output;
use crate::server::{Access, Tls};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};

/// How often the token files are compared with their previous state.
const INTERVAL: Duration = Duration::from_secs(2);

/// Reloads until it is dropped.
pub(super) struct CredentialReloader(JoinHandle<()>);

impl CredentialReloader {
    /// SIGHUP counts from this call on.
    pub(super) fn start(access: Arc<Access>, tls: Option<Arc<Tls>>, output: Arc<Output>) -> Self {
        let hangup = signal(SignalKind::hangup());
        Self(tokio::spawn(async move {
            let Ok(mut hangup) = hangup else { return };
            let mut tick = tokio::time::interval(INTERVAL);
            loop {
                let is_hangup = tokio::select! {
                    _ = hangup.recv() => true,
                    _ = tick.tick() => false,
                };
                let (access, tls, output) = (access.clone(), tls.clone(), output.clone());
                let _ = spawn_blocking(move || reload(&access, tls.as_deref(), is_hangup, &output)).await;
            }
        }))
    }
}

impl Drop for CredentialReloader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reloads token files that changed; on a hangup, also the certificate, and the token files whether
/// or not they changed.
fn reload(access: &Access, tls: Option<&Tls>, is_hangup: bool, output: &Output) {
    if let Some(tls) = tls.filter(|_| is_hangup) {
        match tls.reload() {
            Ok(()) => output
                .announce("certificate and key read again", &json!({"event": "reloaded", "what": "tls"})),
            Err(e) => tracing::error!("the certificate in use stays: {e}"),
        }
    }
    match access.reload(is_hangup) {
        Ok(false) => {}
        Ok(true) => {
            let count = access.len();
            output.announce(
                &format!("tokens read again: there are {count}"),
                &json!({"event": "reloaded", "what": "tokens", "tokens": count}),
            );
        }
        Err(e) => tracing::error!("the tokens in use stay: {e}"),
    }
}
