//! `tar-like proxy`

use super::fresh::Fresh;
use super::output::{Outcome, Output};
use super::settings::Settings;
use super::{args, connect::read_token, stop_signal};
use crate::db::index_read::IndexReader;
use crate::engine::receive::{Receiver, ReceiverOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::server::{self, Access, AccessOptions, Network, ServerOptions, Tls, TlsFiles};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use rand::RngExt;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

const EXAMPLES: &str = "\
Partial files and the receiver's journal lie in FOLDER/.tar-like; everything else in FOLDER is complete and proven.
With a token, every request must carry it; /healthz and /readyz are open. Changes of the tokens' files are noticed at once, those of
certificates on SIGHUP; while a file is wrong, what it said before stays in use.

Examples:
  tar-like proxy -b /srv/copy
  tar-like proxy 8000 -b /srv/copy --bind 0.0.0.0 --token-file /etc/tar-like.token
  tar-like proxy 8001 -b /srv/copy --standby          # and the same on 8002: one receives, the other one waits
  tar-like proxy 8443 -b /srv/copy --bind 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --tokens /etc/tar-like.tokens

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 error, 2 wrong usage, 4 storage failed (with --standby).";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ProxyArgs {
    /// The port to listen on; 0 takes a free one
    #[arg(value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// The folder to receive into; made if missing
    #[arg(short, long, value_name = "FOLDER", default_value = "tmp/recv")]
    base_folder: PathBuf,
    /// Take this index for archive 0 without waiting for a sender's, also -db
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// The address to listen on; any but a loopback address needs a token or --insecure
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// A file with the token that senders must give [default: environment TARLIKE_TOKEN]
    #[arg(long, value_name = "FILE", env = "TARLIKE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// A file with several tokens, hashed, and what each one is for; see tar-like token new
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Speak HTTPS with this certificate: a PEM file, the server's own first, then those between it and the CA
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve only senders with a certificate that one of the CAs in this PEM file has signed; then a token is not needed
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Believe the X-Forwarded-For of this address, or of those in this network; may be given several times
    #[arg(long, value_name = "ADDRESS", value_parser = clap::value_parser!(Network))]
    trusted_proxy: Vec<Network>,
    /// Serve everybody who can reach the address, without a token
    #[arg(long)]
    insecure: bool,
    /// Serve senders that know only the original protocol
    #[arg(long)]
    legacy: bool,
    /// Wait while another receiver uses the base folder, and take over when it ends; stop when storage fails
    #[arg(long)]
    standby: bool,
    /// The largest block that is taken, in bytes; K, M, G are powers of 1024
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = args::some_bytes)]
    max_block_size: u64,
    /// The largest index that is taken, in bytes
    #[arg(long, value_name = "BYTES", default_value = "16G", value_parser = args::some_bytes)]
    max_index_size: u64,
    /// How many blocks may be in memory at once
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_inflight: u16,
}

pub(super) async fn run(args: ProxyArgs, settings: &Settings, output: &Arc<Output>) -> Result<Outcome> {
    let (token, token_file) = match (&args.tokens, &args.token_file) {
        (Some(_), file) => {
            // It would be good for everything, and for ever: a sender's own, mostly, of the same user.
            if file.is_some() || std::env::var_os("TARLIKE_TOKEN").is_some() {
                output.notice(Notice::Warning(
                    "with --tokens, only the tokens of that file are good: the one of --token-file, TARLIKE_TOKEN_FILE or TARLIKE_TOKEN is not"
                        .to_string(),
                ));
            }
            (None, None)
        }
        (None, Some(file)) => (None, Some(file.clone())),
        (None, None) => (read_token(None)?, None),
    };
    let access = Arc::new(Access::load(AccessOptions {
        token,
        token_file,
        tokens: args.tokens.clone(),
        trusted_proxies: args.trusted_proxy.clone(),
    })?);
    let tls = match (args.tls_cert, args.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(Arc::new(Tls::load(TlsFiles { certificate, key, client_ca: args.client_ca })?))
        }
        _ => None,
    };
    let asks_for_certificate = tls.as_ref().is_some_and(|tls| tls.asks_for_certificate());
    let protected = access.needs_token() || asks_for_certificate;
    if !protected && !args.insecure && !args.bind.is_loopback() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("anybody who reaches {} could write into {}", args.bind, args.base_folder.display()),
        )
        .hint(
            "give --token-file FILE, TARLIKE_TOKEN, --tokens FILE or --client-ca FILE, or --insecure if the network is yours alone",
        ));
    }
    if !protected && !args.insecure && settings.incomplete {
        return Err(Error::new(
            ErrorKind::Usage,
            "no token is given, and one may be among the settings that could not be taken from the file of settings",
        )
        .hint("mend that file (see the warnings above), give --token-file FILE or --tokens FILE, or --insecure"));
    }
    if args.insecure && !protected {
        output.notice(Notice::Warning(
            "--insecure: everybody who can reach this address may write here".to_string(),
        ));
    }
    if access.needs_token() && access.is_empty() {
        output.notice(Notice::Warning(
            "the tokens file has no token, so nobody is served until there is one: tar-like token new"
                .to_string(),
        ));
    }
    std::fs::create_dir_all(&args.base_folder)
        .map_err(|e| Error::io(format!("cannot make the base folder {}", args.base_folder.display()), e))?;
    refuse_settings_of_senders(settings, &args.base_folder)?;
    let address = SocketAddr::new(args.bind, args.port);
    let listener = TcpListener::bind(address).await.map_err(|e| {
        Error::io(format!("cannot listen on {address}"), e)
            .hint("is another proxy running? give another port")
    })?;
    let base = args.base_folder.clone();
    let options = ReceiverOptions { legacy: args.legacy, max_index_bytes: args.max_index_size };
    let database = args.database.clone();
    let open = move || -> Result<Arc<Receiver>> {
        let receiver = Receiver::open(&base, options)?;
        if let Some(database) = &database {
            take_shared_index(&receiver, database)?;
        }
        Ok(receiver)
    };
    let options = ServerOptions {
        tls,
        max_block_bytes: args.max_block_size,
        max_index_bytes: args.max_index_size,
        max_inflight: usize::from(args.max_inflight),
        // Who restarts it is there, and waits: a receiver that refuses everything would only stand in its way.
        stop_degraded: args.standby,
        ..ServerOptions::new(access.clone())
    };
    let address = listener.local_addr().map_err(|e| Error::io("cannot ask for the address", e))?;
    let url = format!("{}://{address}", if options.tls.is_some() { "https" } else { "http" });
    // The handlers stand before anybody learns the address: a stop right after it must be a graceful one.
    let stop = std::pin::pin!(stop_signal());
    let fresh = Fresh::begin(access, options.tls.clone(), output.clone());
    let listening = || {
        output.announce(&format!("listening on {url}"), &json!({"event": "listening", "url": url}));
        super::systemd::ready();
    };
    let receiver = if args.standby {
        listening();
        server::run_when_open(listener, open_when_free(open, output), options, stop).await?
    } else {
        let receiver = opened(tokio::task::spawn_blocking(open).await)?;
        listening();
        server::run(listener, receiver.clone(), options, stop).await?;
        Some(receiver)
    };
    drop(fresh);
    let counted = receiver.as_ref().map(|receiver| &receiver.counters);
    let (blocks, files) = counted.map_or((0, 0), |c| (c.blocks.get(), c.files_published.get()));
    Ok(Outcome {
        command: "proxy",
        exit: 0,
        text: format!("stopped; {blocks} blocks received, {files} files published"),
        fields: json!({"blocks": blocks, "files_published": files}),
    })
}

/// A file of settings that a sender may have sent says nothing here.
fn refuse_settings_of_senders(settings: &Settings, base: &Path) -> Result<()> {
    let Some(file) = &settings.file else { return Ok(()) };
    let (Ok(real), Ok(base)) = (file.canonicalize(), base.canonicalize()) else { return Ok(()) };
    // Also one that leads out of it by a link: the link may have been sent.
    let inside = |path: &Path| path.starts_with(&base);
    let folder = file.parent().and_then(|folder| folder.canonicalize().ok());
    if !inside(&real) && !folder.is_some_and(|folder| inside(&folder)) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!("the settings in {} lie in the base folder: a sender may have written them", file.display()),
    )
    .hint("give another HOME or base folder, or TARLIKE_RC= for no file of settings"))
}

fn opened<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.map_err(|e| Error::new(ErrorKind::Internal, "the start crashed").because(e))?
}

/// Opens the receiver as soon as no other one has its folder.
async fn open_when_free(
    open: impl Fn() -> Result<Arc<Receiver>> + Clone + Send + 'static,
    output: &Output,
) -> Result<Arc<Receiver>> {
    let mut waits = false;
    loop {
        match opened(tokio::task::spawn_blocking(open.clone()).await) {
            Err(e) if e.kind() == ErrorKind::InUse => {
                if !std::mem::replace(&mut waits, true) {
                    let text = "standing by: another receiver uses the base folder";
                    output.announce(text, &json!({"event": "standby"}));
                }
            }
            outcome => {
                if outcome.is_ok() {
                    output.announce("receiving", &json!({"event": "receiving"}));
                }
                return outcome;
            }
        }
        // By chance, since two that try at once can keep the folder from each other.
        let wait_ms = rand::rng().random_range(100..500);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// An index that reached this host by another way. It never replaces what a sender put.
fn take_shared_index(receiver: &Arc<Receiver>, database: &Path) -> Result<()> {
    if !database.exists() {
        tracing::info!("{} is not there; waiting for a sender's index", database.display());
        return Ok(());
    }
    let digest = IndexReader::open(database)?.summary()?.digest;
    match receiver.status(0, 1, 0) {
        Ok(status) if status.digest != digest.to_string() => {
            tracing::warn!(
                "archive 0 has another index than {}; the one that a sender put stays",
                database.display()
            );
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(_) => receiver.put_index(0, database, Some(&digest), None).map(drop),
    }
}
