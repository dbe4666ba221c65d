//! Two hosts with different states of the source, and a file with two names of which one vanishes.

use super::{Replaced, ReplacedInSecret, RewrittenInSecret, SIZE, Setting, Shrinks, Vanishes, copy, layout};
use crate::support::{Lab, Tree, assert_same_tree, tree_diff, wait_until};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Two hosts send the same archive; the second has an older state of some files.
#[test]
fn one_of_two_hosts_is_stale() {
    for together in [false, true] {
        let mut setting = Setting::new(layout);
        let (dst, proxy) = setting.receiver();
        let stale = setting.lab.path("stale");
        copy(&setting.src, &stale);
        let aside = setting.lab.dir("aside");
        ReplacedInSecret.apply(&stale, Path::new("b-middle"), &aside);
        RewrittenInSecret.apply(&stale, Path::new("e-spans"), &aside);
        Shrinks.apply(&stale, Path::new("g-block"), &aside);
        Vanishes.apply(&stale, Path::new("h/first"), &aside);
        let send = |from: &Path, more: &[&str]| {
            let more = ["-s", SIZE, "--json"].iter().chain(more).map(Into::into).collect();
            setting.lab.upload_cmd(from, &setting.db, &proxy.url, more)
        };
        // The last `finish` sets the times of folders.
        let never_wrong = || {
            let mut wrong = tree_diff(&setting.twin, &dst);
            wrong.retain(|line| !line.starts_with("missing: ") && !line.starts_with("h: mtime"));
            assert!(wrong.is_empty(), "{wrong:?}");
        };
        if together {
            // Both send everything at once. Which of them wins a block is open; the result is not.
            let other = send(&stale, &["--ignore-done"]).spawn();
            let ours = send(&setting.src, &["--ignore-done"]).run();
            assert!(matches!(ours.code, 0 | 3), "{ours:?}");
            let other = other.wait();
            assert!(matches!(other.code, 0 | 3), "{other:?}");
            never_wrong();
        } else {
            // Halves, cut within a file of which both halves have a part.
            send(&setting.src, &["-l", "1"]).run().code(0);
            never_wrong();
            let output = send(&stale, &["-f", "2"]).run().code(3);
            assert!(["g-block", "h/first"].iter().all(|path| output.stderr.contains(path)), "{output:?}");
            never_wrong();
            let output = send(&stale, &[]).run().code(3);
            assert!(["e-spans", "g-block", "h/first"].iter().all(|path| output.stderr.contains(path)));
            assert!(!output.stderr.contains("b-middle"), "it is there already: {output:?}");
            never_wrong();
        }
        send(&setting.src, &[]).run().code(0);
        assert_same_tree(&setting.twin, &dst);
    }
}

/// Another host puts an index of its own state while the first host sends: the first stops and says
/// so, and nothing is mixed.
#[test]
fn another_host_with_another_index() {
    let mut setting = Setting::new(|tree| {
        tree.noise("a", 60_000).noise("b", 60_000).noise("c", 500);
    });
    let (dst, proxy) = setting.receiver();
    let other = setting.lab.path("other");
    copy(&setting.src, &other);
    Shrinks.apply(&other, Path::new("b"), &setting.lab.dir("aside"));
    let other_db = setting.lab.index(&other);
    let slow = ["--bwlimit", "64K", "-p", "1", "--compress", "none"];
    let ours = setting.upload(Replaced, &proxy.url, &slow).spawn();
    wait_until("some is sent", Duration::from_secs(60), || {
        proxy.request("GET", "/tar/0/status", &[], b"").status == 200 && proxy.blocks_accepted() > 2
    });
    setting.lab.upload(&other, &other_db, &proxy.url, args!["-s", SIZE]).code(1).says("is the copy of");
    setting.lab.upload(&other, &other_db, &proxy.url, args!["-s", SIZE, "--replace-source"]).code(0);
    assert_same_tree(&other, &dst);
    let output = ours.wait().code(1);
    let active = format!("but index {} is active", crate::support::index::digest(&other_db));
    assert!(output.stderr.contains(&active), "{}", output.stderr);
    assert_same_tree(&other, &dst);
    setting.upload(Replaced, &proxy.url, &["--replace-source"]).run().code(0);
    assert_same_tree(&setting.twin, &dst);
}

/// A file with two names: the name that the index reads vanishes.
#[test]
fn the_first_name_of_a_hard_link_vanishes() {
    for size in ["4000", "1000"] {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 203);
        tree.noise("a", 700)
            .noise("first", 2500)
            .noise("z", 700)
            .dir("m")
            .hardlink("m/second", "first")
            .times();
        let db = lab.index(&src);
        let proxy = lab.proxy(&dst);
        let upload = || lab.upload(&src, &db, &proxy.url, args!["-s", size]);
        tree.remove("first");
        upload().code(3).says("first");
        for name in ["a", "z"] {
            assert_eq!(std::fs::read(dst.join(name)).unwrap(), std::fs::read(src.join(name)).unwrap());
        }
        assert!(!dst.join("first").exists());
        // The second name can be made only with the content; without the first name there is none.
        assert!(!dst.join("m/second").exists());
        tree.hardlink("first", "m/second");
        upload().code(0);
        assert_same_tree(&src, &dst);
        // A further name that vanishes is no loss: the index reads the file by its first name.
        let dst = lab.dir("dst-2");
        let proxy = lab.proxy(&dst);
        tree.remove("m/second");
        lab.upload(&src, &db, &proxy.url, args!["-s", size]).code(0);
        assert_eq!(
            dst.join("m/second").metadata().unwrap().ino(),
            dst.join("first").metadata().unwrap().ino()
        );
    }
}
