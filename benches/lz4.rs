//! What `lz4_flex` alone does on two threads: `cargo bench --bench lz4 -- FILE...` reads the files
//! into memory, then compresses each block of 30 MB as an upload does, decompresses it as a proxy
//! does, and prints `{"bytes": ..., "seconds": ...}`.

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::io::{Error, Read, Result, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const BLOCK: usize = 30_000_000;
const THREADS: usize = 2;

fn main() -> Result<()> {
    let mut content = Vec::new();
    // cargo adds options of its own.
    for path in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        std::fs::File::open(path)?.read_to_end(&mut content)?;
    }
    let blocks: Vec<&[u8]> = content.chunks(BLOCK).collect();
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| there_and_back(&blocks, &next))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| Error::other("a thread crashed"))?)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "{{\"bytes\": {}, \"seconds\": {seconds}}}", content.len())
}

/// Takes blocks as long as there are any; its two buffers are used again for each.
fn there_and_back(blocks: &[&[u8]], next: &AtomicUsize) -> Result<()> {
    let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
    let (mut frame, mut back) = (Vec::with_capacity(BLOCK + BLOCK / 128), vec![0; BLOCK]);
    while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
        frame.clear();
        let mut encoder = FrameEncoder::with_frame_info(info.clone(), &mut frame);
        encoder.write_all(block)?;
        encoder.finish()?;
        FrameDecoder::new(&frame[..]).read_exact(&mut back[..block.len()])?;
    }
    Ok(())
}
