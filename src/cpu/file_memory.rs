//! Memory in a file, for what does not fit in the machine's: mapped, so that pointers into it work like any others, and brought in
//! and dropped by ranges, so that no more than a budget of it is resident.
//!
//! The file has no name: the system frees it with the process, however that ends. Its blocks are allocated on disk before memory
//! is handed out, because writing to a page that the disk has no room for is a signal (SIGBUS), not an error. A page that is
//! dropped stays in the system's file cache as long as nobody else wants the memory, and is written to disk when somebody does.

use crate::error::{Error, Result, Status};
use memmap2::{MmapMut, MmapOptions};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks of the file are whole pages of any system.
const GRAIN: u64 = 1 << 16;
/// Fewer bytes than this, those of small parameters and of scales, are left to page faults: there is hardly more than one.
const WORTH_A_CALL: usize = 1 << 12;

/// What a system maps around a page that is read, if it has it in its cache (Linux's fault_around_bytes, which it aligns).
const AROUND: usize = 1 << 16;

/// A file and what is mapped of it.
pub struct FileMemory {
    file: File,
    /// Where the file ends.
    end: u64,
    /// What is mapped, by address.
    maps: BTreeMap<usize, Map>,
    /// Bytes of windows that were entered and left.
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

struct Map {
    memory: MmapMut,
    /// Where it is in the file.
    offset: u64,
}

impl Map {
    /// What it takes of the file.
    fn blocks(&self) -> Range<u64> {
        self.offset..self.offset + (self.memory.len() as u64).next_multiple_of(GRAIN)
    }
}

impl FileMemory {
    /// An empty file in `folder`.
    pub fn create(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|error| {
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
        Ok(Self { file, end: 0, maps: BTreeMap::new(), bytes_in, bytes_out })
    }

    /// The address of `bytes` more bytes, all zero. On an error everything is as before.
    pub fn alloc(&mut self, bytes: usize) -> Result<usize> {
        let refused = |error: &dyn std::fmt::Display| {
            let message = format!("bytes is {bytes}; the file of {} bytes cannot grow: {error}", self.end);
            Error::new(Status::OutOfResources, message)
        };
        let end = (bytes as u64).checked_next_multiple_of(GRAIN).and_then(|len| self.end.checked_add(len));
        let Some(end) = end.filter(|&end| end <= i64::MAX as u64) else {
            return Err(refused(&"no file is that long"));
        };
        let grown = reserve(&self.file, self.end, end - self.end).and_then(|()| {
            // SAFETY: nobody else has the file, and no two maps share a byte of it.
            unsafe { MmapOptions::new().offset(self.end).len(bytes).map_mut(&self.file) }
        });
        match grown {
            Ok(memory) => {
                let address = memory.as_ptr().addr();
                self.maps.insert(address, Map { memory, offset: self.end });
                self.end = end;
                Ok(address)
            }
            Err(error) => {
                let _ = self.file.set_len(self.end);
                Err(refused(&error))
            }
        }
    }

    /// Gives back what [`Self::alloc`] gave, and its blocks on disk.
    pub fn free(&mut self, address: usize) {
        let Some(map) = self.maps.remove(&address) else { return };
        let range = map.blocks();
        drop(map);
        if range.end == self.end {
            self.end = self.maps.values().map(|map| map.blocks().end).max().unwrap_or(0);
            let _ = self.file.set_len(self.end);
            return;
        }
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{FallocateFlags, fallocate};
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Where the file system cannot, the blocks are freed with what comes before them.
            let _ = fallocate(&self.file, flags, range.start, range.end - range.start);
        }
    }

    /// Hints that these addresses will be used: what is on disk only is read. Returns at once.
    pub fn read_ahead(&self, range: &Range<usize>) {
        #[cfg(unix)]
        self.for_each_map(range, |memory, at| {
            let _ = memory.advise_range(memmap2::Advice::WillNeed, at.start, at.len());
        });
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Makes the pages of these addresses resident, all at once. By faults, of which a page that is read before it is written has
    /// two, a step takes twice as long. What a system refuses (Linux before 5.14) is left to them.
    fn map_pages(&self, range: &Range<usize>, written: bool) {
        #[cfg(target_os = "linux")]
        self.for_each_map(range, |memory, at| {
            use memmap2::Advice::{PopulateRead, PopulateWrite};
            let advice = if written { PopulateWrite } else { PopulateRead };
            let _ = memory.advise_range(advice, at.start, at.len());
        });
        #[cfg(not(target_os = "linux"))]
        let _ = (range, written);
    }

    /// Makes the pages of these addresses non-resident; their contents stay. Systems other than Unix decide by themselves.
    pub fn drop_pages(&self, range: &Range<usize>) {
        #[cfg(unix)]
        self.for_each_map(range, |memory, at| {
            // SAFETY: pages of a shared map of a file are read from the file again, which has what was written to them.
            let _ = unsafe {
                memory.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at.start, at.len())
            };
        });
        #[cfg(not(unix))]
        let _ = range;
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

/// Makes room on disk for bytes that the file has not yet.
fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        use rustix::process::{Resource, getrlimit};
        // Beyond the limit the system sends a signal.
        if getrlimit(Resource::Fsize).current.is_some_and(|most| offset + len > most) {
            return Err(Errno::FBIG.into());
        }
        match fallocate(file, FallocateFlags::empty(), offset, len) {
            Err(Errno::OPNOTSUPP) => {}
            other => return Ok(other?),
        }
    }
    write_zeros(file, offset, len)
}

/// Room on disk by writing to it.
fn write_zeros(mut file: &File, offset: u64, len: u64) -> io::Result<()> {
    use io::{Read, Seek, Write};
    file.seek(io::SeekFrom::Start(offset))?;
    io::copy(&mut io::repeat(0).take(len), &mut io::BufWriter::with_capacity(1 << 20, file))?;
    file.flush()
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
            self.memory.map_pages(range, written);
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
