//! The directories and links of the former index, in step with the walk.

use crate::archive::entry::Node;
use crate::archive::path::EntryPath;
use crate::db::index_read::IndexReader;
use crate::error::Result;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// They come in the order of the walk.
pub(super) struct FormerNodes {
    reader: IndexReader,
    at: u64,
    next: VecDeque<(Vec<u8>, Node)>,
    /// Paths that the walk has gone past.
    pub(super) vanished: Vec<EntryPath>,
}

const PAGE: u64 = 4096;

impl FormerNodes {
    pub(super) fn new(reader: IndexReader) -> Self {
        Self { reader, at: 0, next: VecDeque::new(), vanished: Vec::new() }
    }

    fn read_page(&mut self) -> Result<bool> {
        let next = &mut self.next;
        self.reader.nodes_in_walk_order(self.at, PAGE, |node| {
            next.push_back((node.path.sort_key(), node));
            Ok(ControlFlow::Continue(()))
        })?;
        self.at += self.next.len() as u64;
        Ok(!self.next.is_empty())
    }

    /// Whether the former index has this very node. Nodes are asked for in the order of the walk.
    pub(super) fn is_same(&mut self, node: &Node) -> Result<bool> {
        let key = node.path.sort_key();
        loop {
            if self.next.is_empty() && !self.read_page()? {
                return Ok(false);
            }
            match self.next.front().map(|(former, _)| former.cmp(&key)) {
                Some(Ordering::Less) => self.skip(),
                Some(Ordering::Equal) => {
                    return Ok(self.next.pop_front().is_some_and(|(_, former)| former == *node));
                }
                _ => return Ok(false),
            }
        }
    }

    fn skip(&mut self) {
        self.vanished.extend(self.next.pop_front().map(|(_, node)| node.path));
    }

    /// The walk is at its end: what is left has vanished.
    pub(super) fn end(&mut self) -> Result<()> {
        loop {
            while !self.next.is_empty() {
                self.skip();
            }
            if !self.read_page()? {
                return Ok(());
            }
        }
    }
}
