//! Reading a backup: which version is whole, and the payloads that make it.

use super::file::BackupFile;
use crate::archive::backup::Place;
use crate::archive::digest::Blake3Hasher;
use crate::error::Result;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// A version with all of its records verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intact {
    /// A snapshot, then changes; the last one is the version's.
    pub chain: Vec<Place>,
    /// Newer versions, newest first, that are lost: a record of each is damaged.
    pub lost: Vec<u64>,
}

impl Intact {
    /// The record of the version.
    #[must_use]
    pub fn version(&self) -> Option<&Place> {
        self.chain.last()
    }
}

/// The payload of a record, from its start.
pub struct Payload<'a> {
    file: &'a File,
    rest: std::ops::Range<u64>,
}

impl Read for Payload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX).min(buffer.len());
        let Some(part) = buffer.get_mut(..most).filter(|part| !part.is_empty()) else { return Ok(0) };
        let n = self.file.read_at(part, self.rest.start)?;
        // The file was truncated since it was opened.
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.rest.start += n as u64;
        Ok(n)
    }
}

impl BackupFile {
    /// The payload of a record of this file. Only [`BackupFile::intact`] verifies it.
    #[must_use]
    pub fn payload(&self, place: &Place) -> Payload<'_> {
        Payload { file: &self.file, rest: place.payload() }
    }

    /// Reads the whole of a record's payload and compares its digest.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_whole(&self, place: &Place) -> Result<bool> {
        let (mut payload, mut hasher) = (self.payload(place), Blake3Hasher::default());
        let mut buffer = vec![0; 1 << 18];
        loop {
            match payload.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish() == place.head.payload),
                Ok(n) => hasher.update(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(e) => return Err(self.io("read", e)),
            }
        }
    }

    /// The records that make `version`, each of them verified.
    ///
    /// # Errors
    /// The backup does not have the version, it was abandoned, or one of its records is damaged.
    pub fn intact_version(&self, version: u64) -> Result<Vec<Place>> {
        let is_abandoned = self.rewound_to.is_some_and(|to| version > to);
        let Some(chain) = self.lineage.chain(version).filter(|_| !is_abandoned) else {
            let newest = self.newest().map_or(0, |newest| newest.head.version);
            let why = match self.lineage.version(version) {
                Some(_) => format!("generation {version} was abandoned by a rewind, and is not given again"),
                None => format!("it has no generation {version}"),
            };
            return Err(self.bad(why).with_hint(format!("its newest generation is {newest}")));
        };
        for place in &chain {
            if !self.is_whole(place)? {
                let at = place.start;
                let why = format!(
                    "the record of generation {} at byte {at} is damaged, and generation {version} needs it",
                    place.head.version
                );
                let hint = "without --generation, the newest generation that is whole is restored";
                return Err(self.bad(why).with_hint(hint));
            }
        }
        Ok(chain)
    }

    /// The records of the versions that a restore may give, newest first.
    fn not_abandoned(&self) -> impl Iterator<Item = &Place> {
        let highest = self.rewound_to.unwrap_or(u64::MAX);
        self.lineage.live_line().skip_while(move |place| place.head.version > highest)
    }

    /// The record of the newest version in the file.
    #[must_use]
    pub fn newest(&self) -> Option<&Place> {
        self.not_abandoned().next()
    }

    /// The newest version whose records are all whole: the live one, or one that it was made of.
    ///
    /// # Errors
    /// There is none, or the file cannot be read.
    pub fn intact(&self) -> Result<Intact> {
        let mut verified: Vec<(u64, bool)> = Vec::new();
        let mut is_whole = |place: &Place| -> Result<bool> {
            if let Some((_, whole)) = verified.iter().find(|(start, _)| *start == place.start) {
                return Ok(*whole);
            }
            let whole = self.is_whole(place)?;
            verified.push((place.start, whole));
            Ok(whole)
        };
        let mut lost = Vec::new();
        for candidate in self.not_abandoned() {
            let version = candidate.head.version;
            let chain = self.lineage.chain(version).unwrap_or_default();
            let mut whole = !chain.is_empty();
            for place in &chain {
                whole = whole && is_whole(place)?;
            }
            if whole {
                return Ok(Intact { chain, lost });
            }
            lost.push(version);
        }
        Err(self.bad("it is damaged, and no generation of it is whole"))
    }
}
