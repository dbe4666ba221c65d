//! Progress: the figures are right on links of any rate, and there is one line on a terminal of any
//! width, of which nothing is left.

use crate::support::link::Link;
use crate::support::relay::{Fate, Relay};
use crate::support::terminal::{Screen, Terminal};
use crate::support::{Cmd, Lab, Output, Proxy, Tree, assert_same_tree};
use serde_json::Value;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// A run whose rate is known.
struct Case {
    name: &'static str,
    bytes_per_s: u64,
    /// The link has this rate; otherwise the sender limits itself to it.
    by_link: bool,
    bytes: usize,
}

const CASES: [Case; 4] = [
    Case { name: "0.2 MB/s", bytes_per_s: 200_000, by_link: true, bytes: 5_000_000 },
    Case { name: "2 MB/s", bytes_per_s: 2_000_000, by_link: true, bytes: 50_000_000 },
    Case { name: "20 MB/s", bytes_per_s: 20_000_000, by_link: true, bytes: 500_000_000 },
    Case { name: "--bwlimit", bytes_per_s: 2_000_000, by_link: false, bytes: 50_000_000 },
];

impl Case {
    fn run(&self) -> Output {
        let lab = Lab::in_memory(3 * self.bytes as u64);
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, self.bytes_per_s);
        for number in 0..10 {
            tree.noise(format!("file-{number}"), self.bytes / 10);
        }
        let proxy = lab.proxy(&dst);
        let link = self.by_link.then(|| Link::start(proxy.addr, self.bytes_per_s));
        let mut more = args!["--json", "--compress", "none"];
        if !self.by_link {
            more.extend(args!["--bwlimit", self.bytes_per_s.to_string()]);
        }
        let url = link.as_ref().map_or(&proxy.url, |link| &link.url);
        let db = lab.index(&src);
        let output = lab.upload(&src, &db, url, more).code(0);
        assert_same_tree(&src, &dst);
        output
    }

    fn judge(&self, output: &Output) {
        let (lines, summary) = (progress(output), output.summary());
        let end = number(&summary, "seconds");
        let wanted = self.bytes as f64 / self.bytes_per_s as f64;
        assert!(end > wanted - 1.0, "{}: {end} s are too few", self.name);
        // A busy machine may not be able to keep the rate, and then the rate is unknown.
        let has_kept_up = end < wanted * 1.1 + 1.5;
        let (mut judged, mut errors) = (0, Vec::new());
        for line in &lines {
            let (seconds, done) = (number(line, "seconds"), number(line, "done_bytes"));
            assert!(done <= number(line, "total_bytes"), "{}: {line}", self.name);
            if seconds < 10.0 || line["phase"] != "sending" || done == number(line, "total_bytes") {
                continue;
            }
            judged += 1;
            let (eta, truth) = (number(line, "eta_s"), end - seconds);
            // Within a fifth, or two seconds: the receiver finishes after the last byte.
            let error = (eta - truth).abs() / truth.max(10.0);
            errors.push(error);
            let (rate, wanted) = (number(line, "rate"), self.bytes_per_s as f64);
            assert!(rate < wanted * 1.2 && (rate > wanted * 0.8 || !has_kept_up), "{}: {line}", self.name);
            assert!(error <= 0.2 || !has_kept_up, "{}: {truth} s are left in {line}", self.name);
        }
        errors.sort_by(f64::total_cmp);
        let (median, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        println!("{}: {end:.1} s, {judged} lines, off by {median:.3}, {worst:.3} at most", self.name);
        assert!(judged >= 8 && (median < 0.3 || !has_kept_up), "{}: {errors:?}", self.name);
        let average = number(&summary, "average_rate");
        assert!((average * end - self.bytes as f64).abs() < average, "{}: {summary}", self.name);
    }
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("no number {key} in {line}"))
}

fn progress(output: &Output) -> Vec<Value> {
    output.json().into_iter().filter(|line| line["event"] == "progress").collect()
}

#[test]
fn the_time_left_is_right_on_links_of_any_rate() {
    std::thread::scope(|scope| {
        for case in &CASES {
            scope.spawn(|| case.judge(&case.run()));
        }
    });
}

/// What a run finds at the receiver says nothing about the rate of this run.
#[test]
fn resumed_bytes_are_not_counted_in_the_rate() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 31).noise("large", 30_000_000);
    let db = lab.index(&src);
    let proxy = lab.proxy(&dst);
    lab.upload(&src, &db, &proxy.url, args!["-s", "1000000", "-l", "24"]).code(0);
    let link = Link::start(proxy.addr, 1_000_000);
    let output = lab.upload(&src, &db, &link.url, args!["-s", "1000000", "--json"]).code(0);
    let lines = progress(&output);
    let sending: Vec<&Value> = lines.iter().filter(|line| line["phase"] == "sending").collect();
    assert!(sending.len() >= 3, "{lines:?}");
    for line in sending {
        assert_eq!(line["resumed_bytes"], 25_000_000, "{line}");
        assert!(number(line, "done_bytes") >= 25e6, "{line}");
        assert!(line["rate"].as_f64().is_none_or(|rate| (0.5e6..1.5e6).contains(&rate)), "{line}");
        assert!(line["average_rate"].as_f64().is_none_or(|rate| rate < 3e6), "{line}");
    }
}

/// What of a body was lost with its connection is taken back.
#[test]
fn what_is_sent_again_counts_once() {
    let lab = Lab::new();
    let (src, bytes) = (lab.path("src"), 4_000_000);
    Tree::new(&src, 39).noise("a", bytes);
    let db = lab.index(&src);
    let proxy = lab.proxy(&lab.dir("dst"));
    // It takes whole requests in, and then loses the first of them.
    let cuts = AtomicU64::new(6);
    let relay = Relay::start(proxy.addr, move |_, request| {
        let is_cut =
            request.is_block() && cuts.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_cut { Fate::Cut(request.bytes().len() / 2) } else { Fate::Pass }
    });
    let more = args!["--json", "--bwlimit", "1M", "--compress", "none"];
    let output = lab.upload(&src, &db, &relay.url, more).code(0);
    let (lines, summary) = (progress(&output), output.summary());
    assert!(lines.len() >= 3, "{lines:?}");
    for line in &lines {
        assert!(number(line, "done_bytes") <= bytes as f64, "{line}");
    }
    assert_eq!(summary["sent_bytes"], bytes, "{summary}");
    assert!(number(&summary, "retries") >= 6.0 && number(&summary, "wire_bytes") > bytes as f64, "{summary}");
}

/// A dashboard sees a slow link move between two blocks.
#[test]
fn the_receivers_metrics_count_bytes_as_they_come() {
    let slow = Slow::new(500_000, 30_000_000);
    let _running = slow.cmd().spawn();
    let received = || slow.proxy.metric("tarlike_received_bytes_total");
    crate::support::wait_until("bytes come", Duration::from_secs(30), || received() > 0.0);
    let (mut seen, mut grew) = (received(), 0);
    crate::support::wait_until("they come all the time", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_millis(300));
        let now = received();
        grew += u32::from(now > seen);
        seen = now;
        grew >= 6
    });
    assert!(received() >= slow.proxy.metric("tarlike_wire_bytes_total"));
}

/// A transfer that takes some seconds.
struct Slow {
    lab: Lab,
    proxy: Proxy,
    link: Link,
}

impl Slow {
    fn new(bytes_per_s: u64, bytes: usize) -> Self {
        let lab = Lab::new();
        Tree::new(&lab.path("src"), 32).noise("a", bytes / 2).noise("b", bytes / 2);
        let proxy = lab.proxy(&lab.dir("dst"));
        let link = Link::start(proxy.addr, bytes_per_s);
        Self { lab, proxy, link }
    }

    fn cmd(&self) -> Cmd {
        self.lab.cmd(args!["sync", self.lab.path("src"), self.link.url])
    }
}

fn has_percentage(screen: &Screen) -> bool {
    screen.progress_rows().iter().any(|row| row.contains('%'))
}

#[test]
fn progress_is_one_line_of_any_width_of_which_nothing_stays() {
    let run = |columns: u16| {
        let slow = Slow::new(1_000_000, 5_000_000);
        let mut terminal = Terminal::start(slow.cmd(), columns);
        let code = terminal.wait();
        terminal.screen(|screen| {
            let lines = screen.lines();
            assert_eq!(code, 0, "{lines:?}");
            assert_eq!(screen.most_progress_rows, 1, "at {columns} columns");
            assert!(screen.longest_progress.len() < columns.into(), "{:?}", screen.longest_progress);
            // A busy disk may take longer to confirm than to receive.
            let has_eta =
                screen.longest_progress.contains("ETA ") || screen.longest_progress.starts_with("verifying");
            assert!(has_eta || columns < 40, "{:?}", screen.longest_progress);
            // With how long it took, and the rate.
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].contains("all 2 files confirmed") && lines[0].ends_with("/s)"), "{lines:?}");
            assert_eq!(screen.cursor().1, 0);
        });
    };
    std::thread::scope(|scope| {
        for columns in [20, 40, 80, 120] {
            scope.spawn(move || run(columns));
        }
    });
}

#[test]
fn an_interrupted_run_leaves_one_line() {
    let slow = Slow::new(500_000, 30_000_000);
    let mut terminal = Terminal::start(slow.cmd(), 80);
    terminal.wait_for(has_percentage);
    terminal.press(0x03);
    let code = terminal.wait();
    terminal.screen(|screen| {
        let interrupted = "tar-like: interrupted; run the same command again: it goes on where it was";
        assert_eq!((code, screen.lines()), (130, vec![interrupted.to_owned()]));
        assert_eq!((screen.most_progress_rows, screen.cursor()), (1, (1, 0)));
    });
}

#[test]
fn a_window_may_change_its_width_at_any_time() {
    let slow = Slow::new(500_000, 30_000_000);
    let mut terminal = Terminal::start(slow.cmd(), 120);
    terminal.wait_for(has_percentage);
    for columns in [50, 110, 33, 80, 40, 120] {
        terminal.resize(columns);
        std::thread::sleep(Duration::from_millis(700));
        crate::support::wait_until(&format!("one row of {columns} columns"), Duration::from_secs(30), || {
            let rows = terminal.screen(Screen::progress_rows);
            rows.len() == 1 && rows[0].len() < columns.into()
        });
    }
    terminal.press(0x03);
    assert_eq!(terminal.wait(), 130);
    let lines = terminal.screen(Screen::lines);
    assert!(lines.len() == 1 && lines[0].starts_with("tar-like: interrupted; "), "{lines:?}");
}

/// To a folder of this host, the receiver is in the same process: it has nothing to say.
#[test]
fn a_local_run_ends_without_a_word_and_an_interrupted_one_with_one_line() {
    let lab = Lab::new();
    Tree::new(&lab.path("src"), 33).noise("a", 3000);
    let args = || args!["sync", lab.path("src"), lab.path("dst")];
    assert_eq!(lab.run(args()).code(0).stderr, "");
    let verbose = lab.cmd(args()).args(args!["-vv"]).run().code(0).stderr;
    assert!(verbose.contains("INFO") && !verbose.contains("stopping"), "{verbose}");
    // Names go to standard output, and nothing comes between them.
    assert!(!lab.cmd(args()).args(args!["-v"]).run().code(0).stderr.contains("INFO"));
    Tree::new(&lab.path("src"), 34).noise("b", 8_000_000);
    let running = lab.cmd(args()).args(args!["--bwlimit", "100K"]).spawn();
    crate::support::wait_until("it can be interrupted", Duration::from_secs(30), || running.catches_sigint());
    std::thread::sleep(Duration::from_secs(2));
    running.signal(rustix::process::Signal::INT);
    let stderr = running.wait().code(130).stderr;
    assert!(stderr.lines().count() == 1 && stderr.starts_with("tar-like: interrupted; "), "{stderr}");
}

/// As cat does, and with the code that a shell shows for it.
#[test]
fn who_closes_standard_output_hears_nothing() {
    let lab = Lab::new();
    Tree::new(&lab.path("src"), 35).file("a", "a");
    let db = lab.index(&lab.path("src"));
    for command in [args!["completions", "bash"], args!["completions", "bash", "--json"], args!["config"]] {
        // The reader is gone before the program starts.
        let shell = args!["sh", "-c", "{ sleep 0.5; \"$@\"; echo $? >&2; } | true", "sh"];
        let ended = lab.cmd(command).wrap(shell).run();
        assert_eq!(ended.stderr, "141\n");
    }
    let shell = args!["sh", "-c", "{ \"$@\"; echo $? >&2; } | head -1", "sh"];
    let ended = lab.cmd(args!["completions", "bash"]).wrap(shell).run();
    assert_eq!((ended.stderr.as_str(), ended.stdout.lines().count()), ("141\n", 1));
    // A transfer goes on, and says at its end that its summary was not read.
    let shell = args!["sh", "-c", "{ \"$@\"; echo $? >&2; } | true", "sh"];
    let sync = lab.cmd(args!["sync", lab.path("src"), lab.path("dst"), "-db", db, "--json"]);
    assert_eq!(sync.wrap(shell).run().stderr, "141\n");
    assert_same_tree(&lab.path("src"), &lab.path("dst"));
}

#[test]
fn the_log_file_has_what_was_said_with_times() {
    let lab = Lab::new();
    Tree::new(&lab.path("src"), 36).noise("a", 3000);
    let log = lab.path("log");
    let sync = |more| {
        let cmd = lab.cmd(args!["sync", lab.path("src"), lab.path("dst"), "--log-file", log]).args(more);
        cmd.env("TZ", "UTC-05:30").run()
    };
    assert_eq!(sync(args![]).code(0).stderr, "", "the same as without");
    let first = std::fs::read_to_string(&log).unwrap();
    sync(args!["-q"]).code(0);
    let refused = lab.cmd(args!["sync", lab.path("src"), lab.path("dst"), "-db", lab.path("no/db")]);
    refused.env("TARLIKE_LOG_FILE", &log).env("TZ", "UTC0").run().code(1);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.starts_with(&first), "the file is appended to");
    let time = regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(\+05:30|\+00:00) +\S").unwrap();
    text.lines().for_each(|line| assert!(time.is_match(line), "{line}"));
    let words = [
        " INFO sending",
        " indexed 1 file",
        "the file is confirmed by the receiver (",
        " tar-like: ",
        "no/db",
    ];
    words.iter().for_each(|word| assert!(text.contains(word), "no {word} in\n{text}"));
    assert_eq!(text.matches(" indexed 1 file").count(), 2, "{text}");
    lab.run(args!["history", "--log-file", lab.path("no/log")]).code(2).says("cannot write to the log file");
}

#[test]
fn json_lines_have_the_local_time_and_log_lines_no_colours_without_a_terminal() {
    let lab = Lab::new();
    Tree::new(&lab.path("src"), 37).noise("a", 3000);
    let time = regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}-03:00$").unwrap();
    let sync = lab.cmd(args!["sync", lab.path("src"), lab.path("dst"), "--json", "-vv"]);
    let output = sync.env("TZ", "UTC+3").run().code(0);
    let wrong = lab.cmd(args!["sync", "--json", "--nonsense"]).env("TZ", "UTC+3").run().code(2);
    for line in [output.json(), wrong.json()].concat() {
        assert!(line["time"].as_str().is_some_and(|text| time.is_match(text)), "{line}");
    }
    assert_eq!(wrong.summary()["exit"], 2);
    assert!(output.stderr.contains("-03:00") && !output.stderr.contains('\x1b'), "{}", output.stderr);
}

/// <https://no-color.org>
#[test]
fn no_color_takes_the_colours_off_a_terminal() {
    let lab = Lab::new();
    Tree::new(&lab.path("src"), 38).noise("a", 3000);
    let raw = |value: &str| {
        let cmd = lab.cmd(args!["sync", lab.path("src"), lab.path("dst"), "-vv"]).env("NO_COLOR", value);
        let mut terminal = Terminal::start(cmd, 80);
        assert_eq!(terminal.wait(), 0);
        terminal.screen(|screen| screen.colours)
    };
    assert_eq!(raw("1"), 0);
    assert!(raw("") > 0, "an empty value counts as none");
}

/// At 40 columns the cells of a table would be anywhere.
#[test]
fn a_table_that_is_wider_than_the_terminal_has_a_cell_a_line() {
    let lab = Lab::new();
    Tree::new(&lab.path("src"), 40).noise("some/file", 3000);
    lab.run(args!["sync", lab.path("src"), lab.path("dst"), "-db", lab.path("db")]).code(0);
    lab.run(args!["sync", lab.path("src"), lab.path("dst")]).code(0);
    let shown = |command: Vec<std::ffi::OsString>, columns| {
        let mut terminal = Terminal::start(lab.cmd(command), columns);
        assert_eq!(terminal.wait(), 0);
        terminal.screen(Screen::lines)
    };
    for (command, line) in [
        (args!["history", "-db", lab.path("db")], "generation: 1"),
        (args!["indexes"], "  bytes: 2.93 KiB"),
        (args!["ls", "-l", "-db", lab.path("db")], "  path: some/file"),
    ] {
        let narrow = shown(command.clone(), 40);
        assert!(narrow.iter().any(|found| found == line), "{narrow:?}");
        let piped = lab.run(command).code(0).stdout;
        assert!(!piped.contains(line), "{piped}");
    }
}
