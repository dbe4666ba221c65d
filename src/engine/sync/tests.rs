use super::*;
use crate::engine::direct::{DirectStarter, Fault};
use crate::engine::index::Append;
use crate::source::filter::Filter;
use crate::telemetry::Silent;

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
            index: IndexOptions {
                base: self.path("source"),
                bucket: None,
                read_contents: true,
                database: self.path("index"),
                filter: Filter::default(),
                own_files: Vec::new(),
                reuse: true,
                checksum: false,
                append: Append::default(),
                threads: 2,
            },
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
