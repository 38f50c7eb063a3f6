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
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Page-locked memory, and a part of the device's.
pub struct Streamed {
    pipeline: Pipeline,
    moves: Moves,
}

/// What is moved where.
struct Moves {
    /// As many bytes of the device's memory as the budget has; slots at its start, where there are any.
    arena: u64,
    budget: u64,
    window: u64,
    slots: bool,
    /// What stays, of whatever call, by its host's address; where the next one goes.
    places: BTreeMap<u64, Place>,
    end: u64,
    /// What of it the call under way uses; and what passes, in a slot at address 0.
    staying: Vec<Range<usize>>,
    passing: Vec<Layout>,
    bytes_in: u64,
    bytes_out: u64,
}

/// A part that stays on the device.
#[derive(Clone, Copy)]
struct Place {
    device: u64,
    len: usize,
    /// Whether it has been brought, and is what counts.
    there: bool,
}

/// Where the parts of a window are in a slot.
#[derive(Default)]
struct Layout {
    copies: Vec<Copy>,
    /// The slot's address of each part, by its host's.
    places: HashMap<u64, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copy {
    host: u64,
    device: u64,
    len: usize,
}

/// The next address from `end` on that is equal to a host's modulo [`ALIGN`]: what is aligned there is aligned here, and what follows
/// each other there follows each other here.
fn alike(end: u64, host: u64) -> u64 {
    end + host.wrapping_sub(end) % ALIGN as u64
}

/// Copies of parts, those that follow each other in both memories made one.
fn joined(parts: impl Iterator<Item = Copy>) -> Vec<Copy> {
    let mut copies: Vec<Copy> = Vec::new();
    for part in parts {
        match copies.last_mut() {
            Some(last)
                if [last.host, last.device].map(|at| at + last.len as u64) == [part.host, part.device] =>
            {
                last.len += part.len;
            }
            _ => copies.push(part),
        }
    }
    copies
}

impl Layout {
    fn new(parts: &[Range<usize>]) -> Self {
        let (mut end, mut places) = (0, HashMap::new());
        let copies = joined(parts.iter().map(|part| {
            let (host, len) = (part.start as u64, part.len());
            let device = alike(end, host);
            end = device + len as u64;
            places.insert(host, device);
            Copy { host, device, len }
        }));
        Self { copies, places }
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
            budget: budget as u64,
            window: window_bytes(budget) as u64,
            slots: false,
            places: BTreeMap::new(),
            end: arena,
            staying: Vec::new(),
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
        for host in self.moves.touched(range) {
            self.moves.places.remove(&host);
        }
        let _queue = self.pipeline.cuda().queue(Stream::LEGACY_DEFAULT)?;
        self.pipeline.synchronize()?;
        let host = std::ptr::without_provenance_mut(range.start);
        // SAFETY: allocated above, and nobody uses it any more.
        check(unsafe { sys::cuMemFreeHost(host) }, "cuMemFreeHost")
    }

    /// Enqueues copies of what is newer on the device to where it belongs; unless `drop`, it counts there, too.
    pub fn write_back(&mut self, queue: &Queue<'_>, ranges: &[Range<usize>], drop: bool) -> Result<()> {
        self.pipeline.ready(queue)?;
        let hosts: BTreeSet<u64> = ranges.iter().flat_map(|range| self.moves.touched(range)).collect();
        let hosts: Vec<u64> = hosts.into_iter().collect();
        self.moves.write_back(queue.stream.handle(), &hosts)?;
        for host in hosts {
            self.moves.place(host).there &= !drop;
        }
        self.pipeline.mark(queue.stream.handle())
    }

    /// Enqueues copies to the device of what is to stay there and is not there yet.
    pub fn prefetch(&mut self, queue: &Queue<'_>, range: &Range<usize>) -> Result<()> {
        self.pipeline.ready(queue)?;
        let hosts = self.moves.touched(range);
        self.moves.fetch(queue.stream.handle(), hosts.into_iter())?;
        self.pipeline.mark(queue.stream.handle())
    }

    /// Begins a step of windows that have their states in these parts of host memory; the first window stays, and what is `gone`
    /// stays no more.
    pub fn begin(
        &mut self,
        queue: &Queue<'_>,
        windows: &[Vec<Range<usize>>],
        gone: &[Range<usize>],
        passes: usize,
    ) -> Result<Run<'_, impl Mover>> {
        self.pipeline.ready(queue)?;
        self.moves.settle_places(queue.stream.handle(), windows, gone)?;
        self.pipeline.begin(queue, &mut self.moves, windows.len() - 1, passes)
    }

    /// Bytes copied to the device and from it.
    pub fn counts(&self) -> [u64; 2] {
        [self.moves.bytes_in, self.moves.bytes_out]
    }
}

impl Moves {
    fn slot(&self, slot: usize) -> u64 {
        self.arena + slot as u64 * self.window
    }

    /// The parts that stay and share a byte with a range, by their host's addresses, in order.
    fn touched(&self, range: &Range<usize>) -> Vec<u64> {
        let behind = |(host, place): &(&u64, &Place)| **host + place.len as u64 > range.start as u64;
        let back = self.places.range(..range.end as u64).rev().take_while(behind);
        let mut hosts: Vec<u64> = back.map(|(host, _)| *host).collect();
        hosts.reverse();
        hosts
    }

    /// Copies what is newer on the device home, parts in order. Whether it counts there still is the caller's to say.
    fn write_back(&mut self, stream: CUstream, hosts: &[u64]) -> Result<()> {
        let there = hosts.iter().filter(|host| self.places[host].there);
        for copy in joined(there.map(|host| self.places[host].copy(*host))) {
            to_host(stream, &copy, 0)?;
            self.bytes_out += copy.len as u64;
        }
        Ok(())
    }

    /// Brings what stays and is not there.
    fn fetch(&mut self, stream: CUstream, hosts: impl Iterator<Item = u64>) -> Result<()> {
        let missing: Vec<u64> = hosts.filter(|host| !self.places[host].there).collect();
        for copy in joined(missing.iter().map(|host| self.places[host].copy(*host))) {
            to_device(stream, &copy, 0)?;
            self.bytes_in += copy.len as u64;
        }
        for host in missing {
            self.place(host).there = true;
        }
        Ok(())
    }

    fn place(&mut self, host: u64) -> &mut Place {
        self.places.get_mut(&host).expect("a part that stays")
    }

    /// Sends home what touches a range; it stays no more.
    fn leave(&mut self, stream: CUstream, range: &Range<usize>) -> Result<()> {
        let hosts = self.touched(range);
        self.write_back(stream, &hosts)?;
        for host in hosts {
            self.places.remove(&host);
        }
        Ok(())
    }

    /// Finds places for what the call under way wants to stay, and none for what passes or is gone.
    fn settle_places(
        &mut self,
        stream: CUstream,
        windows: &[Vec<Range<usize>>],
        gone: &[Range<usize>],
    ) -> Result<()> {
        let (staying, passing) = windows.split_first().expect("a window that stays");
        for range in gone.iter().chain(passing.iter().flatten()) {
            self.leave(stream, range)?;
        }
        if !passing.is_empty() && !self.slots {
            self.leave(stream, &ALL)?;
        }
        if self.places.is_empty() {
            self.begin_anew(!passing.is_empty());
        }
        if !self.find_places(stream, staying)? {
            // Room there is, but in pieces, or in slots that nothing passes through any more.
            self.leave(stream, &ALL)?;
            self.begin_anew(!passing.is_empty());
            let found = self.find_places(stream, staying)?;
            assert!(found, "what stays fits the budget");
        }
        self.staying = staying.to_vec();
        self.passing = passing.iter().map(|parts| Layout::new(parts)).collect();
        Ok(())
    }

    fn begin_anew(&mut self, slots: bool) {
        self.slots = slots;
        self.end = if slots { self.slot(ON_THE_WAY) } else { self.arena };
    }

    /// Finds a place for each part that has none, unless there is no room.
    fn find_places(&mut self, stream: CUstream, parts: &[Range<usize>]) -> Result<bool> {
        for part in parts {
            let (host, len) = (part.start as u64, part.len());
            if self.places.get(&host).is_some_and(|place| place.len == len) {
                continue;
            }
            self.leave(stream, part)?;
            let device = alike(self.end, host);
            if device + len as u64 > self.arena + self.budget {
                return Ok(false);
            }
            self.end = device + len as u64;
            self.places.insert(host, Place { device, len, there: false });
        }
        Ok(true)
    }
}

/// Every address.
const ALL: Range<usize> = 0..usize::MAX;

impl Place {
    fn copy(&self, host: u64) -> Copy {
        Copy { host, device: self.device, len: self.len }
    }
}

impl Mover for Moves {
    fn settle(&mut self, stream: CUstream) -> Result<()> {
        let staying = std::mem::take(&mut self.staying);
        self.fetch(stream, staying.iter().map(|part| part.start as u64))
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
        let place = match window {
            0 => self.places.get(&address).map(|place| place.device),
            _ => self.passing[window - 1].places.get(&address).map(|place| self.slot(slot) + place),
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
