//! Settings come from flags, then the environment, then `~/.tar_like_rc`, then
//! `/etc/tar-like.conf`, then defaults.
//!
//! Clap, the AWS SDK, the HTTP client and the TLS library read the environment, which a running
//! program cannot change safely. So the program adds the settings of the files to the environment
//! and starts itself once more in the same process (`exec`). [`MARKER`] tells the second start
//! which variables came from the files.

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

/// The settings of all users of this host.
const SYSTEM_FILE: &str = "/etc/tar-like.conf";

/// The variable that names another file instead, or with an empty text none.
const SYSTEM_FILE_VARIABLE: &str = "TARLIKE_SYSTEM_CONF";

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
    Variable { name: "NO_COLOR", default: "" },
    Variable { name: "TARLIKE_TOKEN", default: "" },
    Variable { name: "TARLIKE_QUEUE_PASSWORD", default: "" },
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
    Variable { name: "XDG_STATE_HOME", default: "~/.local/state" },
    Variable { name: "XDG_CACHE_HOME", default: "~/.cache" },
    Variable { name: SYSTEM_FILE_VARIABLE, default: SYSTEM_FILE },
];

/// Variables of the container scripts. The program ignores them.
pub(super) const OF_SCRIPTS: &[&str] = &[
    "TARLIKE_ENGINE",
    "TARLIKE_IMAGE",
    "TARLIKE_HAPROXY_IMAGE",
    "TARLIKE_QUEUE_IMAGE",
    "TARLIKE_HOST",
    "TARLIKE_USER",
    "TARLIKE_SECRETS",
    "TARLIKE_BASE",
    "TARLIKE_MEMORY",
    "TARLIKE_CPUS",
    "TARLIKE_NET",
];

/// The variables of one group are taken from one place: if the environment sets one of them, the
/// file sets none. So a key of the environment is not combined with a token of the file, and
/// another spelling in the file does not override the environment.
const GROUPS: &[&[&str]] = &[
    &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"],
    &["TARLIKE_TOKEN", "TARLIKE_TOKEN_FILE"],
    &["TARLIKE_QUEUE_PASSWORD", "TARLIKE_QUEUE_PASSWORD_FILE"],
    &["AWS_REGION", "AWS_DEFAULT_REGION"],
    &["http_proxy", "HTTP_PROXY"],
    &["https_proxy", "HTTPS_PROXY"],
    &["all_proxy", "ALL_PROXY"],
    &["no_proxy", "NO_PROXY"],
];

/// A settings file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SettingsFile {
    pub(super) path: PathBuf,
    /// It is the one of all users.
    pub(super) is_system: bool,
}

/// Where a setting is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FileLine {
    pub(super) file: SettingsFile,
    pub(super) line: usize,
}

/// The settings files as they were read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Settings {
    /// The id of the process for which this was written. Child processes inherit the variable, and
    /// ignore it.
    process: u32,
    /// The files that exist.
    pub(super) files: Vec<SettingsFile>,
    /// The variables that come from them.
    lines: BTreeMap<String, FileLine>,
    /// A part of a file was not understood, or it could not be read. A setting may be missing.
    pub(super) incomplete: bool,
    /// Warnings for the user.
    pub(super) warnings: Vec<String>,
}

/// Which settings file this is, and thus whom it must belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// [`SYSTEM_FILE`]: root.
    System,
    /// `~/.tar_like_rc`: this user or root.
    Own,
    /// The user names it: anybody. It must exist.
    Named,
}

/// The variables that are set outside of a file.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Settings {
    /// Reads the files that are for this user, or that `arguments` or the environment name. If they
    /// set new variables, the program is started again and this does not return. `known` tells
    /// whether a flag has this variable.
    ///
    /// # Errors
    /// A named file cannot be read, or is not a settings file.
    pub(super) fn load(arguments: &[OsString], known: &dyn Fn(&str) -> bool) -> Result<Self> {
        let process = std::process::id();
        if let Some(text) = std::env::var(MARKER).ok()
            && let Ok(settings) = serde_json::from_str::<Self>(&text)
            && settings.process == process
        {
            return Ok(settings);
        }
        let environment = |name: &str| std::env::var_os(name);
        let mut settings = Self { process, ..Self::default() };
        let mut taken = BTreeMap::new();
        for (path, place, is_system) in places(arguments, &environment) {
            let file = SettingsFile { path, is_system };
            settings.add(file, place, &mut taken, known, &environment)?;
        }
        let new = settings.without_rivals(taken, &environment);
        let more = settings.warnings.len().saturating_sub(MAX_WARNINGS);
        if more > 0 {
            settings.warnings.truncate(MAX_WARNINGS);
            settings.warnings.push(format!("the settings files: {more} more warnings"));
        }
        if new.is_empty() { Ok(settings) } else { Err(settings.start_again(arguments, new)) }
    }

    /// The line that sets the variable.
    pub(super) fn line_of(&self, name: &str) -> Option<FileLine> {
        self.lines.get(name).cloned()
    }

    /// Reads one file. Its variables replace those in `taken`, which are from files before it.
    fn add(
        &mut self,
        file: SettingsFile,
        place: Place,
        taken: &mut BTreeMap<String, (OsString, FileLine)>,
        known: &dyn Fn(&str) -> bool,
        environment: Environment<'_>,
    ) -> Result<()> {
        let (text, exposed) = match read(&file.path, place) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(()),
            Err(e) if place == Place::Named => return Err(e),
            Err(e) => {
                self.warnings.push(format!("{e}; its settings are ignored"));
                self.incomplete = true;
                return Ok(());
            }
        };
        let before = |name: &str| environment(name).or_else(|| Some(taken.get(name)?.0.clone()));
        let found = self.assignments(&file, &text, known, &before);
        if exposed && found.keys().any(|name| is_secret(name) && environment(name).is_none()) {
            self.warnings.push(format!(
                "every user of this host can read the secrets in {0}; protect them with: chmod 600 {0}",
                file.path.display()
            ));
        }
        taken.retain(|name, _| !rivals(name).iter().any(|rival| found.contains_key(*rival)));
        let at = |(value, line)| (value, FileLine { file: file.clone(), line });
        taken.extend(found.into_iter().map(|(name, found)| (name, at(found))));
        self.files.push(file);
        Ok(())
    }

    /// The variables of one file that are for this program, with their lines.
    fn assignments(
        &mut self,
        file: &SettingsFile,
        text: &[u8],
        known: &dyn Fn(&str) -> bool,
        environment: Environment<'_>,
    ) -> BTreeMap<String, (OsString, usize)> {
        let found = rc_file::parse(text, environment);
        self.incomplete |= !found.refused.is_empty();
        let at = |line: usize| format!("{}, line {line}", file.path.display());
        let mut warnings: Vec<(usize, String)> = found
            .refused
            .into_iter()
            .map(|(line, why)| (line, format!("{}: ignored, because it {why}", at(line))))
            .collect();
        let mut taken = BTreeMap::new();
        for assignment in found.assignments {
            let (name, line) = (assignment.name, assignment.line);
            if name == "TARLIKE_RC" || name == SYSTEM_FILE_VARIABLE {
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
        taken
    }

    /// The names and values that go into the environment: it has neither them nor another variable
    /// of their groups.
    fn without_rivals(
        &mut self,
        mut taken: BTreeMap<String, (OsString, FileLine)>,
        environment: Environment<'_>,
    ) -> Vec<(String, OsString)> {
        let is_set = |name: &str| environment(name).is_some();
        taken.retain(|name, _| !is_set(name) && !rivals(name).iter().any(|rival| is_set(rival)));
        let mut new = Vec::new();
        for (name, (value, line)) in taken {
            self.lines.insert(name.clone(), line);
            new.push((name, value));
        }
        new
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
                Error::io("cannot start again with the settings of the files", again.env(MARKER, text).exec())
                    .with_hint("set the variables in the environment, and TARLIKE_RC to an empty text")
            }
            Err(e) => Error::new(ErrorKind::Internal, "cannot pass the settings on").with_source(e),
        }
    }
}

/// The group of a variable.
fn rivals(name: &str) -> &'static [&'static str] {
    GROUPS.iter().find(|group| group.contains(&name)).copied().unwrap_or_default()
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
    matches!(&*name, "TARLIKE_TOKEN" | "TARLIKE_QUEUE_PASSWORD")
        || name.starts_with("AWS_") && ends.iter().any(|end| name.ends_with(end))
}

/// The settings files that may exist, those first that later ones override, and whether each is the
/// one of all users.
fn places(arguments: &[OsString], environment: Environment<'_>) -> Vec<(PathBuf, Place, bool)> {
    let named = which(arguments, environment("TARLIKE_RC"));
    if named.as_ref().is_some_and(|path| path.is_empty()) {
        return Vec::new();
    }
    let system = match environment(SYSTEM_FILE_VARIABLE) {
        None => Some((PathBuf::from(SYSTEM_FILE), Place::System, true)),
        Some(path) if path.is_empty() => None,
        Some(path) => Some((PathBuf::from(path), Place::Named, true)),
    };
    let home = environment("HOME").filter(|home| !home.is_empty());
    let own = match named {
        Some(path) => Some((PathBuf::from(path), Place::Named, false)),
        None => home.map(|home| (Path::new(&home).join(".tar_like_rc"), Place::Own, false)),
    };
    system.into_iter().chain(own).collect()
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

/// The text of the file, and whether every user may read it. `None` if it is not named and does not
/// exist.
fn read(path: &Path, place: Place) -> Result<Option<(Vec<u8>, bool)>> {
    let failed = |e: std::io::Error| {
        Error::io(format!("cannot read the settings in {}", path.display()), e).with_kind(ErrorKind::Usage)
    };
    let refused = |why: &str, hint: &str| {
        Err(Error::new(ErrorKind::Usage, format!("{} {why}", path.display())).with_hint(hint))
    };
    let asked_for = place == Place::Named;
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
    if meta.is_file() && meta.mode() & 0o002 != 0 {
        return refused("can be written by every user of this host", "protect it with: chmod o-w FILE");
    }
    let us = rustix::process::geteuid().as_raw();
    match place {
        Place::System if meta.uid() != 0 => {
            return refused("does not belong to root", "give it to root: chown root FILE");
        }
        Place::Own if meta.uid() != us && meta.uid() != 0 => {
            return refused("belongs to another user", "to use it all the same, name it with --rc-file FILE");
        }
        _ => {}
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return refused("is too large for a settings file", "give another file with --rc-file FILE");
    }
    Ok(Some((text, meta.is_file() && meta.mode() & 0o004 != 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, is_system: bool) -> SettingsFile {
        SettingsFile { path: PathBuf::from(path), is_system }
    }

    /// What counts of two files with these texts: names, values and whether the system's file has
    /// the value.
    fn taken(system: &str, own: &str, outside: &[(&str, &str)]) -> Vec<(String, String, bool)> {
        let folder = tempfile::tempdir().unwrap();
        let outside =
            |name: &str| outside.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
        let (mut settings, mut taken) = (Settings::default(), BTreeMap::new());
        for (text, is_system) in [(system, true), (own, false)] {
            let path = folder.path().join(if is_system { "system" } else { "own" });
            std::fs::write(&path, text).unwrap();
            let file = SettingsFile { path, is_system };
            settings.add(file, Place::Named, &mut taken, &|_| true, &outside).unwrap();
        }
        let new = settings.without_rivals(taken, &outside);
        new.into_iter()
            .map(|(name, value)| {
                let line = settings.line_of(&name).unwrap();
                (name, value.into_string().unwrap(), line.file.is_system)
            })
            .collect()
    }

    #[test]
    fn the_own_file_wins_over_the_system_s() {
        let is = |name: &str, value: &str, is_system| (name.to_owned(), value.to_owned(), is_system);
        assert_eq!(
            taken("TARLIKE_A=1\nTARLIKE_B=1", "TARLIKE_B=2\nTARLIKE_C=${TARLIKE_A}2", &[]),
            [is("TARLIKE_A", "1", true), is("TARLIKE_B", "2", false), is("TARLIKE_C", "12", false)]
        );
        // The variables of a group come from one place.
        assert_eq!(
            taken("TARLIKE_TOKEN=secret", "TARLIKE_TOKEN_FILE=/x", &[]),
            [is("TARLIKE_TOKEN_FILE", "/x", false)]
        );
        assert_eq!(taken("TARLIKE_TOKEN=secret", "", &[("TARLIKE_TOKEN_FILE", "/x")]), []);
        assert_eq!(taken("TARLIKE_A=1", "TARLIKE_A=2", &[("TARLIKE_A", "")]), []);
    }

    #[test]
    fn which_files_are_read() {
        let read = |arguments: &[&str], outside: &[(&str, &str)]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            let found = places(&arguments, &|name| {
                outside.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into())
            });
            found.into_iter().map(|(path, ..)| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let home = ("HOME", "/home/me");
        assert_eq!(read(&["t"], &[home]), ["/etc/tar-like.conf", "/home/me/.tar_like_rc"]);
        assert_eq!(read(&["t"], &[]), ["/etc/tar-like.conf"]);
        assert_eq!(read(&["t", "--rc-file", "x"], &[home]), ["/etc/tar-like.conf", "x"]);
        assert_eq!(read(&["t"], &[home, ("TARLIKE_RC", "")]), [""; 0]);
        assert_eq!(read(&["t"], &[home, ("TARLIKE_SYSTEM_CONF", "/y")]), ["/y", "/home/me/.tar_like_rc"]);
        assert_eq!(read(&["t"], &[home, ("TARLIKE_SYSTEM_CONF", "")]), ["/home/me/.tar_like_rc"]);
    }

    #[test]
    fn the_system_s_file_belongs_to_root() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conf");
        assert!(matches!(read(&path, Place::System), Ok(None)), "it may be missing");
        std::fs::write(&path, "TARLIKE_A=1\n").unwrap();
        if rustix::process::geteuid().is_root() {
            assert!(matches!(read(&path, Place::System), Ok(Some(_))));
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        }
        assert!(read(&path, Place::System).unwrap_err().to_string().contains("does not belong to root"));
        let (mut settings, mut taken) = (Settings::default(), BTreeMap::new());
        let file = file(path.to_str().unwrap(), true);
        settings.add(file, Place::System, &mut taken, &|_| true, &|_| None).unwrap();
        assert!(taken.is_empty() && settings.incomplete, "{settings:?}");
        assert!(settings.warnings[0].contains("its settings are ignored"), "{settings:?}");
    }
}
