//! Links in the place of the receiver's state folder, and in it.

use super::{SIZE, Setting, remove};
use crate::support::stress::fingerprint;
use crate::support::{Output, Tree, assert_same_tree, skip, wait_until};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

/// A folder like `.tar-like`, outside: a receiver that follows a link to it would do harm there.
fn victim(setting: &mut Setting) {
    let mut tree = Tree::new(&setting.outside, 223);
    for name in ["archives", "staging/0.1", "staging/7.9", "incoming", "incoming/x"] {
        tree.file(format!("{name}/precious"), "precious");
    }
    tree.file("staging/0.1/0", "precious")
        .file("staging/0.1/1", "precious")
        .file("staging/0.1/link", "precious");
    rusqlite::Connection::open(setting.outside.join("other.sqlite"))
        .unwrap()
        .execute_batch("CREATE TABLE precious (x); INSERT INTO precious VALUES (1);")
        .unwrap();
    tree.file("no-database", "precious");
    setting.before = fingerprint(&setting.outside);
}

fn start(setting: &Setting) -> Output {
    setting.lab.run(args!["proxy", "0", "-b", setting.dst])
}

#[test]
fn a_state_folder_that_is_none_is_refused() {
    let mut setting = Setting::new();
    victim(&mut setting);
    for target in
        [setting.outside.clone(), setting.outside.join("file"), setting.outside.join("new"), "..".into()]
    {
        setting.plant(".tar-like", &target);
        let output = start(&setting).code(1);
        assert!(output.stderr.contains(".tar-like"), "{}", output.stderr);
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
        let sync = setting.lab.sync(&setting.src, &setting.dst, args!["-db", setting.lab.path("s.sqlite")]);
        assert!(sync.code(1).stderr.contains(".tar-like"));
        setting.nothing_touched("refused");
    }
    remove(&setting.dst.join(".tar-like"));
    std::fs::write(setting.dst.join(".tar-like"), "a file").unwrap();
    start(&setting).code(1).says(".tar-like");
    remove(&setting.dst.join(".tar-like"));
    setting.completes(&setting.proxy(), "as it should be");
}

/// Where other users may write, they may plant entries that a receiver would follow.
#[test]
fn a_state_folder_of_others_is_refused() {
    let setting = Setting::new();
    let state = Tree::new(&setting.dst, 0).dir(".tar-like").path(".tar-like");
    for mode in [0o777, 0o1777, 0o770, 0o702] {
        std::fs::set_permissions(&state, PermissionsExt::from_mode(mode)).unwrap();
        start(&setting).code(1).says(".tar-like");
    }
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).unwrap();
    match std::os::unix::fs::chown(&state, Some(65534), None) {
        Err(e) => skip(&format!("cannot give a folder away: {e}")),
        Ok(()) => {
            start(&setting).code(1).says(".tar-like");
            std::os::unix::fs::chown(&state, Some(0), None).unwrap();
        }
    }
    setting.completes(&setting.proxy(), "ours alone");
}

/// Another user made `.tar-like` first, with links in it: the receiver refuses to start, or works
/// without them.
#[test]
fn links_in_the_state_folder() {
    let digest = crate::support::index::digest(&Setting::new().db);
    let names = [
        ("archives", "archives"),
        ("staging", "staging"),
        ("incoming", "incoming"),
        ("journal.sqlite", "other.sqlite"),
        ("journal.sqlite", "new.sqlite"),
        ("journal.sqlite", "no-database"),
        ("journal.sqlite-wal", "file"),
        ("journal.sqlite-wal", "new-wal"),
        ("journal.sqlite-shm", "file"),
        ("journal.sqlite-shm", "new-shm"),
        ("staging/0.1", "staging/0.1"),
        ("staging/7.9", "staging/7.9"),
        ("incoming/x", "incoming/x"),
        ("archives/x", "archives"),
        (&*format!("archives/0-{digest}.1.sqlite"), "other.sqlite"),
    ];
    let mut wrong = Vec::new();
    for (name, target) in names {
        let mut setting = Setting::new();
        assert_eq!(crate::support::index::digest(&setting.db), digest);
        victim(&mut setting);
        setting.plant(&format!(".tar-like/{name}"), &setting.outside.join(target));
        let cmd = setting.lab.cmd(args!["proxy", "0", "-b", setting.dst]);
        let mut running = cmd.spawn();
        let mut patience = 200;
        while !running.has_ended() && !running.stderr_so_far().contains("listening on") && patience > 0 {
            std::thread::sleep(Duration::from_millis(20));
            patience -= 1;
        }
        if running.has_ended() {
            let output = running.wait();
            assert!(output.code == 1 && output.stderr.contains(".tar-like"), "{name}: {output:?}");
        } else {
            drop(running);
            let proxy = setting.proxy();
            let output = setting.upload(&proxy, args!["--stall-timeout", "3"]);
            assert!(matches!(output.code, 0 | 1 | 3 | 4), "{name}: {output:?}");
            if output.code == 0 {
                assert_same_tree(&setting.src, &setting.dst);
            }
            drop(proxy);
        }
        if fingerprint(&setting.outside) != setting.before {
            wrong.push(format!("{name} -> {target}"));
        }
    }
    assert!(wrong.is_empty(), "touched entries outside through {wrong:#?}");
}

/// Links in the staging folder of a transfer that is under way.
#[test]
fn links_in_staging() {
    let mut setting = Setting::new();
    victim(&mut setting);
    let proxy = setting.proxy();
    setting.upload(&proxy, args!["-l", "0"]).code(0);
    let staging = setting.dst.join(".tar-like/staging/0.1");
    assert!(staging.is_dir());
    for id in 0..12 {
        remove(&staging.join(id.to_string()));
        symlink(setting.outside.join("file"), staging.join(id.to_string())).unwrap();
    }
    symlink(setting.outside.join("file"), staging.join("link")).unwrap();
    let output = setting.upload(&proxy, args!["--stall-timeout", "3"]);
    setting.nothing_touched("staging");
    assert_ne!(output.code, 0, "half of a file went through a link: {output:?}");
    for id in 0..12 {
        remove(&staging.join(id.to_string()));
    }
    setting.completes(&proxy, "links in staging are gone");
}

/// A user who may write to the base may also move `.tar-like` away and put a link to a folder
/// outside in its place, while the receiver runs.
#[test]
fn the_state_folder_is_exchanged_while_it_runs() {
    for way_back in [false, true] {
        let mut setting = Setting::new();
        victim(&mut setting);
        let (state, kept) = (setting.dst.join(".tar-like"), setting.lab.path("kept"));
        let mut proxy = setting.proxy();
        setting.upload(&proxy, args!["-l", "2"]).code(0);
        std::fs::rename(&state, &kept).unwrap();
        symlink(&setting.outside, &state).unwrap();
        let short = ["--stall-timeout", "3"];
        // Blocks and finish of the same index; then another index, whose body, copy and staging are
        // new.
        let first = setting.upload(&proxy, short.map(Into::into).to_vec());
        assert!(matches!(first.code, 0 | 1 | 3 | 4), "{first:?}");
        setting.nothing_touched("blocks and finish");
        let other = other_index(&setting.lab.path("src-2"), &setting);
        let again = setting.lab.upload(
            &setting.lab.path("src-2"),
            &other,
            &proxy.url,
            args!["-s", SIZE.to_string(), "--stall-timeout", "3"],
        );
        assert!(matches!(again.code, 0 | 1 | 3 | 4), "{again:?}");
        setting.nothing_touched("another index");
        if way_back {
            remove(&state);
            std::fs::rename(&kept, &state).unwrap();
            if again.code == 0 {
                // The held descriptors led to the folder that was moved away: the other archive is
                // in place.
                for name in ["other", "other-empty"] {
                    remove(&setting.dst.join(name));
                }
            }
            // The entries of the other index are no part of this one.
            for name in ["other", "other-empty"] {
                remove(&setting.dst.join(name));
            }
            setting.completes(&proxy, "the folder is back");
        } else {
            proxy.signal(rustix::process::Signal::TERM);
            wait_until("it stopped", Duration::from_secs(40), || proxy.has_ended());
            setting.nothing_touched("the receiver stopped");
            start(&setting).code(1).says(".tar-like");
        }
    }
}

fn other_index(src: &Path, setting: &Setting) -> std::path::PathBuf {
    Tree::new(src, 224).noise("other", 2500).file("other-empty", "");
    setting.lab.index(src)
}
