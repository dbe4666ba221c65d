//! One of several parts of a whole, as users, senders and receivers write it: `I/N`.

use std::fmt;

/// The part `number` of `count`, counted from 1. There are at most `MAX` parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part<const MAX: u64> {
    number: u64,
    count: u64,
}

impl<const MAX: u64> Part<MAX> {
    /// The part `number` of `count`, if there is such a part.
    #[must_use]
    pub fn new(number: u64, count: u64) -> Option<Self> {
        let is_part = (1..=MAX).contains(&count) && (1..=count).contains(&number);
        is_part.then_some(Self { number, count })
    }

    /// The part that `text` names. Each part has one spelling: without signs, spaces and leading
    /// zeros.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (number, count) = text.split_once('/')?;
        let part = Self::new(number.parse().ok()?, count.parse().ok()?)?;
        (part.to_string() == text).then_some(part)
    }

    /// Its number, from 1 on.
    #[must_use]
    pub fn number(self) -> u64 {
        self.number
    }

    /// How many parts there are.
    #[must_use]
    pub fn count(self) -> u64 {
        self.count
    }

    /// What is told to a user who named a part by `text` where `what` is asked for.
    #[must_use]
    pub fn refusal(text: &str, what: &str) -> String {
        format!("\"{text}\" is no {what}: give I/N, from 1/N to N/N, with N up to {MAX}")
    }
}

impl<const MAX: u64> fmt::Display for Part<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_one_spelling() {
        for (text, number, count) in [("1/1", 1, 1), ("2/3", 2, 3), ("20/20", 20, 20)] {
            let part = Part::<20>::parse(text).unwrap();
            assert_eq!((part.number(), part.count(), part.to_string()), (number, count, text.to_string()));
        }
        for bad in
            ["", "1", "/", "0/2", "3/2", "1/0", "1/21", "1/2/3", "a/b", "-1/2", "1/99999999999999999999"]
        {
            assert_eq!(Part::<20>::parse(bad), None, "{bad}");
        }
        for other in ["+1/2", "1/+2", " 1/2", "1/ 2", "1/2 ", "01/2", "1/02", "02/2", "1/2\n", "\u{661}/2"] {
            assert_eq!(Part::<20>::parse(other), None, "{other:?}");
        }
    }
}
