//! States in page-locked memory of the host, copied to the device and back: each window to a slot, and once, until something else
//! wants its place, what stays.
//!
//! Works wherever there is a driver, and moves what it must move at the speed of the link. What stays lies on the device and is
//! newer there than at its address; [`Streamed::write_back`] brings it home.

use super::super::device::{Cuda, Queue};
use super::super::driver::check;
use super::super::launch::Stream;
use super::pipeline::{Mover, Pipeline, Run};
use crate::error::{Error, Result, Status};
use crate::view::window::{ALIGN, ON_THE_WAY, window_bytes};
use cudarc::driver::sys::{self, CUresult, CUstream};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Page-locked memory, and a part of the device's.
pub struct Streamed {
    pipeline: Pipeline,
    moves: Moves,
}

/// What is moved where.
struct Moves {
    /// As many bytes of the device's memory as the budget has.
    arena: u64,
    window: u64,
    /// What stays: where it is, and whether it is there.
    stays: Layout,
    there: Vec<bool>,
    /// What passes, in a slot at address 0.
    passing: Vec<Layout>,
    bytes_in: u64,
    bytes_out: u64,
}

/// Where the parts of a window are on the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layout {
    /// What is copied as one: what follows each other in both memories.
    copies: Vec<Copy>,
    /// The device's address of each part, by its host's.
    places: HashMap<u64, u64>,
    end: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copy {
    host: u64,
    device: u64,
    len: usize,
}

impl Layout {
    /// Parts of host memory one after another from `start` on, each at its host address modulo [`ALIGN`]: what is aligned there
    /// is aligned here, and what follows each other there follows each other here.
    fn new(parts: &[Range<usize>], start: u64) -> Self {
        let (align, mut layout) = (ALIGN as u64, Self { end: start, ..Self::default() });
        for part in parts {
            let (host, len) = (part.start as u64, part.len());
            let device = layout.end + (host.wrapping_sub(layout.end)) % align;
            layout.places.insert(host, device);
            match layout.copies.last_mut() {
                Some(last)
                    if last.host + last.len as u64 == host && last.device + last.len as u64 == device =>
                {
                    last.len += len;
                }
                _ => layout.copies.push(Copy { host, device, len }),
            }
            layout.end = device + len as u64;
        }
        layout
    }
}

impl Copy {
    fn overlaps(&self, range: &Range<usize>) -> bool {
        self.host < range.end as u64 && (range.start as u64) < self.host + self.len as u64
    }
}

impl Streamed {
    /// Takes `budget` bytes of the device's memory.
    pub fn new(cuda: &Arc<Cuda>, budget: usize) -> Result<Self> {
        let pipeline = Pipeline::new(cuda)?;
        let _queue = cuda.queue(Stream::LEGACY_DEFAULT)?;
        let mut arena = 0;
        // SAFETY: the pointer is valid, a context is current.
        let result = unsafe { sys::cuMemAlloc_v2(&mut arena, budget) };
        allocated(result, "cuMemAlloc", "budget", budget)?;
        let moves = Moves {
            arena,
            window: window_bytes(budget) as u64,
            stays: Layout::default(),
            there: Vec::new(),
            passing: Vec::new(),
            bytes_in: 0,
            bytes_out: 0,
        };
        Ok(Self { pipeline, moves })
    }

    /// The address of `bytes` bytes of host memory, all zero.
    pub fn alloc(&mut self, bytes: usize) -> Result<usize> {
        let _queue = self.pipeline.cuda().queue(Stream::LEGACY_DEFAULT)?;
        let mut host = std::ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: the pointer is valid, a context is current; the memory has as many bytes.
        unsafe {
            let result = sys::cuMemHostAlloc(&mut host, bytes + BETWEEN, flags);
            allocated(result, "cuMemHostAlloc", "bytes", bytes)?;
            host.cast::<u8>().write_bytes(0, bytes);
        }
        Ok(host.addr())
    }

    /// Gives back what [`Self::alloc`] gave, when the work that uses it is done.
    pub fn free(&mut self, range: &Range<usize>) -> Result<()> {
        self.forget(range);
        let _queue = self.pipeline.cuda().queue(Stream::LEGACY_DEFAULT)?;
        self.pipeline.synchronize()?;
        let host = std::ptr::without_provenance_mut(range.start);
        // SAFETY: allocated above, and nobody uses it any more.
        check(unsafe { sys::cuMemFreeHost(host) }, "cuMemFreeHost")
    }

    /// What was written to host memory by others is newer than what is on the device.
    pub fn forget(&mut self, range: &Range<usize>) {
        let Moves { stays, there, .. } = &mut self.moves;
        for (copy, there) in stays.copies.iter().zip(there) {
            *there &= !copy.overlaps(range);
        }
    }

    /// Enqueues copies of what stays on the device to where it belongs; it stays there, too, unless `drop`.
    pub fn write_back(&mut self, queue: &Queue<'_>, range: &Range<usize>, drop: bool) -> Result<()> {
        self.pipeline.ready(queue)?;
        self.moves.write_back(queue.stream.handle(), range, drop)?;
        self.pipeline.mark(queue.stream.handle())
    }

    /// Enqueues copies to the device of what is to stay there and is not there yet.
    pub fn prefetch(&mut self, queue: &Queue<'_>, range: &Range<usize>) -> Result<()> {
        self.pipeline.ready(queue)?;
        self.moves.fetch(queue.stream.handle(), range)?;
        self.pipeline.mark(queue.stream.handle())
    }

    /// Begins a step of windows that have their states in these parts of host memory; the first window stays.
    pub fn begin(
        &mut self,
        queue: &Queue<'_>,
        windows: &[Vec<Range<usize>>],
        passes: usize,
    ) -> Result<Run<'_, impl Mover>> {
        let (stays, passing) = windows.split_first().expect("a window that stays");
        let slots = if passing.is_empty() { 0 } else { ON_THE_WAY as u64 * self.moves.window };
        let stays = Layout::new(stays, self.moves.arena + slots);
        let passing: Vec<Layout> = passing.iter().map(|parts| Layout::new(parts, 0)).collect();
        self.pipeline.ready(queue)?;
        self.moves.replace(queue.stream.handle(), stays)?;
        self.moves.passing = passing;
        self.pipeline.begin(queue, &mut self.moves, windows.len() - 1, passes)
    }

    /// Bytes copied to the device and from it, and bytes that stay there.
    pub fn counts(&self) -> [u64; 3] {
        let Moves { bytes_in, bytes_out, stays, .. } = &self.moves;
        [*bytes_in, *bytes_out, stays.copies.iter().map(|copy| copy.len as u64).sum()]
    }
}

impl Moves {
    fn slot(&self, slot: usize) -> u64 {
        self.arena + slot as u64 * self.window
    }

    fn write_back(&mut self, stream: CUstream, range: &Range<usize>, drop: bool) -> Result<()> {
        for (copy, there) in self.stays.copies.iter().zip(&mut self.there) {
            if *there && copy.overlaps(range) {
                to_host(stream, copy, 0)?;
                self.bytes_out += copy.len as u64;
                *there = !drop;
            }
        }
        Ok(())
    }

    fn fetch(&mut self, stream: CUstream, range: &Range<usize>) -> Result<()> {
        for (copy, there) in self.stays.copies.iter().zip(&mut self.there) {
            if !*there && copy.overlaps(range) {
                to_device(stream, copy, 0)?;
                self.bytes_in += copy.len as u64;
                *there = true;
            }
        }
        Ok(())
    }

    /// Makes room for what stays from now on, if it is something else.
    fn replace(&mut self, stream: CUstream, stays: Layout) -> Result<()> {
        if self.stays != stays {
            self.write_back(stream, &(0..usize::MAX), true)?;
            self.there = vec![false; stays.copies.len()];
            self.stays = stays;
        }
        Ok(())
    }
}

impl Mover for Moves {
    fn settle(&mut self, stream: CUstream) -> Result<()> {
        self.fetch(stream, &(0..usize::MAX))
    }

    fn bring(&mut self, stream: CUstream, window: usize, slot: usize) -> Result<()> {
        for copy in &self.passing[window - 1].copies {
            to_device(stream, copy, self.slot(slot))?;
            self.bytes_in += copy.len as u64;
        }
        Ok(())
    }

    fn take(&mut self, stream: CUstream, window: usize, slot: usize, written: bool) -> Result<()> {
        for copy in self.passing[window - 1].copies.iter().filter(|_| written) {
            to_host(stream, copy, self.slot(slot))?;
            self.bytes_out += copy.len as u64;
        }
        Ok(())
    }

    fn address(&self, window: usize, slot: usize, address: u64) -> u64 {
        let place = |layout: &Layout, base| layout.places.get(&address).map(|place| base + place);
        let place = match window {
            0 => place(&self.stays, 0),
            _ => place(&self.passing[window - 1], self.slot(slot)),
        };
        place.unwrap_or(address) // states that are not paged
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        let cuda = self.pipeline.cuda().clone();
        if let Ok(_queue) = cuda.queue(Stream::LEGACY_DEFAULT) {
            // The driver may wait by itself when memory is freed, but need not.
            let _ = self.pipeline.synchronize();
            // SAFETY: allocated in `new`, and nobody uses it any more.
            let _ = unsafe { sys::cuMemFree_v2(self.moves.arena) };
        }
    }
}

/// Bytes at the end of an allocation that are nobody's: parts of two allocations never follow each other, and are never moved as one.
pub const BETWEEN: usize = 1;

fn to_device(stream: CUstream, copy: &Copy, base: u64) -> Result<()> {
    let host = std::ptr::without_provenance(copy.host as usize);
    // SAFETY: both ranges are this pager's, and stay until the stream has passed the copy.
    let result = unsafe { sys::cuMemcpyHtoDAsync_v2(base + copy.device, host, copy.len, stream) };
    check(result, "cuMemcpyHtoDAsync")
}

fn to_host(stream: CUstream, copy: &Copy, base: u64) -> Result<()> {
    let host = std::ptr::without_provenance_mut(copy.host as usize);
    // SAFETY: as above.
    let result = unsafe { sys::cuMemcpyDtoHAsync_v2(host, base + copy.device, copy.len, stream) };
    check(result, "cuMemcpyDtoHAsync")
}

/// The result of an allocation: no memory is a status of its own.
pub fn allocated(result: CUresult, what: &str, name: &str, bytes: usize) -> Result<()> {
    if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        let message = format!("{name} is {bytes} bytes; {what} finds no memory for them");
        return Err(Error::new(Status::OutOfResources, message));
    }
    check(result, what)
}
