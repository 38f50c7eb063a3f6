//! Memory in a file, for what does not fit in the machine's: mapped, so that pointers into it work like any others, and brought in
//! and dropped by ranges, so that no more than a budget of it is resident.
//!
//! The file has no name: the system frees it with the process, however that ends. Its blocks are allocated on disk before memory
//! is handed out, because writing to a page that the disk has no room for is a signal (SIGBUS), not an error. On ext4 and XFS they
//! are the file's from then on. A file system that copies on write (ZFS; Btrfs from the second write of a block on) or is another
//! machine's may want new ones for what is written again: if others fill the disk meanwhile, that signal ends the process.
//!
//! A page that is dropped stays in the system's file cache as long as nobody else wants the memory, and is written to disk when
//! somebody does. Linux drops pages when it is told to, Windows takes them from the working set, for macOS it is a hint:
//! [`resident`].

use super::file_blocks::FileBlocks;
use super::resident;
use crate::error::{Error, Result, Status};
use memmap2::{MmapMut, MmapOptions};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Fewer bytes than this, those of small parameters and of scales, are left to page faults: there is hardly more than one.
const WORTH_A_CALL: usize = 1 << 12;

/// What a system maps around a page that is read, if it has it in its cache (Linux's fault_around_bytes, which it aligns).
const AROUND: usize = 1 << 16;

/// A file and what is mapped of it.
pub struct FileMemory {
    blocks: FileBlocks,
    /// What is mapped, by address.
    maps: BTreeMap<usize, Map>,
    /// Bytes of windows that were entered and left.
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

struct Map {
    memory: MmapMut,
    /// What it has of the file.
    blocks: Range<u64>,
}

impl FileMemory {
    /// An empty file in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        let blocks = FileBlocks::create(folder).map_err(|error| {
            let message = format!("folder is {}; no file can be made there: {error}", folder.display());
            let status = match error.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem => Status::InvalidArgument,
                _ => Status::OutOfResources,
            };
            Error::new(status, message)
        })?;
        let [bytes_in, bytes_out] = Default::default();
        Ok(Self { blocks, maps: BTreeMap::new(), bytes_in, bytes_out })
    }

    /// The address of `bytes` more bytes, all zero. On an error everything is as before.
    pub fn alloc(&mut self, bytes: usize) -> Result<usize> {
        let mapped = self.blocks.take(bytes as u64).and_then(|blocks| {
            // SAFETY: nobody else has the file, and no two maps share a byte of it.
            match unsafe { MmapOptions::new().offset(blocks.start).len(bytes).map_mut(self.blocks.file()) } {
                Ok(memory) => Ok(Map { memory, blocks }),
                Err(error) => {
                    self.blocks.give(blocks);
                    Err(error)
                }
            }
        });
        let map = mapped.map_err(|error| {
            let end = self.blocks.end();
            let message = format!("bytes is {bytes}; the file of {end} bytes cannot grow: {error}");
            Error::new(Status::OutOfResources, message)
        })?;
        let address = map.memory.as_ptr().addr();
        self.maps.insert(address, map);
        Ok(address)
    }

    /// Gives back what [`Self::alloc`] gave.
    pub fn free(&mut self, address: usize) {
        let Some(Map { memory, blocks }) = self.maps.remove(&address) else { return };
        drop(memory);
        self.blocks.give(blocks);
    }

    /// Hints that these addresses will be used: what is on disk only is read.
    pub fn read_ahead(&self, range: &Range<usize>) {
        self.for_each_map(range, resident::read_ahead);
    }

    /// Makes the pages of these addresses non-resident; their contents stay.
    pub fn drop_pages(&self, range: &Range<usize>) {
        self.for_each_map(range, resident::drop_pages);
    }

    /// Writes the pages of these addresses to disk, and waits for it.
    pub fn write_out(&self, range: &Range<usize>) -> Result<()> {
        let mut result = Ok(());
        self.for_each_map(range, |memory, at| {
            if let Err(error) = memory.flush_range(at.start, at.len()) {
                let message = format!("{} bytes cannot be written to disk: {error}", at.len());
                result = Err(Error::new(Status::OutOfResources, message));
            }
        });
        result
    }

    /// Bytes of windows that were entered and left.
    pub fn counts(&self) -> [u64; 2] {
        [&self.bytes_in, &self.bytes_out].map(|count| count.load(Ordering::Relaxed))
    }

    /// The parts of maps that a range touches.
    fn for_each_map(&self, range: &Range<usize>, mut visit: impl FnMut(&MmapMut, Range<usize>)) {
        if range.is_empty() {
            return; // which the system would round to a page
        }
        for (&start, map) in self.maps.range(..range.end).rev() {
            let end = start + map.memory.len();
            if end <= range.start {
                break;
            }
            visit(&map.memory, range.start.max(start) - start..range.end.min(end) - start);
        }
    }
}

/// The windows of a step in a file's memory; the first window stays.
pub struct FileWindows<'a> {
    memory: &'a FileMemory,
    /// Their addresses, in few spans, and their bytes.
    windows: Vec<(Vec<Range<usize>>, u64)>,
}

impl<'a> FileWindows<'a> {
    /// Drops all but what is `held`: what stays, the first window among it.
    pub fn new(memory: &'a FileMemory, windows: &[Vec<Range<usize>>], held: &[Range<usize>]) -> Self {
        let stays = spans(held, 0);
        let mut left = stays.iter().peekable();
        for (&start, map) in &memory.maps {
            let end = start + map.memory.len();
            let mut at = start;
            // Spans may go from one map to the next.
            while let Some(range) = left.peek().filter(|range| range.start < end) {
                memory.drop_pages(&(at..range.start));
                at = range.end;
                if at > end {
                    break;
                }
                left.next();
            }
            memory.drop_pages(&(at..end));
        }
        let windows = windows.iter().map(|ranges| (spans(ranges, AROUND), bytes(ranges)));
        let windows: Vec<_> = windows.collect();
        Self { memory, windows }
    }
}

fn bytes(ranges: &[Range<usize>]) -> u64 {
    ranges.iter().map(|range| range.len() as u64).sum()
}

/// Ranges in order, those that are no more than `gap` apart made one: parts of thousands of parameters are a few calls of the system.
fn spans(ranges: &[Range<usize>], gap: usize) -> Vec<Range<usize>> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable_by_key(|range| range.start);
    let mut spans: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match spans.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => spans.push(range),
        }
    }
    spans
}

impl super::optimizer::Pages for FileWindows<'_> {
    fn enter(&self, window: usize) {
        if window > 0 {
            self.memory.bytes_in.fetch_add(self.windows[window].1, Ordering::Relaxed);
        }
        let next = self.windows.get(window + 1);
        next.into_iter().flat_map(|(spans, _)| spans).for_each(|range| self.memory.read_ahead(range));
    }

    fn bring(&self, window: usize, range: &Range<usize>, written: bool) {
        if window > 0 && range.len() >= WORTH_A_CALL {
            self.memory.for_each_map(range, |memory, at| resident::bring(memory, at, written));
        }
    }

    fn leave(&self, window: usize) {
        if window > 0 {
            let (spans, bytes) = &self.windows[window];
            // With what came along: windows may be so small that this is most of what would stay.
            let around = |range: &Range<usize>| range.start.saturating_sub(AROUND)..range.end + AROUND;
            spans.iter().for_each(|range| self.memory.drop_pages(&around(range)));
            self.memory.bytes_out.fetch_add(*bytes, Ordering::Relaxed);
        }
    }
}
