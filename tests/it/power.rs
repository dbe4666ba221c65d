//! Power loss: a file system on a loop device is shut down beneath the receiver without flushing
//! its journal, and mounted again. Every block that was answered 200 is still there, and no file is
//! torn (P1, P3). Skipped where the test may not mount.

use crate::support::http;
use crate::support::index::{self, blake3_hex, frame};
use crate::support::stress::{Mount, chance};
use crate::support::{Cmd, Lab, Proxy, Rng, Tree, assert_same_tree, is_root, need_tool, skip, wait_until};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Mount options under which a crash finds nothing on the disk by luck: the file system commits
/// only when asked, and a rename does not write the content of the file.
const MERCILESS: &str = "commit=600,noauto_da_alloc";

/// A disk whose power can be cut.
struct Disk {
    image: PathBuf,
    path: PathBuf,
    mount: Option<Mount>,
    /// Another one, whose power is cut with that of this one.
    second: Option<Box<Disk>>,
}

impl Disk {
    /// Makes and mounts a disk; `None`, with a printed reason, where that is not permitted.
    fn new(lab: &Lab, mebibytes: u64) -> Option<Self> {
        Self::named("disk", lab, mebibytes)
    }

    /// Two disks: one for a base folder, and the second one for a state folder.
    fn two(lab: &Lab, mebibytes: u64) -> Option<Self> {
        let second = Some(Box::new(Self::named("second", lab, mebibytes)?));
        Some(Self { second, ..Self::named("disk", lab, mebibytes)? })
    }

    fn named(name: &str, lab: &Lab, mebibytes: u64) -> Option<Self> {
        if !is_root() {
            skip("only root may mount");
            return None;
        }
        need_tool("mkfs.ext4", "apt-get install e2fsprogs");
        let image = lab.path(&format!("{name}.img"));
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut disk = Self { image, path: lab.path(name), mount: None, second: None };
        disk.on().then_some(disk)
    }

    fn on(&mut self) -> bool {
        self.mount = Mount::image(&self.image, &self.path);
        if let Some(mount) = &self.mount {
            mount.remount(MERCILESS);
        }
        self.mount.is_some()
    }

    /// Cuts the power, which also kills the receiver, and switches it on again.
    fn cut(&mut self, fuse: Fuse, proxy: &mut Proxy) {
        fuse.blow();
        proxy.kill9();
        self.on_again();
    }

    fn on_again(&mut self) {
        if let Some(second) = &mut self.second {
            second.on_again();
        }
        self.mount.take().unwrap().unmount();
        let mounted = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(
            !mounted.contains(&*self.path.to_string_lossy()),
            "still mounted: what follows proves nothing"
        );
        assert!(self.on());
    }

    fn fuse(&self) -> Fuse {
        let second = self.second.as_ref().map(|second| Box::new(second.fuse()));
        Fuse(second, Fuse::process(&self.path))
    }

    /// A receiver on the disk, whose journal is on the second one if there is one.
    fn command(&self, job: &Job) -> Cmd {
        let state = self.second.as_ref().map(|second| args!["--state", second.path.join("state")]);
        job.lab.cmd([args!["proxy", "0", "-b", self.path.join("base")], state.unwrap_or_default()].concat())
    }
}

/// A process that is ready to cut the power: starting one takes longer than a block.
struct Fuse(Option<Box<Fuse>>, Child);

impl Fuse {
    fn process(path: &Path) -> Child {
        need_tool("python3", "apt-get install python3");
        // FS_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        let code = "import fcntl, os, struct, sys\n\
                    fd = os.open(sys.argv[1], os.O_RDONLY)\n\
                    print('r', end='', flush=True)\n\
                    sys.stdin.read(1)\n\
                    fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))\n";
        let mut child = Command::new("python3")
            .args(["-c", code])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).expect("python3 did not start");
        child
    }

    /// The disk of the journal first: what it says later of content that the other one loses would
    /// stay, and no power loss does that.
    fn blow(mut self) {
        if let Some(second) = self.0 {
            second.blow();
        }
        self.1.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        assert!(self.1.wait().unwrap().success(), "the file system cannot be shut down");
    }
}

/// A folder, its index, and its blocks.
struct Job {
    lab: Lab,
    src: PathBuf,
    db: PathBuf,
    digest: String,
    archive: Arc<Vec<u8>>,
    size: usize,
}

impl Job {
    fn new(size: usize, build: impl FnOnce(&mut Tree)) -> Self {
        let lab = Lab::new();
        let src = lab.path("src");
        build(&mut Tree::new(&src, 230));
        let db = lab.index(&src);
        let (digest, archive) = (index::digest(&db), Arc::new(index::archive(&src, &db)));
        Self { lab, src, db, digest, archive, size }
    }

    /// Many small files in each block.
    fn small_files() -> Self {
        Self::new(20_000, |tree| {
            tree.rich(30_000);
            for number in 0..1500 {
                let length = tree.rng.below(1200) as usize;
                tree.noise(format!("folder-{}/sub-{}/f{number}", number % 7, number % 3), length);
            }
            tree.times();
        })
    }

    /// Many blocks in each file.
    fn large_files() -> Self {
        Self::new(50_000, |tree| {
            tree.noise("large", 3_210_000).text("larger", 4_321_000).noise("small", 10).times();
        })
    }

    fn blocks(&self) -> usize {
        self.archive.len().div_ceil(self.size)
    }

    fn put_index(&self, proxy: &Proxy) {
        let headers = [("x-tar-like-index", &*self.digest)];
        let answer = proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(&self.db));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn upload(&self, proxy: &Proxy) -> serde_json::Value {
        let args = args!["-s", self.size.to_string(), "--json"];
        self.lab.upload(&self.src, &self.db, &proxy.url, args).code(0).summary()
    }

    /// Starts to put the blocks `todo` by three threads.
    fn start(&self, addr: SocketAddr, todo: Vec<usize>) -> Putting {
        let state = Arc::new(PutState::default());
        *state.todo.lock().unwrap() = todo;
        let threads = (0..3).map(|_| {
            let (state, archive, digest, size) =
                (state.clone(), self.archive.clone(), self.digest.clone(), self.size);
            std::thread::spawn(move || {
                while !state.stop.load(Ordering::SeqCst) {
                    let Some(number) = state.todo.lock().unwrap().pop() else { break };
                    if put(addr, &archive, &digest, size, number) == Some(200) {
                        state.acknowledged.lock().unwrap().insert(number);
                        state.count.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        });
        Putting { threads: threads.collect(), state }
    }

    /// Blocks that are not complete. The receiver answers for all that it had recorded.
    fn missing(&self, proxy: &Proxy) -> BTreeSet<usize> {
        let answer = proxy.request("GET", "/tar/0/status", &[], b"");
        if answer.status == 404 {
            return (0..self.blocks()).collect();
        }
        let status = answer.json();
        assert_eq!(status["next"], serde_json::Value::Null);
        let ranges: Vec<(usize, usize)> = serde_json::from_value(status["missing"].clone()).unwrap();
        ranges.into_iter().flat_map(|(from, to)| from / self.size..to.div_ceil(self.size)).collect()
    }

    /// Final names with neither the new nor the previous content.
    fn torn(&self, dst: &Path) -> Vec<String> {
        let old = |name: &Path| std::fs::read(self.lab.path("old").join(name)).ok();
        let entries = walkdir::WalkDir::new(dst).into_iter();
        let entries = entries.filter_entry(|e| e.file_name() != ".tar-like" || e.depth() != 1);
        let mut torn = Vec::new();
        for entry in entries.map(Result::unwrap).filter(|entry| entry.file_type().is_file()) {
            let name = entry.path().strip_prefix(dst).unwrap();
            let content = std::fs::read(entry.path()).unwrap();
            if std::fs::read(self.src.join(name)).ok().as_ref() != Some(&content)
                && old(name).as_ref() != Some(&content)
            {
                torn.push(format!("{} is torn: {} bytes", name.display(), content.len()));
            }
        }
        torn
    }
}

#[derive(Default)]
struct PutState {
    todo: Mutex<Vec<usize>>,
    stop: AtomicBool,
    acknowledged: Mutex<BTreeSet<usize>>,
    count: AtomicUsize,
}

struct Putting {
    threads: Vec<std::thread::JoinHandle<()>>,
    state: Arc<PutState>,
}

impl Putting {
    /// Waits until so many blocks were answered 200, or all were tried.
    fn wait_for(&self, count: usize) {
        wait_until("blocks are acknowledged", Duration::from_secs(60), || {
            self.state.count.load(Ordering::SeqCst) >= count
                || self.threads.iter().all(std::thread::JoinHandle::is_finished)
        });
    }

    /// The blocks that were answered 200 so far.
    fn acknowledged(&self) -> BTreeSet<usize> {
        self.state.acknowledged.lock().unwrap().clone()
    }

    /// Ends the threads; returns all blocks that were answered 200.
    fn end(self) -> BTreeSet<usize> {
        self.state.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.state.acknowledged.lock().unwrap().clone()
    }
}

/// Puts a block; the status of the answer, if there is one.
fn put(addr: SocketAddr, archive: &[u8], digest: &str, size: usize, number: usize) -> Option<u16> {
    let content = index::block(archive, size, number);
    let body = frame(content);
    let head = format!(
        "PUT /tar/0/{size}/{number} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
         x-tar-like-index: {digest}\r\nx-tar-like-digest: {}\r\n\r\n",
        body.len(),
        blake3_hex(content)
    );
    http::try_raw(addr, &[head.as_bytes(), &body].concat()).map(|answer| answer.status)
}

/// Cuts the power once while blocks arrive; returns the faults that it finds afterwards.
fn cut_once(job: &Job, disk: &mut Disk, proxy: &mut Proxy, rng: &mut Rng, after: usize) -> Vec<String> {
    let done_before: BTreeSet<usize> = {
        let missing = job.missing(proxy);
        (0..job.blocks()).filter(|block| !missing.contains(block)).collect()
    };
    let mut todo: Vec<usize> = job.missing(proxy).into_iter().collect();
    for at in (1..todo.len()).rev() {
        todo.swap(at, rng.below(at as u64 + 1) as usize);
    }
    let fuse = disk.fuse();
    let putting = job.start(proxy.addr, todo);
    putting.wait_for(after);
    std::thread::sleep(Duration::from_micros(rng.below(20_000)));
    let acknowledged = putting.acknowledged();
    disk.cut(fuse, proxy);
    let late = putting.end();
    // If a shutdown overtakes an fsync, Linux reports success. A real power loss would take that
    // answer with it.
    let late = late.difference(&acknowledged).count();
    println!(
        "{} blocks were acknowledged, {} before, {late} too late",
        acknowledged.len(),
        done_before.len()
    );
    assert!(acknowledged.len() >= after.min(1), "nothing was acknowledged: nothing is tested");
    // Before the receiver could repair anything.
    let mut wrong = job.torn(&disk.path.join("base"));
    proxy.restart();
    let missing = job.missing(proxy);
    for block in missing.iter().filter(|block| acknowledged.contains(block) || done_before.contains(block)) {
        wrong.push(format!("block {block} is lost"));
    }
    wrong
}

/// Previous content under some of the names, safely on the disk.
fn old_content(job: &Job, disk: &Disk) -> PathBuf {
    let base = disk.path.join("base");
    let names = ["large", "text/compressible.txt", "folder-3/sub-0/f3", "folder-1/sub-1/f1", "one-byte"];
    for root in [&job.lab.path("old"), &base] {
        let mut old = Tree::new(root, 7);
        for name in names.iter().filter(|name| job.src.join(name).exists()) {
            old.noise(name, 70_000);
        }
    }
    rustix::fs::syncfs(std::fs::File::open(&base).unwrap()).unwrap();
    base
}

fn cut_again_and_again(job: &Job, disk: Option<Disk>, cuts: usize) {
    let mut rng = chance();
    let Some(mut disk) = disk else { return };
    let base = old_content(job, &disk);
    let mut proxy = disk.command(job).serve();
    job.put_index(&proxy);
    let each = job.blocks() / (cuts + 1);
    for cut in 0..cuts {
        // The machine's speed decides how many blocks arrive before a cut: on a fast one all may
        // have arrived.
        if job.missing(&proxy).is_empty() && cut > cuts / 2 {
            break;
        }
        let after = rng.below(each as u64) as usize;
        let wrong = cut_once(job, &mut disk, &mut proxy, &mut rng, after);
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    // The receiver has every block that it acknowledged: only the rest is sent.
    let missing = job.missing(&proxy).len();
    let summary = job.upload(&proxy);
    assert_eq!(summary["sent_blocks"], missing, "{summary}");
    println!("{missing} blocks of {} were left at the end", job.blocks());
    assert_same_tree(&job.src, &base);
    // After the receiver has confirmed everything, everything survives.
    let fuse = disk.fuse();
    disk.cut(fuse, &mut proxy);
    assert_same_tree(&job.src, &base);
    proxy.restart();
    assert_eq!(proxy.status(0)["complete"], true);
    assert_eq!(job.upload(&proxy)["sent_blocks"], 0);
    drop(proxy);
}

#[test]
fn no_acknowledged_block_of_small_files_is_lost() {
    let job = Job::small_files();
    cut_again_and_again(&job, Disk::new(&job.lab, 96), 8);
}

#[test]
fn no_acknowledged_block_of_large_files_is_lost() {
    let job = Job::large_files();
    cut_again_and_again(&job, Disk::new(&job.lab, 96), 8);
}

/// With `--state`, one sync stands for two file systems.
#[test]
fn no_acknowledged_block_is_lost_where_the_journal_is_on_another_disk() {
    for job in [Job::small_files(), Job::large_files()] {
        cut_again_and_again(&job, Disk::two(&job.lab, 96), 4);
    }
}

#[test]
fn an_acknowledged_index_is_not_lost() {
    let job = Job::large_files();
    replaced_indexes_are_not_lost(&job, Disk::new(&job.lab, 96));
}

#[test]
fn an_acknowledged_index_on_another_disk_is_not_lost() {
    let job = Job::large_files();
    replaced_indexes_are_not_lost(&job, Disk::two(&job.lab, 96));
}

/// The index was answered 200: it is there. A second index replaces it completely or not at all.
fn replaced_indexes_are_not_lost(job: &Job, disk: Option<Disk>) {
    let Some(mut disk) = disk else { return };
    let base = disk.path.join("base");
    let other = job.lab.path("other");
    Tree::new(&other, 1).noise("another", 12_345);
    let other_db = job.lab.index(&other);
    let mut proxy = disk.command(job).serve();
    for db in [&job.db, &other_db, &job.db] {
        let digest = index::digest(db);
        let headers = [("x-tar-like-index", &*digest)];
        let fuse = disk.fuse();
        let answer = proxy.request("PUT", "/tar/0/db", &headers, &index::frame_of(db));
        disk.cut(fuse, &mut proxy);
        assert_eq!(answer.status, 200, "{}", answer.text());
        proxy.restart();
        assert_eq!(proxy.status(0)["digest"], *digest, "the acknowledged index is lost");
    }
    job.upload(&proxy);
    assert_same_tree(&job.src, &base);
    drop(proxy);
}

/// Negative control: if syncs only pretend, the same test must find faults. Otherwise it shows
/// nothing.
fn finds_what_is_lost(job: &Job, lies: &[&str]) -> Option<Vec<String>> {
    let mut rng = chance();
    let mut disk = Disk::new(&job.lab, 96)?;
    old_content(job, &disk);
    let mut proxy = disk.command(job).inject(lies, &[]).serve();
    job.put_index(&proxy);
    Some(cut_once(job, &mut disk, &mut proxy, &mut rng, 20))
}

#[test]
fn without_any_sync_acknowledged_blocks_are_lost() {
    let lies = ["syncfs:retval=0", "fsync:retval=0", "fdatasync:retval=0"];
    let Some(wrong) = finds_what_is_lost(&Job::small_files(), &lies) else { return };
    let lost = wrong.iter().filter(|line| line.ends_with("is lost")).count();
    assert!(lost >= 20, "power loss without any sync lost only {lost} blocks: the disk kept its power");
}

/// The journal is safe and the content is not: files that got their names too early are torn.
#[test]
fn without_the_sync_of_content_files_are_torn() {
    let Some(wrong) = finds_what_is_lost(&Job::small_files(), &["syncfs:retval=0"]) else { return };
    println!("{} things are wrong, such as {:?}", wrong.len(), wrong.first());
    assert!(!wrong.is_empty(), "power loss without the sync of content went unnoticed");
}
