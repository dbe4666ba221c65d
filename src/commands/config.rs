//! `tar-like config`

use super::output::{Outcome, Output};
use super::settings::{FileLine, Settings, VARIABLES, is_secret};
use super::usage;
use super::variables::{all_commands, at_fault, without_unused};
use crate::archive::path::printable;
use crate::error::{Error, ErrorKind, Result};
use clap::error::ErrorKind::MissingRequiredArgument;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command};
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

const EXAMPLES: &str = "\
Each line has three columns separated by tabs: the setting, its value, and the origin of the value.
Secrets are hidden. A flag wins over the environment, the environment over ~/.tar_like_rc, that file
over /etc/tar-like.conf, and this one over the default.

The variable of an option is TARLIKE_ and its name in upper case, with _ for -: TARLIKE_DRY_RUN for
--dry-run. 1, yes, true and on switch an option on; 0, no, false, off and an empty text do not. An
option that may be given several times takes one value a line. These have no variable, and must be
given each time: --clean, --replace-source, --insecure, --ignore-ca, --ignore-errors, --moved.

Examples:
  tar-like config                                 every variable that tar-like reads
  tar-like config upload -p 8                     every setting of this command
  TARLIKE_RC= tar-like config                     ignore both files

Exit codes: 0 done, 1 error, 2 wrong usage, also in the given command line.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConfigArgs {
    /// A command with its arguments; the command is not run
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command_line: Vec<OsString>,
}

/// Variables that have no flag of their own, each with the flag beside which alone a command reads
/// them.
const OF_FLAGS: &[(&str, &str)] = &[
    ("TARLIKE_TOKEN", "token-file"),
    ("TARLIKE_QUEUE_PASSWORD", "queue-password-file"),
    ("TARLIKE_S3_TLS_VERIFY", "s3-ignore-ca"),
    ("AWS_ACCESS_KEY_ID", "s3-profile"),
    ("AWS_SECRET_ACCESS_KEY", "s3-profile"),
    ("AWS_SESSION_TOKEN", "s3-profile"),
    ("AWS_PROFILE", "s3-profile"),
    ("AWS_REGION", "s3-region"),
];

/// Where a value comes from.
enum Origin {
    Flag,
    Environment,
    /// The line of a settings file.
    File(FileLine),
    Default,
}

/// A setting with the value that is in effect.
struct Row {
    /// The variable, or the flag where there is none.
    name: String,
    flag: Option<String>,
    /// `None` if it is not set and has no default.
    value: Option<String>,
    secret: bool,
    origin: Origin,
}

/// `definition` is that of the whole command line.
pub(super) async fn run(
    args: ConfigArgs,
    definition: Command,
    settings: &Settings,
    output: &Arc<Output>,
) -> Result<Outcome> {
    let rows = match args.command_line.is_empty() {
        true => of_all_commands(&definition, settings),
        false => of_command(args.command_line, definition, settings)?,
    };
    for row in &rows {
        row.print(output)?;
    }
    let path = |is_system: bool| {
        let file = settings.files.iter().find(|file| file.is_system == is_system)?;
        Some(printable(file.path.as_os_str().as_bytes()))
    };
    Ok(Outcome {
        command: "config",
        exit: 0,
        text: format!("{} settings", rows.len()),
        fields: json!({
            "settings": rows.len(), "rc_file": path(false), "system_file": path(true), "warnings": settings.warnings,
        }),
    })
}

impl Row {
    fn print(&self, output: &Output) -> Result<()> {
        let value = match &self.value {
            Some(_) if self.secret => "set (hidden)",
            Some(value) => value,
            None => "",
        };
        let (kind, place) = match &self.origin {
            Origin::Flag => ("flag", None),
            Origin::Environment => ("environment", None),
            Origin::File(FileLine { file, line }) => {
                let path = printable(file.path.as_os_str().as_bytes());
                (if file.is_system { "system_file" } else { "rc_file" }, Some((path, *line)))
            }
            Origin::Default => ("default", None),
        };
        let from =
            place.as_ref().map_or_else(|| kind.to_owned(), |(path, line)| format!("{path}, line {line}"));
        let (file, line) = place.unzip();
        output.data(&format!("{}\t{value}\t{from}", self.name), || {
            json!({
                "event": "setting", "name": self.name, "flag": self.flag, "secret": self.secret,
                "value": self.value.as_ref().map(|_| value), "from": kind, "file": file, "line": line,
            })
        })
    }
}

/// Every variable that any command reads.
fn of_all_commands(program: &Command, settings: &Settings) -> Vec<Row> {
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for argument in all_commands(program).into_iter().flat_map(Command::get_arguments) {
        let Some(name) = argument.get_env().and_then(OsStr::to_str) else { continue };
        if seen.insert(name.to_owned()) {
            let default = default_of(argument);
            rows.push(Row { flag: flag_of(argument), ..of_variable(name, default, settings) });
        }
    }
    rows.extend(of_other_variables(settings));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// Variables that do not belong to a flag.
fn of_other_variables(settings: &Settings) -> Vec<Row> {
    let named = |name: &str| VARIABLES.iter().any(|variable| variable.name == name);
    let mut rows: Vec<Row> = VARIABLES
        .iter()
        .map(|variable| {
            let default = Some(variable.default.to_owned()).filter(|default| !default.is_empty());
            of_variable(variable.name, default, settings)
        })
        .collect();
    // Further variables of the SDK and the HTTP client are shown only if they are set.
    let others = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy", "SSL_CERT_DIR"];
    rows.extend(
        others
            .filter(|name| !named(name) && name != "AWS_CA_BUNDLE")
            .filter(|name| name.starts_with("AWS_") || proxies.contains(&&**name))
            .map(|name| of_variable(&name, None, settings)),
    );
    rows
}

/// Every setting of a command line.
fn of_command(line: Vec<OsString>, mut definition: Command, settings: &Settings) -> Result<Vec<Row>> {
    let arguments: Vec<OsString> = [OsString::from("tar-like")].into_iter().chain(line).collect();
    let parse = |ignore_errors| {
        let counting = without_unused(definition.clone(), &arguments);
        counting.ignore_errors(ignore_errors).try_get_matches_from(&arguments)
    };
    let matches = match parse(false) {
        // The settings of a command do not depend on what it is to work on.
        Err(e) if e.kind() == MissingRequiredArgument => parse(true),
        other => other,
    };
    let matches = matches
        .map_err(|e| usage::error(&e, &definition, &arguments, at_fault(&definition, &e).as_deref()))?;
    definition.build();
    let (mut command, mut matches) = (&definition, &matches);
    while let Some((name, below)) = matches.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        (command, matches) = (found, below);
    }
    if std::ptr::eq(command, &definition) {
        return Err(Error::new(ErrorKind::Usage, "no command is named after config")
            .with_hint("give a command and its arguments, for example: tar-like config upload"));
    }
    let is_setting = |argument: &&Arg| {
        !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version" | "command_line")
    };
    let of_this = command.get_arguments().filter(is_setting);
    let mut rows: Vec<Row> = of_this.map(|argument| of_argument(argument, matches, settings)).collect();
    // A source or destination is a setting only where it was typed.
    rows.retain(|row| row.flag.is_some() || matches!(row.origin, Origin::Flag));
    let has_flag = |name: &str| command.get_arguments().any(|argument| argument.get_long() == Some(name));
    rows.extend(of_other_variables(settings).into_iter().filter(|row| {
        let of_flag = OF_FLAGS.iter().find(|(name, _)| *name == row.name);
        of_flag.is_none_or(|(_, flag)| has_flag(flag))
    }));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

fn of_argument(argument: &Arg, matches: &ArgMatches, settings: &Settings) -> Row {
    let id = argument.get_id().as_str();
    let variable = argument.get_env().and_then(OsStr::to_str);
    let flag = flag_of(argument);
    let name = variable.map(str::to_owned).or_else(|| flag.clone()).unwrap_or_else(|| id.to_uppercase());
    let given = || -> Option<String> {
        if matches!(argument.get_action(), ArgAction::SetTrue) {
            return Some("yes".to_string());
        }
        let raw: Vec<String> =
            matches.try_get_raw(id).ok()??.map(|value| printable(value.as_bytes())).collect();
        Some(without_password(&raw.join(" ")))
    };
    let (value, origin) = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => (given(), Origin::Flag),
        Some(ValueSource::EnvVariable) => (given(), from_outside(name.as_str(), settings)),
        _ => (default_of(argument), Origin::Default),
    };
    let secret = is_secret(&name);
    Row { name, flag, value, secret, origin }
}

fn of_variable(name: &str, default: Option<String>, settings: &Settings) -> Row {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    let origin = if value.is_some() { from_outside(name, settings) } else { Origin::Default };
    let value = value.map(|value| without_password(&printable(value.as_bytes()))).or(default);
    Row { name: name.to_owned(), flag: None, value, secret: is_secret(name), origin }
}

fn from_outside(name: &str, settings: &Settings) -> Origin {
    settings.line_of(name).map_or(Origin::Environment, Origin::File)
}

fn flag_of(argument: &Arg) -> Option<String> {
    argument.get_long().map(|long| format!("--{long}"))
}

/// The default that clap knows, or the one that the help names where the program finds it out
/// later.
fn default_of(argument: &Arg) -> Option<String> {
    if !argument.get_action().takes_values() {
        return Some("no".to_string());
    }
    let values = argument.get_default_values();
    if !values.is_empty() {
        return Some(values.iter().map(|value| printable(value.as_bytes())).collect::<Vec<_>>().join(" "));
    }
    let help = argument.get_help()?.to_string();
    let said = help.split_once("[default: ")?.1.split_once(']')?.0;
    Some(said.to_owned())
}

/// Replaces the user and password of an address by `(hidden)`.
fn without_password(text: &str) -> String {
    // The address of a proxy may have no scheme.
    let start = text.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = text.split_at(start);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}(hidden){}", &rest[user.len()..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_hidden() {
        for (text, shown) in [
            ("http://proxy:3128", "http://proxy:3128"),
            ("http://me:geheim@proxy:3128/", "http://(hidden)@proxy:3128/"),
            ("https://gehe@im@proxy", "https://(hidden)@proxy"),
            ("http://proxy/a@b", "http://proxy/a@b"),
            ("me:geheim@proxy:3128", "(hidden)@proxy:3128"),
            ("plain text", "plain text"),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }
}
