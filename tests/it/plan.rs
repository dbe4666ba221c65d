//! What the next run would do, as `plan` and `sync --dry-run` say it, without reading content.

use crate::support::s3::{Object, Stub};
use crate::support::{Cmd, Lab, Output, Tree, index, set_mtime, wait_until};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More bytes than a command can read in its time limit.
const HUGE: u64 = 1 << 40;

/// A folder and its index.
struct World {
    lab: Lab,
    src: PathBuf,
    db: PathBuf,
    tree: Tree,
}

impl World {
    fn new(seed: u64, fill: impl FnOnce(&mut Tree)) -> Self {
        let lab = Lab::new();
        let (src, db) = (lab.path("src"), lab.path("index.sqlite"));
        let mut tree = Tree::new(&src, seed);
        fill(&mut tree);
        let world = Self { lab, src, db, tree };
        world.let_files_age();
        world.index();
        world
    }

    /// Waits, since files that changed just before an index began count as changed.
    fn let_files_age(&self) {
        std::thread::sleep(Duration::from_millis(3100));
    }

    fn index(&self) -> Value {
        self.lab.run(args!["index", "-b", self.src, "-db", self.db, "--json"]).summary()
    }

    fn plan(&self, more: Vec<OsString>) -> Output {
        self.lab.cmd(args!["plan", "-b", self.src, "-db", self.db]).args(more).run()
    }

    fn from(&self, more: Vec<OsString>) -> Output {
        self.lab.cmd(args!["plan", "-db", self.db, "--from"]).args(more).run()
    }

    fn append(&self, name: &str, bytes: &[u8]) {
        let file = std::fs::File::options().append(true).open(self.src.join(name)).unwrap();
        std::io::Write::write_all(&mut &file, bytes).unwrap();
    }
}

fn grow_to(path: &Path, size: u64) {
    std::fs::File::options().append(true).create(true).open(path).unwrap().set_len(size).unwrap();
}

/// Files, bytes, and directories and links of a category.
fn tally(plan: &Value, what: &str) -> [u64; 3] {
    ["files", "bytes", "nodes"].map(|field| plan[what][field].as_u64().unwrap())
}

fn number(plan: &Value, field: &str) -> u64 {
    plan[field].as_u64().unwrap_or_else(|| panic!("no {field} in {plan}"))
}

#[test]
fn every_change_of_an_entry() {
    let mut world = World::new(1, |tree| {
        tree.noise("stays", 1000).noise("d/changes", 300).noise("d/moves", 70).noise("goes", 40);
        tree.noise("grows", 200).noise("log", 3_000_000).noise("mode", 500).noise("becomes-dir", 9);
        tree.noise("replaced", 60).symlink("link", "stays").dir("old").dir("untouched");
    });
    let idle = world.plan(args!["--json"]).code(0).summary();
    assert_eq!(tally(&idle, "unchanged"), [9, 3_002_179, 4], "{idle}");
    assert_eq!((number(&idle, "send_bytes"), number(&idle, "blocks")), (0, 0), "{idle}");
    assert_eq!(idle["at_most"], false);

    world.tree.noise("d/changes", 300).noise("new", 30).remove("goes").mode("mode", 0o600).dir("sub");
    std::fs::rename(world.src.join("d/moves"), world.src.join("sub/moved\n")).unwrap();
    world.append("grows", &[7; 50]);
    world.append("log", &[7; 1000]);
    world.tree.remove("link").symlink("link", "new").remove("old").remove("becomes-dir").dir("becomes-dir");
    world.tree.hardlink("z-hard", "stays");
    // Another inode: the file did not grow, whatever its size suggests.
    world.tree.noise("tmp", 80);
    std::fs::rename(world.src.join("tmp"), world.src.join("replaced")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, world.src.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();

    let output = world.plan(args!["--paths"]).code(3).says("skipped: fifo: it is a FIFO");
    let lines: Vec<&str> = output.stdout.lines().filter(|line| line.contains('\t')).collect();
    // In walk order; then removed folders and links, removed and renamed files, and new files.
    let expected = [
        "N\td\t0\tbecomes-dir",
        "C\td\t0\td",
        "C\tf\t300\td/changes",
        "G\tf\t50\tgrows",
        "C\tl\t0\tlink",
        "G\tf\t1000\tlog",
        "T\tf\t500\tmode",
        "C\tf\t80\treplaced",
        "N\td\t0\tsub",
        "N\th\t0\tz-hard",
        "D\td\t0\told",
        "D\tf\t9\tbecomes-dir",
        "R\tf\t70\tsub/moved\\x0a\td/moves",
        "D\tf\t40\tgoes",
        "N\tf\t30\tnew",
    ];
    assert_eq!(lines, expected);
    assert!(output.stdout.contains("since generation 1\n"), "{}", output.stdout);

    let plan = world.plan(args!["--json"]).code(3).summary();
    for (what, expected) in [
        // One of them has a further name, which changed its inode.
        ("unchanged", [1, 1000, 1]),
        ("new", [1, 30, 3]),
        ("changed", [2, 380, 2]),
        ("grown", [2, 1050, 0]),
        ("renamed", [1, 70, 0]),
        ("touched", [1, 500, 0]),
        ("removed", [2, 49, 1]),
    ] {
        assert_eq!(tally(&plan, what), expected, "{what}: {plan}");
    }
    assert_eq!(
        (number(&plan, "skipped"), &plan["generation"], &plan["at_most"]),
        (1, &1.into(), &true.into())
    );
    assert_eq!([number(&plan, "total_files"), number(&plan, "total_bytes")], [8, 3_003_230]);
    let lines = world.plan(args!["--json", "--paths"]).code(3).json();
    let mut moved = lines.iter().find(|line| line["what"] == "renamed").unwrap().clone();
    assert!(moved.as_object_mut().unwrap().remove("time").is_some_and(|time| time.is_string()));
    let moved_is = json!({"event": "path", "what": "renamed", "kind": "f", "path": "sub/moved\\x0a", "from": "d/moves", "bytes": 70, "send_bytes": 0});
    assert_eq!(moved, moved_is);
    assert!(lines.iter().any(|line| line["event"] == "failed" && line["path"] == "fifo"));

    // The run itself: the plan was right.
    let indexed = world.index();
    assert_eq!(indexed["changes"]["appended_bytes"], plan["send_bytes"], "{indexed}");
    let exact = world.from(args!["1", "--json"]).code(0).summary();
    assert_eq!((&exact["at_most"], number(&exact, "believed_bytes")), (&false.into(), 0));
    for field in ["send_bytes", "total_bytes", "total_files", "blocks"] {
        assert_eq!(exact[field], plan[field], "{field}");
    }
    for (what, expected) in [
        ("new", [1, 30, 3]),
        // Of contents it is known which is larger, not which inode they had. An inode's time is no
        // part of a generation.
        ("changed", [1, 300, 2]),
        ("grown", [3, 1070, 0]),
        ("renamed", [1, 70, 0]),
        ("touched", [1, 500, 0]),
        ("removed", [2, 49, 1]),
    ] {
        assert_eq!(tally(&exact, what), expected, "{what}: {exact}");
    }
}

#[test]
fn nothing_is_read_and_nothing_is_written() {
    let world = World::new(2, |tree| {
        tree.noise("grows", 2_000_000).noise("other", 100);
    });
    grow_to(&world.src.join("grows"), HUGE);
    grow_to(&world.src.join("other"), HUGE);
    set_mtime(&world.src.join("other"), 77);
    grow_to(&world.src.join("new"), HUGE);
    let look = || (std::fs::read(&world.db).unwrap(), world.db.metadata().unwrap().mtime_nsec());
    let beside = || std::fs::read_dir(world.db.parent().unwrap()).unwrap().count();
    let before = (look(), beside());
    let plan = world.plan(args!["--json"]).code(0).summary();
    assert_eq!(tally(&plan, "new"), [1, HUGE, 0], "{plan}");
    assert_eq!(number(&plan, "total_bytes"), 3 * HUGE);
    assert!(before == (look(), beside()), "the index, or a file beside it, changed");
    assert_eq!(std::fs::read_dir(world.lab.path("tmp")).unwrap().count(), 0, "something was left behind");
}

/// Nor by a planned sync, to a folder of this host or to a remote receiver.
#[test]
fn a_dry_run_of_a_sync_reads_nothing_where_there_is_an_index() {
    for local in [true, false] {
        let mut world = World::new(3, |tree| {
            tree.noise("a", 50_000).noise("b", 100);
        });
        let dst = world.lab.dir("dst");
        let proxy = (!local).then(|| world.lab.proxy(&dst));
        let to = proxy.as_ref().map_or(dst.clone().into_os_string(), |proxy| (&proxy.url).into());
        let sync =
            |more| world.lab.sync(&world.src, &to, [args!["-db", world.db, "-s", "10000"], more].concat());
        // The receiver has nothing yet, and then everything.
        let first = sync(args!["--dry-run", "--json"]).code(0).summary();
        assert_eq!([number(&first, "sent_bytes"), number(&first, "files")], [50_100, 2], "{first}");
        assert_eq!((number(&first, "sent_blocks"), &first["complete"]), (6, &false.into()));
        let [missing, unchanged] = ["missing", "unchanged"].map(|what| tally(&first["plan"], what));
        assert_eq!((missing, unchanged), ([2, 50_100, 0], [0; 3]), "{first}");
        assert!(!dst.join("a").exists() && (!local || !dst.join(".tar-like").exists()));
        sync(vec![]).code(0);
        let idle = sync(args!["--dry-run", "--json"]).code(0).summary();
        assert_eq!([number(&idle, "sent_bytes"), number(&idle, "sent_blocks")], [0, 0], "{idle}");
        assert_eq!(idle["complete"], true, "{idle}");
        grow_to(&world.src.join("huge"), HUGE);
        let before = std::fs::read(&world.db).unwrap();
        let plan = sync(args!["--dry-run", "--json"]).code(0).summary();
        assert_eq!([number(&plan, "sent_bytes"), number(&plan, "files")], [HUGE, 3], "{plan}");
        assert_eq!((tally(&plan["plan"], "new"), &plan["complete"]), ([1, HUGE, 0], &false.into()));
        let text = sync(args!["--dry-run"]).code(0).stdout;
        assert!(text.contains("would send") && text.contains("since generation 1"), "{text}");
        assert!(before == std::fs::read(&world.db).unwrap() && !dst.join("huge").exists());
        world.tree.remove("huge");
    }
}

/// The inode's time shows that it may have changed after the index was made; a date in the future
/// shows nothing.
#[test]
fn recently_changed_files_are_not_trusted() {
    let then = 1_500_000_000_000_000_000;
    let mut world = World::new(4, |tree| {
        tree.noise("a", 100).noise("future", 60).mtime("future", 4_000_000_000_000_000_000);
        tree.noise("b", 60).mtime("b", then);
    });
    world.tree.mtime("b", then);
    let plan = world.plan(args!["--json"]).code(0).summary();
    assert_eq!((tally(&plan, "touched"), tally(&plan, "unchanged")), ([0; 3], [3, 220, 0]), "{plan}");
    assert_eq!((number(&plan, "send_bytes"), number(&plan, "believed_bytes")), (0, 60));
    // Where nothing is to be sent, no sum depends on that.
    assert!(!world.plan(vec![]).code(0).stdout.contains("assumed"));
}

#[test]
fn without_an_index_everything_is_new() {
    let lab = Lab::new();
    let (src, db) = (lab.path("src"), lab.path("index.sqlite"));
    Tree::new(&src, 5).noise("a", 95).file("empty", "").symlink("l", "a").noise("out.tmp", 1000);
    let more = args!["-s", "10", "--rate", "2", "-x", r"\.tmp$"];
    let cmd = |path: &Path| lab.cmd(args!["plan", "-b", path, "-db", db]).args(more.clone());
    let plan = cmd(&src).args(args!["--json"]).run().code(0).summary();
    assert_eq!((tally(&plan, "new"), &plan["generation"]), ([2, 95, 1], &Value::Null), "{plan}");
    assert_eq!(["send_bytes", "blocks", "rate", "estimated_s"].map(|f| number(&plan, f)), [95, 10, 2, 48]);
    let text = cmd(&src).run().code(0);
    assert_eq!(text.stderr, "", "the plan goes to standard output");
    assert!(text.stdout.starts_with("there is no index yet: everything is new\n"), "{}", text.stdout);
    let last = "at most 95 B to send in 10 blocks of 10 B; 00:00:48 at 2 B a second\n\
                1 entry would be left out by the filter\n";
    assert!(text.stdout.ends_with(last), "{}", text.stdout);
    // No rate, no time.
    let plan = lab.run(args!["plan", "-b", src, "-db", db, "--json"]).code(0).summary();
    assert_eq!((&plan["rate"], &plan["estimated_s"]), (&Value::Null, &Value::Null));
    assert!(!db.exists());
}

#[test]
fn one_file_is_a_source_too() {
    let lab = Lab::new();
    let (src, db) = (lab.file("disk.img", vec![5; 3000]), lab.path("index.sqlite"));
    std::thread::sleep(Duration::from_millis(3100));
    let plan = || lab.run(args!["plan", "-b", src, "-db", db, "--json"]).code(0).summary();
    assert_eq!(tally(&plan(), "new"), [1, 3000, 0]);
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    assert_eq!(tally(&plan(), "unchanged"), [1, 3000, 0]);
    grow_to(&src, HUGE);
    let grown = plan();
    assert_eq!(tally(&grown, "grown"), [1, HUGE - 3000, 0], "{grown}");
    // Too small for chunks: all of it would be sent.
    assert_eq!(number(&grown, "send_bytes"), HUGE);
}

#[test]
fn generations_beside_each_other() {
    let mut world = World::new(6, |tree| {
        tree.noise("a", 1000).noise("big", 2_000_000).noise("goes", 10).dir("d").times();
    });
    // 2: an edit in place, a copy, a rename, the same content twice.
    let file = std::fs::File::options().write(true).open(world.src.join("big")).unwrap();
    file.write_all_at(b"edited", 1_000_000).unwrap();
    std::fs::copy(world.src.join("a"), world.src.join("copy")).unwrap();
    std::fs::rename(world.src.join("goes"), world.src.join("d/came")).unwrap();
    let same = world.tree.rng.noise(500);
    world.tree.file("same-1", &same).file("same-2", &same);
    let second = world.index();
    // 3: added files are removed again, and another file is added.
    world.tree.remove("same-1").remove("same-2").noise("last", 77);
    let third = world.index();

    let exact = |more: Vec<OsString>| world.from([more, args!["--json"]].concat()).code(0).summary();
    let plan = exact(args!["1", "--to", "2", "-s", "1000"]);
    assert_eq!((&plan["generation"], &plan["to_generation"]), (&1.into(), &2.into()));
    assert_eq!(plan["send_bytes"], second["changes"]["appended_bytes"], "{plan}");
    assert_eq!((tally(&plan, "renamed"), tally(&plan, "new")), ([1, 10, 0], [3, 2000, 0]), "{plan}");
    assert_eq!(
        (tally(&plan, "changed")[..2].to_vec(), tally(&plan, "removed")),
        (vec![1, 2_000_000], [0; 3])
    );
    assert_eq!(plan["new"]["send_bytes"], 500, "a copy costs nothing, nor does a second one");
    let edit = number(&plan, "send_bytes") - 500;
    assert!((6..400_000).contains(&edit) && number(&plan, "blocks") >= edit / 1000, "{plan}");

    let plan = exact(args!["2"]);
    assert_eq!((tally(&plan, "new"), tally(&plan, "removed")), ([1, 77, 0], [2, 1000, 0]), "{plan}");
    assert_eq!(plan["send_bytes"], third["changes"]["appended_bytes"]);
    // A receiver of the first generation never needs rows that were added and removed since.
    let plan = exact(args!["1"]);
    assert_eq!(number(&plan, "send_bytes"), edit + 77, "{plan}");
    assert_eq!((number(&plan, "total_files"), &plan["at_most"]), (5, &false.into()));
    let idle = exact(args!["3", "--to", "3"]);
    assert_eq!((number(&idle, "send_bytes"), tally(&idle, "unchanged")[0]), (0, 5), "{idle}");

    for (wrong, why) in [
        (args!["3", "--to", "1"], "was not made of generation 3"),
        (args!["9"], "no generation 9"),
        (args!["1", "--to", "9"], "no generation 9"),
    ] {
        world.from(wrong).code(2).says(why);
    }
    world.lab.run(args!["rewind", "-db", world.db]).code(0);
    world.from(args!["3", "--to", "2"]).code(2).says("was not made of generation 3");
}

#[test]
fn of_a_bucket_only_the_list_is_asked_for() {
    let (lab, stub) = (Lab::new(), Stub::start("bkt"));
    let db = lab.path("index.sqlite");
    let cmd = |args: Vec<OsString>| -> Cmd {
        lab.cmd(args).args(args!["--use-s3", "--s3-timeout", "1", "-db", db]).envs(stub.env())
    };
    for (key, body) in [("a", "stays"), ("b/x", "changes"), ("c", "again"), ("d/goes", "gone"), ("f/", "")] {
        stub.put(key, Object::new(body));
    }
    let plan = |more| cmd(args!["plan", "--json"]).args(more).run();
    let first = plan(vec![]).code(0).summary();
    assert_eq!((tally(&first, "new"), &first["generation"]), ([4, 21, 3], &Value::Null), "{first}");
    cmd(args!["index"]).run().code(0);
    let idle = plan(vec![]).code(0).summary();
    assert_eq!((tally(&idle, "unchanged"), number(&idle, "send_bytes")), ([4, 21, 3], 0), "{idle}");
    stub.take();
    stub.put("b/x", Object::new("changed"));
    stub.put("c", Object::new("again").modified_ms(1_800_000_000_000));
    stub.remove("d/goes");
    stub.put("e/new", Object::new("new"));
    stub.put("../bad", Object::new("no path"));
    let output = plan(vec![]).code(3).says("../bad");
    let now = output.summary();
    for (what, expected) in [
        ("unchanged", [1, 5, 2]),
        ("new", [1, 3, 1]),
        ("changed", [1, 7, 0]),
        ("touched", [1, 5, 0]),
        ("removed", [1, 4, 1]),
    ] {
        assert_eq!(tally(&now, what), expected, "{what}: {now}");
    }
    assert_eq!((number(&now, "send_bytes"), number(&now, "skipped")), (10, 1));
    assert!(stub.take().iter().all(|request| request.is_list()), "an object was asked for");
    let left = plan(args!["-x", "^b(/|$)", "-x", "bad"]).code(0).summary();
    assert_eq!((tally(&left, "changed"), tally(&left, "removed")), ([0; 3], [1, 4, 1]), "{left}");
    assert_eq!(tally(&left, "filtered"), [1, 7, 1], "{left}");
}

#[test]
fn an_interrupted_plan_says_so() {
    let (lab, stub) = (Lab::new(), Stub::start("bkt"));
    for number in 0..200 {
        stub.put(format!("{number}"), Object::new("x"));
    }
    stub.set(|settings| (settings.page, settings.delay) = (1, Duration::from_millis(300)));
    let running =
        lab.cmd(args!["plan", "--use-s3", "-db", lab.path("index.sqlite")]).envs(stub.env()).spawn();
    wait_until("the list has begun", Duration::from_secs(60), || !stub.take().is_empty());
    running.signal(rustix::process::Signal::INT);
    let output = running.wait().code(130).says("interrupted");
    assert_eq!(output.stdout, "");
    assert_eq!(std::fs::read_dir(lab.path("tmp")).unwrap().count(), 0, "something was left behind");
}

#[test]
fn combinations_that_plan_refuses() {
    let lab = Lab::new();
    let (src, other, db) = (lab.path("src"), lab.path("other"), lab.path("index.sqlite"));
    for folder in [&src, &other] {
        Tree::new(folder, 7).noise("a", 10);
    }
    lab.run(args!["index", "-b", src, "-db", db]).code(0);
    let plan = |more| lab.cmd(args!["plan", "-db", db]).args(more).run();
    plan(args!["-b", other]).code(1).says("is the index of").says("-db FILE");
    // The same folder by another name is the same source.
    symlink(&src, lab.path("link")).unwrap();
    plan(args!["-b", lab.path("link")]).code(0);
    let original = lab.path("original.sqlite");
    index::write_original(&original, &index::rows_of(&[(b"a", b"content")]));
    lab.run(args!["plan", "-b", src, "-db", original]).code(1).says("was made by the original program");
    lab.run(args!["plan", "--from", "1", "-db", original]).code(1).says("was made by the original program");
    lab.run(args!["plan", "--from", "1", "-db", lab.path("none")]).code(1).says("cannot open the index");
    lab.run(args!["plan", "-b", src, "-db", lab.file("text", "no index at all")]).code(1).says("is no index");
    plan(args!["-b", lab.path("nowhere")]).code(1);
    for wrong in [
        args!["--to", "1"],
        args!["--from", "1", "-b", src],
        args!["--from", "1", "--use-s3"],
        args!["--from", "1", "-x", "a"],
        args!["--from", "x"],
        args!["--rate", "0"],
        args!["--rate", "10MX"],
        args!["-s", "0"],
        args!["-x", "("],
        args!["--dry-run"],
    ] {
        plan(wrong).code(2);
    }
}
