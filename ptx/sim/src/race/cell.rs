//! What memory remembers of its accesses.

use super::clock::Thread;
use super::epoch::Epoch;

/// Readers of one cell that are kept, each in a place that its warp's number gives: of a block all are. Where warps of several
/// blocks come to the same place, the earlier is forgotten; a race with a forgotten reader alone is missed.
const READERS: usize = 32;

/// The last write of some bytes, and the reads since that no later read is ordered behind.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: Epoch,
    read: Epoch,
}

/// The accesses to a page of global memory, or to the shared memory of a block.
///
/// A cell stands for four bytes, until somebody accesses fewer: then for one.
pub struct Shadow {
    launch: u64,
    size: usize,
    by_byte: bool,
    cells: Vec<Cell>,
    readers: Vec<[Epoch; READERS]>,
    /// A bit for each byte that a read-only load has read; empty until there is one.
    read_only: Vec<u64>,
}

/// An earlier access that is not ordered before the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Its record.
    pub earlier: Epoch,
    /// Whether it was a write.
    pub was_write: bool,
    /// An asynchronous access whose issue is ordered before: only its completion was not waited for.
    pub is_unfinished: bool,
}

impl Conflict {
    fn write(earlier: Epoch, thread: &Thread<'_>) -> Self {
        Self { earlier, was_write: true, is_unfinished: earlier.is_pending() && thread.is_after(earlier) }
    }

    fn read(earlier: Epoch, thread: &Thread<'_>) -> Self {
        Self { earlier, was_write: false, is_unfinished: earlier.is_pending() && thread.is_after(earlier) }
    }
}

impl Shadow {
    pub fn new(size: usize, launch: u64) -> Self {
        let cells = vec![Cell::default(); size.div_ceil(4)];
        Self { launch, size, by_byte: false, cells, readers: Vec::new(), read_only: Vec::new() }
    }

    /// Forgets what another launch did.
    #[inline]
    pub fn begin(&mut self, launch: u64) {
        if self.launch != launch {
            self.reset(launch);
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self, launch: u64) {
        self.launch = launch;
        self.by_byte = false;
        self.cells.clear();
        self.cells.resize(self.size.div_ceil(4), Cell::default());
        self.readers.clear();
        self.read_only.clear();
    }

    #[cold]
    fn split(&mut self) {
        self.by_byte = true;
        let words = std::mem::take(&mut self.cells);
        self.cells = words.iter().flat_map(|&cell| [cell; 4]).collect();
        // Each byte needs a list of its own.
        for cell in &mut self.cells {
            if let Some(list) = cell.read.as_list() {
                let readers = self.readers[list];
                cell.read = Epoch::list(self.readers.len());
                self.readers.push(readers);
            }
        }
    }

    #[inline]
    fn range(&mut self, offset: usize, len: usize) -> std::ops::Range<usize> {
        if !self.by_byte {
            if (offset | len) & 3 == 0 {
                return offset / 4..(offset + len) / 4;
            }
            self.split();
        }
        offset..offset + len
    }

    /// Records a read.
    #[inline(always)]
    pub fn read(&mut self, offset: usize, len: usize, thread: &mut Thread<'_>) -> Result<(), Conflict> {
        let several = thread.now.of_several();
        for at in self.range(offset, len) {
            let Cell { write, read } = self.cells[at];
            if !write.is_nobody() && !thread.knows(write) {
                if write.is_pending() || !allowed(write, thread) {
                    return Err(Conflict::write(write, thread));
                }
                thread.learn(write);
            }
            if read != thread.now && read != several {
                self.cells[at].read =
                    if read.is_nobody() { thread.now } else { self.joined_readers(read, thread) };
            }
        }
        Ok(())
    }

    /// Records a read-only load: its bytes may not be written in this launch any more, in whatever order (§9.7.9.9).
    pub fn read_only(&mut self, offset: usize, len: usize) {
        self.read_only.resize(self.size.div_ceil(64), 0);
        for at in offset..offset + len {
            self.read_only[at / 64] |= 1 << (at % 64);
        }
    }

    /// Whether a read-only load has read any of the bytes.
    #[inline]
    pub fn was_read_only(&self, offset: usize, len: usize) -> bool {
        !self.read_only.is_empty()
            && (offset..offset + len).any(|at| self.read_only[at / 64] >> (at % 64) & 1 != 0)
    }

    /// The last write in this launch, if there was one.
    pub fn last_write(&mut self, offset: usize, len: usize) -> Option<Epoch> {
        self.range(offset, len).map(|at| self.cells[at].write).find(|write| !write.is_nobody())
    }

    /// Who has read the cell, now that `thread` has.
    #[inline]
    fn joined_readers(&mut self, read: Epoch, thread: &Thread<'_>) -> Epoch {
        let now = thread.now;
        if let Some(list) = read.as_list() {
            let own = &mut self.readers[list][place(now)];
            *own = if own.same_warp(now) { merged(*own, thread) } else { now };
            return read;
        }
        if read.same_warp(now) {
            return merged(read, thread);
        }
        if thread.is_after(read) && !read.is_pending() {
            return now;
        }
        let mut list = [Epoch::NOBODY; READERS];
        list[place(read)] = read;
        list[place(now)] = now;
        self.readers.push(list);
        Epoch::list(self.readers.len() - 1)
    }

    /// Records a write. `same_value` says whether it leaves the bytes as they were: two lanes of a warp may write the same
    /// value to the same place.
    #[inline]
    pub fn write(
        &mut self,
        offset: usize,
        len: usize,
        thread: &mut Thread<'_>,
        same_value: impl Fn() -> bool,
    ) -> Result<(), Conflict> {
        for at in self.range(offset, len) {
            let Cell { write, read } = self.cells[at];
            if !write.is_nobody() && !thread.knows(write) {
                let harmless = || write.same_warp(thread.now) && same_value();
                if write.is_pending() || !allowed(write, thread) && !harmless() {
                    return Err(Conflict::write(write, thread));
                }
            }
            if !read.is_nobody() && (!read.same_thread(thread.now) || read.is_pending()) {
                let in_the_way = |e: Epoch| !e.is_nobody() && (e.is_pending() || !allowed(e, thread));
                let conflict = match read.as_list() {
                    Some(list) => self.readers[list].iter().copied().find(|&e| in_the_way(e)),
                    None => in_the_way(read).then_some(read),
                };
                if let Some(earlier) = conflict {
                    return Err(Conflict::read(earlier, thread));
                }
            }
            self.cells[at] = Cell { write: thread.now, read: Epoch::NOBODY };
        }
        Ok(())
    }

    /// Marks a write under way as done, by `now`.
    pub fn land(&mut self, offset: usize, len: usize, now: Epoch) {
        for at in self.range(offset, len) {
            self.cells[at].write = now.landed();
        }
    }

    /// Checks that a proxy fence lies between the last write of some bytes and an access by the async proxy.
    pub fn check_proxy(&mut self, offset: usize, len: usize, thread: &Thread<'_>) -> Result<(), Conflict> {
        let unfenced = |e: &Epoch| !e.is_nobody() && !thread.may_follow_in_async_proxy(*e);
        match self.range(offset, len).map(|at| self.cells[at].write).find(unfenced) {
            Some(earlier) => Err(Conflict::write(earlier, thread)),
            None => Ok(()),
        }
    }

    /// Ends asynchronous reads by a warp: as if done at `now`.
    pub fn land_read(&mut self, offset: usize, len: usize, now: Epoch) {
        for at in self.range(offset, len) {
            let read = self.cells[at].read;
            let slot = match read.as_list() {
                Some(list) => &mut self.readers[list][place(now)],
                None => &mut self.cells[at].read,
            };
            if slot.is_pending() && slot.same_warp(now) {
                *slot = slot.landed().at_clock(now.clock());
            }
        }
    }
}

/// The place of a warp in a list of readers.
const fn place(e: Epoch) -> usize {
    (e.block().wrapping_mul(7).wrapping_add(e.warp())) as usize % READERS
}

/// Whether the earlier access may come before this one: ordered, or both strong.
#[inline]
fn allowed(earlier: Epoch, thread: &Thread<'_>) -> bool {
    earlier.same_thread(thread.now) || earlier.is_morally_strong_with(thread.now) || thread.is_after(earlier)
}

/// An earlier read of the same warp and the present one as one record.
#[inline]
fn merged(earlier: Epoch, thread: &Thread<'_>) -> Epoch {
    if earlier == thread.now.of_several() || earlier.is_pending() {
        return earlier;
    }
    if earlier.same_thread(thread.now) || thread.is_after(earlier) {
        return thread.now;
    }
    // One weak access makes the pair weak.
    let both = thread.now.of_several().narrowed_to(earlier);
    if earlier.is_strong() { both } else { both.weak() }
}
