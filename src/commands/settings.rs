//! Where settings come from: flags, then the environment, then `~/.tar_like_rc`, then defaults.
//!
//! What only the file says has to reach clap, the AWS SDK, the HTTP client and the TLS library alike, and all of them read the
//! environment, which a program cannot safely change once it runs. So the program starts itself once more, as the same process, with
//! these variables added; [`MARKER`] tells the second start where they are from.

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

/// More is no file of settings.
const MAX_BYTES: u64 = 1 << 20;

/// More warnings help nobody.
const MAX_WARNINGS: usize = 20;

/// A variable that is read elsewhere than by a flag's definition.
pub(super) struct Variable {
    pub(super) name: &'static str,
    /// What counts without it, for people.
    pub(super) default: &'static str,
}

/// All of them; those of flags are in the flags' definitions.
pub(super) const VARIABLES: &[Variable] = &[
    Variable { name: "LOGLEVEL", default: "WARNING" },
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

/// Variables of the container scripts; the program has no use for them.
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

/// Of each of these groups all are taken from one place: a key of the environment does not go with a token of the file, and what
/// the environment names by one spelling, the file does not overrule by another.
const GROUPS: &[&[&str]] = &[
    &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"],
    &["TARLIKE_TOKEN", "TARLIKE_TOKEN_FILE"],
    &["AWS_REGION", "AWS_DEFAULT_REGION"],
    &["http_proxy", "HTTP_PROXY"],
    &["https_proxy", "HTTPS_PROXY"],
    &["all_proxy", "ALL_PROXY"],
    &["no_proxy", "NO_PROXY"],
];

/// What was found out about the file of settings.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Settings {
    /// A later program that inherits the environment is another process, to which this says nothing.
    process: u32,
    /// The file, if there is one.
    pub(super) file: Option<PathBuf>,
    /// The variables that are from it, and in which line they are.
    lines: BTreeMap<String, usize>,
    /// Something of it was not understood, or it may not be read: a setting may be missing.
    pub(super) incomplete: bool,
    /// What the user should know of it.
    pub(super) warnings: Vec<String>,
}

impl Settings {
    /// Reads the file that `arguments` or the environment name, and starts the program again if it says anything new; then this
    /// does not return. `known` are the variables that flags have.
    ///
    /// # Errors
    /// The file that was asked for cannot be read, or is none of settings.
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
                settings.warnings.push(format!("{e}; nothing is taken from it"));
                settings.incomplete = true;
                return Ok(settings);
            }
        };
        let new = settings.take(&path, &text, known, |name| std::env::var_os(name));
        if exposed && new.iter().any(|(name, _)| is_secret(name)) {
            settings.warnings.push(format!(
                "everybody on this host can read the secrets in {0}; protect it by: chmod 600 {0}",
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

    /// The line of the file that a variable is from.
    pub(super) fn line_of(&self, name: &str) -> Option<usize> {
        self.lines.get(name).copied()
    }

    /// What of a file counts: names and values that go into the environment.
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
            .map(|(line, why)| (line, format!("{}: not taken, since it {why}", at(line))))
            .collect();
        let mut taken = BTreeMap::new();
        for assignment in found.assignments {
            let (name, line) = (assignment.name, assignment.line);
            if name == "TARLIKE_RC" {
                warnings.push((line, format!("{}: {name} counts in the environment only", at(line))));
            } else if OF_SCRIPTS.contains(&&*name) || !is_ours(&name) {
                // Nothing to say.
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

    /// Becomes the same program with more variables; returns only if that fails.
    fn start_again(&self, arguments: &[OsString], new: Vec<(String, OsString)>) -> Error {
        // By its name, as long as there is such a file: so the process keeps its name, too.
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
                    .hint("set the variables in the environment, and TARLIKE_RC to nothing")
            }
            Err(e) => Error::new(ErrorKind::Internal, "cannot pass the settings on").because(e),
        }
    }
}

/// Whether a variable has something to say to the program or the libraries in it. Others of the file, such as PATH, are not ours to set.
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

/// Whether the value of a variable is shown to nobody.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    // The name of a file is none.
    let ends = ["TOKEN", "SECRET", "PASSWORD", "_KEY", "_KEY_ID"];
    name == "TARLIKE_TOKEN" || name.starts_with("AWS_") && ends.iter().any(|end| name.ends_with(end))
}

/// The file that is asked for; it is needed before clap can be asked.
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

/// The text of the file, and whether everybody may read it; `None` if there is none and nobody asked for it.
fn read(path: &Path, asked_for: bool) -> Result<Option<(Vec<u8>, bool)>> {
    let failed = |e: std::io::Error| {
        Error::io(format!("cannot read the settings in {}", path.display()), e).with_kind(ErrorKind::Usage)
    };
    let refused = |why: &str, hint: &str| {
        Err(Error::new(ErrorKind::Usage, format!("{} {why}", path.display())).hint(hint))
    };
    // Not opened before it is known what it is: a FIFO would make everything wait.
    let kind = match path.metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !asked_for => return Ok(None),
        other => other.map_err(failed)?,
    };
    if kind.is_dir() || !asked_for && !kind.is_file() {
        return refused("is no file of settings", "give --rc-file FILE, or --rc-file '' for none");
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let us = rustix::process::geteuid().as_raw();
    if meta.is_file() && meta.mode() & 0o002 != 0 {
        return refused("may be written by everybody on this host", "take that right away: chmod o-w FILE");
    }
    if !asked_for && meta.uid() != us && meta.uid() != 0 {
        return refused(
            "belongs to another user",
            "if it is to count all the same, name it by --rc-file FILE",
        );
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return refused("is too large for a file of settings", "give another one by --rc-file FILE");
    }
    Ok(Some((text, meta.is_file() && meta.mode() & 0o004 != 0)))
}
