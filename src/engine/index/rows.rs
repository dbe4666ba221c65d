//! The directories and links of the former index, in step with the walk.

use crate::archive::entry::Node;
use crate::db::index_read::IndexReader;
use crate::error::Result;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// They come in the order of the walk.
pub(in super::super) struct FormerNodes {
    reader: IndexReader,
    at: u64,
    next: VecDeque<(Vec<u8>, Node)>,
    /// What the walk has gone past.
    pub(in super::super) vanished: Vec<Node>,
}

const PAGE: u64 = 4096;

impl FormerNodes {
    pub(in super::super) fn new(reader: IndexReader) -> Self {
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
        Ok(self.find(node)?.is_some_and(|former| former == *node))
    }

    /// What the former index has at the path of `node`. Nodes are asked for in the order of the walk.
    pub(in super::super) fn find(&mut self, node: &Node) -> Result<Option<Node>> {
        let key = node.path.sort_key();
        loop {
            if self.next.is_empty() && !self.read_page()? {
                return Ok(None);
            }
            match self.next.front().map(|(former, _)| former.cmp(&key)) {
                Some(Ordering::Less) => self.skip(),
                Some(Ordering::Equal) => return Ok(self.next.pop_front().map(|(_, former)| former)),
                _ => return Ok(None),
            }
        }
    }

    fn skip(&mut self) {
        self.vanished.extend(self.next.pop_front().map(|(_, node)| node));
    }

    /// The walk is at its end: what is left has vanished.
    pub(in super::super) fn end(&mut self) -> Result<()> {
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
