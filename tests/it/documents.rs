//! The documents: links lead somewhere, lines fit a terminal, commands are commands of the program,
//! and the operator's page quotes messages that the program prints.

use crate::generated::help;
use crate::support::Lab;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Characters in a line of prose. Rows of tables and long names cannot be wrapped.
const MAX_WIDTH: usize = 100;

struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    /// The lines outside of code blocks, with their numbers.
    fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut in_code = false;
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            let is_fence = line.trim_start().starts_with("```");
            in_code ^= is_fence;
            (!in_code && !is_fence).then_some((index + 1, line))
        })
    }

    /// The anchors of its headings, as they are in links.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose().filter_map(|(_, line)| line.strip_prefix('#'));
        headings.map(|heading| anchor(heading.trim_start_matches('#').trim())).collect()
    }

    /// The lines of its blocks of shell code. Continued lines are joined.
    fn shell_lines(&self) -> Vec<String> {
        let blocks = self.text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        blocks
            .flat_map(|block| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All documents but the measurements, whose tables a script writes.
fn documents() -> Vec<Document> {
    let mut paths = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "md") && !path.ends_with("PERFORMANCE.md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    paths.into_iter().map(|path| Document { text: std::fs::read_to_string(&path).unwrap(), path }).collect()
}

#[test]
fn the_readme_is_short() {
    let lines = std::fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
}

#[test]
fn prose_fits_a_terminal() {
    let mut wide = Vec::new();
    for document in documents() {
        for (number, line) in document.prose() {
            let can_wrap = !line.starts_with('|') && line.split_whitespace().count() > 2;
            if can_wrap && line.chars().count() > MAX_WIDTH {
                wide.push(format!("{}:{number}: {line}", document.path.display()));
            }
        }
    }
    assert!(wide.is_empty(), "wider than {MAX_WIDTH} characters:\n{}", wide.join("\n"));
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    let link = Regex::new(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$").unwrap();
    let mut broken = Vec::new();
    for document in documents() {
        for (number, line) in document.prose() {
            for found in link.captures_iter(line) {
                let target = found.get(1).or(found.get(2)).unwrap().as_str();
                if !target.contains("://") && !leads_somewhere(&document, target) {
                    broken.push(format!("{}:{number}: {target}", document.path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

fn leads_somewhere(from: &Document, target: &str) -> bool {
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = from.path.parent().unwrap().join(file);
    if file.is_empty() {
        return from.anchors().contains(heading);
    }
    if heading.is_empty() {
        return path.exists();
    }
    std::fs::read_to_string(&path).is_ok_and(|text| Document { path, text }.anchors().contains(heading))
}

/// What the page quotes of the program: text in double quotes, outside of code. `…` stands for what
/// is left out.
fn quoted_messages(page: &Document) -> Vec<String> {
    let code = Regex::new("`[^`]*`").unwrap();
    let quote = Regex::new("\"([^\"]+)\"").unwrap();
    let prose: Vec<&str> = page.prose().map(|(_, line)| line.trim()).collect();
    let prose = code.replace_all(&prose.join(" "), "").into_owned();
    let quotes = quote.captures_iter(&prose).map(|found| found[1].to_owned());
    quotes.flat_map(|text| text.split('…').map(|part| part.trim().to_owned()).collect::<Vec<_>>()).collect()
}

/// Whether `code` has this message, with a placeholder such as `{}` in place of some of its words.
fn says(code: &str, message: &str) -> bool {
    let words = message.split_whitespace();
    let or_placeholder = words.map(|word| format!(r"(?:{}|\{{[^{{}}\s]*\}},?)", regex::escape(word)));
    let pattern = or_placeholder.collect::<Vec<_>>().join(" ");
    let found = Regex::new(&pattern).unwrap();
    let is_literal = |text: &str| text.matches('{').count() * 2 < text.split(' ').count();
    found.find_iter(code).any(|found| is_literal(found.as_str()))
}

/// The code of the program without comments. Texts that go on in the next line are joined.
fn sources() -> String {
    let mut code = String::new();
    for path in crate::citations::files("src", ".rs") {
        let text = std::fs::read_to_string(path).unwrap();
        for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
            code.push_str(line.strip_suffix('\\').unwrap_or(line));
            if !line.ends_with('\\') {
                code.push('\n');
            }
        }
    }
    code
}

#[test]
fn the_messages_that_operations_quotes_are_messages_of_the_program() {
    let path = root().join("docs/OPERATIONS.md");
    let page = Document { text: std::fs::read_to_string(&path).unwrap(), path };
    let (messages, code) = (quoted_messages(&page), sources());
    assert!(messages.len() > 20, "only {} messages were found", messages.len());
    let unknown: Vec<&String> = messages.iter().filter(|message| !says(&code, message)).collect();
    assert!(unknown.is_empty(), "quoted, but the program does not say so: {unknown:?}");
    assert!(!says(&code, "this is said by no receiver"), "the check cannot fail");
}

/// The keys of `--json` are a promise: each key in the code of the commands is on the page of
/// formats.
#[test]
fn the_keys_of_json_lines_are_documented() {
    let key = Regex::new(r#""([a-z_0-9]+)":"#).unwrap();
    let page = std::fs::read_to_string(root().join("docs/dev/FORMAT.md")).unwrap();
    let section = page.split("\n### 12.5 ").nth(1).unwrap().split("\n## ").next().unwrap();
    let (mut seen, mut missing) = (0, BTreeSet::new());
    for path in crate::citations::files("src/commands", ".rs") {
        let code = std::fs::read_to_string(path).unwrap();
        for found in key.captures_iter(code.split("#[cfg(test)]").next().unwrap()) {
            seen += 1;
            if !section.contains(&format!("`{}`", &found[1])) {
                missing.insert(found[1].to_owned());
            }
        }
    }
    assert!(seen > 100, "only {seen} keys were found");
    assert!(missing.is_empty(), "not in FORMAT.md 12.5: {missing:?}");
}

#[test]
fn the_commands_in_documents_are_commands_of_the_program() {
    let lab = Lab::new();
    let mut known = BTreeMap::new();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for document in documents() {
        for line in document.shell_lines() {
            for words in invocations(&line) {
                seen += 1;
                if let Some(fault) = fault_of(&lab, &mut known, &words) {
                    wrong.push(format!("{}: {line}: {fault}", document.path.display()));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The words behind each `tar-like` of a line of shell code.
fn invocations(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap();
    let end = Regex::new(r"[|&;<>()]|\d>").unwrap();
    let start = Regex::new(r"(^|[\s(])tar-like ").unwrap();
    let rest = start.find_iter(line).map(|found| end.split(&line[found.end()..]).next().unwrap());
    rest.map(|words| words.split_whitespace().map(|word| word.trim_matches('"').to_owned()).collect())
        .collect()
}

/// What is wrong with these words behind `tar-like`. `known` has the options of commands that were
/// looked up.
fn fault_of(
    lab: &Lab,
    known: &mut BTreeMap<Vec<String>, BTreeSet<String>>,
    words: &[String],
) -> Option<String> {
    // The words behind config are a command of their own.
    let words = if words[0] == "config" && words.len() > 1 { &words[1..] } else { words };
    let has_commands = matches!(&*words[0], "history" | "blockcopy" | "token");
    let has_command = has_commands && words.get(1).is_some_and(|word| !word.starts_with('-'));
    let depth = if has_command { 2 } else { 1 };
    let command = &words[..depth];
    let options = known.entry(command.to_vec()).or_insert_with(|| {
        let help = help(lab, command);
        let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let names = lines.flat_map(|line| line.split("  ").next().unwrap().split([' ', ',', '.']));
        names.filter(|name| name.starts_with('-')).map(str::to_owned).collect()
    });
    let given = words[depth..].iter().filter(|word| word.starts_with('-') && word.len() > 1);
    let mut given = given.map(|word| word.split('=').next().unwrap());
    let unknown = given.find(|name| !options.contains(*name) && !matches!(*name, "-db" | "-dbp"))?;
    Some(format!("tar-like {} has no {unknown}", command.join(" ")))
}
