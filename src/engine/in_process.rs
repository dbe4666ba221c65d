//! A receiver in the process of its sender: blocks come to it without a copy.

use super::receive::{BlockContent, BlockPut, Receiver};
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::BlockAnswer;
use crate::error::Result;
use crate::remote::{BlockBody, LocalReceiver};
use std::fs::File;

impl LocalReceiver for Receiver {
    fn put_block(&self, tar_id: u64, block: &BlockBody, index: &IndexDigest) -> Result<BlockAnswer> {
        let put = BlockPut {
            tar_id,
            block_size: block.block_size,
            number: block.number,
            content: BlockContent::Pieces(block.body.pieces().to_vec()),
            wire_bytes: block.body.length(),
            part: block.part.clone(),
            index: Some(*index),
            digest: block.digest,
            failed: block.failed.iter().map(|&id| id..id + 1).collect(),
            staged: block.staged.iter().map(|&id| id..id + 1).collect(),
        };
        let checked = self.check_block(&put);
        checked.and_then(|()| Receiver::put_block(self, put)).map_err(|e| self.suspect(e))
    }

    fn clone_file(&self, tar_id: u64, id: u64, source: &File) -> Option<File> {
        Receiver::clone_file(self, tar_id, id, source).map_err(|e| self.suspect(e)).ok().flatten()
    }
}
