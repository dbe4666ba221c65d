//! What code cites of the documents, and documents of the tests: sections and tests that are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `folder` whose names end in `end`.
pub(crate) fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let (mut waiting, mut found) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_str().unwrap().ends_with(end) {
                found.push(path);
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// What stands between `begin` and `end`, wherever both are on one line.
fn between<'t>(text: &'t str, begin: &'t str, end: char) -> impl Iterator<Item = &'t str> {
    let lines = text.lines();
    lines
        .flat_map(move |line| line.split(begin).skip(1))
        .filter_map(move |rest| Some(rest.split_once(end)?.0))
}

fn headings(page: &str) -> impl Iterator<Item = &str> {
    page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim())
}

/// The numbers of sections that `text` cites of FORMAT.md: `FORMAT.md 8.4`, `FORMAT.md 2, 4 and
/// 5.1`.
fn cited_sections(text: &str) -> BTreeSet<String> {
    let mut cited = BTreeSet::new();
    for rest in text.split("FORMAT.md ").skip(1) {
        for word in rest.split_whitespace().filter(|word| *word != "and") {
            let number = word.trim_end_matches(|c: char| !c.is_ascii_digit());
            let is_number = number.starts_with(|c: char| c.is_ascii_digit())
                && number.chars().all(|c| c.is_ascii_digit() || c == '.');
            if is_number {
                cited.insert(number.to_string());
            }
            // Another number follows only behind a bare one or a comma.
            if !is_number || !matches!(&word[number.len()..], "" | ",") {
                break;
            }
        }
    }
    cited
}

fn sections() -> BTreeSet<String> {
    let page = read(&root().join("docs/dev/FORMAT.md"));
    let numbers = headings(&page).filter_map(|heading| heading.split(' ').next());
    numbers.map(|number| number.trim_end_matches('.').to_string()).collect()
}

#[test]
fn cited_sections_exist() {
    let (sections, mut cited, mut lost) = (sections(), 0, Vec::new());
    for path in ["src", "tests"].iter().flat_map(|folder| files(folder, ".rs")) {
        if path.ends_with("citations.rs") {
            continue;
        }
        let text = read(&path);
        for number in cited_sections(&text) {
            cited += 1;
            if !sections.contains(&number) {
                lost.push(format!("{}: FORMAT.md {number}", path.display()));
            }
        }
        // The promises and invariants are P1 to P11 and I1 to I14.
        if text.contains("docs/ARCHITECTURE.md") || text.contains("FORMATS ") {
            lost.push(format!("{}: a page that is no more", path.display()));
        }
    }
    assert!(cited > 10, "only {cited} citations were found");
    assert_eq!(lost, [] as [String; 0]);
}

/// The module of a file below `folder`, as cargo prints it.
fn module(path: &Path, folder: &Path) -> String {
    let path = path.strip_prefix(folder).unwrap().to_str().unwrap().trim_end_matches(".rs");
    path.trim_end_matches("/mod").replace('/', "::")
}

/// The tests that are functions with `#[test]`, as cargo prints them; those that macros make are
/// not among them.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for folder in ["src", "tests/it"] {
        for path in files(folder, ".rs") {
            let (mut modules, mut is_test) = (vec![(module(&path, &root().join(folder)), None)], false);
            for line in read(&path).lines() {
                let (indent, code) = (line.len() - line.trim_start().len(), line.trim_start());
                let word = |begin: &str| {
                    let rest = code.strip_prefix(begin)?;
                    Some(rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?.to_string())
                };
                if code.starts_with('}') && modules.last().is_some_and(|(_, begun)| *begun == Some(indent)) {
                    modules.pop();
                }
                if let Some(name) = word("mod ").filter(|_| code.ends_with('{')) {
                    modules.push((name, Some(indent)));
                }
                is_test |= code.starts_with("#[test]") || code.starts_with("#[tokio::test");
                if let Some(name) = word("fn ").or_else(|| word("async fn "))
                    && std::mem::take(&mut is_test)
                {
                    let path: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
                    tests.insert(format!("{}::{name}", path.join("::")));
                }
            }
        }
    }
    tests
}

#[test]
fn each_promise_and_invariant_has_tests_that_exist() {
    let tests = tests();
    assert!(tests.len() > 800, "only {} tests were found", tests.len());
    let page = read(&root().join("docs/dev/INVARIANTS.md"));
    let mut lost = Vec::new();
    for part in page.split("\n### ").skip(1) {
        let name = part.split(' ').next().unwrap();
        let named: Vec<&str> = between(part, "- `", '`').filter(|test| test.contains("::")).collect();
        if named.is_empty() {
            lost.push(format!("{name} has no test"));
        }
        let missing = named.into_iter().filter(|test| !tests.contains(*test));
        lost.extend(missing.map(|test| format!("{name}: {test}")));
    }
    assert_eq!(lost, [] as [String; 0]);
}

#[test]
fn the_checks_themselves_can_fail() {
    assert_eq!(
        cited_sections("x (FORMAT.md 2, 4 and 5.1): y; FORMAT.md 99."),
        ["2", "4", "5.1", "99"].map(String::from).into()
    );
    assert!(sections().contains("8.4") && !sections().contains("99"));
    assert!(tests().contains("citations::the_checks_themselves_can_fail"));
}
