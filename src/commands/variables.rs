//! The variables of flags. Every flag has one: `TARLIKE_` and the flag's long name, in upper case
//! with `_` for `-`, unless its definition names another one. So a new flag has its variable at
//! once.
//!
//! A flag of the command line wins over variables, also over the variables of flags that it
//! excludes.

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::ContextKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

const PREFIX: &str = "TARLIKE_";

/// Flags that give up a protection or earlier work. Whoever wants that says so in the command line,
/// each time: as a setting, it would hold for runs that were not thought of.
const WITHOUT: &[&str] =
    &["clean", "explain", "insecure", "ignore-ca", "ignore-errors", "delete-excluded", "moved", "yes"];

/// The same for each flag whose name begins so.
const WITHOUT_PREFIX: &str = "replace-";

/// Flags for which another variable exists, which [`super::settings::VARIABLES`] has.
const OTHERWISE: &[&str] = &["s3-ignore-ca", "s3-profile", "s3-region"];

/// The command, the flag and its variable, where a flag of the same name means another thing in
/// other commands: a variable that sets the source of `index` must not become the folder into which
/// `proxy` receives.
const OF_COMMAND: &[(&str, &str, &str)] = &[
    ("proxy", "base-folder", "TARLIKE_PROXY_BASE_FOLDER"),
    ("proxy", "database", "TARLIKE_PROXY_DATABASE"),
    // Globs and regular expressions have one variable each.
    ("index", "exclude", "TARLIKE_EXCLUDE_REGEX"),
    ("index", "exclude-glob", "TARLIKE_EXCLUDE"),
    ("index", "include-glob", "TARLIKE_INCLUDE"),
    ("index", "exclude-glob-from", "TARLIKE_EXCLUDE_FROM"),
    ("index", "include-glob-from", "TARLIKE_INCLUDE_FROM"),
    ("gc", "base-folder", "TARLIKE_GC_BASE_FOLDER"),
    ("gc", "database", "TARLIKE_GC_DATABASE"),
    ("check", "base-folder", "TARLIKE_CHECK_BASE_FOLDER"),
    ("new", "tar-id", "TARLIKE_TOKEN_TAR_ID"),
    ("health", "timeout", "TARLIKE_HEALTH_TIMEOUT"),
    ("checksum", "block-size", "TARLIKE_BLOCKCOPY_BLOCK_SIZE"),
    ("retrieve", "compress", "TARLIKE_BLOCKCOPY_COMPRESS"),
];

/// Arguments whose variable counts only if one of the other arguments is given. As a setting they
/// stand for every run, also for those that do not use them.
const NEEDS: &[(&str, &[&str])] = &[
    ("max_delete", &["delete", "delete_excluded"]),
    ("s3_no_md5", &["use_s3"]),
    ("to", &["from"]),
    ("block_size", &["native"]),
    ("bwlimit_total", &["queue"]),
    ("queue_password_file", &["queue"]),
    ("queue_ca_file", &["queue"]),
    ("peers", &["slice"]),
];

/// What separates the values of a flag that may be given several times.
const SEPARATOR: char = '\n';

/// Gives each flag of `program` and of its subcommands a variable.
pub(super) fn with_variables(program: Command) -> Command {
    below(program, &[])
}

/// `path` is the names of the commands above.
fn below(command: Command, path: &[&str]) -> Command {
    let name = command.get_name().to_owned();
    let command = command.mut_args(|argument| named(argument, &name));
    let path: Vec<&str> = path.iter().copied().chain([&*name]).collect();
    with_rule(command, &path).mut_subcommands(|command| below(command, &path))
}

fn named(argument: Arg, command: &str) -> Arg {
    let Some(flag) = argument.get_long().map(str::to_owned) else { return argument };
    let has_none = argument.is_hide_set()
        || WITHOUT.contains(&&*flag)
        || flag.starts_with(WITHOUT_PREFIX)
        || OTHERWISE.contains(&&*flag);
    if has_none {
        return argument;
    }
    if let Some(variable) = argument.get_env().map(OsStr::to_owned) {
        // The help shows a variable only if its name does not follow from the flag's.
        return argument.hide_env(variable == regular(&flag).as_str());
    }
    let other = OF_COMMAND.iter().find(|(of, name, _)| *of == command && *name == flag);
    let variable = other.map_or_else(|| regular(&flag), |(_, _, variable)| (*variable).to_owned());
    let argument =
        if is_switch(&argument) { argument.value_parser(BoolishValueParser::new()) } else { argument };
    argument.hide_env(other.is_none()).env(variable)
}

/// The variable that the rule gives a flag.
fn regular(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Says the rule at the end of the command's help, with the first flag that follows it.
fn with_rule(command: Command, path: &[&str]) -> Command {
    let regular = |argument: &&Arg| argument.is_hide_env_set() && !argument.is_global_set();
    let example = command.get_arguments().find(regular);
    let example = example.and_then(|argument| Some((argument.get_long()?, argument.get_env()?.to_str()?)));
    let Some((flag, variable)) = example else { return command };
    let shown = [&["config"], path.get(1..).unwrap_or_default()].concat().join(" ");
    let rule = format!("Variables set options, too, as {variable} sets --{flag}: tar-like {shown}");
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command.after_help(format!("{help}\n\n{rule}"))
}

/// Whether the argument takes no value.
fn is_switch(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

/// Whether `value` switches a flag off.
fn is_off(value: &OsStr) -> bool {
    let off: [&[u8]; 7] = [b"", b"0", b"no", b"n", b"false", b"f", b"off"];
    off.contains(&&*value.as_bytes().to_ascii_lowercase())
}

/// Whether the variable of a flag without a value switches the flag on.
pub(super) fn is_on(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !is_off(&value))
}

/// Makes clap ignore the variables that do not count for the command line `arguments`: those that
/// are set to an empty text or switch a flag off, and those that a flag of the command line
/// excludes.
pub(super) fn without_unused(program: Command, arguments: &[OsString]) -> Command {
    // Only the command line; the parse that counts reports its mistakes.
    let bare = without_all(program.clone()).ignore_errors(true);
    match bare.try_get_matches_from(arguments) {
        Ok(typed) => without_unused_of(program, &typed),
        // Help or version is asked for.
        Err(_) => program,
    }
}

fn without_all(command: Command) -> Command {
    command.mut_args(|argument| argument.env(Resettable::Reset)).mut_subcommands(without_all)
}

fn without_unused_of(command: Command, typed: &ArgMatches) -> Command {
    let unused = |argument: &&Arg| !counts(&command, argument, typed);
    let unused: Vec<_> =
        command.get_arguments().filter(unused).map(|argument| argument.get_id().clone()).collect();
    let command = command.mut_args(|argument| {
        if unused.contains(argument.get_id()) {
            return argument.env(Resettable::Reset);
        }
        // The argument is not typed, so only its variable is split.
        match (argument.get_action(), argument.get_value_delimiter()) {
            (ArgAction::Append, None) => argument.value_delimiter(SEPARATOR),
            _ => argument,
        }
    });
    match typed.subcommand() {
        Some((name, below)) => command.mut_subcommand(name, |command| without_unused_of(command, below)),
        None => command,
    }
}

/// Whether the variable of the argument has a value that counts beside the flags that are typed.
fn counts(command: &Command, argument: &Arg, typed: &ArgMatches) -> bool {
    let is_typed =
        |argument: &Arg| typed.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
    let value = argument.get_env().and_then(std::env::var_os);
    if is_typed(argument)
        || value.is_none_or(|value| value.is_empty() || is_switch(argument) && is_off(&value))
    {
        return false;
    }
    let is_given = |id: &str| {
        let is_on = |argument: &Arg| argument.get_env().and_then(OsStr::to_str).is_some_and(is_on);
        command.get_arguments().any(|other| other.get_id() == id && (is_typed(other) || is_on(other)))
    };
    let has = |id: &str| command.get_arguments().any(|other| other.get_id() == id);
    let needs = NEEDS.iter().find(|(id, needed)| argument.get_id() == id && needed.iter().any(|id| has(id)));
    let excludes = |one: &Arg, other: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|found| found.get_id() == other.get_id())
    };
    let is_excluded = command
        .get_arguments()
        .any(|other| is_typed(other) && (excludes(other, argument) || excludes(argument, other)));
    !is_excluded && needs.is_none_or(|(_, needed)| needed.iter().any(|id| is_given(id)))
}

/// The variable that has the value which `error` refuses.
pub(super) fn at_fault(program: &Command, error: &clap::Error) -> Option<String> {
    let said = |kind| error.get(kind).map(ToString::to_string);
    // "--block-size <BYTES>"
    let flag = said(ContextKind::InvalidArg)?;
    let flag = flag.split([' ', '=']).next()?.strip_prefix("--")?;
    let value = said(ContextKind::InvalidValue)?;
    let mut flags = all_commands(program).into_iter().flat_map(Command::get_arguments);
    let name = flags.find_map(|argument| {
        let name = argument.get_env().filter(|_| argument.get_long() == Some(flag))?;
        std::env::var(name).is_ok_and(|set| set.split(SEPARATOR).any(|set| set == value)).then_some(name)
    })?;
    name.to_str().map(str::to_owned)
}

/// The commands of the program at every depth, itself first.
pub(super) fn all_commands(program: &Command) -> Vec<&Command> {
    let below = program.get_subcommands().flat_map(all_commands);
    [program].into_iter().chain(below).collect()
}

/// Whether a flag reads the variable `name`.
pub(super) fn has(program: &Command, name: &str) -> bool {
    let mut all = all_commands(program).into_iter().flat_map(Command::get_arguments);
    all.any(|argument| argument.get_env().is_some_and(|variable| variable == name))
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, settings::OF_SCRIPTS};
    use super::*;
    use clap::CommandFactory;
    use clap::error::ContextValue;
    use std::collections::BTreeMap;

    /// Command, flag, variable and the argument.
    fn flags(program: &Command) -> Vec<(String, String, Option<String>, Arg)> {
        let of = |command: &Command| {
            let variable = |argument: &Arg| argument.get_env().map(|name| name.to_str().unwrap().to_owned());
            let flags = command.get_arguments().filter(|argument| !argument.is_hide_set());
            flags
                .filter_map(|flag| {
                    let name = flag.get_long()?.to_owned();
                    Some((command.get_name().to_owned(), name, variable(flag), flag.clone()))
                })
                .collect::<Vec<_>>()
        };
        all_commands(program).into_iter().flat_map(of).collect()
    }

    #[test]
    fn every_flag_has_a_variable_or_is_an_exception() {
        let flags = flags(&with_variables(Cli::command()));
        assert!(flags.len() > 100, "{}", flags.len());
        for (command, flag, variable, _) in &flags {
            let is_exception = WITHOUT.contains(&&**flag)
                || flag.starts_with(WITHOUT_PREFIX)
                || OTHERWISE.contains(&&**flag);
            assert_eq!(variable.is_none(), is_exception, "{command} --{flag}: {variable:?}");
        }
        // An exception that no command has is a mistake in its name.
        let has = |name: &str| flags.iter().any(|(_, flag, ..)| flag == name);
        assert!(WITHOUT.iter().chain(OTHERWISE).all(|name| has(name)));
        for (command, flag, variable) in OF_COMMAND {
            let found = flags.iter().find(|(of, name, ..)| of == command && name == flag);
            assert_eq!(found.and_then(|found| found.2.as_deref()), Some(*variable));
        }
    }

    /// A variable of two commands has the same kind of value in both, and none is a variable of the
    /// scripts.
    #[test]
    fn a_variable_has_one_meaning() {
        let mut kinds: BTreeMap<String, (String, String)> = BTreeMap::new();
        for (command, flag, variable, argument) in flags(&with_variables(Cli::command())) {
            let Some(variable) = variable else { continue };
            assert!(
                !OF_SCRIPTS.contains(&&*variable),
                "{command} --{flag}: {variable} is one of the scripts"
            );
            let values: Vec<_> =
                argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
            let choices: Vec<_> =
                argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            let kind = format!("{values:?} {choices:?} {:?}", argument.get_action());
            let first = kinds.entry(variable).or_insert_with(|| (command.clone(), kind.clone()));
            assert_eq!(first.1, kind, "{} and {command}", first.0);
        }
    }

    /// The flags that `line` lacks, from the error about it.
    fn missing(command: &Command, line: &[String]) -> Option<Vec<String>> {
        let error = match command.clone().try_get_matches_from(line) {
            Ok(_) => return Some(Vec::new()),
            Err(e) if e.kind() == clap::error::ErrorKind::MissingRequiredArgument => e,
            // The value is wrong.
            Err(_) => return None,
        };
        let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else { return None };
        // Of a group: <--delete|--delete-excluded>.
        let is_flag = |name: &&String| name.trim_start_matches('<').starts_with("--");
        Some(missing.iter().filter(is_flag).cloned().collect())
    }

    /// A variable stands for all runs, so it must not make runs wrong that do not use it. Half of a
    /// pair of TLS files is a mistake that must be told.
    #[test]
    fn every_flag_that_adds_to_another_is_known() {
        let tls = ["tls-cert", "tls-key", "client-ca", "client-key"];
        let values = ["3", "x", "4096", "127.0.0.1", "2099-01-31", "upload"];
        let mut seen = 0;
        let mut program = with_variables(Cli::command());
        // Commands get the flags that all of them have.
        program.build();
        for command in all_commands(&program) {
            let always = missing(command, &["x".into()]).unwrap_or_default();
            for argument in command.get_arguments().filter(|argument| argument.get_env().is_some()) {
                let Some(flag) = argument.get_long() else { continue };
                let line = |value: &&str| match is_switch(argument) {
                    true => vec!["x".into(), format!("--{flag}")],
                    false => vec!["x".into(), format!("--{flag}={value}")],
                };
                let lacks =
                    values.iter().find_map(|value| missing(command, &line(value))).unwrap_or_default();
                let lacks: Vec<_> = lacks.into_iter().filter(|name| !always.contains(name)).collect();
                let is_known = NEEDS.iter().any(|(id, _)| argument.get_id() == id) || tls.contains(&flag);
                assert!(lacks.is_empty() || is_known, "{} --{flag} needs {lacks:?}", command.get_name());
                seen += lacks.len();
            }
        }
        assert!(seen >= NEEDS.len(), "{seen}");
    }

    #[test]
    fn words_that_switch_off() {
        assert!(["", "0", "no", "False", "OFF", "n", "f"].iter().all(|word| is_off(OsStr::new(word))));
        assert!(["1", "yes", "true", "on", "nonsense"].iter().all(|word| !is_off(OsStr::new(word))));
    }
}
