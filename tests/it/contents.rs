//! Contents that changed at the receiver under an unchanged size and time: `--checksum` reads both
//! sides, and what is damaged is sent again.

use crate::support::{Lab, Tree, assert_same_tree, set_mtime};
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A source in its second generation, and its copy at `to`.
struct World {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
}

impl World {
    fn new(seed: u64) -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, seed);
        tree.rich(100_000).noise("large", 3_000_000).noise("grows", 2_000_000).noise("other", 500_000);
        tree.file("a/small", "small").hardlink("a/link", "a/small");
        Self { lab, src, dst }
    }

    fn grow(&self) {
        let mut content = std::fs::read(self.src.join("grows")).unwrap();
        content.extend_from_slice(&[7; 70_000]);
        std::fs::write(self.src.join("grows"), content).unwrap();
    }

    fn sync(&self, to: &OsString, more: Vec<OsString>) -> Value {
        let flags = args!["-db", self.lab.path("db"), "-dbp", self.lab.path("dbp"), "-s", "200000", "--json"];
        self.lab.sync(&self.src, to, [flags, more].concat()).code(0).summary()
    }
}

/// Changes one byte of a file, and nothing that `stat` tells.
fn rot(path: &Path) {
    let meta = path.metadata().unwrap();
    let mut content = std::fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0x10;
    std::fs::write(path, content).unwrap();
    set_mtime(path, meta.mtime() * 1_000_000_000 + meta.mtime_nsec());
}

#[test]
fn damaged_contents_are_sent_again() {
    for remote in [true, false] {
        let world = World::new(400);
        let proxy = remote.then(|| world.lab.proxy(&world.dst));
        let to: OsString = proxy.as_ref().map_or(world.dst.clone().into(), |proxy| (&proxy.url).into());
        world.sync(&to, vec![]);
        world.grow();
        world.sync(&to, vec![]);
        for name in ["large", "grows", "a/small"] {
            rot(&world.dst.join(name));
        }
        // By size and time nothing has changed.
        assert_eq!(world.sync(&to, vec![])["verified"], Value::Null);
        let flags = args!["-db", world.lab.path("db"), "-s", "200000", "--json", "--checksum", "--dry-run"];
        let output = world.lab.sync(&world.src, &to, flags).code(0);
        let dry = output.summary();
        assert_eq!(dry["verified"]["different"], 3, "{dry}");
        if !remote {
            output.says("a run would ask for it again");
        }
        assert_ne!(
            std::fs::read(world.dst.join("large")).unwrap(),
            std::fs::read(world.src.join("large")).unwrap()
        );
        let summary = world.sync(&to, args!["--checksum"]);
        assert_eq!(summary["verified"]["different"], 3, "{summary}");
        assert_eq!(summary["verified"]["different_bytes"], 3_000_000 + 2_070_000 + 5, "{summary}");
        assert_eq!(summary["complete"], true, "{summary}");
        let sent = summary["sent_bytes"].as_u64().unwrap();
        assert!((5_000_000..5_300_000).contains(&sent), "{summary}");
        assert_same_tree(&world.src, &world.dst);
        // Once more, nothing differs, and nothing is sent.
        let summary = world.sync(&to, args!["--checksum"]);
        assert_eq!(
            (&summary["verified"]["different"], &summary["sent_bytes"]),
            (&0.into(), &0.into()),
            "{summary}"
        );
    }
}

/// A run that claims to have sent or read everything must not confirm a damaged file either.
#[test]
fn other_flags_that_read_everything_find_damage_too() {
    let world = World::new(401);
    let to: OsString = world.dst.clone().into();
    // A first copy is verified as it is written, and not read again.
    assert_eq!(world.sync(&to, args!["--checksum"])["verified"], Value::Null);
    for flag in ["--ignore-done", "--adopt"] {
        rot(&world.dst.join("other"));
        std::fs::remove_file(world.dst.join("grows")).unwrap();
        let summary = world.sync(&to, args![flag]);
        let found = &summary["verified"];
        assert_eq!((&found["different"], &found["missing"]), (&2.into(), &1.into()), "{summary}");
        assert_same_tree(&world.src, &world.dst);
    }
    // What changed in the source goes with it.
    rot(&world.dst.join("large"));
    world.grow();
    assert_eq!(world.sync(&to, args!["--checksum"])["verified"]["different"], 1);
    assert_same_tree(&world.src, &world.dst);
}

/// What the receiver may not be asked.
#[test]
fn a_check_of_contents_is_refused_like_other_requests() {
    let world = World::new(402);
    let proxy = world.lab.proxy(&world.dst);
    world.sync(&(&proxy.url).into(), vec![]);
    let digest = proxy.status(0)["digest"].as_str().unwrap().to_owned();
    let ask = |index: &str, body: &str| {
        proxy.request("POST", "/tar/0/verify", &[("x-tar-like-index", index)], body.as_bytes())
    };
    assert_eq!(ask(&digest, "").status, 400);
    assert_eq!(ask(&digest, "{\"name\": 1, \"paths\": [\"../x\"]}").status, 400);
    assert_eq!(ask(&"0".repeat(64), "{\"name\": 1}").status, 409);
    let answer = ask(&digest, "{\"name\": 1, \"paths\": [\"a/small\", \"a/link\", \"none\"]}");
    assert_eq!(
        (answer.status, &answer.json()["files"], &answer.json()["bytes"]),
        (200, &1.into(), &5.into())
    );
    assert_eq!(
        proxy.request("POST", "/tar/7/verify", &[("x-tar-like-index", &*digest)], b"{\"name\":1}").status,
        404
    );
}

/// `check --repair` asks for exactly what it found, from a folder whose copy a receiver made, and
/// from one that only looks like it.
#[test]
fn a_check_repairs_what_it_finds() {
    for is_known in [true, false] {
        let world = World::new(403);
        let to: OsString = world.dst.clone().into();
        world.sync(&to, vec![]);
        world.grow();
        world.sync(&to, vec![]);
        if !is_known {
            std::fs::remove_dir_all(world.dst.join(".tar-like")).unwrap();
        }
        std::fs::write(world.dst.join("foreign"), "stays").unwrap();
        let check = |more: Vec<OsString>| {
            world
                .lab
                .run([args!["check", "-b", world.dst, "-db", world.lab.path("db"), "--json"], more].concat())
        };
        let repair = || check(args!["--repair", world.src]);
        assert_eq!(repair().code(0).summary()["repair"], Value::Null);
        rot(&world.dst.join("grows"));
        std::fs::remove_file(world.dst.join("a/small")).unwrap();
        std::fs::remove_file(world.dst.join("other")).unwrap();
        std::fs::set_permissions(world.dst.join("large"), PermissionsExt::from_mode(0o600)).unwrap();
        let found = check(vec![]).code(1).summary();
        let summary = repair().code(0).summary();
        assert_eq!((&summary["different"], &summary["missing"]), (&found["different"], &found["missing"]));
        let sent = summary["repair"]["sent_bytes"].as_u64().unwrap();
        assert!((570_000..3_000_000).contains(&sent), "{summary}");
        check(vec![]).code(0);
        assert_eq!(std::fs::read(world.dst.join("foreign")).unwrap(), b"stays");
        std::fs::remove_file(world.dst.join("foreign")).unwrap();
        assert_same_tree(&world.src, &world.dst);
        // What the source has no more as it was indexed cannot be repaired.
        rot(&world.dst.join("other"));
        std::fs::write(world.src.join("other"), "other now").unwrap();
        let output = repair().code(1);
        assert!(output.stdout.contains("\"failed_total\":1"), "{}", output.stdout);
    }
}

#[test]
fn a_repair_needs_a_source_and_the_index_of_the_copy() {
    let world = World::new(404);
    let to: OsString = world.dst.clone().into();
    world.sync(&to, vec![]);
    let other = world.lab.path("other.sqlite");
    world.lab.run(args!["index", "-b", world.src.join("a"), "-db", other]).code(0);
    let check = |db: &Path, from: &std::ffi::OsStr| {
        world.lab.run(args!["check", "-b", world.dst, "-db", db, "--repair", from])
    };
    check(&world.lab.path("db"), "http://localhost:1/tar".as_ref())
        .code(2)
        .says("sync SOURCE URL --checksum");
    check(&world.lab.path("db"), "host:/x".as_ref()).code(2);
    check(&other, world.src.join("a").as_os_str())
        .code(1)
        .says("is the copy of")
        .says("give the index of this copy");
    let proxy = world.lab.proxy(&world.dst);
    rot(&world.dst.join("other"));
    // Before the check begins.
    let wrong = check(&world.lab.path("db"), world.lab.dir("wrong").as_os_str()).code(1);
    assert_eq!(wrong.says("has none of the first files").says("--repair SOURCE").stdout, "");
    check(&world.lab.path("db"), world.src.as_os_str()).code(1);
    drop(proxy);
    check(&world.lab.path("db"), world.src.as_os_str()).code(0);
}
