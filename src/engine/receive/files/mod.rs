//! The files of an archive: verified, given their final names, looked at where they are published,
//! and invalidated where they are not what the index says. [`verify`] calls [`publish`] and
//! [`invalidate`]; neither calls back.

pub(crate) mod content;
pub(crate) mod fence;
pub(crate) mod handover;
pub(crate) mod invalidate;
pub(crate) mod metadata;
pub(crate) mod others;
pub(crate) mod parts;
pub(crate) mod publish;
pub(crate) mod published;
pub(crate) mod replaced;
pub(crate) mod space;
pub(crate) mod take_over;
pub(crate) mod verify;
