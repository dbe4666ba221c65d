//! Indexes at the receiver that are damaged or cannot be read.

use crate::support::{Lab, Proxy, Tree, assert_same_tree, index};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The file of the index of archive `tar_id`.
fn index_of(dst: &Path, tar_id: u64) -> PathBuf {
    let folder = dst.join(".tar-like/archives");
    let mut names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&format!("{tar_id}-")) && name.ends_with(".sqlite")
    };
    names.find(is_it).unwrap()
}

struct World {
    lab: Lab,
    src: PathBuf,
    dst: PathBuf,
}

impl World {
    /// Two archives in one folder.
    fn new() -> Self {
        let lab = Lab::new();
        let (src, dst) = (lab.path("src"), lab.dir("dst"));
        let mut tree = Tree::new(&src, 1);
        for number in 0..400 {
            tree.file(format!("folder/some-file-{number:03}"), format!("content {number}"));
        }
        Tree::new(&lab.path("other"), 2).file("other", "other");
        let world = Self { lab, src, dst };
        let proxy = world.lab.proxy(&world.dst);
        // An index that comes as a whole: all of it is in one file.
        world.lab.run(args!["index", "-b", world.src, "-db", world.lab.path("db")]).code(0);
        world.sync(&proxy);
        let other = args!["-db", world.lab.path("other.sqlite"), "--tar-id", "1"];
        world.lab.sync(&world.lab.path("other"), &proxy.url, other).code(0);
        proxy.term_and_wait();
        world
    }

    fn sync(&self, proxy: &Proxy) -> crate::support::Output {
        let flags = args!["-db", self.lab.path("db"), "-dbp", self.lab.path("dbp")];
        self.lab.sync(&self.src, &proxy.url, flags).code(0)
    }
}

fn status(proxy: &Proxy, tar_id: u64) -> (u16, String) {
    let answer = proxy.request("GET", &format!("/tar/{tar_id}/status"), &[], b"");
    (answer.status, answer.text())
}

/// Valid rows that are wrong, damaged pages, a cut file, a missing file: the receiver serves the
/// other archives, and the sender of the damaged one repairs everything and hears of it.
#[test]
fn a_damaged_index_is_given_up_and_its_sender_hears_it() {
    type Damage = (&'static str, fn(&mut Vec<u8>));
    let damages: [Damage; 5] = [
        ("a flipped bit of a name", |bytes| {
            let name = b"some-file-123";
            let found: Vec<usize> =
                (0..bytes.len() - name.len()).filter(|&at| bytes[at..].starts_with(name)).collect();
            assert!(!found.is_empty());
            found.into_iter().for_each(|at| bytes[at] ^= 1);
        }),
        ("a page of noise", |bytes| bytes[4096..8192].fill(0xa5)),
        ("no header", |bytes| bytes[..100].fill(0)),
        ("a cut file", |bytes| bytes.truncate(8192)),
        ("nothing", Vec::clear),
    ];
    for (damage, apply) in damages {
        println!("{damage}");
        let world = World::new();
        let path = index_of(&world.dst, 0);
        let mut bytes = std::fs::read(&path).unwrap();
        apply(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        std::fs::remove_file(world.dst.join("folder/some-file-123")).unwrap();
        let proxy = world.lab.proxy(&world.dst);
        assert_eq!(status(&proxy, 1).0, 200);
        world.sync(&proxy).says("was damaged");
        assert_same_tree(&world.src.join("folder"), &world.dst.join("folder"));
        // Once.
        assert!(!world.sync(&proxy).stderr.contains("was damaged"));
        proxy.term_and_wait();
    }
}

/// An index that cannot be read now is not lost: its archive is not served, and nothing is
/// invalidated.
#[test]
fn an_index_that_cannot_be_read_is_waited_for() {
    let world = World::new();
    let path = index_of(&world.dst, 0);
    let away = world.lab.path("away");
    std::fs::rename(&path, &away).unwrap();
    std::fs::create_dir(&path).unwrap();
    let proxy = world.lab.proxy(&world.dst);
    assert_eq!(status(&proxy, 1).0, 200);
    let (digest, frame) = (index::digest(&world.lab.path("db")), index::frame_of(&world.lab.path("db")));
    for (method, what, body) in
        [("GET", "status", &b""[..]), ("PUT", "db", &frame), ("POST", "finish", b"{}")]
    {
        let headers = [("x-tar-like-index", &*digest)];
        let answer = proxy.request(method, &format!("/tar/0/{what}"), &headers, body);
        assert_eq!(answer.status, 503, "{method} {what}: {}", answer.text());
    }
    // The receiver cannot tell which entries of the folder the unread archive has put there.
    std::fs::write(world.lab.path("other/more"), "x").unwrap();
    // Nor does the folder itself belong to the other archive alone.
    std::fs::set_permissions(&world.dst, Permissions::from_mode(0o711)).unwrap();
    let other = args!["-db", world.lab.path("other.sqlite"), "--tar-id", "1"];
    world.lab.sync(&world.lab.path("other"), &proxy.url, other.clone()).code(0);
    assert_eq!(std::fs::metadata(&world.dst).unwrap().permissions().mode() & 0o777, 0o711);
    std::fs::remove_file(world.lab.path("other/more")).unwrap();
    let more = args!["--delete"];
    world
        .lab
        .sync(&world.lab.path("other"), &proxy.url, [other.clone(), more.clone()].concat())
        .code(3)
        .says("nothing is deleted");
    assert!(world.dst.join("more").exists());
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&away, &path).unwrap();
    let (code, text) = status(&proxy, 0);
    assert!(code == 200 && text.contains("\"complete\":true"), "{code} {text}");
    world.lab.sync(&world.lab.path("other"), &proxy.url, [other, more].concat()).code(0);
    assert!(!world.dst.join("more").exists());
}

/// A page that opening an index does not read: the request that needs the page drops the index, and
/// the same run repairs everything.
#[test]
fn a_page_that_is_damaged_shows_when_it_is_needed() {
    let pages = ["idx_tar_path", "tarlike_gone", "tarlike_gone_path", "tarlike_gone_node"];
    for (number, name) in pages.into_iter().enumerate() {
        println!("{name}");
        let world = World::new();
        // A second generation has all of these tables.
        std::fs::write(world.src.join("folder/some-file-007"), "bond").unwrap();
        std::fs::remove_file(world.src.join("folder/some-file-008")).unwrap();
        let flags = args!["-db", world.lab.path("db"), "-dbp", world.lab.path("dbp"), "--delete"];
        world.lab.sync(&world.src, &world.lab.proxy(&world.dst).url, flags.clone()).code(0);
        let path = index_of(&world.dst, 0);
        let connection = rusqlite::Connection::open(&path).unwrap();
        let page: u32 = connection
            .query_row("SELECT rootpage FROM sqlite_schema WHERE name=?", [name], |row| row.get(0))
            .unwrap();
        drop(connection);
        let page = page as usize;
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[(page - 1) * 4096..page * 4096].fill(0);
        std::fs::write(&path, bytes).unwrap();
        std::fs::remove_file(world.dst.join("folder/some-file-123")).unwrap();
        let proxy = world.lab.proxy(&world.dst);
        let other = args!["-db", world.lab.path("other.sqlite"), "--tar-id", "1"];
        // The next generation, another index, and an unchanged index that is only compared.
        match number % 3 {
            0 => std::fs::write(world.src.join("folder/some-file-009"), "more").unwrap(),
            1 => drop(world.lab.run(args!["compact", "-db", world.lab.path("db")]).code(0)),
            _ => {}
        }
        world.lab.sync(&world.src, &proxy.url, flags).code(0).says("was damaged");
        assert_same_tree(&world.src.join("folder"), &world.dst.join("folder"));
        world.lab.sync(&world.lab.path("other"), &proxy.url, other).code(0);
        assert!(!world.sync(&proxy).stderr.contains("was damaged"));
        proxy.term_and_wait();
    }
}

#[test]
fn a_damaged_journal_says_what_to_do() {
    let world = World::new();
    let path = world.dst.join(".tar-like/journal.sqlite");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let flags = || args!["-db", world.lab.path("db"), "-dbp", world.lab.path("dbp")];
    world.lab.sync(&world.src, &world.dst, flags()).code(1).says("journal is damaged").says(".tar-like");
    // The restored file helps.
    std::fs::rename(world.dst.join(".tar-like"), world.lab.path("away")).unwrap();
    world.lab.sync(&world.src, &world.dst, flags()).code(0);
    assert_same_tree(&world.src.join("folder"), &world.dst.join("folder"));
}
