//! `tar-like token`

use super::output::{Outcome, Output};
use crate::error::{Error, ErrorKind, Result};
use crate::server::{Expiry, Scope, TOKENS_HEADER, TarIds, TokenEntry, parse_tokens};
use clap::{Args, Subcommand};
use rand::RngExt;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
The secret is written to standard output and stored nowhere. The tokens file gets a line with its
hash: with --tokens it is added to that file, otherwise it is written to standard error.

Examples:
  tar-like token new --name web1 --tokens /etc/tar-like.tokens > web1.token
  tar-like token new --name web2 --tar-id 2,3 --expires 2027-01-31 --tokens /etc/tar-like.tokens
  tar-like token new --name worker --scope upload,index --tokens /etc/tar-like.tokens > worker.token
  tar-like token new --name prometheus --scope metrics 2>> tokens > prometheus.token
To revoke a token, delete its line. A running proxy notices that within seconds.

Exit codes: 0 done, 1 error, 2 wrong usage.";

#[derive(Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token
    New(NewArgs),
}

#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct NewArgs {
    /// The name of the token, for the file and for messages
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What the token allows: upload (which includes status), index (to read the index, as a worker
    /// does), status, metrics; several are separated by commas
    #[arg(long, value_name = "SCOPES", default_value = "upload", value_delimiter = ',', value_parser = clap::value_parser!(Scope))]
    scope: Vec<Scope>,
    /// The archives that it is for, separated by commas, or * for all
    #[arg(long, value_name = "NUMBERS", default_value = "*", value_parser = clap::value_parser!(TarIds))]
    tar_id: TarIds,
    /// The last day (UTC) on which it is valid, or a time such as 2027-01-31T12:00:00Z [default:
    /// never expires]
    #[arg(long, value_name = "DATE", value_parser = clap::value_parser!(Expiry))]
    expires: Option<Expiry>,
    /// The tokens file to add it to. A missing file is made, readable for its owner only
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
}

/// Makes leaked secrets easy to find, also for scanners.
const SECRET_PREFIX: &str = "tarlike_";

pub(super) fn run(args: TokenArgs, output: &Arc<Output>) -> Result<Outcome> {
    let TokenCommand::New(args) = args.command;
    if args.expires.as_ref().is_some_and(Expiry::is_over) {
        return Err(Error::new(ErrorKind::Usage, "the token would be expired from the start"));
    }
    let mut secret = SECRET_PREFIX.to_string();
    for byte in rand::rng().random::<[u8; 32]>() {
        secret.push_str(&format!("{byte:02x}"));
    }
    let entry = TokenEntry::new(&args.name, &secret, &args.scope, args.tar_id, args.expires)?;
    if let Some(path) = &args.tokens {
        add(path, &entry)?;
    }
    output.data(
        &secret,
        || json!({"event": "token", "name": entry.name(), "secret": secret, "line": entry.to_string()}),
    )?;
    if args.tokens.is_none() {
        // Both lines have the form of lines of the tokens file.
        output.announce(
            &format!("# add this line to the proxy's --tokens FILE:\n{entry}"),
            &json!({"event": "line", "line": entry.to_string()}),
        );
    }
    Ok(Outcome { command: "token", exit: 0, text: "made a token".to_string(), fields: json!({}) })
}

/// Adds a line to a tokens file. A reader sees the file before or after that, and two processes
/// that add at the same time do not lose a line.
fn add(path: &Path, entry: &TokenEntry) -> Result<()> {
    let io = |e: std::io::Error| Error::io(format!("cannot add to the tokens file {}", path.display()), e);
    // The rename below must replace the file, not a symbolic link to it.
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => path.to_path_buf(),
        Err(e) => return Err(io(e)),
    };
    let mut file = open_locked(&path).map_err(io)?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io)?;
    if text.is_empty() {
        text.push_str(TOKENS_HEADER);
    } else if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("{entry}\n"));
    parse_tokens(&text).map_err(|e| {
        Error::new(ErrorKind::Usage, format!("cannot add to the tokens file {}: {e}", path.display()))
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut next = tempfile::Builder::new().prefix(".tar-like-tokens-").tempfile_in(folder).map_err(io)?;
    next.write_all(text.as_bytes()).map_err(io)?;
    // Users who could read the file before, above all the proxy's user, must be able to read it
    // afterwards.
    let before = file.metadata().map_err(io)?;
    let now = next.as_file().metadata().map_err(io)?;
    if (before.uid(), before.gid()) != (now.uid(), now.gid()) {
        fchown(next.as_file(), Some(before.uid()), Some(before.gid())).map_err(io)?;
    }
    next.as_file().set_permissions(Permissions::from_mode(before.mode() & 0o777)).map_err(io)?;
    next.as_file().sync_all().map_err(io)?;
    next.persist(&path).map_err(|e| io(e.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

/// Opens and locks the file, which is made if it is missing.
fn open_locked(path: &Path) -> std::io::Result<File> {
    loop {
        let file = File::options().read(true).append(true).create(true).mode(0o600).open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        // Another process may have replaced the file before the lock was taken.
        let (held, there) = (file.metadata()?, std::fs::metadata(path));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}
