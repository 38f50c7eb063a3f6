//! The blocks of a file without a name: room on disk that is taken and given back by ranges. What is taken reads zero.
//!
//! Blocks before the file's end that are given back are holes: taken again by what fits, first come, first served, and cut off when
//! they reach the end. On Linux their room on disk is free in between; elsewhere, and on file systems that cannot do that, it stays
//! the file's, and is made zero by writing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Blocks are whole pages of any system.
const GRAIN: u64 = 1 << 16;

/// A file, and which parts of it are taken.
pub struct FileBlocks {
    file: File,
    /// Behind the last block that is taken.
    end: u64,
    /// What is not taken before the end: ends, by starts. None touches another.
    holes: BTreeMap<u64, u64>,
    /// Whether the file system reserves room, and frees that of holes.
    sparse: bool,
}

impl FileBlocks {
    /// An empty file in `folder`.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(folder)?;
        Ok(Self { file, end: 0, holes: BTreeMap::new(), sparse: cfg!(target_os = "linux") })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes of the file.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where `bytes` bytes are, and what the blocks have beyond them. On an error everything is as before.
    pub fn take(&mut self, bytes: u64) -> io::Result<Range<u64>> {
        let len = bytes.checked_next_multiple_of(GRAIN);
        let end = len.and_then(|len| self.end.checked_add(len)).filter(|&end| end <= i64::MAX as u64);
        let (Some(len), Some(end)) = (len, end) else {
            return Err(io::Error::other("no file is that long"));
        };
        let Some((&start, &hole_end)) = self.holes.iter().find(|&(start, end)| end - start >= len) else {
            let range = self.end..end;
            if let Err(error) = self.reserve(&range) {
                let _ = self.file.set_len(self.end);
                return Err(error);
            }
            self.end = end;
            return Ok(range);
        };
        let range = start..start + len;
        if let Err(error) = self.reserve(&range) {
            self.punch(&range);
            return Err(error);
        }
        self.holes.remove(&start);
        if range.end < hole_end {
            self.holes.insert(range.end, hole_end);
        }
        Ok(range)
    }

    /// Gives back what [`Self::take`] gave, and nobody uses any more.
    pub fn give(&mut self, range: Range<u64>) {
        let mut hole = range.clone();
        if let Some((&start, &end)) = self.holes.range(..range.start).next_back()
            && end == range.start
        {
            hole.start = start;
            self.holes.remove(&start);
        }
        hole.end = self.holes.remove(&range.end).unwrap_or(range.end);
        // Windows may refuse to cut a file of which something is mapped.
        if hole.end == self.end && self.file.set_len(hole.start).is_ok() {
            self.end = hole.start;
        } else {
            self.holes.insert(hole.start, hole.end);
            self.punch(&range);
        }
    }

    /// Makes room on disk for bytes that nobody has, and makes them zero.
    fn reserve(&mut self, range: &Range<u64>) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{Resource, getrlimit};
            // Beyond the limit the system sends a signal.
            if getrlimit(Resource::Fsize).current.is_some_and(|most| range.end > most) {
                return Err(rustix::io::Errno::FBIG.into());
            }
        }
        // Holes are zero, and so is what is behind the end.
        if self.sparse {
            match allocate(&self.file, range) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => self.sparse = false,
                other => return other,
            }
        }
        write_zeros(&self.file, range)
    }

    /// Frees the room of a hole, if the file system can.
    fn punch(&mut self, hole: &Range<u64>) {
        // Else it is as it was, and is written when it is taken again.
        self.sparse = self.sparse && free(&self.file, hole).is_ok();
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, range: &Range<u64>) -> io::Result<()> {
    fallocate(file, rustix::fs::FallocateFlags::empty(), range)
}

#[cfg(target_os = "linux")]
fn free(file: &File, range: &Range<u64>) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, range)
}

#[cfg(target_os = "linux")]
fn fallocate(file: &File, flags: rustix::fs::FallocateFlags, range: &Range<u64>) -> io::Result<()> {
    use rustix::io::{Errno, retry_on_intr};
    // A signal that comes in between is no error: tmpfs has undone what it did then.
    match retry_on_intr(|| rustix::fs::fallocate(file, flags, range.start, range.end - range.start)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: &Range<u64>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn free(_: &File, _: &Range<u64>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn write_zeros(mut file: &File, range: &Range<u64>) -> io::Result<()> {
    use io::{Read, Seek};
    file.seek(io::SeekFrom::Start(range.start))?;
    let zeros = io::repeat(0).take(range.end - range.start);
    // Not through a buffer of the writer's, which could not say that its last part did not fit.
    io::copy(&mut io::BufReader::with_capacity(1 << 20, zeros), &mut file).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Seek, Write};

    fn read(blocks: &FileBlocks, range: &Range<u64>) -> Vec<u8> {
        let mut bytes = vec![7; (range.end - range.start) as usize];
        blocks.file().seek(io::SeekFrom::Start(range.start)).unwrap();
        blocks.file().read_exact(&mut bytes).unwrap();
        bytes
    }

    fn fill(blocks: &FileBlocks, range: &Range<u64>, byte: u8) {
        blocks.file().seek(io::SeekFrom::Start(range.start)).unwrap();
        blocks.file().write_all(&vec![byte; (range.end - range.start) as usize]).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whether the file system frees holes or does not: what is taken is zero, nobody's but its owner's, and put in the first
        /// hole that has room for it.
        #[test]
        fn blocks_are_taken_given_back_and_taken_again(
            sparse: bool,
            calls in prop::collection::vec((1..6 * GRAIN, any::<prop::sample::Index>(), 0..5u8), 1..40),
        ) {
            let mut blocks = FileBlocks::create(&std::env::temp_dir()).unwrap();
            blocks.sparse &= sparse;
            let mut taken: Vec<(Range<u64>, u8)> = Vec::new();
            for (number, (bytes, which, call)) in calls.into_iter().enumerate() {
                if call < 2 && !taken.is_empty() {
                    let (range, byte) = taken.swap_remove(which.index(taken.len()));
                    prop_assert!(read(&blocks, &range).iter().all(|&found| found == byte));
                    blocks.give(range);
                } else {
                    let mut order: Vec<_> = taken.iter().map(|(range, _)| range.clone()).collect();
                    order.sort_by_key(|range| range.start);
                    let len = bytes.next_multiple_of(GRAIN);
                    let expected = order.iter().fold((0, None), |(end, found), range| {
                        (range.end, found.or_else(|| (range.start - end >= len).then_some(end)))
                    });
                    let range = blocks.take(bytes).unwrap();
                    let start = expected.1.unwrap_or(expected.0);
                    prop_assert_eq!(&range, &(start..start + len));
                    prop_assert!(read(&blocks, &range).iter().all(|&found| found == 0));
                    let byte = number as u8 + 1;
                    fill(&blocks, &range, byte);
                    taken.push((range, byte));
                }
                let end = taken.iter().map(|(range, _)| range.end).max().unwrap_or(0);
                prop_assert_eq!([blocks.end(), blocks.file().metadata().unwrap().len()], [end, end]);
                #[cfg(target_os = "linux")]
                if blocks.sparse {
                    // On disk is what is taken, and what the file system notes of it.
                    let on_disk = 512 * std::os::unix::fs::MetadataExt::blocks(&blocks.file().metadata().unwrap());
                    let own: u64 = taken.iter().map(|(range, _)| range.end - range.start).sum();
                    prop_assert!((own..own + GRAIN).contains(&on_disk), "{on_disk} bytes of {own}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_a_file_changes_nothing() {
        let mut blocks = FileBlocks::create(&std::env::temp_dir()).unwrap();
        let range = blocks.take(1).unwrap();
        for bytes in [u64::MAX, i64::MAX as u64] {
            assert_eq!(blocks.take(bytes).unwrap_err().to_string(), "no file is that long");
        }
        assert_eq!(blocks.file().metadata().unwrap().len(), range.end);
    }
}
