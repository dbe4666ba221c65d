//! `tar-like proxy`

use super::address::{is_filled_by_others, refuse_remote};
use super::bind::BindAddress;
use super::credential_reloader::CredentialReloader;
use super::local_receiver::tell_in_use;
use super::output::{Outcome, Output, counted};
use super::settings::Settings;
use super::{args, connect::read_token, signals::stop_signal, stdio};
use crate::archive::slice::Slice;
use crate::archive::source::SourceClaim;
use crate::db::index_read::IndexReader;
use crate::engine::identity::identity_of_index;
use crate::engine::receive::{Receiver, ReceiverOptions, SliceOptions, WholeOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::receiver_address;
use crate::server::{self, Access, AccessOptions, Network, ServerOptions, Tls, TlsFiles};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use rand::RngExt;
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

const EXAMPLES: &str = "\
Partial files and the receiver's journal are in FOLDER/.tar-like; with --state, the journal is
there. All other files in FOLDER are complete and verified. If there is a token, every request needs
it, except those for /healthz and /readyz. The proxy reads changed token files within seconds, and
changed certificates on SIGHUP. If a changed file is invalid, its previous content stays in use.

Examples:
  tar-like proxy -b /srv/copy
  tar-like proxy 8000 -b /srv/copy --bind 0.0.0.0 --token-file /etc/tar-like.token
  tar-like proxy -b /mnt/nfs/copy --state /var/lib/tar-like/copy
  tar-like proxy 8002 -b /srv/copy --standby          wait until the other proxy on it ends
  tar-like proxy -b /srv/copy --bind 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --tokens tokens

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 error, 2 wrong usage, 4 storage failed (with
--standby).";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ProxyArgs {
    /// The port to listen on; 0 takes a free one
    #[arg(value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// The folder to receive into; a missing one is made
    #[arg(short, long, value_name = "FOLDER", default_value = "tmp/recv")]
    base_folder: PathBuf,
    /// A folder of this host for the journal and the copies of indexes, instead of
    /// BASE/.tar-like: needed where the base folder is on a network file system
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Use this index for archive 0 unless a sender has put one, also -db
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// The address to listen on; every address but loopback needs a token or --insecure
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    bind: BindAddress,
    /// A file with the token that senders must give [default: environment TARLIKE_TOKEN]
    #[arg(long, value_name = "FILE", env = "TARLIKE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// A file with hashes of several tokens and what each one allows; see tar-like token new
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Serve HTTPS with this certificate: a PEM file with the certificate of the server first, then
    /// the intermediate ones
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve only senders with a certificate signed by one of the CAs in this PEM file; then no
    /// token is needed
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Trust X-Forwarded-For from this address or network; may be given several times
    #[arg(long, value_name = "ADDRESS", value_parser = clap::value_parser!(Network))]
    trusted_proxy: Vec<Network>,
    /// Serve every client that can reach the address, without a token
    #[arg(long)]
    insecure: bool,
    /// Also serve senders that know only the original protocol
    #[arg(long)]
    legacy: bool,
    /// Wait while another receiver uses the base folder, and take over when that one ends; stop
    /// when storage fails
    #[arg(long)]
    standby: bool,
    /// Be one of N receivers that share the base folder, which all of them have mounted: I/N, from
    /// 1/N to N/N
    #[arg(long, value_name = "I/N", conflicts_with = "legacy")]
    slice: Option<Slice>,
    /// The addresses at which senders reach the slices, in their order and separated by commas;
    /// without them, senders reach all slices by the address of the first one
    #[arg(long, value_name = "URL,URL", value_delimiter = ',', requires = "slice")]
    peers: Vec<String>,
    /// How many bytes of the archive go to one slice before it is the next one's turn; the same for
    /// all slices
    #[arg(long, value_name = "BYTES", default_value = "16M", value_parser = args::some_bytes)]
    stripe_size: u64,
    /// Serve the one sender that holds standard input and output, and end with it. A sender starts
    /// this over ssh by itself, and says which folder it wants
    #[arg(long, conflicts_with_all = ["slice", "standby", "legacy", "state", "database", "tls_cert"])]
    stdio: bool,
    /// The largest block to accept, in bytes; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(long, value_name = "BYTES", default_value = "256M", value_parser = args::some_bytes)]
    max_block_size: u64,
    /// The largest index to accept, in bytes
    #[arg(long, value_name = "BYTES", default_value = "16G", value_parser = args::some_bytes)]
    max_index_size: u64,
    /// How many blocks may be in memory at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    max_inflight: u16,
}

pub(super) async fn run(args: ProxyArgs, settings: &Settings, output: &Arc<Output>) -> Result<Outcome> {
    if args.stdio {
        return stdio::run(args.max_index_size, output).await;
    }
    let peers = checked_peers(&args)?;
    let access = Arc::new(load_access(&args, output)?);
    let tls = load_tls(&args)?.map(Arc::new);
    check_protection(&args, &access, tls.as_deref(), settings, output)?;
    refuse_remote(&args.base_folder).map_err(|e| {
        e.with_hint("a receiver writes into a folder of its own host; a name with a colon is given as ./NAME")
    })?;
    std::fs::create_dir_all(&args.base_folder)
        .map_err(|e| Error::io(format!("cannot make the base folder {}", args.base_folder.display()), e))?;
    refuse_settings_of_senders(settings, &args.base_folder)?;
    if is_filled_by_others(&args.base_folder) {
        output.notice(Notice::Warning(format!(
            "{} has entries that no run of tar-like has put there; sync --adopt takes them for a copy",
            args.base_folder.display()
        )));
    }
    let address = args.bind.with_port(args.port);
    let listener = TcpListener::bind(address).await.map_err(|e| {
        Error::io(format!("cannot listen on {address}"), e)
            .with_hint("does another proxy run? Then give another port")
    })?;
    let options = ServerOptions {
        tls: tls.clone(),
        max_block_bytes: args.max_block_size,
        max_index_bytes: args.max_index_size,
        max_inflight: usize::from(args.max_inflight),
        max_connections: max_connections(),
        peers,
        // A receiver that refuses everything would only stand in the way of the one that waits.
        stop_degraded: args.standby,
        ..ServerOptions::new(access.clone())
    };
    // Signals are handled before the address is announced: a stop right after that must be a
    // graceful one.
    let signal = stop_signal();
    let stop = std::pin::pin!(async {
        signal.await;
        tracing::info!("stopping: finishing what is in flight");
    });
    let reloader = CredentialReloader::start(access, tls, output.clone());
    let receiver = serve(&args, listener, options, stop, output).await?;
    drop(reloader);
    let totals = receiver.as_ref().map(|receiver| &receiver.counters);
    let (blocks, files) = totals.map_or((0, 0), |c| (c.blocks.get(), c.files_published.get()));
    Ok(Outcome {
        command: "proxy",
        exit: 0,
        text: format!("stopped; {} received, {} published", counted(blocks, "block"), counted(files, "file")),
        fields: json!({"blocks": blocks, "files_published": files}),
    })
}

/// Receives until it is stopped; gives the receiver, if it was ever opened.
async fn serve(
    args: &ProxyArgs,
    listener: TcpListener,
    options: ServerOptions,
    stop: impl Future<Output = ()>,
    output: &Arc<Output>,
) -> Result<Option<Arc<Receiver>>> {
    let address = listener.local_addr().map_err(|e| Error::io("cannot ask for the address", e))?;
    let url = format!("{}://{address}", if options.tls.is_some() { "https" } else { "http" });
    let listening = || {
        output.announce(&format!("listening on {url}"), &json!({"event": "listening", "url": url}));
        super::systemd::ready();
    };
    let base = args.base_folder.clone();
    let stripe_bytes = args.stripe_size;
    let receiver_options = ReceiverOptions {
        legacy: args.legacy,
        max_index_bytes: args.max_index_size,
        state: args.state.clone(),
        slice: args.slice.map(|slice| SliceOptions { slice, stripe_bytes }),
    };
    let database = args.database.clone();
    let (standby, theirs) = (args.standby, output.clone());
    let open = move || -> Result<Arc<Receiver>> {
        let receiver = match standby {
            true => Receiver::open(&base, receiver_options.clone())?,
            false => {
                Receiver::open_when_free(&base, receiver_options.clone(), || tell_in_use(&base, &theirs))
                    .map_err(|e| if e.kind() == ErrorKind::InUse { e.with_hint(IN_USE_HINT) } else { e })?
            }
        };
        if let Some(database) = &database {
            take_shared_index(&receiver, database)?;
        }
        Ok(receiver)
    };
    if args.standby {
        listening();
        return server::run_when_open(listener, open_when_free(open, output), options, stop).await;
    }
    let receiver = opened(tokio::task::spawn_blocking(open).await)?;
    listening();
    server::run(listener, receiver.clone(), options, stop).await?;
    Ok(Some(receiver))
}

/// The addresses of all slices, in their order.
fn checked_peers(args: &ProxyArgs) -> Result<Vec<String>> {
    let count = args.slice.map_or(0, Slice::count);
    let given = args.peers.len() as u64;
    if given == 0 {
        return Ok(Vec::new());
    }
    let wrong = |what: String| {
        Error::new(ErrorKind::Usage, what).with_hint(
            "give the address of each slice, in their order: --peers http://HOST:8000,http://HOST-2:8000",
        )
    };
    if given != count {
        let (given, slices) = (counted(given, "address"), counted(count, "slice"));
        return Err(wrong(format!("--peers has {given}, and there are {slices}")));
    }
    let mut peers: Vec<String> = Vec::new();
    for (number, peer) in (1..).zip(&args.peers) {
        let address = match peer.trim() {
            "" => return Err(wrong(format!("--peers has no address for slice {number}/{count}"))),
            peer => {
                receiver_address(peer).map_err(|e| wrong(format!("--peers, slice {number}/{count}: {e}")))?
            }
        };
        if let Some(other) = peers.iter().position(|other| *other == address) {
            let what =
                format!("--peers has {address} for slice {}/{count} and slice {number}/{count}", other + 1);
            return Err(wrong(what));
        }
        peers.push(address);
    }
    Ok(peers)
}

/// The tokens that senders may give.
fn load_access(args: &ProxyArgs, output: &Output) -> Result<Access> {
    let (token, token_file) = match (&args.tokens, &args.token_file) {
        (Some(_), file) => {
            // A single token allows everything for ever. Mostly it is the sender's own, set for the
            // same user.
            if file.is_some() || std::env::var_os("TARLIKE_TOKEN").is_some() {
                output.notice(Notice::Warning(
                    "with --tokens, only the tokens of that file are valid; the one of --token-file, TARLIKE_TOKEN_FILE or TARLIKE_TOKEN is not"
                        .to_string(),
                ));
            }
            (None, None)
        }
        (None, Some(file)) => (None, Some(file.clone())),
        (None, None) => (read_token(None)?, None),
    };
    let access = Access::load(AccessOptions {
        token,
        token_file,
        tokens: args.tokens.clone(),
        trusted_proxies: args.trusted_proxy.clone(),
    })?;
    if access.needs_token() && access.is_empty() {
        output.notice(Notice::Warning(
            "the tokens file has no token, so every request is refused; make one with: tar-like token new"
                .to_string(),
        ));
    }
    Ok(access)
}

fn load_tls(args: &ProxyArgs) -> Result<Option<Tls>> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    let files =
        TlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca: args.client_ca.clone() };
    Tls::load(files).map(Some)
}

/// Refuses to serve everybody unless the user wants that.
fn check_protection(
    args: &ProxyArgs,
    access: &Access,
    tls: Option<&Tls>,
    settings: &Settings,
    output: &Output,
) -> Result<()> {
    if access.needs_token() || tls.is_some_and(Tls::asks_for_certificate) {
        return Ok(());
    }
    if args.insecure {
        output.notice(Notice::Warning(
            "--insecure: everybody who can reach this address may write here".to_string(),
        ));
        return Ok(());
    }
    if !args.bind.ip.is_loopback() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("everybody who reaches {} could write into {}", args.bind.ip, args.base_folder.display()),
        )
        .with_hint(
            "give --token-file FILE, TARLIKE_TOKEN, --tokens FILE or --client-ca FILE; or --insecure if only you can reach the network",
        ));
    }
    if settings.incomplete {
        return Err(Error::new(
            ErrorKind::Usage,
            "no token is given; there may be one among the settings that could not be taken from the settings file",
        )
        .with_hint("mend that file (see the warnings above), give --token-file FILE or --tokens FILE, or --insecure"));
    }
    Ok(())
}

/// How many connections may be open. The other half of the descriptors is for files.
fn max_connections() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let most = usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS) / 2).unwrap_or(usize::MAX);
    most.clamp(MIN_CONNECTIONS, server::MAX_CONNECTIONS)
}

/// About how many descriptors a receiver needs without any connection.
const RESERVED_DESCRIPTORS: u64 = 128;
/// The smallest number of connections that is of use.
const MIN_CONNECTIONS: usize = 16;

/// Refuses a settings file that a sender may have sent.
fn refuse_settings_of_senders(settings: &Settings, base: &Path) -> Result<()> {
    settings.files.iter().try_for_each(|file| refuse_file_of_senders(&file.path, base))
}

fn refuse_file_of_senders(file: &Path, base: &Path) -> Result<()> {
    let (Ok(real), Ok(base)) = (file.canonicalize(), base.canonicalize()) else { return Ok(()) };
    // A link in the base folder that leads out of it is refused, too: a sender may have made the
    // link.
    let inside = |path: &Path| path.starts_with(&base);
    let folder = file.parent().and_then(|folder| folder.canonicalize().ok());
    if !inside(&real) && !folder.is_some_and(|folder| inside(&folder)) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Usage,
        format!(
            "the settings file {} lies in the base folder, so a sender may have written it",
            file.display()
        ),
    )
    .with_hint("give another HOME or base folder, or TARLIKE_RC= to use no settings file"))
}

fn opened<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.map_err(|e| Error::new(ErrorKind::Internal, "the start crashed").with_source(e))?
}

const IN_USE_HINT: &str = "stop the other one, or give this one its own base folder, or start it with --standby: then it takes over when \
                           the other one ends";

/// Opens the receiver as soon as no other receiver uses its folder.
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
        // A random time, because two that try at the same time may refuse each other.
        let wait_ms = rand::rng().random_range(100..500);
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// Takes an index that reached this host without a sender. It never replaces an index that a sender
/// has put.
fn take_shared_index(receiver: &Arc<Receiver>, database: &Path) -> Result<()> {
    if !database.exists() {
        tracing::info!("{} does not exist; waiting for the index of a sender", database.display());
        return Ok(());
    }
    let digest = IndexReader::open(database)?.summary()?.digest;
    match receiver.status(0, 1, 0, false) {
        Ok(status) if status.digest != digest.to_string() => {
            tracing::warn!(
                "archive 0 has another index than {}; the index that a sender has put stays",
                database.display()
            );
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(_) => {
            let source = identity_of_index(database, false)?;
            let claim = SourceClaim { source, replaces: false };
            receiver.put_index(0, database, Some(&digest), &WholeOptions::default(), &claim).map(drop)
        }
    }
}
