//! Keeps a running proxy's tokens and certificates as its files say.

use super::output::Output;
use crate::server::{Access, Tls};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};

/// How often the tokens' files are looked at.
const TICK: Duration = Duration::from_secs(2);

/// Ends when it is dropped.
pub(super) struct Fresh(JoinHandle<()>);

impl Fresh {
    /// SIGHUP counts from this call on.
    pub(super) fn begin(access: Arc<Access>, tls: Option<Arc<Tls>>, output: Arc<Output>) -> Self {
        let hangup = signal(SignalKind::hangup());
        Self(tokio::spawn(async move {
            let Ok(mut hangup) = hangup else { return };
            let mut tick = tokio::time::interval(TICK);
            loop {
                let wanted = tokio::select! {
                    _ = hangup.recv() => true,
                    _ = tick.tick() => false,
                };
                let (access, tls, output) = (access.clone(), tls.clone(), output.clone());
                let _ = spawn_blocking(move || refresh(&access, tls.as_deref(), wanted, &output)).await;
            }
        }))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn refresh(access: &Access, tls: Option<&Tls>, wanted: bool, output: &Output) {
    if let Some(tls) = tls.filter(|_| wanted) {
        match tls.reload() {
            Ok(()) => output
                .announce("certificate and key read again", &json!({"event": "reloaded", "what": "tls"})),
            Err(e) => tracing::error!("the certificate in use stays: {e}"),
        }
    }
    match access.reload(wanted) {
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
