//! For tests: a client that calls a receiver of this process, without HTTP.

use super::index_body::{Kind, unpack};
use super::receive::{ChangeOptions, Receiver, ReceiverOptions, WholeOptions};
use crate::archive::codec;
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::{
    AdoptAnswer, AdoptRequest, BlockAnswer, CandidatesAnswer, CandidatesRequest, FinishAnswer, FinishRequest,
    IndexAnswer, LogAnswer, PrecheckAnswer, ProposedEntry, Similarity, Space, Status, VerifyAnswer,
    VerifyRequest,
};
use crate::archive::slice::Slice;
use crate::archive::source::SourceClaim;
use crate::engine::destination::{Destination, StartReceiver, StartedReceiver};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{
    Answer, BlockBody, ChangeKind, Claim, IndexBody, IndexForm, LocalReceiver, LogBatch, ReceiverClient,
    Throughput, Window,
};
use crate::retry_budget::RetryBudget;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often a test's request that runs on is asked for again.
const TIMEOUT: Duration = Duration::from_secs(60);

/// One archive of a receiver in this process.
#[derive(Clone)]
pub(super) struct DirectClient {
    receiver: Arc<Receiver>,
    tar_id: u64,
    claim: SourceClaim,
    throughput: Throughput,
    window: Arc<Window>,
    budget: RetryBudget,
    /// The requests that came, by name.
    requests: Arc<Mutex<Vec<&'static str>>>,
    fault: Arc<Mutex<Option<Fault>>>,
}

/// What goes wrong with requests.
pub(super) enum Fault {
    /// Every request but `status` is refused.
    Refused,
    /// The next request of this name fails.
    Once(&'static str, ErrorKind),
}

impl Fault {
    /// How the request `name` fails, if it does.
    fn of(fault: &mut Option<Self>, name: &str) -> Option<ErrorKind> {
        match fault {
            Some(Self::Refused) if name != "status" => Some(ErrorKind::Forbidden),
            Some(Self::Once(failing, kind)) if *failing == name => {
                let kind = *kind;
                *fault = None;
                Some(kind)
            }
            _ => None,
        }
    }
}

/// Starts receivers for tests; the requests that they get are noted.
#[derive(Default)]
pub(super) struct DirectStarter {
    requests: Arc<Mutex<Vec<&'static str>>>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl DirectStarter {
    pub(super) fn destination(self: &Arc<Self>, path: &Path) -> Destination {
        Destination::Folder { path: path.to_path_buf(), starter: self.clone() }
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The requests since the last call.
    pub(super) fn requests(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

impl StartReceiver for DirectStarter {
    fn start(&self, folder: PathBuf) -> Answer<'_, StartedReceiver> {
        Box::pin(async move {
            let receiver = Receiver::open_when_free(&folder, ReceiverOptions::default(), || {})?;
            let client = DirectClient {
                receiver: receiver.clone(),
                tar_id: 0,
                claim: SourceClaim::default(),
                throughput: Throughput::default(),
                window: Window::new(4, None),
                budget: RetryBudget::new(TIMEOUT, TIMEOUT, TIMEOUT),
                requests: self.requests.clone(),
                fault: self.fault.clone(),
            };
            let stop = Box::pin(async move { receiver.flush() });
            Ok(StartedReceiver { client: Arc::new(client), stop })
        })
    }
}

impl DirectClient {
    fn request<'a, T: Send + 'static>(
        &'a self,
        name: &'static str,
        work: impl FnOnce(&Arc<Receiver>) -> Result<T> + Send + 'a,
    ) -> Answer<'a, T> {
        self.requests.lock().unwrap().push(name);
        let failure = Fault::of(&mut self.fault.lock().unwrap(), name);
        Box::pin(async move {
            if let Some(kind) = failure {
                return Err(Error::new(kind, format!("{name} is refused")));
            }
            tokio::task::block_in_place(|| work(&self.receiver))
        })
    }

    /// What is in the body of an index, in a file of its own.
    fn unpacked(&self, index: &IndexBody) -> Result<(tempfile::TempDir, PathBuf)> {
        let folder = tempfile::tempdir_in(self.receiver.incoming_path()).unwrap();
        let (body, unpacked) = (folder.path().join("body"), folder.path().join("index"));
        let mut packed = index.file.try_clone().unwrap();
        std::io::Seek::rewind(&mut packed).unwrap();
        std::io::copy(&mut packed, &mut std::fs::File::create(&body).unwrap()).unwrap();
        let kind = if matches!(index.form, IndexForm::Change { .. }) { Kind::Change } else { Kind::Index };
        unpack(&body, &unpacked, kind, 1 << 30, 1 << 30)?;
        Ok((folder, unpacked))
    }
}

impl ReceiverClient for DirectClient {
    fn for_archive(&self, tar_id: u64, claim: SourceClaim) -> Arc<dyn ReceiverClient> {
        Arc::new(Self { tar_id, claim, ..self.clone() })
    }

    fn for_slice(&self, _: Slice, _: Option<&str>) -> Result<Arc<dyn ReceiverClient>> {
        Err(Error::new(ErrorKind::Usage, "no slices"))
    }

    fn address(&self) -> &str {
        "direct"
    }

    fn throughput(&self) -> &Throughput {
        &self.throughput
    }

    fn window(&self) -> &Arc<Window> {
        &self.window
    }

    fn is_local(&self) -> bool {
        true
    }

    fn is_in_process(&self) -> bool {
        true
    }

    fn takes_zstd(&self) -> Arc<AtomicBool> {
        Arc::default()
    }

    fn is_slice(&self) -> bool {
        self.receiver.slice().is_some()
    }

    fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    fn status(&self, block_size: u64, from: u64) -> Answer<'_, Option<Status>> {
        self.request("status", move |receiver| {
            receiver.status(self.tar_id, block_size, from, false).map(Some)
        })
    }

    fn space(&self) -> Answer<'_, Option<Space>> {
        self.request("space", move |receiver| match receiver.status_with_space(self.tar_id, 1, 0, false) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Ok(Some(Space { needed_bytes: 0, free_bytes: receiver.free_for_content()? }))
            }
            other => other.map(|status| status.space),
        })
    }

    fn put_index<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, IndexAnswer> {
        self.request("put_index", move |receiver| {
            let (_folder, unpacked) = self.unpacked(index)?;
            match &index.form {
                IndexForm::Whole { adopt, .. } => {
                    let options = WholeOptions { adopt: *adopt, backup: index.backup.clone() };
                    receiver.put_index(self.tar_id, &unpacked, Some(&index.digest), &options, &self.claim)
                }
                IndexForm::Change { from, kind } => {
                    let options = ChangeOptions {
                        keep: *kind == ChangeKind::Retain,
                        prune: *kind == ChangeKind::Prune,
                        rewind: *kind == ChangeKind::Rewind,
                        backup: index.backup.clone(),
                    };
                    receiver.put_change(self.tar_id, &unpacked, from, &index.digest, &options, &self.claim)
                }
            }
        })
    }

    fn compare<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, Similarity> {
        self.request("compare", move |receiver| {
            let (_folder, unpacked) = self.unpacked(index)?;
            let IndexForm::Whole { adopt: Some(name), .. } = index.form else { panic!("no adoption") };
            receiver.compare(self.tar_id, &unpacked, &index.digest, name)
        })
    }

    fn append_log<'a>(&'a self, batch: &'a LogBatch) -> Answer<'a, LogAnswer> {
        self.request("append_log", move |receiver| {
            let mut records = Vec::new();
            codec::decode(&batch.body.pieces().concat(), batch.length as usize, &mut records).unwrap();
            receiver.append_log(self.tar_id, &batch.stream, &batch.before, &records, &self.claim)
        })
    }

    fn clone_file(&self, id: u64, source: &File) -> Option<File> {
        LocalReceiver::clone_file(&*self.receiver, self.tar_id, id, source)
    }

    fn put_block<'a>(
        &'a self,
        block: &'a BlockBody,
        index: &'a IndexDigest,
        _: &'a Claim,
    ) -> Answer<'a, Option<BlockAnswer>> {
        self.request("put_block", move |receiver| {
            LocalReceiver::put_block(&**receiver, self.tar_id, block, index).map(Some)
        })
    }

    fn finish<'a>(&'a self, index: &'a IndexDigest, finish: FinishRequest) -> Answer<'a, FinishAnswer> {
        let job = self.request("finish", move |receiver| {
            receiver.bind_source(self.tar_id, index, &self.claim)?;
            receiver.finish(self.tar_id, Some(*index), finish)
        });
        Box::pin(async { Ok(job.await?.wait(TIMEOUT).await?.unwrap()) })
    }

    fn get_index<'a>(
        &'a self,
        index: &'a IndexDigest,
        _: u64,
        _: u64,
        mut target: &'a File,
    ) -> Answer<'a, ()> {
        self.request("get_index", move |receiver| {
            let (mut body, _) = receiver.pack_index(self.tar_id, index)?;
            let copied = std::io::copy(&mut body, &mut target);
            copied.map(drop).map_err(|e| Error::io("cannot copy the index", e))
        })
    }

    fn candidates<'a>(
        &'a self,
        index: &'a IndexDigest,
        candidates: CandidatesRequest,
    ) -> Answer<'a, CandidatesAnswer> {
        let list =
            self.request("candidates", move |receiver| receiver.candidates(self.tar_id, index, candidates));
        Box::pin(async move {
            let list = list.await?;
            assert!(list.wait(TIMEOUT).await?);
            list.page(candidates.page)
        })
    }

    fn adopt<'a>(&'a self, adopt: &'a AdoptRequest) -> Answer<'a, AdoptAnswer> {
        let job = self.request("adopt", move |receiver| receiver.adopt(self.tar_id, adopt.clone()));
        Box::pin(async { Ok(job.await?.wait(TIMEOUT).await?.1) })
    }

    fn verify<'a>(
        &'a self,
        index: &'a IndexDigest,
        verify: &'a VerifyRequest,
    ) -> Answer<'a, (bool, VerifyAnswer)> {
        let check =
            self.request("verify", move |receiver| receiver.verify(self.tar_id, index, verify.clone()));
        Box::pin(async { check.await?.wait(TIMEOUT).await })
    }

    fn conflicts<'a>(
        &'a self,
        index: &'a IndexDigest,
        entries: Vec<ProposedEntry>,
    ) -> Answer<'a, PrecheckAnswer> {
        self.request("look", move |receiver| receiver.conflicts(self.tar_id, index, &entries))
    }

    fn precheck<'a>(&'a self, index: &'a IndexDigest, name: u64) -> Answer<'a, PrecheckAnswer> {
        self.request("look", move |receiver| receiver.precheck(self.tar_id, index, name, &|| true))
    }
}
