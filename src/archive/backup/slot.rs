//! The two slots at the start of a backup: how much of the file counts.

use crate::archive::record::{Fault, sealed, unsealed};

/// Where the slots are in the file.
pub const SLOTS: [u64; 2] = [0, 4096];

/// Where the first record is in the file.
pub const RECORDS: u64 = 8192;

/// Bytes of a slot.
pub const SLOT_LEN: usize = 80;

const MAGIC: [u8; 16] = *b"tar-like backup\n";
const FORMAT: u32 = 1;

/// One state of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Counts the states.
    pub sequence: u64,
    /// Where the last record ends, in bytes from the start of the file.
    pub end: u64,
    /// The version that a restore gives.
    pub newest: u64,
}

/// Why bytes are no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotASlot {
    /// Not the start of one.
    #[error("it does not begin like a backup of an index")]
    Foreign,
    /// A later version of the program wrote it.
    #[error("its format has version {0}, which this program does not know")]
    Newer(u32),
    /// It is torn or was altered.
    #[error("it is damaged")]
    Damaged,
}

impl Slot {
    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SLOT_LEN] {
        sealed(|to| {
            to.bytes(&MAGIC);
            to.u32(FORMAT);
            to.u32(0);
            [self.sequence, self.end, self.newest].into_iter().for_each(|number| to.u64(number));
        })
    }

    /// Parses a slot.
    ///
    /// # Errors
    /// Says why they are no slot.
    pub fn parse(bytes: &[u8; SLOT_LEN]) -> Result<Self, NotASlot> {
        if !bytes.starts_with(&MAGIC) {
            return Err(NotASlot::Foreign);
        }
        // Every format has its check at this place.
        let mut from = unsealed(bytes).ok_or(NotASlot::Damaged)?;
        let mut read = || -> Result<(u64, Self), Fault> {
            let _magic: [u8; MAGIC.len()] = from.bytes()?;
            // The number and the zeros behind it are read as one, so that other bytes there are
            // refused.
            let format = from.u64()?;
            Ok((format, Self { sequence: from.u64()?, end: from.u64()?, newest: from.u64()? }))
        };
        match read().map_err(|_| NotASlot::Damaged)? {
            (format, _) if format != u64::from(FORMAT) => Err(NotASlot::Newer(format as u32)),
            (_, slot) if slot.end < RECORDS => Err(NotASlot::Damaged),
            (_, slot) => Ok(slot),
        }
    }
}

/// The slot that counts, and where it is in [`SLOTS`].
///
/// # Errors
/// Neither is one. Gives the more telling of both reasons.
pub fn newest_slot(slots: [Result<Slot, NotASlot>; 2]) -> Result<(usize, Slot), NotASlot> {
    match slots {
        // A file of an unknown format must not be changed.
        [Err(e @ NotASlot::Newer(_)), _] | [_, Err(e @ NotASlot::Newer(_))] => Err(e),
        [Ok(a), Ok(b)] if b.sequence > a.sequence => Ok((1, b)),
        [Ok(a), _] => Ok((0, a)),
        [_, Ok(b)] => Ok((1, b)),
        [Err(NotASlot::Foreign), Err(e)] | [Err(e), _] => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::blake3;

    const CHECKED: usize = SLOT_LEN - 32;

    #[test]
    fn any_flip_is_noticed() {
        let slot = Slot { sequence: 7, end: 9000, newest: 12 };
        let bytes = slot.to_bytes();
        assert_eq!(Slot::parse(&bytes), Ok(slot));
        for bit in 0..SLOT_LEN * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 128 { NotASlot::Foreign } else { NotASlot::Damaged };
            assert_eq!(Slot::parse(&flipped), Err(expected), "bit {bit}");
        }
    }

    #[test]
    fn the_higher_sequence_counts_and_a_newer_format_is_left_alone() {
        let slot = |sequence| Slot { sequence, end: 8192, newest: 1 };
        let (old, new) = (slot(4), slot(5));
        assert_eq!(newest_slot([Ok(old), Ok(new)]), Ok((1, new)));
        assert_eq!(newest_slot([Ok(new), Ok(old)]), Ok((0, new)));
        assert_eq!(newest_slot([Err(NotASlot::Damaged), Ok(old)]), Ok((1, old)));
        assert_eq!(newest_slot([Ok(old), Err(NotASlot::Foreign)]), Ok((0, old)));
        assert_eq!(newest_slot([Err(NotASlot::Foreign), Err(NotASlot::Damaged)]), Err(NotASlot::Damaged));
        assert_eq!(newest_slot([Err(NotASlot::Foreign), Err(NotASlot::Foreign)]), Err(NotASlot::Foreign));
        let mut bytes = old.to_bytes();
        bytes[16] = 2;
        let check = blake3(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(check.as_bytes());
        let newer = Slot::parse(&bytes);
        assert_eq!(newer, Err(NotASlot::Newer(2)));
        assert_eq!(newest_slot([Ok(new), newer]), Err(NotASlot::Newer(2)));
        let short = Slot { end: 8191, ..old };
        assert_eq!(Slot::parse(&short.to_bytes()), Err(NotASlot::Damaged));
    }
}
