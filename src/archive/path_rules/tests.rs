use super::*;

fn rules(texts: &[&str]) -> PathRules {
    PathRules::parse(&texts.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = rules(&["+ keep.tmp", "- *.tmp", "x (^|/)cache$", "- /top", "- only/"]);
    for (path, is_dir, expected) in [
        (&b"a.tmp"[..], false, true),
        (b"d/a.tmp", false, true),
        (b"keep.tmp", false, false),
        // A folder that is left out takes everything with it.
        (b"cache/keep.tmp", false, true),
        (b"cached", false, false),
        (b"top", false, true),
        (b"d/top", false, false),
        (b"only", false, false),
        (b"only", true, true),
        (b"d/only/x", false, true),
    ] {
        assert_eq!(rules.leave_out(path, is_dir), expected, "{} {is_dir}", printable(path));
    }
    assert!(!PathRules::default().leave_out(b"a", false));
}

#[test]
fn rules_travel_as_texts() {
    let given = PathRule {
        action: RuleAction::Include,
        syntax: RuleSyntax::Glob(GlobSyntax::Rsync),
        pattern: Box::from(&b"a b\\*\xff\n"[..]),
    };
    let text = given.to_text().unwrap();
    assert_eq!((&*text, PathRule::parse(&text)), ("+ a b\\x5c*\\xff\\x0a", Some(given)));
    for wrong in ["", "-", "? a", "-a", "-- a", "- \\xz1"] {
        assert_eq!(PathRule::parse(wrong), None, "{wrong}");
    }
}

/// What a hostile sender may send.
#[test]
fn rules_have_limits() {
    let parse = |texts: Vec<String>| PathRules::parse(&texts).map(drop).map_err(|e| e.kind());
    for wrong in [
        vec!["x (".to_string()],
        vec!["x (a{999}){999}".to_string()],
        (0..100).map(|number| format!("x \\x5cw{{{}}}", 150 + number % 40)).collect(),
        vec!["- a".to_string(); MAX_RULES + 1],
        vec![format!("- {}", "a".repeat(MAX_RULE_BYTES))],
    ] {
        assert_eq!(parse(wrong), Err(ErrorKind::Malformed));
    }
    let many = (0..MAX_RULES).map(|number| format!("- name-{number}/*.tmp")).collect();
    assert_eq!(parse(many), Ok(()));
}
