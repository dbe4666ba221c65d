//! Having the receiver read what it has. Size and time of a file, by which it goes otherwise, are
//! the same after a bit has changed on its disk.

use super::job::Upload;
use super::options::ContentScope;
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::{VerifyAnswer, VerifyRequest};
use crate::archive::ranges::RangeSet;
use crate::archive::shown::counted;
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Notice;
use rand::RngExt;
use std::sync::atomic::Ordering;

impl Upload {
    /// Has the receiver read what it has published, if that is wanted, so that it misses what is not
    /// as the index says. Gives what it misses: `missing`, and that.
    pub(super) async fn verify_contents(&self, missing: RangeSet) -> Result<RangeSet> {
        match self.read_contents(&self.summary.digest).await? {
            Some(found) if found.different > 0 => self.missing().await,
            _ => Ok(missing),
        }
    }

    /// Has the receiver read what it has published of its index, if that is wanted.
    pub(super) async fn read_contents(&self, index: &IndexDigest) -> Result<Option<VerifyAnswer>> {
        let paths = match &self.options.verify {
            // An adoption has read everything a moment ago.
            _ if self.options.adopt.is_some() => return Ok(None),
            ContentScope::Paths(paths) => paths.clone(),
            ContentScope::All => Vec::new(),
            ContentScope::Nothing if self.options.ignore_done => Vec::new(),
            ContentScope::Nothing => return Ok(None),
        };
        if !self.can_verify.load(Ordering::Relaxed) {
            return self.without_reading();
        }
        self.monitor.notice(Notice::Phase("the receiver reads what it has"));
        let counters = self.monitor.counters();
        counters.total_bytes.set(IndexReader::open(&self.options.database)?.content_bytes()?);
        let request = VerifyRequest { name: rand::rng().random(), paths, dry_run: self.options.dry_run };
        let found = loop {
            let (has_ended, answer) = self.client.verify(index, &request).await?;
            counters.done_bytes.set(answer.bytes);
            if has_ended {
                break answer;
            }
        };
        counters.done_bytes.set(0);
        counters.total_bytes.set(self.work_bytes());
        self.tell(&found);
        *self.verified.lock() = Some(found.clone());
        Ok(Some(found))
    }

    fn tell(&self, found: &VerifyAnswer) {
        let again = if self.options.dry_run { "" } else { ", and sent again" };
        if found.missing > 0 {
            self.monitor.notice(Notice::Warning(format!(
                "the receiver misses {} that it had: removed there{again}",
                counted(found.missing, "file")
            )));
        }
        let changed = found.different.saturating_sub(found.missing);
        if changed > 0 {
            self.monitor.notice(Notice::Warning(format!(
                "the receiver read {} whose contents are not what the index says: changed or damaged there{again}",
                counted(changed, "file")
            )));
        }
        if found.unreadable > 0 {
            self.monitor.notice(Notice::Warning(format!(
                "the receiver may not read {} of its own: their contents are not verified",
                counted(found.unreadable, "file")
            )));
        }
    }

    /// A receiver that cannot read what it has.
    fn without_reading(&self) -> Result<Option<VerifyAnswer>> {
        if self.options.verify == ContentScope::Nothing {
            self.monitor.notice(Notice::Warning(
                "the receiver is of an earlier version, which does not read what it has: files that were damaged there \
                 stay as they are"
                    .to_string(),
            ));
            return Ok(None);
        }
        Err(Error::new(ErrorKind::Usage, "the receiver cannot verify the contents that it has")
            .with_hint("use the same version of tar-like on all hosts, or leave out --checksum"))
    }
}
