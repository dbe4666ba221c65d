//! `tar-like health`

use super::output::{Outcome, Output};
use super::tls::TlsArgs;
use crate::error::Result;
use crate::remote::health;
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: &str = "\
For monitoring, such as HEALTHCHECK of a container image. For addresses of this host, http_proxy and
its like are ignored.

Examples:
  tar-like health http://127.0.0.1:8000
  tar-like health https://backup:8443/readyz --ca-file ca.pem --timeout 3

Exit codes: 0 the answer is 200, 1 anything else, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct HealthArgs {
    /// The address; without a path, or with the /tar of senders, /readyz is requested
    #[arg(value_name = "URL")]
    url: String,
    /// The time limit for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    #[command(flatten)]
    tls: TlsArgs,
}

pub(super) async fn run(args: HealthArgs, output: &Arc<Output>) -> Result<Outcome> {
    args.tls.warn(output);
    let is_full = health(&args.url, &args.tls.options(), Duration::from_secs(args.timeout)).await?;
    if is_full {
        let what = "the receiver has no space: it takes no block in until there is some";
        output.notice(Notice::Warning(what.to_string()));
    }
    Ok(Outcome { command: "health", exit: 0, text: "ready".to_string(), fields: json!({"full": is_full}) })
}
