use super::*;
use crate::engine::direct::{DirectStarter, Fault};
use crate::engine::index::Append;
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
                exclude: Vec::new(),
                own_files: Vec::new(),
                reuse: true,
                checksum: false,
                append: Append::default(),
                threads: 2,
            },
            upload: UploadOptions {
                progress: self.path("progress"),
                block_size: 10_000,
                scratch: self.folder.path().to_path_buf(),
                ..UploadOptions::default()
            },
            adopt: false,
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
