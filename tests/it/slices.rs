//! Senders and several receivers on one folder (`--slice`). What one of them answers is in
//! `http::slices`, faults in any order are in `queue::rounds`.

mod failures;
mod flags;

use crate::support::redis::Redis;
use crate::support::stress::free_port;
use crate::support::{Lab, Proxy, Tree, assert_same_tree, wait_until};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const HOST: &str = "127.0.0.1";
const PATIENCE: Duration = Duration::from_secs(60);

/// A source, and receivers on one folder.
struct Setting {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
    tree: Tree,
    slices: Vec<Proxy>,
}

/// Files of the same size.
fn many(tree: &mut Tree, name: &str, numbers: std::ops::Range<u64>, size: usize) {
    for number in numbers {
        tree.noise(format!("{name}{number:02}"), size);
    }
}

impl Setting {
    fn new(seed: u64, count: usize) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, seed);
        tree.rich(60_000).noise("large", 300_000).file("d/goes", "it goes").file("turns", "a file");
        many(&mut tree, "many/f", 0..40, 3000);
        // Folders that become files, and the other way round, of all slices.
        many(&mut tree, "kinds/file", 0..12, 2000);
        (0..12).for_each(|number| many(&mut tree, &format!("kinds/folder{number:02}/f"), 0..2, 900));
        tree.hardlink("second", "many/f01").symlink("link", "many/f02").dir("hollow");
        let slices = lab.slices(&dst, count, HOST, &[]);
        Self { lab, src, dst, tree, slices }
    }

    /// Every kind of change.
    fn change(&mut self) {
        let Self { tree, .. } = self;
        tree.remove("d/goes").remove("many/f03").remove("turns").noise("turns/into-a-folder", 5000);
        tree.remove("hollow").noise("hollow", 30_000);
        for number in 0..12 {
            let (file, folder) = (format!("kinds/file{number:02}"), format!("kinds/folder{number:02}"));
            tree.remove(&file).noise(format!("{file}/in it"), 5000 + number).remove(&folder);
            tree.noise(folder, 6000 + number);
        }
        many(tree, "many/f", 10..20, 4000);
        many(tree, "new/f", 0..30, 2500);
        std::fs::rename(tree.path("many/f04"), tree.path("many/renamed")).unwrap();
        std::fs::rename(tree.path("large"), tree.path("new/larger")).unwrap();
        tree.times();
    }

    fn sync(&self, more: Vec<OsString>) -> crate::support::Output {
        self.lab.sync(&self.src, &self.slices[0].url, more)
    }

    #[track_caller]
    fn is_same(&self) {
        assert_same_tree(&self.src, &self.dst);
    }

    fn published(&self) -> Vec<u64> {
        (0..self.slices.len()).map(|number| self.published_of(number)).collect()
    }

    fn published_of(&self, number: usize) -> u64 {
        self.slices[number].metric("tarlike_files_published_total") as u64
    }

    /// Stops all receivers, and starts so many.
    fn restart(&mut self, count: usize) {
        self.slices.drain(..).for_each(|proxy| drop(proxy.term_and_wait()));
        self.slices = match count {
            1 => vec![self.lab.proxy(&self.dst)],
            _ => self.lab.slices(&self.dst, count, HOST, &[]),
        };
    }
}

/// The life of a copy: first run, nothing to do, changes with deletions.
#[test]
fn a_copy_lives_on_any_number_of_slices() {
    for count in 1..=3 {
        let mut setting = Setting::new(200 + count as u64, count);
        let first = setting.sync(args!["--json", "--keep", "5"]).code(0).summary();
        setting.is_same();
        assert!(setting.published().iter().all(|&files| files > 5), "{:?}", setting.published());
        assert_eq!(first["sent_bytes"], first["total_bytes"], "{first}");
        let unchanged = setting.published();
        let asked = |proxy: &Proxy| proxy.metric("tarlike_http_responses_total{class=\"2xx\"}");
        let requests: Vec<f64> = setting.slices[1..].iter().map(asked).collect();
        let again = setting.sync(args!["--json", "--keep", "5"]).code(0).summary();
        assert_eq!((&again["sent_bytes"], setting.published()), (&0.into(), unchanged));
        // The metrics themselves were asked for twice more.
        for (proxy, before) in setting.slices[1..].iter().zip(requests) {
            assert!(asked(proxy) - before <= 4.0, "an unchanged source is no other slice's business");
        }
        setting.change();
        setting.sync(args!["--keep", "5", "--delete"]).code(0);
        setting.is_same();
        setting.slices.iter().for_each(|proxy| {
            assert!(
                !proxy.stderr().contains(" WARN ") && !proxy.stderr().contains("ERROR"),
                "{}",
                proxy.stderr()
            )
        });
        assert_eq!(setting.slices[0].metric("tarlike_archives{state=\"unfinished\"}"), 0.0);
        for other in &setting.slices[1..] {
            let metrics = other.request("GET", "/metrics", &[], b"").text();
            assert!(!metrics.contains("tarlike_archives"), "the first slice knows: {metrics}");
        }
    }
}

#[test]
fn a_slice_that_is_down_takes_only_its_files() {
    let mut setting = Setting::new(210, 3);
    setting.slices[1].kill9();
    let failed = setting.sync(args!["--stall-timeout", "3", "--json"]).code(3);
    let address = setting.slices[1].url.trim_end_matches("/tar").to_string();
    let summary = failed.summary();
    let of_slice = &summary["failed_slices"][0];
    assert_eq!(of_slice["slice"], "2/3", "{summary}");
    let says = |key: &str, what: &str| of_slice[key].as_str().is_some_and(|text| text.contains(what));
    assert!(says("address", &address) && says("error", "gave up after"), "{summary}");
    assert!(says("hint", "run the same command again"), "{summary}");
    let files = summary["failed"].as_array().unwrap();
    assert!(files.len() > 5 && summary["failed_total"] == files.len(), "{summary}");
    for file in files {
        let reason = file["reason"].as_str().unwrap();
        // A hard link of one of them fails with it.
        let is_link = reason.contains("of which it is another name");
        let is_named = reason.starts_with("slice 2/3 at ") && reason.contains(&address);
        assert!(is_named || is_link, "{file}");
    }
    let published = [setting.published_of(0), setting.published_of(2)];
    assert!(published.iter().all(|&files| files > 5), "{published:?}");
    // What can be made is made.
    assert!(setting.dst.join("link").is_symlink() && setting.dst.join("hollow").is_dir());
    setting.slices[1].restart();
    setting.sync(args![]).code(0);
    setting.is_same();
    // What was there was not sent again.
    assert_eq!([setting.published_of(0), setting.published_of(2)], published);
}

/// A folder gives way to a file, whichever slice has the file, also where an earlier run did not
/// delete. What it holds of others keeps it.
#[test]
fn a_folder_gives_way_to_a_file_of_another_slice() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let stripes = args!["--stripe-size", "64K"];
    let slices = lab.slices(&dst, 2, HOST, &stripes);
    let sync = |more: &[&str]| lab.sync(&src, &slices[0].url, more.iter().map(OsString::from).collect());
    let mut tree = Tree::new(&src, 215);
    for name in ["at-once", "later", "strange", "limited"] {
        tree.file(format!("{name}/x/y"), "in a folder").file(format!("{name}/z"), "beside it");
    }
    sync(&["--delete"]).code(0);
    let published = || slices[1].metric("tarlike_files_published_total");
    // How many files slice 2 has to have put in place at last: it gets the file, and what follows,
    // and slice 1 what comes before it.
    let mut becomes_a_file = |name: &str| {
        tree.noise(format!("a-{name}"), 64 << 10).noise(format!("z-{name}"), 64 << 10);
        tree.remove(name).file(name, format!("{name} is a file"));
        published() + 2.0
    };
    let last = becomes_a_file("at-once");
    sync(&["--delete"]).code(0);
    assert_eq!(published(), last);
    assert_same_tree(&src, &dst);
    let last = becomes_a_file("later");
    sync(&[]).code(3).says("\"later\"");
    sync(&["--delete"]).code(0);
    assert_eq!(published(), last);
    assert_same_tree(&src, &dst);
    let last = becomes_a_file("strange");
    std::fs::write(dst.join("strange/x/not ours"), "somebody's").unwrap();
    for _ in 0..2 {
        sync(&["--delete"]).code(3).says("strange/x/not ours").says("is not of this archive");
        assert!(dst.join("strange/x/y").exists() && dst.join("strange/z").exists());
    }
    std::fs::remove_file(dst.join("strange/x/not ours")).unwrap();
    sync(&["--delete"]).code(0);
    assert_eq!(published(), last);
    assert_same_tree(&src, &dst);
    let last = becomes_a_file("limited");
    sync(&["--delete", "--max-delete", "2"]).code(25).says("limited");
    assert!(dst.join("limited/x/y").exists() && dst.join("limited/z").exists());
    sync(&["--delete"]).code(0);
    assert_eq!(published(), last);
    assert_same_tree(&src, &dst);
}

/// How a run ends in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Interrupted,
    /// Slice 2 is killed with the sender.
    WithSlice,
    /// Slice 2 stands still while the next run begins, and goes on afterwards.
    SliceStopped,
}

/// What an interrupted run has put in place goes with the next one, where the source does not have
/// it any more, and what slice 2 was about to put there does not come.
#[test]
fn what_an_interrupted_run_has_put_in_place_goes() {
    for (number, end) in [End::Killed, End::Interrupted, End::WithSlice, End::SliceStopped].iter().enumerate()
    {
        an_interrupted_run_leaves_nothing(300 + number as u64, *end);
    }
}

fn an_interrupted_run_leaves_nothing(seed: u64, end: End) {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    let mut tree = Tree::new(&src, seed);
    many(&mut tree, "f", 0..80, 70_000);
    let stripes = args!["--stripe-size", "100K"];
    let mut slices = lab.slices(&dst, 2, HOST, &stripes);
    let url = slices[0].url.clone();
    let sync = |more: Vec<OsString>| lab.cmd(args!["sync", src, url]).args(more);
    let slow = args!["-s", "100000", "--bwlimit", "1500K", "--compress", "none"];
    let mut first = sync(slow).spawn();
    let in_place = || std::fs::read_dir(&dst).unwrap().count();
    wait_until("some files are in place", PATIENCE, || in_place() > 30);
    if end == End::SliceStopped {
        slices[1].signal(rustix::process::Signal::STOP);
    }
    match end {
        End::Interrupted => {
            first.signal(rustix::process::Signal::INT);
            first.wait().code(130);
        }
        _ => first.kill9(),
    }
    if end == End::WithSlice {
        slices[1].kill9();
    }
    let before = slices[0].status(0)["digest"].clone();
    for number in 0..80u64 {
        let name = format!("f{number:02}");
        match number {
            0..60 if number % 10 != 0 => drop(tree.remove(name)),
            70..80 => drop(tree.noise(name, 70_000)),
            _ => {}
        }
    }
    tree.file("new", "a new file");
    let deletes = || args!["--delete", "--max-delete", "100%", "--stall-timeout", "60"];
    match end {
        End::Killed | End::Interrupted => drop(sync(deletes()).run().code(0)),
        End::WithSlice => {
            sync(args!["--delete", "--max-delete", "100%", "--stall-timeout", "2"]).run().code(3);
            slices[1].restart();
            sync(deletes()).run().code(0);
        }
        End::SliceStopped => {
            let second = sync(deletes()).spawn();
            let start = Instant::now();
            // Where it was stopped as it was about to rename a file, the index waits for it.
            while slices[0].status(0)["digest"] == before && start.elapsed() < Duration::from_secs(15) {
                std::thread::sleep(Duration::from_millis(20));
            }
            slices[1].signal(rustix::process::Signal::CONT);
            second.wait().code(0);
        }
    }
    assert_same_tree(&src, &dst);
}

/// What somebody has put among the handovers of a slice hinders nothing.
#[test]
fn what_is_no_handover_is_passed_over() {
    let setting = Setting::new(217, 2);
    let handovers = setting.dst.join(".tar-like/slice-2-of-2/handover");
    let name = format!("0.{}.{}", "5".repeat(64), "d".repeat(16));
    std::fs::create_dir_all(handovers.join(&name)).unwrap();
    std::fs::create_dir_all(handovers.join(format!("{name}.taken"))).unwrap();
    setting.sync(args!["--delete"]).code(0);
    setting.is_same();
    let (said, shown) = (setting.slices[0].stderr(), handovers.join(&name));
    assert!(said.contains(&*shown.to_string_lossy()) && !said.contains("/proc/"), "{said}");
}

#[test]
fn how_many_slices_there_are_may_change_between_runs() {
    let mut setting = Setting::new(220, 3);
    setting.sync(args!["--keep", "5"]).code(0);
    for (count, seed) in [(1, 1), (2, 2), (4, 3), (3, 4)] {
        setting.restart(count);
        Tree::new(&setting.src, 230 + seed)
            .noise(format!("many/f{:02}", 20 + seed), 5000)
            .noise(format!("more/{seed}"), 90_000)
            .remove(format!("many/f{:02}", 30 + seed));
        let run = setting.sync(args!["--json", "--keep", "5", "--delete"]).code(0).summary();
        setting.is_same();
        assert!(run["sent_bytes"].as_u64().unwrap() < 200_000, "what is published stays: {run}");
    }
}

#[test]
fn receivers_that_are_no_slices_of_one_folder_are_refused() {
    let lab = Lab::new();
    let src = lab.path("src");
    let mut tree = Tree::new(&src, 240);
    many(&mut tree, "f", 0..30, 3000);
    let ports: Vec<u16> = (0..2).map(|_| free_port()).collect();
    let peers = ports.iter().map(|port| format!("http://{HOST}:{port}")).collect::<Vec<_>>().join(",");
    let slice = |number: usize, base: &str, more: Vec<OsString>| {
        let flags = args!["--slice", format!("{number}/2"), "--peers", peers];
        lab.proxy_cmd(ports[number - 1], &lab.dir(base)).args(flags).args(more).serve()
    };
    let small = || args!["--stripe-size", "20K"];
    let first = slice(1, "one", small());
    for (base, more) in [("other", small()), ("one", args!["--stripe-size", "30K"])] {
        let mut second = slice(2, base, more);
        let refused = lab.sync(&src, &first.url, args!["--stall-timeout", "3"]).code(2);
        let urls = peers.split(',').all(|url| refused.stderr.contains(url));
        assert!(refused.stderr.contains("not slices of one folder") && urls, "{}", refused.stderr);
        second.kill9();
    }
    // The address of another slice than the first.
    let second = slice(2, "one", small());
    lab.sync(&src, &second.url, args!["--stall-timeout", "3"]).code(1).says("slice 2/2");
    lab.sync(&src, &first.url, args![]).code(0);
    assert_same_tree(&src, &lab.path("one"));
    // None of several.
    drop((first, second));
    let plain = lab.proxy(&lab.dir("one"));
    lab.sync(&src, &plain.url, args![]).code(0);
}

/// What says where the slices are may say it in another order than theirs.
#[test]
fn peers_in_another_order_are_put_in_order() {
    let lab = Lab::new();
    let (src, dst) = (lab.path("src"), lab.dir("dst"));
    Tree::new(&src, 250).rich(100_000);
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let url = |number: usize| format!("http://{HOST}:{}", ports[number]);
    let slices = lab.slices_named(&dst, &ports, &[url(2), url(0), url(1)].join(","), &[]);
    lab.sync(&src, &slices[0].url, args![]).code(0);
    assert_same_tree(&src, &dst);
}

#[test]
fn damage_is_repaired_and_an_edited_copy_comes_back() {
    let setting = Setting::new(260, 3);
    let db = setting.lab.path("index.sqlite");
    setting.sync(args!["-db", db]).code(0);
    for number in 0..40 {
        let path = setting.dst.join(format!("many/f{number:02}"));
        let time = path.metadata().unwrap().modified().unwrap();
        let mut content = std::fs::read(&path).unwrap();
        content[100] ^= 1;
        std::fs::write(&path, content).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    setting.sync(args!["-db", db, "--checksum"]).code(0);
    setting.is_same();
    (0..20)
        .for_each(|number| std::fs::write(setting.dst.join(format!("many/f{number:02}")), "edited").unwrap());
    (20..30).for_each(|number| std::fs::remove_file(setting.dst.join(format!("many/f{number:02}"))).unwrap());
    setting.sync(args!["-db", db]).code(0);
    setting.is_same();
}

#[test]
fn a_rewind_takes_all_slices_back() {
    let mut setting = Setting::new(270, 3);
    let (db, before) = (setting.lab.path("index.sqlite"), setting.lab.path("before"));
    let flags = || args!["-db", db, "--keep", "3", "--delete"];
    setting.sync(flags()).code(0);
    let copied = std::process::Command::new("cp").arg("-aT").args([&setting.src, &before]).status();
    assert!(copied.unwrap().success());
    setting.change();
    setting.sync(flags()).code(0);
    setting.is_same();
    let url = &setting.slices[0].url;
    setting.lab.run(args!["rewind", "-db", db, url]).code(0);
    assert_same_tree(&before, &setting.dst);
}

#[test]
fn a_copy_of_another_program_is_adopted() {
    let mut setting = Setting::new(280, 2);
    let copied = std::process::Command::new("cp").arg("-aT").args([&setting.src, &setting.dst]).status();
    assert!(copied.unwrap().success());
    setting.change();
    let run = setting.sync(args!["--adopt", "--delete", "--json"]).code(0).summary();
    setting.is_same();
    assert!(run["sent_bytes"].as_u64() < run["total_bytes"].as_u64(), "{run}");
}

#[test]
fn an_upload_with_its_queue_and_workers() {
    let setting = Setting::new(290, 2);
    let (lab, db) = (&setting.lab, setting.lab.index(&setting.src));
    let redis = Redis::start(lab);
    let (queue, url) = (redis.url(), &setting.slices[0].url);
    let worker = |name: &str| {
        let cmd = lab.cmd(args!["worker", "--follow", "-b", &setting.src, "-u", url, "--queue", queue]);
        cmd.env("XDG_CACHE_HOME", lab.path(name)).spawn()
    };
    let workers = [worker("one"), worker("two")];
    let more = args!["--queue", queue, "-s", "4000", "--bwlimit", "100K", "--compress", "none", "--json"];
    let report = lab.upload(&setting.src, &db, url, more).code(0).summary();
    setting.is_same();
    assert!(report["sent_bytes"].as_u64() < report["total_bytes"].as_u64(), "workers sent nothing: {report}");
    lab.run(args!["worker", "drain", "--all", "--queue", queue]).code(0);
    for worker in workers {
        worker.wait().code(0);
    }
}

/// A worker finds the job also where nothing but another slice's files is missing.
#[test]
fn a_worker_helps_where_only_another_slice_misses_something() {
    let mut setting = Setting::new(295, 2);
    let db = setting.lab.index(&setting.src);
    setting.slices[1].kill9();
    let url = setting.slices[0].url.clone();
    setting.lab.upload(&setting.src, &db, &url, args!["--stall-timeout", "2"]).code(3).says("slice 2/2 at");
    setting.slices[1].restart();
    let (lab, redis) = (&setting.lab, Redis::start(&setting.lab));
    let queue = redis.url();
    let more = args!["--queue", queue, "-s", "2000", "--bwlimit", "15K", "--compress", "none"];
    let first = lab.upload_cmd(&setting.src, &db, &url, more).spawn();
    wait_until("a job is there", PATIENCE, || !redis.words(&["HKEYS", "tl:jobs"]).is_empty());
    let worker = lab.cmd(args!["worker", "-b", &setting.src, "-u", url, "--queue", queue, "--json"]);
    let worker = worker.env("XDG_CACHE_HOME", lab.path("cache")).run().code(0);
    first.wait().code(0);
    setting.is_same();
    let sent = worker.json().iter().filter_map(|line| line["sent_bytes"].as_u64()).max();
    assert!(sent.is_some_and(|sent| sent > 0), "{worker:?}");
}
