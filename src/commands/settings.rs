//! Settings come from flags, then the environment, then `~/.tar_like_rc`, then defaults.
//!
//! Clap, the AWS SDK, the HTTP client and the TLS library read the environment, which a running
//! program cannot change safely. So the program adds the settings of the file to the environment
//! and starts itself once more in the same process (`exec`). [`MARKER`] tells the second start
//! which variables came from the file.

use super::rc_file;
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

/// The variable in which the first start tells the second one what it did.
const MARKER: &str = "TARLIKE_RC_READ";

/// The largest settings file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// How many warnings about the settings file are shown.
const MAX_WARNINGS: usize = 20;

/// A variable that does not belong to a flag.
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// The default, as `tar-like config` shows it.
    pub(super) default: &'static str,
}

/// All variables that do not belong to a flag.
pub(super) const VARIABLES: &[Variable] = &[
    Variable { name: "LOGLEVEL", default: "WARNING" },
    Variable { name: "DEBUG", default: "" },
    Variable { name: "TARLIKE_TOKEN", default: "" },
    Variable { name: "TARLIKE_S3_TLS_VERIFY", default: "yes" },
    Variable { name: "AWS_ACCESS_KEY_ID", default: "" },
    Variable { name: "AWS_SECRET_ACCESS_KEY", default: "" },
    Variable { name: "AWS_SESSION_TOKEN", default: "" },
    Variable { name: "AWS_PROFILE", default: "default" },
    Variable { name: "AWS_REGION", default: "the profile's, or us-east-1" },
    Variable { name: "SSL_CERT_FILE", default: "the system's" },
    Variable { name: "http_proxy", default: "" },
    Variable { name: "https_proxy", default: "" },
    Variable { name: "no_proxy", default: "" },
    Variable { name: "TMPDIR", default: "/tmp" },
];

/// Variables of the container scripts. The program ignores them.
const OF_SCRIPTS: &[&str] = &[
    "TARLIKE_ENGINE",
    "TARLIKE_IMAGE",
    "TARLIKE_HAPROXY_IMAGE",
    "TARLIKE_USER",
    "TARLIKE_SECRETS",
    "TARLIKE_BASE",
    "TARLIKE_MEMORY",
    "TARLIKE_MAX_INFLIGHT",
    "TARLIKE_MAX_BLOCK_SIZE",
    "TARLIKE_CPUS",
    "TARLIKE_NET",
];

/// The variables of one group are taken from one place: if the environment sets one of them, the
/// file sets none. So a key of the environment is not combined with a token of the file, and
/// another spelling in the file does not override the environment.
const GROUPS: &[&[&str]] = &[
    &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"],
    &["TARLIKE_TOKEN", "TARLIKE_TOKEN_FILE"],
    &["AWS_REGION", "AWS_DEFAULT_REGION"],
    &["http_proxy", "HTTP_PROXY"],
    &["https_proxy", "HTTPS_PROXY"],
    &["all_proxy", "ALL_PROXY"],
    &["no_proxy", "NO_PROXY"],
];

/// The settings file as it was read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Settings {
    /// The id of the process for which this was written. Child processes inherit the variable, and
    /// ignore it.
    process: u32,
    /// The path of the file, if it exists.
    pub(super) file: Option<PathBuf>,
    /// The variables that come from it, with their line numbers.
    lines: BTreeMap<String, usize>,
    /// A part of it was not understood, or it could not be read. A setting may be missing.
    pub(super) incomplete: bool,
    /// Warnings for the user.
    pub(super) warnings: Vec<String>,
}

impl Settings {
    /// Reads the file that `arguments` or the environment name. If it sets new variables, the
    /// program is started again and this does not return. `known` tells whether a flag has this
    /// variable.
    ///
    /// # Errors
    /// The named file cannot be read, or is not a settings file.
    pub(super) fn load(arguments: &[OsString], known: &dyn Fn(&str) -> bool) -> Result<Self> {
        let process = std::process::id();
        if let Some(text) = std::env::var(MARKER).ok()
            && let Ok(settings) = serde_json::from_str::<Self>(&text)
            && settings.process == process
        {
            return Ok(settings);
        }
        let mut settings = Self { process, ..Self::default() };
        let (path, asked_for) = match which(arguments, std::env::var_os("TARLIKE_RC")) {
            Some(path) if path.is_empty() => return Ok(settings),
            Some(path) => (PathBuf::from(path), true),
            None => match std::env::var_os("HOME").filter(|home| !home.is_empty()) {
                Some(home) => (Path::new(&home).join(".tar_like_rc"), false),
                None => return Ok(settings),
            },
        };
        let (text, exposed) = match read(&path, asked_for) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(settings),
            Err(e) if asked_for => return Err(e),
            Err(e) => {
                settings.warnings.push(format!("{e}; its settings are ignored"));
                settings.incomplete = true;
                return Ok(settings);
            }
        };
        let new = settings.take(&path, &text, known, |name| std::env::var_os(name));
        if exposed && new.iter().any(|(name, _)| is_secret(name)) {
            settings.warnings.push(format!(
                "every user of this host can read the secrets in {0}; protect them with: chmod 600 {0}",
                path.display()
            ));
        }
        let more = settings.warnings.len().saturating_sub(MAX_WARNINGS);
        if more > 0 {
            settings.warnings.truncate(MAX_WARNINGS);
            settings.warnings.push(format!("{}: {more} more warnings", path.display()));
        }
        settings.file = Some(path);
        if new.is_empty() { Ok(settings) } else { Err(settings.start_again(arguments, new)) }
    }

    /// The line of the file that sets the variable.
    pub(super) fn line_of(&self, name: &str) -> Option<usize> {
        self.lines.get(name).copied()
    }

    /// The names and values of the file that go into the environment.
    fn take(
        &mut self,
        path: &Path,
        text: &[u8],
        known: &dyn Fn(&str) -> bool,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Vec<(String, OsString)> {
        let found = rc_file::parse(text, &environment);
        self.incomplete |= !found.refused.is_empty();
        let at = |line: usize| format!("{}, line {line}", path.display());
        let mut warnings: Vec<(usize, String)> = found
            .refused
            .into_iter()
            .map(|(line, why)| (line, format!("{}: ignored, because it {why}", at(line))))
            .collect();
        let mut taken = BTreeMap::new();
        for assignment in found.assignments {
            let (name, line) = (assignment.name, assignment.line);
            if name == "TARLIKE_RC" {
                warnings.push((line, format!("{}: {name} has an effect only in the environment", at(line))));
            } else if OF_SCRIPTS.contains(&&*name) || !is_ours(&name) {
                // They are not for this program.
            } else if name.starts_with("TARLIKE_") && !is_variable(&name) && !known(&name) {
                warnings.push((line, format!("{}: there is no setting {name}", at(line))));
            } else {
                taken.insert(name, (assignment.value, line));
            }
        }
        warnings.sort();
        self.warnings.extend(warnings.into_iter().map(|(_, text)| text));
        let set = |name: &str| environment(name).is_some();
        taken.retain(|name, _| {
            let group = GROUPS.iter().find(|group| group.contains(&&**name));
            !set(name) && !group.is_some_and(|group| group.iter().any(|rival| set(rival)))
        });
        self.lines = taken.iter().map(|(name, (_, line))| (name.clone(), *line)).collect();
        taken.into_iter().map(|(name, (value, _))| (name, value)).collect()
    }

    /// Replaces this process by the same program with more variables. Returns only if that fails.
    fn start_again(&self, arguments: &[OsString], new: Vec<(String, OsString)>) -> Error {
        // Started by its path, the process keeps its name.
        let program = std::env::current_exe()
            .ok()
            .filter(|path| path.exists())
            .unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let mut again = std::process::Command::new(program);
        let mut arguments = arguments.iter();
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        again.args(arguments).envs(new);
        match serde_json::to_string(self) {
            Ok(text) => {
                Error::io("cannot start again with the settings of the file", again.env(MARKER, text).exec())
                    .with_hint("set the variables in the environment, and TARLIKE_RC to an empty text")
            }
            Err(e) => Error::new(ErrorKind::Internal, "cannot pass the settings on").with_source(e),
        }
    }
}

/// Whether the program or one of its libraries reads the variable. Other variables of the file,
/// such as PATH, are not set.
fn is_ours(name: &str) -> bool {
    let proxy =
        matches!(&*name.to_ascii_lowercase(), "http_proxy" | "https_proxy" | "all_proxy" | "no_proxy");
    proxy
        || name.starts_with("TARLIKE_")
        || name.starts_with("AWS_")
        || name == "SSL_CERT_DIR"
        || is_variable(name)
}

fn is_variable(name: &str) -> bool {
    VARIABLES.iter().any(|variable| variable.name == name)
}

/// Whether the value of a variable must not be shown.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    // TARLIKE_TOKEN_FILE holds the path of a file, which is no secret.
    let ends = ["TOKEN", "SECRET", "PASSWORD", "_KEY", "_KEY_ID"];
    name == "TARLIKE_TOKEN" || name.starts_with("AWS_") && ends.iter().any(|end| name.ends_with(end))
}

/// The settings file that the user names. It is needed before clap parses the command line.
fn which(arguments: &[OsString], variable: Option<OsString>) -> Option<OsString> {
    let mut flag = None;
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            break;
        }
        if argument == "--rc-file" {
            flag = arguments.next().cloned();
        } else if let Some(path) = argument.as_bytes().strip_prefix(b"--rc-file=") {
            flag = Some(OsStr::from_bytes(path).to_owned());
        }
    }
    flag.or(variable)
}

/// The text of the file, and whether every user may read it. `None` if the default file does not
/// exist.
fn read(path: &Path, asked_for: bool) -> Result<Option<(Vec<u8>, bool)>> {
    let failed = |e: std::io::Error| {
        Error::io(format!("cannot read the settings in {}", path.display()), e).with_kind(ErrorKind::Usage)
    };
    let refused = |why: &str, hint: &str| {
        Err(Error::new(ErrorKind::Usage, format!("{} {why}", path.display())).with_hint(hint))
    };
    // Its type is checked before it is opened, because opening a FIFO would block.
    let kind = match path.metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !asked_for => return Ok(None),
        other => other.map_err(failed)?,
    };
    if kind.is_dir() || !asked_for && !kind.is_file() {
        return refused("is not a settings file", "give --rc-file FILE, or --rc-file '' for none");
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let us = rustix::process::geteuid().as_raw();
    if meta.is_file() && meta.mode() & 0o002 != 0 {
        return refused("can be written by every user of this host", "protect it with: chmod o-w FILE");
    }
    if !asked_for && meta.uid() != us && meta.uid() != 0 {
        return refused("belongs to another user", "to use it all the same, name it with --rc-file FILE");
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return refused("is too large for a settings file", "give another file with --rc-file FILE");
    }
    Ok(Some((text, meta.is_file() && meta.mode() & 0o004 != 0)))
}
