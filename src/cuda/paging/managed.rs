//! States in unified memory, prefetched to the device before they are used and to the host afterwards, so that the device's memory
//! holds no more than the budget of it and no kernel waits for page faults, but for those of a page that what stays shares with what
//! passes.
//!
//! Where the device has no concurrent access to unified memory (Windows, WSL, most Jetsons), hints are errors: none is given there,
//! the driver moves what a kernel may use when it is launched, and the memory cannot be larger than the device's.

use super::super::device::{Cuda, Queue};
use super::super::driver::{self, check};
use super::super::launch::Stream;
use super::pipeline::{Mover, Pipeline, Run};
use super::streamed::{BETWEEN, allocated};
use crate::error::{Error, Result, Status};
use cudarc::driver::sys::{
    self, CUdevice, CUdevice_attribute_enum as Attribute, CUmem_advise_enum as Advice,
    CUmemAttach_flags_enum as Attach, CUresult, CUstream,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// The number that stands for the host among devices.
const HOST: CUdevice = -1;

/// Unified memory.
pub struct Managed {
    pipeline: Pipeline,
    moves: Moves,
}

/// What is moved where.
struct Moves {
    device: CUdevice,
    hints: Option<Hints>,
    /// What stays, of whatever call: ends by starts, and whether it has been brought.
    stays: BTreeMap<usize, (usize, bool)>,
    /// What of it the call under way uses; and what passes.
    staying: Vec<Range<usize>>,
    passing: Vec<Vec<Range<usize>>>,
    bytes_in: u64,
    bytes_out: u64,
}

/// The driver's functions of hints, in the form that all drivers have under these names: which of them a binding has depends on the
/// version of CUDA that it is made for.
#[derive(Clone, Copy)]
struct Hints {
    prefetch: unsafe extern "C" fn(u64, usize, CUdevice, CUstream) -> CUresult,
    advise: unsafe extern "C" fn(u64, usize, Advice, CUdevice) -> CUresult,
}

impl Hints {
    fn prefetch(self, range: &Range<usize>, device: CUdevice, stream: CUstream) -> Result<()> {
        // SAFETY: unified memory of this pager's.
        let result = unsafe { (self.prefetch)(range.start as u64, range.len(), device, stream) };
        check(result, "cuMemPrefetchAsync")
    }

    fn advise(self, range: &Range<usize>, advice: Advice, device: CUdevice) -> Result<()> {
        // SAFETY: as above.
        check(unsafe { (self.advise)(range.start as u64, range.len(), advice, device) }, "cuMemAdvise")
    }
}

impl Managed {
    pub fn new(cuda: &Arc<Cuda>) -> Result<Self> {
        if cuda.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY)? == 0 {
            let message = format!("kind is Managed; {} has no unified memory", cuda.name);
            return Err(Error::new(Status::Unsupported, message));
        }
        let concurrent = cuda.attribute(Attribute::CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS)? != 0;
        // SAFETY: the signatures are the driver API's.
        let hints = unsafe {
            let find = || {
                Some(Hints {
                    prefetch: driver::symbol("cuMemPrefetchAsync")?,
                    advise: driver::symbol("cuMemAdvise")?,
                })
            };
            if concurrent { find() } else { None }
        };
        let moves = Moves {
            device: cuda.device,
            hints,
            stays: BTreeMap::new(),
            staying: Vec::new(),
            passing: Vec::new(),
            bytes_in: 0,
            bytes_out: 0,
        };
        Ok(Self { pipeline: Pipeline::new(cuda)?, moves })
    }

    /// The address of `bytes` bytes, all zero. They prefer the host, and the device may use them there: what passes does not settle
    /// on the device by being touched.
    pub fn alloc(&mut self, bytes: usize) -> Result<usize> {
        let _queue = self.pipeline.cuda().queue(Stream::LEGACY_DEFAULT)?;
        let mut address = 0;
        let flags = Attach::CU_MEM_ATTACH_GLOBAL as u32;
        // SAFETY: the pointer is valid, a context is current; the memory has as many bytes.
        unsafe {
            allocated(
                sys::cuMemAllocManaged(&mut address, bytes + BETWEEN, flags),
                "cuMemAllocManaged",
                "bytes",
                bytes,
            )?;
        }
        let filled = self.fill(&(address as usize..address as usize + bytes));
        if filled.is_err() {
            // SAFETY: just allocated.
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
        filled.map(|()| address as usize)
    }

    fn fill(&self, range: &Range<usize>) -> Result<()> {
        let Some(hints) = self.moves.hints else {
            // SAFETY: this pager's memory. The host must not touch it while anything runs.
            return unsafe {
                check(sys::cuMemsetD8_v2(range.start as u64, 0, range.len()), "cuMemsetD8")?;
                check(sys::cuStreamSynchronize(std::ptr::null_mut()), "cuStreamSynchronize")
            };
        };
        hints.advise(range, Advice::CU_MEM_ADVISE_SET_PREFERRED_LOCATION, HOST)?;
        hints.advise(range, Advice::CU_MEM_ADVISE_SET_ACCESSED_BY, self.moves.device)?;
        // SAFETY: as above; nobody else has it yet.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(range.start).write_bytes(0, range.len()) };
        Ok(())
    }

    /// Gives back what [`Self::alloc`] gave, when the work that uses it is done.
    pub fn free(&mut self, range: &Range<usize>) -> Result<()> {
        for start in self.moves.touched(range) {
            self.moves.stays.remove(&start);
        }
        let _queue = self.pipeline.cuda().queue(Stream::LEGACY_DEFAULT)?;
        self.pipeline.synchronize()?;
        // SAFETY: allocated above, and nobody uses it any more.
        check(unsafe { sys::cuMemFree_v2(range.start as u64) }, "cuMemFree")
    }

    /// Enqueues the moving of a range to the device, or to the host.
    pub fn prefetch(&mut self, queue: &Queue<'_>, range: &Range<usize>, to_device: bool) -> Result<()> {
        self.pipeline.ready(queue)?;
        self.moves.prefetch(std::slice::from_ref(range), to_device, queue.stream.handle())?;
        if !to_device {
            for start in self.moves.touched(range) {
                self.moves.stays.insert(start, (self.moves.stays[&start].0, false));
            }
        }
        self.pipeline.mark(queue.stream.handle())
    }

    /// Has the queue's stream wait for what was enqueued last, on whatever stream.
    pub fn ready(&self, queue: &Queue<'_>) -> Result<()> {
        self.pipeline.ready(queue)
    }

    /// Begins a step of windows that have their states in these ranges; the first window stays, and what is `gone` stays no more.
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

    /// Bytes prefetched to the device and to the host.
    pub fn counts(&self) -> [u64; 2] {
        [self.moves.bytes_in, self.moves.bytes_out]
    }
}

/// Ranges that follow each other made one.
fn joined(ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    joined
}

impl Moves {
    fn prefetch(&mut self, ranges: &[Range<usize>], to_device: bool, stream: CUstream) -> Result<()> {
        let Some(hints) = self.hints else { return Ok(()) };
        for range in ranges {
            hints.prefetch(range, if to_device { self.device } else { HOST }, stream)?;
            let bytes = if to_device { &mut self.bytes_in } else { &mut self.bytes_out };
            *bytes += range.len() as u64;
        }
        Ok(())
    }

    /// The parts that stay and share a byte with a range.
    fn touched(&self, range: &Range<usize>) -> Vec<usize> {
        let before = self.stays.range(..range.end).rev();
        before.take_while(|(_, (end, _))| *end > range.start).map(|(start, _)| *start).collect()
    }

    fn prefer(&self, ranges: &[Range<usize>], place: CUdevice) -> Result<()> {
        let Some(hints) = self.hints else { return Ok(()) };
        let advice = Advice::CU_MEM_ADVISE_SET_PREFERRED_LOCATION;
        ranges.iter().try_for_each(|range| hints.advise(range, advice, place))
    }

    /// Sends home what touches these ranges; it stays no more.
    fn leave<'a>(&mut self, ranges: impl Iterator<Item = &'a Range<usize>>, stream: CUstream) -> Result<()> {
        let touched: BTreeSet<usize> = ranges.flat_map(|range| self.touched(range)).collect();
        let leave = touched.into_iter().map(|start| start..self.stays.remove(&start).expect("just seen").0);
        let leave = joined(&leave.collect::<Vec<_>>());
        self.prefer(&leave, HOST)?;
        self.prefetch(&leave, false, stream)
    }

    /// Lets stay what the call under way wants to, and sends home what passes or is gone.
    fn settle_places(
        &mut self,
        stream: CUstream,
        windows: &[Vec<Range<usize>>],
        gone: &[Range<usize>],
    ) -> Result<()> {
        let (staying, passing) = windows.split_first().expect("a window that stays");
        self.leave(gone.iter().chain(passing.iter().flatten()), stream)?;
        let is_new =
            |part: &&Range<usize>| self.stays.get(&part.start).is_none_or(|(end, _)| *end != part.end);
        let new: Vec<Range<usize>> = staying.iter().filter(is_new).cloned().collect();
        self.leave(new.iter(), stream)?;
        self.prefer(&joined(&new), self.device)?;
        self.stays.extend(new.into_iter().map(|part| (part.start, (part.end, false))));
        self.staying = staying.to_vec();
        self.passing = passing.iter().map(|parts| joined(parts)).collect();
        Ok(())
    }
}

impl Mover for Moves {
    fn settle(&mut self, stream: CUstream) -> Result<()> {
        let mut missing = std::mem::take(&mut self.staying);
        missing.retain(|part| !self.stays[&part.start].1);
        self.prefetch(&joined(&missing), true, stream)?;
        self.stays.extend(missing.into_iter().map(|part| (part.start, (part.end, true))));
        Ok(())
    }

    fn bring(&mut self, stream: CUstream, window: usize, _slot: usize) -> Result<()> {
        let ranges = self.passing[window - 1].clone();
        self.prefetch(&ranges, true, stream)
    }

    /// Sends it home, written or not: a page is in one place.
    fn take(&mut self, stream: CUstream, window: usize, _slot: usize, _written: bool) -> Result<()> {
        let ranges = self.passing[window - 1].clone();
        self.prefetch(&ranges, false, stream)
    }

    fn address(&self, _window: usize, _slot: usize, address: u64) -> u64 {
        address
    }
}
