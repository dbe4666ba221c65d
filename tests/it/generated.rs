//! Manual pages, completions and docs/cli.md: made from the definitions that --help is made from.

use crate::support::{Lab, need_tool};
use std::fmt::Write;
use std::path::Path;

/// The words of a command line.
pub(crate) type Words = Vec<String>;

pub(crate) fn help(lab: &Lab, words: &[String]) -> String {
    let mut args = args![];
    args.extend(words.iter().map(Into::into));
    args.push("--help".into());
    lab.run(args).code(0).stdout
}

/// The commands that the help lists, each followed by those below it.
pub(crate) fn commands(lab: &Lab) -> Vec<Words> {
    let mut found = Vec::new();
    add_commands_below(lab, &[], &mut found);
    assert!(found.len() >= 8 && found.contains(&vec!["upload".to_owned()]), "{found:?}");
    found
}

fn add_commands_below(lab: &Lab, words: &[String], found: &mut Vec<Words>) {
    let help = help(lab, words);
    let Some(list) = help.split("Commands:\n").nth(1) else { return };
    let lines = list.split("\n\n").next().unwrap().lines();
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        let command = [words, &[name.to_owned()]].concat();
        found.push(command.clone());
        add_commands_below(lab, &command, found);
    }
}

/// The long options that a command's help lists.
fn options(lab: &Lab, command: &[String]) -> Vec<String> {
    let help = help(lab, command);
    let options = help.lines().filter(|line| line.starts_with("  ") && line.trim_start().starts_with('-'));
    let long = |line: &str| Some(line[line.find("--")?..].split([' ', ',', '.']).next()?.to_owned());
    let options: Vec<String> = options.filter_map(long).collect();
    assert!(options.len() >= 4, "{command:?}: {options:?}");
    options
}

/// The page of all commands: a list, then the help of each.
fn cli_page(lab: &Lab) -> String {
    let commands = [vec![Words::new()], commands(lab)].concat();
    let title = |words: &Words| [&["tar-like".to_owned()], &words[..]].concat().join(" ");
    let mut page = format!("# The command line\n\n{CLI_PAGE_HEAD}\n");
    for title in commands.iter().map(title) {
        writeln!(page, "- [`{title}`](#{})", title.replace(' ', "-")).unwrap();
    }
    for words in &commands {
        let help = help(lab, words);
        write!(page, "\n## {}\n\n```text\n{}\n```\n", title(words), help.trim_end()).unwrap();
    }
    page
}

const CLI_PAGE_HEAD: &str = "\
Every command with its options, as `--help` prints them. The [guides](guide/) show the commands at
work. This page is generated: `RENEW_CLI_PAGE=1 cargo test --test it -- generated::` writes it anew.
";

#[test]
fn docs_cli_md_matches_the_help() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let page = cli_page(&Lab::new());
    if std::env::var_os("RENEW_CLI_PAGE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).is_ok_and(|written| written == page),
        "docs/cli.md is not what --help says; renew it with: RENEW_CLI_PAGE=1 cargo test --test it -- generated::"
    );
}

fn shell(lab: &Lab, program: &str, args: Vec<std::ffi::OsString>) -> String {
    lab.cmd(args).program(Path::new(program)).run().code(0).stdout
}

#[test]
fn every_command_has_a_manual_page_with_all_its_options() {
    need_tool("mandoc", "apt-get install mandoc");
    let lab = Lab::new();
    let folder = lab.path("man");
    let output = lab.run(args!["man-pages", folder, "--date", "2026-01-31", "-v"]).code(0);
    let commands = commands(&lab);
    assert!(output.stderr.contains(&(commands.len() + 1).to_string()), "{}", output.stderr);
    let mut pages = vec![folder.join("tar-like.1")];
    for command in &commands {
        let page = folder.join(format!("tar-like-{}.1", command.join("-")));
        // Plain text, as a terminal shows it, without the overstriking that prints bold.
        let text =
            shell(&lab, "sh", args!["-c", "mandoc -Tutf8 -O width=500 \"$0\" | sed 's/.\\x08//g'", page]);
        for word in ["NAME", "SYNOPSIS", "DESCRIPTION", "SEE ALSO", "2026-01-31"] {
            assert!(text.contains(word), "the page of {command:?} has no {word}:\n{text}");
        }
        for option in options(&lab, command) {
            assert!(text.contains(&option), "the page of {command:?} has no {option}:\n{text}");
        }
        pages.push(page);
    }
    let mut lint = args!["-Tlint", "-W", "warning"];
    lint.extend(pages.iter().map(|page| page.clone().into_os_string()));
    // The exit code tells of warnings, too.
    assert_eq!(shell(&lab, "mandoc", lint), "");
    assert_eq!(
        std::fs::read_dir(&folder).unwrap().count(),
        pages.len(),
        "pages of commands that are not there"
    );
    lab.run(args!["man-pages", "/dev/null/no"]).code(1).says("/dev/null/no");
}

/// Loads the completions in bash and asks it what it would offer behind these words.
fn offered(lab: &Lab, script: &Path, words: &[&str]) -> Vec<String> {
    const ASK: &str = r#"
        source "$0"
        # The function that bash has been told to ask for this program.
        [[ $(complete -p tar-like) =~ -F\ ([^ ]+) ]] && ask=${BASH_REMATCH[1]}
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        COMP_LINE="$*"
        COMP_POINT=${#COMP_LINE}
        "$ask" tar-like "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut args = args!["--norc", "-c", ASK, script];
    args.extend(words.iter().map(|word| (*word).into()));
    shell(lab, "bash", args).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let lab = Lab::new();
    let script = lab.file("completions", lab.run(args!["completions", "bash"]).code(0).stdout);
    assert_eq!(offered(&lab, &script, &["tar-like", "up"]), ["upload"]);
    let all = offered(&lab, &script, &["tar-like", ""]);
    for command in commands(&lab) {
        assert!(command.len() > 1 || all.contains(&command[0]), "{command:?} is not offered: {all:?}");
        let words: Vec<&str> =
            ["tar-like"].into_iter().chain(command.iter().map(|w| &**w)).chain(["--"]).collect();
        let offered = offered(&lab, &script, &words);
        for option in options(&lab, &command) {
            assert!(offered.contains(&option), "{command:?}: {option} is not offered: {offered:?}");
        }
    }
    assert_eq!(offered(&lab, &script, &["tar-like", "upload", "--compress", "z"]), ["zstd"]);
}

#[test]
fn the_other_shells_have_completions_too() {
    let lab = Lab::new();
    for (name, begin) in [("zsh", "#compdef tar-like"), ("fish", "")] {
        let script = lab.run(args!["completions", name]).code(0).stdout;
        assert!(script.starts_with(begin), "{name}: {script}");
        for word in ["upload", "block-size", "zstd"] {
            assert!(script.contains(word), "{name} knows no {word}");
        }
    }
    lab.run(args!["completions", "cmd.exe"]).code(2);
}
