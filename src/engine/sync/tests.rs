use super::*;
use crate::archive::protocol::FinishAnswer;
use crate::engine::direct::{DirectStarter, Fault};
use crate::engine::plan::ChangeKind;
use crate::engine::rewind::{RewindDestination, rewind};
use crate::engine::upload::{DeleteLimit, DeletePolicy};
use crate::telemetry::Silent;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

/// A source, a destination and an index in folders of their own.
struct Lab {
    folder: tempfile::TempDir,
    starter: Arc<DirectStarter>,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap(), starter: Arc::default() };
        std::fs::create_dir_all(lab.path("source/folder")).unwrap();
        lab.write("a", &[1; 5000]);
        lab.write("folder/b", &[2; 30_000]);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path("source").join(name), content).unwrap();
    }

    fn options(&self) -> SyncOptions {
        SyncOptions {
            index: IndexOptions::of_folder(self.path("source"), self.path("index")),
            index_folder: None,
            upload: UploadOptions {
                progress: self.path("progress"),
                block_size: 10_000,
                scratch: self.folder.path().to_path_buf(),
                ..UploadOptions::default()
            },
            adopt: false,
            entries: None,
            tar_id: None,
            replace_source: false,
        }
    }

    fn destination(&self) -> Destination {
        self.starter.destination(&self.path("copy"))
    }

    async fn run(&self, options: SyncOptions) -> Result<SyncReport> {
        sync(options, self.destination(), Arc::new(Silent::default())).await
    }

    #[track_caller]
    fn assert_copied(&self) {
        for name in ["a", "folder/b"] {
            let read = |folder: &str| std::fs::read(self.path(folder).join(name)).unwrap();
            assert!(read("source") == read("copy"), "{name}");
        }
    }
}

fn dry(options: SyncOptions) -> SyncOptions {
    SyncOptions { upload: UploadOptions { dry_run: true, ..options.upload }, ..options }
}

fn adopting(options: SyncOptions) -> SyncOptions {
    SyncOptions { adopt: true, ..options }
}

#[tokio::test(flavor = "multi_thread")]
async fn adopts_a_copy_and_sends_what_differs() {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.path("copy/folder")).unwrap();
    std::fs::copy(lab.path("source/folder/b"), lab.path("copy/folder/b")).unwrap();
    let report = lab.run(dry(adopting(lab.options()))).await.unwrap();
    let SyncReport::Copied { similarity: Some(similarity), .. } = report else { panic!("{report:?}") };
    assert_eq!((similarity.same_bytes, similarity.total_bytes), (30_000, 35_000));
    assert!(!lab.path("copy").join(crate::archive::path::STATE_DIR).exists());
    let report = lab.run(adopting(lab.options())).await.unwrap();
    assert_eq!((report.upload().complete, report.upload().sent_bytes), (true, 5000));
    lab.assert_copied();
    // The receiver has the archive now, so the next run adopts nothing.
    lab.starter.requests();
    assert!(lab.run(adopting(lab.options())).await.unwrap().upload().complete);
    assert!(!lab.starter.requests().contains(&"adopt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn removes_a_new_folder_that_got_no_index() {
    let lab = Lab::new();
    lab.starter.set_fault(Some(Fault::Refused));
    assert_eq!(lab.run(lab.options()).await.unwrap_err().kind(), ErrorKind::Forbidden);
    assert!(!lab.path("copy").exists());
    std::fs::create_dir(lab.path("copy")).unwrap();
    lab.run(lab.options()).await.unwrap_err();
    assert!(lab.path("copy").exists(), "the folder was there before the run");
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_folders_that_hold_each_other() {
    let lab = Lab::new();
    let run = async |base: &str, copy: &str| {
        let mut options = lab.options();
        options.index.base = lab.path(base);
        let destination = lab.starter.destination(&lab.path(copy));
        sync(options, destination, Arc::new(Silent::default())).await.unwrap_err().kind()
    };
    assert_eq!(run("source", "source/copy").await, ErrorKind::Usage);
    assert_eq!(run("source/a", "source").await, ErrorKind::Usage);
    assert_eq!(run("source", "source/a").await, ErrorKind::Usage);
    assert!(!lab.path("source/copy").exists() && !lab.path("index").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_run_at_a_time_uses_an_index() {
    let lab = Lab::new();
    let _lock = IndexLock::take(&lab.path("index")).unwrap();
    assert_eq!(lab.run(lab.options()).await.unwrap_err().kind(), ErrorKind::InUse);
    assert!(!lab.path("copy").exists());
}

impl Lab {
    /// A lab whose first run has ended, and that has changed since by 4,000 bytes, in one block.
    async fn changed() -> Self {
        let lab = Self::new();
        lab.run(lab.options()).await.unwrap();
        lab.write("a", &[3; 4000]);
        lab.starter.requests();
        lab
    }

    /// How many requests of this name came since they were last asked for, and the report.
    async fn run_counting(&self, names: [&str; 2]) -> ([usize; 2], SyncReport) {
        let report = self.run(self.options()).await.unwrap();
        let requests = self.starter.requests();
        (names.map(|name| requests.iter().filter(|request| **request == name).count()), report)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_a_fresh_copy_while_it_is_indexed() {
    let lab = Lab::new();
    let (counts, report) = lab.run_counting(["append_log", "put_index"]).await;
    assert!(counts[0] > 0 && counts[1] == 0, "{counts:?}");
    assert_eq!((report.upload().complete, report.upload().sent_bytes), (true, 35_000));
    lab.assert_copied();
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_nothing_of_an_unchanged_source() {
    let lab = Lab::new();
    lab.run(lab.options()).await.unwrap();
    lab.starter.requests();
    let (counts, report) = lab.run_counting(["put_index", "put_block"]).await;
    assert_eq!((counts, report.upload().complete), ([0, 0], true));
    let SyncReport::Copied { index, .. } = report else { panic!("{report:?}") };
    assert!(index.unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_the_change_of_a_source() {
    let lab = Lab::changed().await;
    let (counts, report) = lab.run_counting(["put_index", "put_block"]).await;
    assert_eq!((counts, report.upload().sent_bytes), ([1, 1], 4000));
    lab.assert_copied();
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_the_whole_index_where_its_change_is_refused() {
    let lab = Lab::changed().await;
    lab.starter.set_fault(Some(Fault::Once("put_index", ErrorKind::BadIndex)));
    let (counts, report) = lab.run_counting(["put_index", "put_block"]).await;
    assert_eq!((counts[0], report.upload().complete, report.upload().sent_bytes), (2, true, 4000));
    lab.assert_copied();
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_in_the_next_run_where_the_receiver_was_full() {
    let lab = Lab::changed().await;
    lab.starter.set_fault(Some(Fault::Once("put_block", ErrorKind::NoSpace)));
    assert_eq!(lab.run(lab.options()).await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(std::fs::read(lab.path("copy/a")).unwrap(), [1; 5000], "the previous content");
    lab.starter.requests();
    let (counts, report) = lab.run_counting(["put_index", "put_block"]).await;
    assert_eq!((counts, report.upload().sent_bytes), ([0, 1], 4000));
    lab.assert_copied();
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_a_block_again_that_was_damaged_on_the_way() {
    let lab = Lab::changed().await;
    lab.starter.set_fault(Some(Fault::Once("put_block", ErrorKind::BadBlock)));
    let (counts, report) = lab.run_counting(["put_index", "put_block"]).await;
    assert_eq!((counts, report.upload().failed_total), ([1, 2], 0));
    lab.assert_copied();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing() {
    let lab = Lab::new();
    let report = lab.run(dry(lab.options())).await.unwrap();
    assert_eq!((report.upload().dry_run, report.upload().total_bytes), (true, 35_000));
    assert!(!lab.path("copy").exists() && !lab.path("index").exists());
    let lab = Lab::changed().await;
    let SyncReport::Planned { plan, .. } = lab.run(dry(lab.options())).await.unwrap() else { panic!() };
    assert_eq!(plan.send_bytes, 4000);
    assert_eq!(std::fs::read(lab.path("copy/a")).unwrap(), [1; 5000]);
    assert!(!lab.starter.requests().iter().any(|name| name.starts_with("put")));
}

fn with_delete(options: SyncOptions, limit: Option<u64>) -> SyncOptions {
    let limit = limit.map(DeleteLimit::Entries);
    let delete = Some(DeletePolicy { limit, ..DeletePolicy::default() });
    SyncOptions { upload: UploadOptions { delete, ..options.upload }, ..options }
}

/// The paths below `folder`, but for the receiver's own.
fn paths_below(folder: &Path) -> BTreeSet<String> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_path_buf()]);
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap()) {
            let path = entry.path();
            let below = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if below == crate::archive::path::STATE_DIR {
                continue;
            }
            found.insert(below);
            folders.extend(entry.file_type().unwrap().is_dir().then_some(path));
        }
    }
    found
}

impl Lab {
    fn remove(&self, name: &str) {
        let path = self.path("source").join(name);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }

    /// Runs, and gives what is named, by its kind of change, beside the report.
    async fn run_naming(&self, options: SyncOptions) -> (Vec<(ChangeKind, String)>, SyncReport) {
        let named = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = named.clone();
        let entries = EntrySink::new(move |change| {
            sink.lock().unwrap().push((change.kind, change.path.to_string()));
            Ok(())
        });
        let report = self.run(SyncOptions { entries: Some(entries), ..options }).await.unwrap();
        let named = std::mem::take(&mut *named.lock().unwrap());
        (named, report)
    }

    /// With `--delete`, a dry run and the run name `expected`, and count these and `renamed`, the
    /// previous paths of renamed files. The run deletes that.
    #[track_caller]
    fn assert_deletes(
        &self,
        options: &SyncOptions,
        expected: &[&str],
        renamed: &[&str],
    ) -> impl Future<Output = ()> {
        let [expected, renamed] = [expected, renamed]
            .map(|names| names.iter().map(|name| (*name).to_string()).collect::<BTreeSet<String>>());
        let all: BTreeSet<String> = expected.union(&renamed).cloned().collect();
        let removed = |named: Vec<(ChangeKind, String)>| {
            let mut paths = BTreeSet::new();
            for (kind, path) in named {
                assert!(kind != ChangeKind::Removed || paths.insert(path.clone()), "{path} twice");
            }
            paths
        };
        async move {
            let (options, before) = (with_delete(options.clone(), None), paths_below(&self.path("copy")));
            let (named, would) = self.run_naming(dry(options.clone())).await;
            assert_eq!(removed(named), expected);
            assert_eq!(would.upload().deleted, all.len() as u64);
            assert_eq!(paths_below(&self.path("copy")), before, "a dry run has changed something");
            let most = all.len() as u64 - 1;
            let limited = self.run(dry(with_delete(options.clone(), Some(most)))).await.unwrap();
            assert_eq!(limited.upload().too_many, Some(most + 1));
            let options = with_delete(options, Some(most + 1));
            let (named, did) = self.run_naming(options).await;
            assert_eq!(removed(named), expected);
            assert_eq!((did.upload().deleted, did.upload().too_many), (all.len() as u64, None));
            let after = paths_below(&self.path("copy"));
            assert_eq!(before.difference(&after).cloned().collect::<BTreeSet<_>>(), all);
            assert_eq!(after, paths_below(&self.path("source")));
        }
    }
}

/// An entry that gets another kind is replaced, and a renamed file leaves its previous path: both
/// runs count the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_and_the_run_count_the_same_deletions() {
    let lab = Lab::new();
    let source = |name: &str| lab.path("source").join(name);
    for name in ["file", "target", "moves", "gives way"] {
        lab.write(name, name.as_bytes());
    }
    std::os::unix::fs::symlink("file", source("link")).unwrap();
    std::fs::hard_link(source("target"), source("z")).unwrap();
    std::fs::create_dir(source("dir")).unwrap();
    lab.write("dir/x", b"x");
    lab.run(lab.options()).await.unwrap();
    ["file", "link", "z", "dir"].iter().for_each(|name| lab.remove(name));
    std::fs::create_dir(source("file")).unwrap();
    ["link", "z", "dir"].iter().for_each(|name| lab.write(name, b"now a file"));
    std::fs::rename(source("moves"), source("moved")).unwrap();
    std::fs::rename(source("gives way"), source("given")).unwrap();
    std::fs::create_dir(source("gives way")).unwrap();
    lab.assert_deletes(&lab.options(), &["dir/x"], &["moves"]).await;
}

/// A copy with entries that the source had in an earlier run only.
async fn lab_with_left_overs() -> Lab {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("source/old")).unwrap();
    for name in ["old/x", "left", "back", "kind"] {
        lab.write(name, name.as_bytes());
    }
    std::os::unix::fs::symlink("left", lab.path("source/link")).unwrap();
    lab.run(lab.options()).await.unwrap();
    ["old", "left", "back", "kind", "link"].iter().for_each(|name| lab.remove(name));
    lab.run(lab.options()).await.unwrap();
    lab
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_what_earlier_runs_have_left() {
    let lab = lab_with_left_overs().await;
    lab.assert_deletes(&lab.options(), &["old", "old/x", "left", "back", "kind", "link"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_nothing_that_comes_back() {
    let lab = lab_with_left_overs().await;
    lab.write("back", b"again, and longer");
    lab.write("old", b"a file in the place of a folder");
    std::fs::create_dir(lab.path("source/kind")).unwrap();
    lab.remove("a");
    lab.assert_deletes(&lab.options(), &["old/x", "left", "link", "a"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_that_reads_everything_counts_the_same() {
    let lab = lab_with_left_overs().await;
    lab.write("back", b"again, and longer");
    lab.remove("a");
    let mut options = lab.options();
    options.index.checksum = true;
    lab.assert_deletes(&options, &["old", "old/x", "left", "kind", "link", "a"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_without_the_index_counts_what_the_receiver_has() {
    let lab = lab_with_left_overs().await;
    lab.write("back", b"again, and longer");
    lab.remove("folder");
    std::fs::remove_file(lab.path("index")).unwrap();
    let expected = ["old", "old/x", "left", "kind", "link", "folder", "folder/b"];
    lab.assert_deletes(&lab.options(), &expected, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_another_source_counts_what_the_first_one_put_there() {
    let lab = lab_with_left_overs().await;
    let number = lab.run(lab.options()).await.unwrap().upload().tar_id;
    std::fs::rename(lab.path("source"), lab.path("first")).unwrap();
    std::fs::create_dir(lab.path("source")).unwrap();
    lab.write("a", b"of another source");
    let mut options = lab.options();
    options.index.database = lab.path("other index");
    (options.tar_id, options.replace_source) = (number, true);
    let expected = ["old", "old/x", "left", "back", "kind", "link", "folder", "folder/b"];
    lab.assert_deletes(&options, &expected, &[]).await;
}

impl Lab {
    /// Takes the index and the copy back.
    async fn rewind(&self) -> FinishAnswer {
        let destination = RewindDestination { destination: self.destination(), tar_id: None };
        let (scratch, monitor) = (self.folder.path().to_path_buf(), Arc::new(Silent::default()));
        let report = rewind(self.path("index"), Some(destination), scratch, monitor).await.unwrap();
        report.receiver.unwrap().answer
    }
}

/// Kind, mode, time and content of everything below the copy.
fn state_of(folder: &Path) -> BTreeMap<String, (u32, i64, i64, Vec<u8>)> {
    let of = |name: String| {
        let path = folder.join(&name);
        let stat = path.symlink_metadata().unwrap();
        let content = match (stat.is_dir(), stat.is_symlink()) {
            (true, _) => Vec::new(),
            (_, true) => std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            _ => std::fs::read(&path).unwrap(),
        };
        (name, (stat.mode(), stat.mtime(), stat.mtime_nsec(), content))
    };
    paths_below(folder).into_iter().map(of).collect()
}

/// What earlier runs have left is no part of the previous generation, and comes back with it all
/// the same: deleted, or replaced by an entry of another kind.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_brings_back_what_earlier_runs_had_left() {
    let lab = lab_with_left_overs().await;
    for name in ["folder/left", "replaced", "empty"] {
        lab.write(name, if name == "empty" { b"" } else { name.as_bytes() });
    }
    std::fs::create_dir_all(lab.path("source/deep/hollow")).unwrap();
    lab.run(lab.options()).await.unwrap();
    for name in ["folder/left", "replaced", "empty", "deep"] {
        lab.remove(name);
    }
    lab.run(lab.options()).await.unwrap();
    let before = state_of(&lab.path("copy"));
    // Another file, and a file in the place of a folder.
    lab.write("replaced", b"by this one");
    lab.write("old", b"a file");
    lab.write("a", b"changed");
    lab.remove("folder");
    let mut options = with_delete(lab.options(), None);
    options.upload.keep = Some(1);
    lab.run(options).await.unwrap();
    assert_eq!(paths_below(&lab.path("copy")), paths_below(&lab.path("source")));
    let answer = lab.rewind().await;
    assert!(answer.complete && answer.failed_total == 0, "{answer:?}");
    let after = state_of(&lab.path("copy"));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(after, before);
    assert_eq!(std::fs::read_dir(lab.path("copy/.tar-like/kept")).unwrap().count(), 0);
    // What was left is known as such: it goes in the next run that deletes.
    lab.run(with_delete(lab.options(), None)).await.unwrap();
    assert_eq!(paths_below(&lab.path("copy")), paths_below(&lab.path("source")));
}

/// Folders that earlier runs had left keep the place of an entry of the previous generation: it got
/// that place in the run that is rewound only.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_brings_back_folders_whose_places_entries_of_the_index_have_got() {
    let lab = Lab::new();
    let names = ["content", "empty", "further name", "link"];
    for name in names {
        std::fs::create_dir_all(lab.path("source").join(name).join("deep")).unwrap();
        lab.write(&format!("{name}/deep/x"), name.as_bytes());
    }
    std::fs::create_dir_all(lab.path("source/content/hollow")).unwrap();
    lab.run(lab.options()).await.unwrap();
    names.iter().for_each(|name| lab.remove(name));
    lab.write("content", b"a file");
    lab.write("empty", b"");
    std::fs::hard_link(lab.path("source/a"), lab.path("source/further name")).unwrap();
    std::os::unix::fs::symlink("a", lab.path("source/link")).unwrap();
    let report = lab.run(lab.options()).await.unwrap();
    assert!(!report.upload().complete && lab.path("copy/content/deep/x").exists(), "{report:?}");
    let before = state_of(&lab.path("copy"));
    lab.write("folder/b", b"changed");
    let mut options = with_delete(lab.options(), None);
    options.upload.keep = Some(1);
    assert!(lab.run(options).await.unwrap().upload().complete);
    assert_eq!(state_of(&lab.path("copy")), state_of(&lab.path("source")));
    let answer = lab.rewind().await;
    let failed: BTreeSet<_> = answer.failed.iter().map(|failed| failed.path.as_str()).collect();
    assert_eq!((answer.complete, failed), (false, names.into()), "{answer:?}");
    let mut after = state_of(&lab.path("copy"));
    // Nothing says any more what these folders were like.
    for name in ["further name", "link"] {
        assert_eq!(after[name].0, 0o40_700);
        after.insert(name.to_string(), before[name].clone());
    }
    let differs: Vec<_> = before.iter().filter(|(path, state)| after.get(*path) != Some(state)).collect();
    assert!(differs.is_empty() && before.len() == after.len(), "{differs:?}");
    // As before: the file has no place until a run deletes, and comes with that one.
    let report = lab.run(with_delete(lab.options(), None)).await.unwrap();
    assert!(report.upload().complete, "{report:?}");
    assert_eq!(state_of(&lab.path("copy")), state_of(&lab.path("source")));
}

/// What cannot be brought back is named, and stays where it is retained.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_drops_nothing_whose_place_another_program_has_taken() {
    let lab = lab_with_left_overs().await;
    lab.write("a", b"changed");
    let mut options = with_delete(lab.options(), None);
    options.upload.keep = Some(1);
    lab.run(options).await.unwrap();
    for name in ["left", "old"] {
        std::fs::write(lab.path("copy").join(name), "of another program").unwrap();
    }
    let answer = lab.rewind().await;
    let failed: BTreeMap<_, _> =
        answer.failed.iter().map(|failed| (failed.path.as_str(), failed.reason.as_str())).collect();
    assert!(!answer.complete && failed.keys().eq(&["left", "old/x"]), "{answer:?}");
    for (path, reason) in failed {
        let place = reason.split('"').nth(1).unwrap();
        assert_eq!(std::fs::read(lab.path("copy").join(place)).unwrap(), path.as_bytes(), "{reason}");
    }
    assert_eq!(std::fs::read(lab.path("copy/back")).unwrap(), b"back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_deletes_nothing_makes_no_folder() {
    let lab = Lab::new();
    lab.run(lab.options()).await.unwrap();
    let options = with_backup(lab.options(), "old/2027");
    lab.write("new", b"new");
    lab.run(options.clone()).await.unwrap();
    assert!(!lab.path("copy/old").exists());
    lab.remove("a");
    lab.run(options).await.unwrap();
    assert_eq!(std::fs::read(lab.path("copy/old/2027/a")).unwrap(), [1; 5000]);
}

fn with_backup(options: SyncOptions, folder: &str) -> SyncOptions {
    let mut options = with_delete(options, None);
    options.upload.delete.as_mut().unwrap().backup = Some(folder.to_string());
    options.upload.backup = Some(folder.to_string());
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_replaced_goes_to_the_backup_folder() {
    let lab = Lab::new();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, lab.path("source").join(name)).unwrap();
    };
    for folder in ["becomes a file/deep", "hollow"] {
        std::fs::create_dir_all(lab.path("source").join(folder)).unwrap();
    }
    for name in ["becomes a file/deep/x", "becomes a folder", "becomes a link", "goes", "stays"] {
        lab.write(name, name.as_bytes());
    }
    lab.write("empty", b"");
    link("a", "link");
    link("a", "same link");
    lab.run(with_backup(lab.options(), "bak/1")).await.unwrap();
    assert!(!lab.path("copy/bak").exists());
    for name in ["becomes a file", "becomes a folder", "becomes a link", "goes", "link"] {
        lab.remove(name);
    }
    lab.write("a", b"changed");
    lab.write("becomes a file", b"now");
    std::fs::create_dir(lab.path("source/becomes a folder")).unwrap();
    lab.write("becomes a folder/y", b"y");
    link("folder/b", "link");
    link("a", "becomes a link");
    lab.run(with_backup(lab.options(), "bak/2")).await.unwrap();
    let expected = [
        "a",
        "becomes a file",
        "becomes a file/deep",
        "becomes a file/deep/x",
        "becomes a folder",
        "becomes a link",
        "goes",
        "link",
    ];
    assert_eq!(paths_below(&lab.path("copy/bak/2")), expected.map(str::to_string).into());
    let kept = |name: &str| std::fs::read(lab.path("copy/bak").join(name)).unwrap();
    assert_eq!((kept("2/a"), kept("2/becomes a folder")), (vec![1; 5000], b"becomes a folder".to_vec()));
    assert_eq!(std::fs::read_link(lab.path("copy/bak/2/link")).unwrap(), Path::new("a"));
    assert_eq!(std::fs::read(lab.path("copy/a")).unwrap(), b"changed");
    // The receiver gets a whole index, since the sender has lost its own.
    std::fs::remove_file(lab.path("index")).unwrap();
    lab.write("a", b"changed again");
    lab.remove("becomes a folder");
    lab.run(with_backup(lab.options(), "bak/3")).await.unwrap();
    let expected = ["a", "becomes a folder", "becomes a folder/y"].map(str::to_string);
    assert_eq!(paths_below(&lab.path("copy/bak/3")), expected.into());
    assert_eq!(kept("3/a"), b"changed");
    // The same folder once more: nothing that is there is replaced.
    lab.write("a", b"and again");
    lab.run(with_backup(lab.options(), "bak/3")).await.unwrap();
    assert_eq!((kept("3/a"), kept("3/a.~1~")), (b"changed".to_vec(), b"changed again".to_vec()));
}

impl Lab {
    /// A dry run says that what the run says has failed, and names what it names; that is given.
    async fn assert_fails_alike(&self, options: &SyncOptions) -> (Vec<(ChangeKind, String)>, Vec<String>) {
        let failed = |report: &SyncReport| {
            let upload = report.upload();
            assert_eq!((upload.failed.len() as u64, upload.complete), (upload.failed_total, false));
            let failed = upload.failed.iter().map(|failed| (failed.path.clone(), failed.reason.clone()));
            failed.collect::<BTreeMap<_, _>>()
        };
        let (mut would_name, would) = self.run_naming(dry(options.clone())).await;
        let (mut named, did) = self.run_naming(options.clone()).await;
        assert_eq!(failed(&would), failed(&did));
        would_name.sort_by(|one, other| one.1.cmp(&other.1));
        named.sort_by(|one, other| one.1.cmp(&other.1));
        assert_eq!(would_name, named);
        assert_eq!(would.upload().deleted, did.upload().deleted);
        (named, failed(&did).into_keys().collect())
    }
}

/// Other archives have put something in the places of some entries: a run cannot put them there.
#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_what_other_archives_keep_out() {
    let lab = Lab::new();
    std::os::unix::fs::symlink("a", lab.path("source/link")).unwrap();
    std::fs::rename(lab.path("source"), lab.path("first")).unwrap();
    let mut first = lab.options();
    (first.index.base, first.index.database) = (lab.path("first"), lab.path("first index"));
    lab.run(first).await.unwrap();
    std::fs::create_dir_all(lab.path("source/folder")).unwrap();
    lab.write("a", b"of another source");
    // The same content with another time.
    lab.write("folder/b", &[2; 30_000]);
    lab.write("folder/own", b"own");
    std::os::unix::fs::symlink("own", lab.path("source/link")).unwrap();
    let mut options = lab.options();
    let all = ["a", "folder/b", "link"];
    // Without an index, all is read; and the first run names entries when it reads them.
    let would = lab.run(dry(options.clone())).await.unwrap();
    let would: Vec<_> = would.upload().failed.iter().map(|failed| &*failed.path).collect();
    assert_eq!(would, all);
    let did = lab.run(options.clone()).await.unwrap();
    assert_eq!(did.upload().failed_total, 3);
    // What has failed before fails again. What is new or changed has not been read.
    let named = lab.assert_fails_alike(&options).await;
    assert_eq!(named, (vec![], all.map(str::to_string).to_vec()));
    lab.write("a", b"changed, and as much of another source");
    lab.write("new", b"new");
    lab.remove("link");
    lab.remove("folder/own");
    let (named, failed) = lab.assert_fails_alike(&with_delete(options.clone(), None)).await;
    assert_eq!(named, [(ChangeKind::Changed, "folder".into()), (ChangeKind::New, "new".into())]);
    assert_eq!(failed, ["a", "folder/b"]);
    options.index.checksum = true;
    lab.assert_fails_alike(&options).await;
}
