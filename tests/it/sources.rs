//! Which source an archive number of a receiver belongs to: two sources never take each other's
//! place by mistake.

use crate::support::{Lab, Output, Proxy, Tree, index};
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Two sources of 50 files each, with an index each.
struct Site {
    lab: Lab,
    base: PathBuf,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new();
        for (seed, name) in [(190, "one"), (191, "two")] {
            let mut tree = Tree::new(&lab.path(name), seed);
            for number in 0..50 {
                tree.file(format!("{name}-{number}"), format!("{number} of {name}"));
            }
        }
        let base = lab.dir("base");
        Self { lab, base }
    }

    fn proxy(&self) -> Proxy {
        self.lab.proxy(&self.base)
    }

    fn db(&self, name: &str) -> PathBuf {
        self.lab.path(&format!("{name}.sqlite"))
    }

    /// `sync` of the source `name`, with the number that is derived unless `more` has one.
    fn sync(&self, name: &str, dest: impl AsRef<std::ffi::OsStr>, more: Vec<OsString>) -> Output {
        let args = args!["sync", self.lab.path(name), dest, "-db", self.db(name)];
        self.lab.cmd(args).args(more).derived().run()
    }

    /// A `sync` in which entries fail; a dry run before it says which ones.
    #[track_caller]
    fn refused(
        &self,
        name: &str,
        dest: &(impl AsRef<std::ffi::OsStr> + ?Sized),
        more: Vec<OsString>,
    ) -> Output {
        let failed = |output: &Output| {
            let lines = output.stderr.lines().filter_map(|line| line.strip_prefix("failed: "));
            lines.filter_map(|line| line.split(':').next()).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let would = self.sync(name, dest, [more.clone(), args!["-n"]].concat()).code(3);
        let did = self.sync(name, dest, more).code(3);
        assert_eq!(failed(&would), failed(&did), "{}{}", would.stderr, did.stderr);
        did
    }

    #[track_caller]
    fn assert_copied(&self, name: &str) {
        for number in 0..50 {
            let file = format!("{name}-{number}");
            let read = |folder: &Path| std::fs::read(folder.join(&file)).unwrap();
            assert!(read(&self.base) == read(&self.lab.path(name)), "{file}");
        }
    }

    /// The numbers of the receiver's archives, and the names of their sources.
    fn bound(&self) -> Vec<(u64, Option<String>)> {
        let journal = Connection::open(self.base.join(".tar-like/journal.sqlite")).unwrap();
        let query = "SELECT a.tar_id, s.name FROM archive a LEFT JOIN source s USING(tar_id) ORDER BY 1";
        let mut statement = journal.prepare(query).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

fn meta(db: &Path, key: &str) -> Option<String> {
    let query = "SELECT value FROM tarlike_meta WHERE key=?";
    Connection::open(db).unwrap().query_row(query, [key], |row| row.get(0)).ok()
}

#[test]
fn two_sources_of_one_receiver_never_meet() {
    let site = Site::new();
    let proxy = site.proxy();
    for _ in 0..2 {
        for name in ["one", "two"] {
            site.sync(name, &proxy.url, args!["--delete"]).code(0);
        }
    }
    drop(proxy);
    site.assert_copied("one");
    site.assert_copied("two");
    let bound = site.bound();
    assert_eq!(bound.len(), 2);
    for (number, name) in bound {
        assert!(number > 0 && name.as_ref().is_some_and(|name| name.contains(":/")), "{number} {name:?}");
    }
    // The same of a folder of this host.
    let folder = site.lab.path("folder");
    for name in ["one", "two", "one"] {
        site.sync(name, &folder, args!["--delete"]).code(0);
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 101);
}

/// A receiver that starts again finds the refused content in its staging folder: that is no reason
/// to put it in the first one's place.
#[test]
fn the_first_content_of_a_path_stays_when_the_receiver_starts_again() {
    let site = Site::new();
    for name in ["one", "two"] {
        Tree::new(&site.lab.path(name), 192).file("shared", format!("the content of {name}"));
    }
    for more in [vec![], args!["-s", "1000"]] {
        site.sync("one", &site.base, more.clone()).code(0);
        for _ in 0..2 {
            site.sync("two", &site.base, more.clone()).code(3).says("has put another content");
            site.sync("one", &site.base, more.clone()).code(0);
        }
        let proxy = site.proxy();
        site.sync("one", &proxy.url, more.clone()).code(0);
        drop(proxy);
        assert_eq!(std::fs::read(site.base.join("shared")).unwrap(), b"the content of one");
    }
}

/// A folder of one source does not take the place of another one's file, nor the other way round.
#[test]
fn a_folder_takes_no_files_place() {
    let site = Site::new();
    Tree::new(&site.lab.path("one"), 193).file("p", "a file").dir("q").file("r/in", "x").symlink("s", "p");
    Tree::new(&site.lab.path("two"), 194).file("p/in", "y").file("q", "a file").dir("s").file("other", "z");
    site.sync("one", &site.base, vec![]).code(0);
    for _ in 0..2 {
        let refused = site.refused("two", &site.base, vec![]);
        let refused =
            refused.says("failed: p/in: archive").says("failed: q: archive").says("failed: s: archive");
        refused.says("has put another content");
        site.lab.check(&site.base, &site.db("one"), vec![]).code(0);
        assert!(site.base.join("other").exists());
        site.sync("one", &site.base, vec![]).code(0);
    }
}

/// A repair is one of the archive that the index is of, also where there are others.
#[test]
fn one_source_of_several_is_repaired() {
    let site = Site::new();
    for name in ["one", "two"] {
        site.sync(name, &site.base, vec![]).code(0);
    }
    std::fs::remove_file(site.base.join("two-7")).unwrap();
    std::fs::write(site.base.join("two-8"), "rotten").unwrap();
    let (db, source) = (site.db("two"), site.lab.path("two"));
    site.lab.check(&site.base, &db, args!["--repair", source]).code(0);
    site.assert_copied("one");
    site.assert_copied("two");
}

#[test]
fn a_second_source_is_refused_at_the_number_of_the_first() {
    let site = Site::new();
    let proxy = site.proxy();
    let at_7 = |name: &str, more: Vec<OsString>| {
        site.sync(name, &proxy.url, [args!["--tar-id", "7", "--delete"], more].concat())
    };
    at_7("one", vec![]).code(0);
    let (one, two) = (site.lab.path("one"), site.lab.path("two"));
    for more in [vec![], args!["--dry-run"], args!["--adopt"], args!["--adopt", "--dry-run"]] {
        let refused = at_7("two", more).code(1);
        let refused = refused.says("archive 7").says("--tar-id").says("--replace-source");
        refused.says(&format!(":{}", one.display())).says(&format!(":{}", two.display()));
    }
    // Also with an index that is there, by steps, and with one of the original program.
    site.lab.run(args!["index", "-b", two, "-db", site.db("two")]).code(0);
    at_7("two", vec![]).code(1).says("archive 7");
    let upload = |db: &Path, more: Vec<OsString>| {
        site.lab.upload(&two, db, &proxy.url, [args!["--tar-id", "7"], more].concat())
    };
    upload(&site.db("two"), vec![]).code(1).says("archive 7");
    let original = site.lab.path("original.sqlite");
    index::write_original(&original, &index::rows_of(&[(b"two-1", b"1 of two")]));
    upload(&original, vec![]).code(1).says("does not say of which source");
    site.assert_copied("one");
    assert!(!site.base.join("two-1").exists());
    at_7("one", vec![]).code(0);
    // On purpose.
    at_7("two", args!["--replace-source", "--dry-run"]).code(0);
    at_7("two", args!["--replace-source", "--max-delete", "50"]).code(0);
    site.assert_copied("two");
    assert!(!site.base.join("one-1").exists());
    at_7("one", vec![]).code(1).says("archive 7");
}

/// Two sources with the same paths, and different contents at some of them.
#[test]
fn the_same_path_of_two_sources_is_told_and_stays_as_it_is() {
    let site = Site::new();
    for (seed, name) in [(192, "one"), (193, "two")] {
        Tree::new(&site.lab.path(name), seed)
            .file("shared/same", "of both")
            .mtime("shared/same", 1_700_000_000_000_000_000)
            .file("shared/file", format!("of {name}, {seed}"))
            .file("shared/large", vec![b'0' + (seed % 10) as u8; 3_000_000])
            .file("shared/empty-or-not", if name == "one" { "full" } else { "" })
            .symlink("shared/link", name)
            .symlink("shared/same-link", "same")
            .file("shared/kind", "a file")
            .hardlink("shared/further", "shared/file");
    }
    let two = site.lab.path("two");
    std::fs::remove_file(two.join("shared/kind")).unwrap();
    std::os::unix::fs::symlink("same", two.join("shared/kind")).unwrap();
    let proxy = site.proxy();
    let small = || args!["-s", "1000000", "--delete"];
    site.sync("one", &proxy.url, small()).code(0);
    let snapshot = || {
        let read = |name: &str| std::fs::read(site.base.join("shared").join(name)).unwrap();
        let link = std::fs::read_link(site.base.join("shared/link")).unwrap();
        (["same", "file", "large", "empty-or-not", "kind", "further"].map(read), link)
    };
    let of_one = snapshot();
    for _ in 0..2 {
        let refused = site.refused("two", &proxy.url, small());
        for path in ["file", "large", "empty-or-not", "link", "kind"] {
            let line = format!("failed: shared/{path}: archive ");
            let line = refused.stderr.lines().find(|found| found.starts_with(&line));
            let says = line.is_some_and(|line| line.contains("has put another content at this path"));
            assert!(says, "{path}: {}", refused.stderr);
        }
        assert!(refused.stderr.contains("failed: shared/further: "), "{}", refused.stderr);
        assert!(!refused.stderr.contains("shared/same"), "{}", refused.stderr);
        assert!(snapshot() == of_one);
        site.assert_copied("two");
        // The first one is not disturbed.
        site.sync("one", &proxy.url, small()).code(0);
    }
    // When the first source has these paths no more, the second one gets them.
    std::fs::remove_dir_all(site.lab.path("one").join("shared")).unwrap();
    site.sync("one", &proxy.url, small()).code(0);
    site.sync("two", &proxy.url, small()).code(0);
    for name in ["same", "file", "large", "empty-or-not", "kind", "further", "same-link"] {
        let read = |folder: &Path| std::fs::read(folder.join("shared").join(name)).unwrap();
        assert!(read(&site.base) == read(&two), "{name}");
    }
}

/// The same content with other metadata flipped from run to run.
#[test]
fn the_same_content_with_another_mode_is_told_and_stays_as_it_is() {
    let site = Site::new();
    let mut trees = ["one", "two"].map(|name| {
        let mut tree = Tree::new(&site.lab.path(name), 195);
        tree.file("same", "of both").mtime("same", 1_700_000_000_000_000_000);
        tree
    });
    for name in ["one", "two"] {
        site.sync(name, &site.base, vec![]).code(0);
    }
    let mode = || std::fs::metadata(site.base.join("same")).unwrap().permissions().mode() & 0o777;
    let before = mode();
    trees[1].mode("same", 0o600);
    for _ in 0..2 {
        let refused = site.refused("two", &site.base, vec![]);
        refused.says("failed: same: archive ").says("has put the same content with another mode");
        site.sync("one", &site.base, vec![]).code(0);
        assert_eq!(mode(), before);
    }
    // When both have it, it is done.
    trees[0].mode("same", 0o600);
    site.sync("one", &site.base, vec![]).code(0);
    site.sync("two", &site.base, vec![]).code(0);
    assert_eq!(mode(), 0o600);
}

#[test]
fn the_number_stays_bound_when_the_receiver_starts_again() {
    let site = Site::new();
    let seven = || args!["--tar-id", "7"];
    site.sync("one", &site.proxy().url, seven()).code(0);
    let proxy = site.proxy();
    site.sync("two", &proxy.url, seven()).code(1).says("archive 7");
    // An index that is read again, or has another place, is one of the same source.
    site.sync("one", &proxy.url, [seven(), args!["--clean"]].concat()).code(0);
    std::fs::rename(site.db("one"), site.lab.path("moved.sqlite")).unwrap();
    let moved = args!["-db", site.lab.path("moved.sqlite"), "--tar-id", "7"];
    site.lab.cmd(args!["sync", site.lab.path("one"), proxy.url]).args(moved).run().code(0);
}

#[test]
fn a_copy_of_an_earlier_version_stays_archive_0() {
    let site = Site::new();
    site.sync("one", &site.proxy().url, args!["--tar-id", "0"]).code(0);
    // As an earlier version left both sides.
    let journal = Connection::open(site.base.join(".tar-like/journal.sqlite")).unwrap();
    journal.execute_batch("DROP TABLE source").unwrap();
    drop(journal);
    let index = Connection::open(site.db("one")).unwrap();
    index.execute_batch("DELETE FROM tarlike_meta WHERE key='source'").unwrap();
    drop(index);
    let proxy = site.proxy();
    site.sync("one", &proxy.url, vec![]).code(0);
    assert!(meta(&site.db("one"), "source").is_some_and(|id| id.len() == 32));
    // The other one does not meet it, and neither does a fresh index of the first.
    site.sync("two", &proxy.url, args!["--delete"]).code(0);
    site.sync("one", &proxy.url, args!["--delete", "--clean"]).code(0);
    drop(proxy);
    let bound = site.bound();
    assert_eq!(bound.len(), 2, "{bound:?}");
    assert!(bound[0].0 == 0 && bound[0].1.as_ref().is_some_and(|name| name.ends_with("/one")), "{bound:?}");
    site.assert_copied("one");
    site.assert_copied("two");
}

#[test]
fn rewind_finds_the_number_of_its_source() {
    let site = Site::new();
    let proxy = site.proxy();
    site.sync("two", &proxy.url, vec![]).code(0);
    site.sync("one", &proxy.url, args!["--keep", "1"]).code(0);
    std::fs::write(site.lab.path("one").join("one-1"), "changed, and longer").unwrap();
    site.sync("one", &proxy.url, args!["--keep", "1"]).code(0);
    let rewind = args!["rewind", proxy.url, "-db", site.db("one")];
    site.lab.cmd(rewind).derived().run().code(0);
    assert_eq!(std::fs::read(site.base.join("one-1")).unwrap(), b"1 of one");
    site.assert_copied("two");
}

#[test]
fn the_identity_stays_through_compaction_and_backup() {
    let site = Site::new();
    let (src, db, backup) = (site.lab.path("one"), site.db("one"), site.lab.path("backup"));
    site.lab.run(args!["index", "-b", src, "-db", db]).code(0);
    // As if it came from another host.
    let id = "00112233445566778899aabbccddeeff";
    let connection = Connection::open(&db).unwrap();
    connection.execute("UPDATE tarlike_meta SET value=? WHERE key='source'", [id]).unwrap();
    drop(connection);
    let same = |what: &str| assert_eq!(meta(&db, "source").as_deref(), Some(id), "{what}");
    std::fs::write(src.join("one-1"), "changed, and longer").unwrap();
    site.lab.run(args!["index", "-b", src, "-db", db]).code(0);
    same("the next generation");
    site.lab.run(args!["history", "backup", "--init", backup, "-db", db]).code(0);
    site.lab.run(args!["history", "restore", "-c", backup, "-db", db]).code(0);
    same("a restored index");
    site.lab.run(args!["rewind", "-db", db]).code(0);
    same("an earlier generation");
    site.lab.run(args!["index", "-b", src, "-db", db]).code(0);
    site.lab.run(args!["compact", "-db", db]).code(0);
    same("a compact index");
    site.lab.run(args!["index", "-c", "-b", src, "-db", db]).code(0);
    same("a fresh index");
    // One of another folder has another identity.
    site.lab.run(args!["index", "-c", "-b", site.lab.path("two"), "-db", db]).code(0);
    assert_ne!(meta(&db, "source").as_deref(), Some(id));
}

#[test]
fn a_token_that_is_not_for_the_number_says_which_one_it_needs() {
    let site = Site::new();
    let tokens = site.lab.path("tokens");
    let token = |ids: &str| {
        let args = args!["token", "new", "--name", format!("t{}", ids.len()), "--tokens", tokens];
        site.lab.cmd(args).args(args!["--tar-id", ids]).run().code(0).stdout.trim().to_string()
    };
    let (zero, seven) = (token("0"), token("0,7"));
    let proxy = site.lab.proxy_with(&site.base, args!["--tokens", tokens]);
    let sync = |token: &str, more: Vec<OsString>| {
        let args = args!["sync", site.lab.path("one"), proxy.url, "-db", site.db("one"), "--json"];
        site.lab.cmd(args).args(more).derived().env("TARLIKE_TOKEN", token).run()
    };
    let refused = sync(&zero, vec![]).code(1).summary();
    assert!(refused["hint"].as_str().unwrap().contains("tar-id="), "{refused}");
    // With a number, and then without: archive 0 is that of this source.
    sync(&seven, args!["--tar-id", "0"]).code(0);
    assert_eq!(sync(&zero, vec![]).code(0).summary()["tar_id"], 0);
}

#[test]
fn each_source_has_an_index_of_its_own_unless_one_is_named() {
    let site = Site::new();
    let lab = &site.lab;
    let folder = lab.path("home/.local/state/tar-like");
    let sync = |source: &Path, more: Vec<OsString>| lab.cmd(args!["sync", source]).args(more).derived().run();
    let (one, two) = (lab.path("one"), lab.path("two"));
    let copies = lab.path("copies");
    // A dry run makes nothing.
    sync(&one, args![copies, "-n"]).code(0);
    assert!(!folder.exists());
    for source in [&one, &two, &one] {
        sync(source, args![copies, "--delete"]).code(0);
    }
    assert_eq!(std::fs::read_dir(&copies).unwrap().count(), 101);
    let mode = std::fs::metadata(&folder).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
    let lines = lab.run(args!["indexes", "--json"]).code(0).json();
    let indexes: Vec<_> = lines.iter().filter(|line| line["event"] == "kept_index").collect();
    assert_eq!(indexes.len(), 2, "{lines:?}");
    for (index, source) in indexes.iter().zip([&one, &two]) {
        assert_eq!(index["source"], source.to_str().unwrap());
        assert_eq!((&index["files"], &index["generation"]), (&50.into(), &1.into()));
        let name = source.file_name().unwrap().to_str().unwrap();
        assert!(index["path"].as_str().unwrap().contains(&format!("/tar-like/{name}-")), "{index}");
    }
    // Other commands find it by the source.
    lab.run(args!["check", "-b", copies, "--source", one]).code(0);
    lab.run(args!["check", "-b", copies]).code(1).says("tar-like indexes");
    lab.run(args!["check", "-b", copies, "--source", copies]).code(2).says("tar-like indexes");
    lab.run(args!["history", "--source", lab.path("two/")]).code(0);
    // A damaged one is named, and a source that is not there.
    std::fs::write(folder.join("notes.sqlite"), "no index").unwrap();
    std::fs::rename(&two, lab.path("three")).unwrap();
    let text = lab.run(args!["indexes"]).code(0).stdout;
    assert!(text.contains("notes.sqlite") && text.contains("is no index"), "{text}");
    assert!(text.contains("/two (not there)"), "{text}");
}

#[test]
fn the_index_of_an_earlier_version_is_gone_on_with() {
    let site = Site::new();
    let (lab, one, two) = (&site.lab, site.lab.path("one"), site.lab.path("two"));
    lab.run(args!["index", "-b", one]).code(0);
    let sync = |source: &Path, dest: &str| {
        lab.cmd(args!["sync", source, lab.path(dest)]).derived().run().code(0);
    };
    sync(&one, "copy");
    assert!(!lab.path("home/.local").join("state/tar-like").join("one").exists());
    sync(&two, "copy");
    let files = std::fs::read_dir(lab.path("home/.local/state/tar-like")).unwrap();
    let names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.len() == 1 && names[0].starts_with("two-"), "{names:?}");
    // Another place for all of them, and none at all.
    let cmd = || lab.cmd(args!["sync", two, lab.path("elsewhere")]).derived();
    cmd().env("XDG_STATE_HOME", lab.path("state")).run().code(0);
    assert!(lab.path("state/tar-like").is_dir());
    cmd().env("HOME", "").run().code(2).says("HOME is not set");
}

/// The home folder is its own source: the indexes in it are no content.
#[test]
fn indexes_below_the_source_are_left_out() {
    let lab = Lab::new();
    let home = lab.path("home");
    std::fs::write(home.join("letter"), "dear").unwrap();
    for _ in 0..2 {
        lab.cmd(args!["sync", home, lab.path("copy")]).derived().run().code(0);
    }
    assert!(lab.path("copy/letter").is_file() && lab.path("copy/.local/state").is_dir());
    assert!(!lab.path("copy/.local/state/tar-like").exists());
}

#[test]
fn a_path_in_the_address_that_means_nothing_is_refused() {
    let site = Site::new();
    let proxy = site.proxy();
    let origin = proxy.url.strip_suffix("/tar").unwrap();
    for path in ["/web1", "/tar/web", "/3", "/0"] {
        let url = format!("{origin}{path}");
        site.sync("one", &url, vec![]).code(2).says("ends in /tar").says(&format!("{origin}/tar"));
    }
    site.sync("one", format!("{origin}/tar/3"), vec![]).code(2).says("--tar-id 3");
    for path in ["/web1/0/status", "/web1/0/db", "/tar/web1/0/status"] {
        assert!(matches!(proxy.request("GET", path, &[], b"").status, 400 | 404), "{path}");
    }
    for path in ["", "/", "/tar", "/tar/"] {
        site.sync("one", format!("{origin}{path}"), vec![]).code(0);
    }
}

/// What `index` has learned of a source is not replaced by another one, nor sent under its number.
#[test]
fn index_does_not_go_on_with_the_index_of_another_source() {
    let site = Site::new();
    let (lab, db) = (&site.lab, site.db("one"));
    let index = |name: &str, more: Vec<OsString>| {
        lab.run([args!["index", "-b", lab.path(name), "-db", db], more].concat())
    };
    index("one", vec![]).code(0);
    let before = std::fs::read(&db).unwrap();
    index("two", vec![]).code(1).says("is the index of").says("give -db FILE").says("--clean");
    assert!(std::fs::read(&db).unwrap() == before);
    // The folder was moved, or another snapshot of it is here.
    std::fs::rename(lab.path("one"), lab.path("moved")).unwrap();
    index("two", vec![]).code(1).says("is the index of");
    index("moved", vec![]).code(0).says("until now");
    index("two", args!["-c"]).code(0);
}

#[test]
fn a_repair_finds_the_index_of_its_source() {
    let site = Site::new();
    let (lab, one, copy) = (&site.lab, site.lab.path("one"), site.lab.path("copy"));
    lab.cmd(args!["sync", one, copy]).derived().run().code(0);
    std::fs::write(copy.join("one-7"), "damaged").unwrap();
    lab.run(args!["check", copy]).code(1).says("--source SOURCE");
    lab.run(args!["check", copy, "--source", one]).code(1).says("1 different");
    let plan = lab.run(args!["plan", "--source", one, "--json"]).code(0).summary();
    assert_eq!((&plan["generation"], &plan["send_bytes"]), (&1.into(), &0.into()), "{plan}");
    lab.run(args!["check", copy, "--repair", one]).code(0).says("1 different").says("repaired from");
    assert_eq!(std::fs::read(copy.join("one-7")).unwrap(), b"7 of one");
}

#[test]
fn the_first_run_into_a_filled_folder_names_adopt() {
    let site = Site::new();
    let (lab, word) = (&site.lab, "With --adopt, what is the same");
    let copy = lab.dir("copy");
    let sync = |more: Vec<OsString>| site.sync("one", &copy, more).code(0);
    assert!(!sync(args!["-n"]).stderr.contains(word));
    std::fs::copy(lab.path("one/one-1"), copy.join("one-1")).unwrap();
    sync(args!["-n"]).says(word);
    assert!(!sync(args!["-n", "--adopt"]).stderr.contains(word));
    sync(vec![]).says(word);
    assert!(!sync(vec![]).stderr.contains(word), "it is a copy of ours now");
    // A receiver says it when it starts.
    let other = lab.dir("other");
    lab.file("other/x", "x");
    let proxy = lab.proxy(&other);
    assert!(proxy.stderr().contains("sync --adopt takes them for a copy"), "{}", proxy.stderr());
}

/// docs/guide/restore.md
#[test]
fn a_copy_comes_back_and_the_source_goes_on() {
    let site = Site::new();
    let (lab, one, copy) = (&site.lab, site.lab.path("one"), site.lab.path("copy"));
    let sync = |from: &Path, to: &Path, more: Vec<OsString>| {
        let run = lab.cmd([args!["sync", from, to, "--json"], more].concat()).derived().run();
        run.code(0).summary()["sent_bytes"].as_u64().unwrap()
    };
    sync(&one, &copy, vec![]);
    std::fs::remove_file(one.join("one-1")).unwrap();
    std::fs::write(one.join("one-2"), "damaged").unwrap();
    std::fs::write(one.join("new"), "new").unwrap();
    std::fs::remove_file(one.join("one-30")).unwrap();
    let part = args!["--adopt", "--include", "/one-30", "--exclude", "*"];
    assert_eq!(sync(&copy, &one, part), "30 of one".len() as u64);
    assert!(one.join("one-30").exists() && !one.join("one-1").exists());
    std::fs::remove_dir_all(one.join(".tar-like")).unwrap();
    // Two files of 8 bytes, and a small gap between them; all files have 440.
    assert!((16..200).contains(&sync(&copy, &one, args!["--adopt"])));
    assert_eq!(std::fs::read(one.join("one-2")).unwrap(), b"2 of one");
    assert_eq!(sync(&one, &copy, vec![]), 3, "only the new file");
    // With a lost index, too, and --delete takes away what the copy does not have.
    std::fs::remove_dir_all(lab.path("home/.local/state/tar-like")).unwrap();
    assert_eq!(sync(&one, &copy, vec![]), 0);
    std::fs::write(one.join("newer"), "newer").unwrap();
    std::fs::remove_dir_all(one.join(".tar-like")).unwrap();
    sync(&copy, &one, args!["--adopt", "--delete"]);
    assert!(one.join("new").exists() && !one.join("newer").exists());
}
