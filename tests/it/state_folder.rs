//! `--state`: the journal, the copies of indexes and what is temporary lie outside of the base
//! folder, and both folders belong together.

use crate::support::index::{self, blake3_hex, frame};
use crate::support::stress::Mount;
use crate::support::{Cmd, Lab, Proxy, Tree, assert_same_tree, wait_until};
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_str().unwrap().to_string()).collect();
    names.sort();
    names
}

/// A folder to send, its index, a base folder, and the place of a state folder.
struct World {
    lab: Lab,
    src: PathBuf,
    db: PathBuf,
    dst: PathBuf,
    state: PathBuf,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new();
        let (src, dst, state) = (lab.path("src"), lab.dir("dst"), lab.path("var/state"));
        Tree::new(&src, 610).rich(100_000).noise("large", 300_000).noise("small", 200);
        let db = lab.index(&src);
        Self { lab, src, db, dst, state }
    }

    fn command(&self, state: Option<&Path>) -> Cmd {
        let more = state.map_or(vec![], |state| args!["--state", state]);
        self.lab.cmd([args!["proxy", "0", "-b", self.dst], more].concat())
    }

    fn proxy(&self) -> Proxy {
        self.command(Some(&self.state)).serve()
    }

    fn upload(&self, proxy: &Proxy, more: Vec<std::ffi::OsString>) -> serde_json::Value {
        self.lab.upload(&self.src, &self.db, &proxy.url, [args!["--json"], more].concat()).code(0).summary()
    }

    /// The proxy with this state folder is refused, and all that was there stays as it was.
    #[track_caller]
    fn is_refused(&self, state: Option<&Path>, words: &[&str]) {
        let own = || {
            let mut names = names(&self.dst.join(".tar-like"));
            names.retain(|name| name != "tree");
            names
        };
        let before = own();
        let refused = self.command(state).run().code(2);
        for word in words {
            assert!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
        }
        assert_eq!(own(), before);
    }
}

#[test]
fn the_journal_is_there_and_nothing_else_is_elsewhere() {
    let world = World::new();
    let World { lab, src, db, dst, state } = &world;
    let mut proxy = world.proxy();
    world.upload(&proxy, args!["-s", "50000", "-l", "2"]);
    let staged = names(&dst.join(".tar-like/staging"));
    assert_eq!(staged.len(), 1, "{staged:?}");
    assert!(state.join("journal.sqlite").is_file() && names(&state.join("archives")).len() == 1);
    assert_eq!(names(&dst.join(".tar-like/incoming")).len(), 0);
    for name in ["journal.sqlite", "archives"] {
        assert!(!dst.join(".tar-like").join(name).exists(), "{name}");
    }
    for name in ["staging", "kept", "removed", "reserve"] {
        assert!(!state.join(name).exists(), "{name}");
    }
    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777;
    assert_eq!(mode(state), 0o700);
    proxy.kill9();
    proxy.restart();
    let status = proxy.status(0);
    assert_eq!(status["done_bytes"], 150_000, "{status}");
    let rest = world.upload(&proxy, args!["-s", "50000"]);
    assert_eq!(rest["complete"], true, "{rest}");
    let blocks = status["total_bytes"].as_u64().unwrap().div_ceil(50_000);
    assert_eq!(proxy.blocks_accepted(), blocks - 3);
    assert_same_tree(src, dst);
    proxy.term_and_wait().code(0);
    // It goes on where it was, and a check finds its index.
    let proxy = world.proxy();
    assert_eq!(proxy.status(0)["complete"], true);
    lab.check(dst, db, vec![]).code(0);
    proxy.term_and_wait().code(0);
}

#[test]
fn gc_finds_what_is_left_in_both_folders() {
    let world = World::new();
    let World { lab, dst, state, .. } = &world;
    let proxy = world.proxy();
    world.upload(&proxy, args!["-s", "50000", "-l", "2"]);
    let gc = || lab.cmd(args!["gc", "-b", dst, "--state", state, "--json"]);
    gc().run().code(1).says("another tar-like receiver uses this base folder");
    drop(proxy);
    assert_eq!(gc().run().code(0).summary()["count"], 0);
    let planted = [
        state.join("incoming/body"),
        state.join("archives/0-00.99.sqlite"),
        dst.join(".tar-like/incoming/time"),
        dst.join(".tar-like/staging/0.99/5"),
    ];
    for path in &planted {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    lab.run(args!["gc", "-b", dst]).code(2).says(state.to_str().unwrap());
    let plan = lab.run(args!["gc", "-b", dst, "--state", state, "--dry-run"]).code(0);
    for path in [&planted[0], &planted[1], &planted[2], &dst.join(".tar-like/staging/0.99")] {
        assert!(plan.stdout.contains(path.to_str().unwrap()), "{}: {}", path.display(), plan.stdout);
    }
    assert_eq!(gc().run().code(0).summary()["count"], 4);
    assert!(planted.iter().all(|path| !path.exists()));
    let proxy = world.proxy();
    assert_eq!(proxy.status(0)["done_bytes"], 150_000);
    world.upload(&proxy, args!["-s", "50000"]);
    assert_same_tree(&world.src, dst);
}

#[test]
fn a_copy_is_repaired_by_the_journal_in_its_state_folder() {
    let world = World::new();
    let World { lab, src, db, dst, state } = &world;
    let proxy = world.proxy();
    world.upload(&proxy, vec![]);
    let damage = || std::fs::write(dst.join("small"), "damaged").unwrap();
    let repair = |more| lab.check(dst, db, [args!["--repair", src], more].concat());
    damage();
    let running = repair(args!["--state", state]).code(1);
    assert!(running.stderr.contains("if a proxy receives into this folder"), "{}", running.stderr);
    proxy.term_and_wait().code(0);
    // Nothing is read before it is known that nothing can be repaired.
    let unnamed = repair(args![]).code(2);
    let names = unnamed.stderr.contains(state.to_str().unwrap()) && unnamed.stderr.contains("--state");
    assert!(names && !unnamed.stdout.contains("small"), "{unnamed:?}");
    repair(args!["--state", lab.path("other")]).code(2).says("no state folder of a receiver");
    repair(args!["--state", state]).code(0).says("repaired from");
    assert_same_tree(src, dst);
    // The copy is of the generation that the journal there names, wherever that is now.
    let moved = lab.path("moved");
    std::fs::rename(state, &moved).unwrap();
    damage();
    repair(args!["--state", moved]).code(0);
    assert_same_tree(src, dst);
    assert_eq!(world.command(Some(&moved)).serve().status(0)["complete"], true);
}

#[test]
fn a_journal_and_a_base_folder_that_are_no_pair_are_refused() {
    let world = World::new();
    let World { lab, dst, state, src, .. } = &world;
    let proxy = world.proxy();
    world.upload(&proxy, vec![]);
    // While it runs, another one is told that, whatever its state folder.
    let other = lab.path("other");
    world.command(Some(&other)).run().code(1).says("another tar-like receiver uses this base folder");
    proxy.term_and_wait().code(0);
    world.is_refused(Some(&other), &["has not the journal of", "If it is lost"]);
    world.is_refused(None, &["is in the state folder", state.to_str().unwrap(), "--state"]);
    let sync = lab.cmd(args!["sync", src, dst, "-db", lab.path("sync.sqlite")]).run().code(2);
    assert!(sync.stderr.contains("is in the state folder"), "{}", sync.stderr);
    // A journal of another base folder, with and without its marker.
    let base = lab.dir("base");
    lab.cmd(args!["proxy", "0", "-b", base, "--state", other]).serve().term_and_wait().code(0);
    world.is_refused(Some(&other), &["is that of another base folder", base.to_str().unwrap()]);
    std::fs::remove_file(other.join("base.json")).unwrap();
    world.is_refused(Some(&other), &["has not the journal of"]);
    // The base folder was emptied: what the journal says is not true any more.
    let away = lab.path("away");
    std::fs::rename(dst.join(".tar-like"), &away).unwrap();
    let refused = world.command(Some(state)).run().code(2);
    assert!(refused.stderr.contains("empty the state folder"), "{}", refused.stderr);
    std::fs::remove_dir_all(dst.join(".tar-like")).unwrap();
    std::fs::rename(&away, dst.join(".tar-like")).unwrap();
    let proxy = world.proxy();
    assert_eq!(proxy.status(0)["complete"], true);
    // As the hint says.
    proxy.term_and_wait().code(0);
    std::fs::remove_dir_all(state).unwrap();
    world.is_refused(Some(state), &["If it is lost"]);
    std::fs::rename(dst.join(".tar-like"), lab.path("gone")).unwrap();
    std::fs::remove_dir_all(state).unwrap();
    let proxy = world.proxy();
    let summary =
        lab.sync(src, &proxy.url, args!["-db", lab.path("new"), "--adopt", "--json"]).code(0).summary();
    assert_eq!(summary["sent_bytes"], 0, "{summary}");
    assert_same_tree(src, dst);
}

#[test]
fn a_journal_is_moved_there_and_back_by_hand() {
    let world = World::new();
    let World { dst, state, lab, .. } = &world;
    let own = dst.join(".tar-like");
    let proxy = world.command(None).serve();
    world.upload(&proxy, args!["-s", "50000", "-l", "2"]);
    drop(proxy);
    world.is_refused(Some(state), &["is in its folder .tar-like", "move what is there of"]);
    let pull = |from: &Path, to: &Path| {
        for name in ["journal.sqlite", "journal.sqlite-wal", "archives"] {
            let _ = std::fs::remove_dir(to.join(name));
            if from.join(name).exists() {
                std::fs::rename(from.join(name), to.join(name)).unwrap();
            }
        }
    };
    pull(&own, state);
    let proxy = world.proxy();
    assert_eq!(proxy.status(0)["done_bytes"], 150_000);
    world.upload(&proxy, args!["-s", "50000", "-l", "3"]);
    drop(proxy);
    // The folder may be moved, too.
    let moved = lab.path("moved");
    std::fs::rename(state, &moved).unwrap();
    let proxy = world.command(Some(&moved)).serve();
    assert_eq!(proxy.status(0)["done_bytes"], 200_000);
    drop(proxy);
    world.is_refused(None, &[moved.to_str().unwrap(), "remove state.json"]);
    pull(&moved, &own);
    std::fs::remove_file(own.join("state.json")).unwrap();
    let proxy = world.command(None).serve();
    assert_eq!(proxy.status(0)["done_bytes"], 200_000);
    world.upload(&proxy, args!["-s", "50000"]);
    assert_same_tree(&world.src, dst);
}

#[test]
fn a_folder_that_cannot_be_it_is_refused_and_nothing_is_lost() {
    let world = World::new();
    let World { lab, dst, state, .. } = &world;
    let precious = dst.join("photos/archives/precious");
    std::fs::create_dir_all(precious.parent().unwrap()).unwrap();
    std::fs::write(&precious, "precious").unwrap();
    let refused = |folder: &Path, why: &str| {
        let output = world.command(Some(folder)).run().code(2);
        assert!(output.stderr.contains(why), "{why}: {}", output.stderr);
    };
    refused(dst, "the base folder lies in it");
    refused(&lab.path("."), "the base folder lies in it");
    refused(&dst.join("photos"), "it lies in the base folder");
    refused(&dst.join("not/there"), "it lies in the base folder");
    refused(&dst.join(".tar-like"), "without --state, the journal is there");
    refused(&dst.join(".tar-like/staging/x"), "the receiver has other files there");
    refused(&dst.join("../dst/.tar-like/slice-2-of-3"), "the receiver has other files there");
    let link = lab.path("link");
    std::os::unix::fs::symlink(dst.join("photos"), &link).unwrap();
    refused(&link, "it lies in the base folder");
    assert!(!dst.join("not").exists());
    // What others have there is not taken for the receiver's.
    std::fs::create_dir_all(state.join("archives")).unwrap();
    std::fs::write(state.join("archives/mine"), "precious").unwrap();
    refused(state, "has something else in it: archives");
    std::fs::rename(state.join("archives"), state.join("incoming")).unwrap();
    refused(state, "has something else in it: incoming");
    std::fs::rename(state.join("incoming"), state.join("documents")).unwrap();
    refused(state, "has something else in it: documents");
    assert_eq!(std::fs::read_to_string(state.join("documents/mine")).unwrap(), "precious");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    // Others may not write there.
    std::fs::remove_dir_all(state).unwrap();
    std::fs::create_dir(state).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(state, mode).unwrap();
    world.command(Some(state)).run().code(1).says("others may write there");
    // A disk that is mounted in the receiver's own folder is one.
    let proxy = world.command(Some(&dst.join(".tar-like/local"))).serve();
    world.upload(&proxy, vec![]);
    assert!(dst.join(".tar-like/local/journal.sqlite").exists());
}

#[test]
fn a_standby_takes_over() {
    let world = World::new();
    let ready = |proxy: &Proxy| proxy.request("GET", "/readyz", &[], b"").status == 200;
    let serve = || world.command(Some(&world.state)).args(args!["--standby"]).serve();
    let mut first = serve();
    wait_until("the first one is ready", PATIENCE, || ready(&first));
    let second = serve();
    wait_until("it waits", PATIENCE, || second.stderr().contains("standing by"));
    world.upload(&first, args!["-s", "50000", "-l", "2"]);
    first.kill9();
    wait_until("the second one has taken over", PATIENCE, || ready(&second));
    assert_eq!(second.status(0)["done_bytes"], 150_000);
    // One with another journal waits, too, and then hears that it is the wrong one.
    let other = world.command(Some(&world.lab.path("other"))).args(args!["--standby"]).serve();
    wait_until("it waits", PATIENCE, || other.stderr().contains("standing by"));
    world.upload(&second, args!["-s", "50000"]);
    second.term_and_wait().code(0);
    let other = other.wait().code(2);
    assert!(other.stderr.contains("has not the journal of"), "{}", other.stderr);
    assert_same_tree(&world.src, &world.dst);
}

#[test]
fn a_state_folder_that_is_removed_degrades() {
    let world = World::new();
    let proxy = world.proxy();
    world.upload(&proxy, args!["-s", "50000", "-l", "2"]);
    std::fs::remove_dir_all(&world.state).unwrap();
    let degraded = || proxy.request("GET", "/readyz", &[], b"").text().trim() == "degraded";
    wait_until("it is degraded", PATIENCE, degraded);
    // It says why only after that.
    wait_until("it says why", PATIENCE, || proxy.stderr().contains("the state folder"));
}

/// P9, where the state folder is what is full.
#[test]
fn a_full_state_folder_loses_nothing() {
    let world = World::new();
    let World { lab, src, db, dst, .. } = &world;
    let Some(disk) = Mount::tmpfs(&lab.path("state"), "size=3m,mode=700") else { return };
    let mut proxy = world.command(Some(&disk.path)).serve();
    let (archive, digest) = (index::archive(src, db), index::digest(db));
    let put_index = |proxy: &Proxy, id: u64| {
        let headers = [("x-tar-like-index", &*digest)];
        proxy.request("PUT", &format!("/tar/{id}/db"), &headers, &index::frame_of(db))
    };
    let put = |proxy: &Proxy, number: usize| {
        let content = index::block(&archive, 10_000, number);
        let headers = [("x-tar-like-index", &*digest), ("x-tar-like-digest", &*blake3_hex(content))];
        proxy.request("PUT", &format!("/tar/0/10000/{number}"), &headers, &frame(content))
    };
    assert_eq!((put_index(&proxy, 0).status, put(&proxy, 0).status), (200, 200));
    let ballast = disk.path.join("ballast");
    let fill = || {
        let mut file = std::fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    };
    fill();
    // The journal has some room of its own: what is in its file already.
    let blocks = archive.len().div_ceil(10_000);
    let answers: Vec<u16> = (1..blocks).map(|number| put(&proxy, number).status).collect();
    assert!(
        answers.contains(&507) && answers.iter().all(|status| [200, 507].contains(status)),
        "{answers:?}"
    );
    let other = put_index(&proxy, 1);
    assert_eq!(other.status, 507, "{}", other.text());
    assert_eq!(proxy.request("GET", "/readyz", &[], b"").status, 200);
    let sender = lab.upload(src, db, &proxy.url, args!["-s", "10000", "--stall-timeout", "2"]).code(4);
    assert!(sender.stderr.contains("space"), "{}", sender.stderr);
    let done = proxy.status(0)["done_bytes"].as_u64().unwrap();
    assert!(done >= 10_000 * (1 + answers.iter().filter(|status| **status == 200).count() as u64 - 1));
    proxy.kill9();
    std::fs::remove_file(&ballast).unwrap();
    proxy.restart();
    assert_eq!(proxy.status(0)["done_bytes"], done, "what was acknowledged is there");
    fill();
    let mut sender = lab.upload_cmd(src, db, &proxy.url, args!["-s", "10000"]).spawn();
    wait_until("the sender waits for space", PATIENCE, || {
        sender.has_ended() || sender.stderr_so_far().contains("no space left")
    });
    assert!(!sender.has_ended(), "{:?}", sender.wait());
    std::fs::remove_file(&ballast).unwrap();
    sender.wait().code(0);
    assert_same_tree(src, dst);
    drop(proxy);
    disk.unmount();
}

/// One sync stands for both file systems: what one of them could not store is not acknowledged.
#[test]
fn a_sync_of_the_state_folder_that_fails_is_not_acknowledged() {
    let world = World::new();
    let Some(disk) = Mount::tmpfs(&world.lab.path("state"), "size=64m,mode=700") else { return };
    let digest = index::digest(&world.db);
    let archive = index::archive(&world.src, &world.db);
    for (error, status) in [("ENOSPC", 507), ("EIO", 503)] {
        let rule = format!("syncfs:error={error}:when=1");
        // The same on the other disk, so that the test tells them apart.
        for only in [&disk.path, &world.dst.join(".tar-like")] {
            let command = world.command(Some(&disk.path));
            let proxy = command.inject(&[&rule], std::slice::from_ref(only)).serve();
            let headers = [("x-tar-like-index", &*digest)];
            let frame_of_index = index::frame_of(&world.db);
            let mut answers = vec![proxy.request("PUT", "/tar/0/db", &headers, &frame_of_index).status];
            let content = index::block(&archive, 10_000, 0);
            let headers = [("x-tar-like-index", &*digest), ("x-tar-like-digest", &*blake3_hex(content))];
            let put = || proxy.request("PUT", "/tar/0/10000/0", &headers, &frame(content)).status;
            answers.extend([put(), put()]);
            assert!(answers.contains(&status), "{error} {}: {answers:?}", only.display());
            drop(proxy);
            std::fs::remove_dir_all(world.dst.join(".tar-like")).unwrap();
            for name in names(&disk.path) {
                let path = disk.path.join(name);
                let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
            }
        }
    }
    disk.unmount();
}

/// As `fstatfs` answers on NFS.
#[test]
fn a_state_folder_on_a_network_file_system_is_refused() {
    let world = World::new();
    let nfs = "fstatfs:poke_exit=@arg2=6969000000000000";
    let command = || world.command(Some(&world.state));
    let refused = command().inject(&[nfs], &[]).run().code(2);
    for word in ["on a network file system (NFS)", "a disk of this host"] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
    }
    // It is the base folder that may be there.
    let proxy = command().inject(&[nfs], &[world.dst.join(".tar-like")]).serve();
    world.upload(&proxy, vec![]);
    assert_same_tree(&world.src, &world.dst);
}

#[test]
fn a_base_folder_without_locks_is_named() {
    let world = World::new();
    let locks = "flock:error=ENOLCK";
    let proxy = world.command(Some(&world.state)).inject(&[locks], &[]).serve();
    assert!(proxy.stderr().contains("has no locks"), "{}", proxy.stderr());
    drop(proxy);
    std::fs::remove_dir_all(world.dst.join(".tar-like")).unwrap();
    // Without a state folder, the journal's own lock has to do.
    let proxy = world.command(None).inject(&[locks], &[]).serve();
    world.upload(&proxy, vec![]);
    world.command(None).run().code(1).says("another tar-like receiver uses this base folder");
}

/// A slice tries what the promises need of the file system that all of them share.
#[test]
fn a_slice_refuses_a_file_system_that_cannot_be_shared() {
    let world = World::new();
    let slice = |state: Option<&Path>| world.command(state).args(args!["--slice", "2/3"]);
    for (rule, word) in [
        ("flock:error=ENOLCK", "it has no locks"),
        ("flock:retval=0", "its locks keep nothing out"),
        ("renameat:error=EEXIST", "a rename does not replace what has the name"),
        ("renameat:retval=0", "a rename does not replace what has the name"),
        ("syncfs:error=ENOSYS", "it has no sync"),
        ("fstatfs:poke_exit=@arg2=6969000000000000", "give --state FOLDER"),
    ] {
        let refused = slice(None).inject(&[rule], &[]).run().code(2);
        assert!(refused.stderr.contains(word), "{rule}, {word}: {}", refused.stderr);
    }
    std::fs::remove_dir_all(world.dst.join(".tar-like/slice-2-of-3")).unwrap();
    let nfs = "fstatfs:poke_exit=@arg2=6969000000000000";
    let own =
        ["", "slice-2-of-3", "slice-2-of-3/incoming"].map(|name| world.dst.join(".tar-like").join(name));
    let proxy = slice(Some(&world.state)).inject(&[nfs, "linkat:error=EPERM"], &own).serve();
    assert!(proxy.stderr().contains("no hard links"), "{}", proxy.stderr());
    assert!(world.state.join("slice-2-of-3/journal.sqlite").is_file());
    assert!(own[1].join("state.json").is_file() && !own[1].join("archives").exists());
}
