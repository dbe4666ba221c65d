//! The ways by which an archive gets another index. Each of them makes the new index and says what
//! can be reused for it; only [`replace`] puts it in place.

pub(crate) mod adopt;
pub(crate) mod change;
pub(crate) mod outgoing;
pub(crate) mod replace;
pub(crate) mod stream;
pub(crate) mod whole;
