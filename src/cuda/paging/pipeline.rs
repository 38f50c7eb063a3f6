//! The order of a step whose windows come and go while others are used: three streams, tied by events.
//!
//! ```text
//! in       bring 0   bring 1   bring 2   bring 3 (waits for take 0)
//! caller             use 0     use 1     use 2  (each waits for its bring)
//! out                          take 0    take 1 (each waits for its use)
//! ```
//!
//! Both directions of the link and the kernels are busy at the same time. A window is in one of three slots. The caller's stream
//! waits for everything at the end, so that what follows a step finds all states at rest, and the first of the other streams'
//! work waits for the caller's stream at the beginning. A call on another stream than the last one's waits for that one.

use super::super::device::{Cuda, Queue};
use super::super::driver::check;
use super::super::launch::Stream;
use super::super::optimizer::Pages;
use crate::error::{Error, Result, Status};
use crate::view::window::ON_THE_WAY;
use cudarc::driver::sys::{self, CUevent, CUstream};
use std::sync::Arc;

/// What the windows of a step are moved by.
pub trait Mover {
    /// Enqueues what makes ready the first window, which stays.
    fn settle(&mut self, stream: CUstream) -> Result<()>;
    /// Enqueues what makes a window ready in a slot.
    fn bring(&mut self, stream: CUstream, window: usize, slot: usize) -> Result<()>;
    /// Enqueues what frees the slot of a window that may have been written.
    fn take(&mut self, stream: CUstream, window: usize, slot: usize, written: bool) -> Result<()>;
    /// Where what lies at this address is while its window is in a slot.
    fn address(&self, window: usize, slot: usize, address: u64) -> u64;
}

/// Streams and events, made once.
pub struct Pipeline {
    cuda: Arc<Cuda>,
    into: CUstream,
    out: CUstream,
    /// The caller's stream has come to the step; it has done the last call's work; the first window is ready.
    begun: CUevent,
    last: CUevent,
    settled: CUevent,
    /// A slot has been filled, used, freed.
    filled: [CUevent; ON_THE_WAY],
    used: [CUevent; ON_THE_WAY],
    freed: [CUevent; ON_THE_WAY],
}

// SAFETY: handles of the driver, which may be used by any thread.
unsafe impl Send for Pipeline {}

impl Pipeline {
    pub fn new(cuda: &Arc<Cuda>) -> Result<Self> {
        let _queue = cuda.queue(Stream::LEGACY_DEFAULT)?;
        // Made one by one into a pipeline that frees what it has, should one fail.
        let mut pipeline = Self {
            cuda: cuda.clone(),
            into: std::ptr::null_mut(),
            out: std::ptr::null_mut(),
            begun: std::ptr::null_mut(),
            last: std::ptr::null_mut(),
            settled: std::ptr::null_mut(),
            filled: [std::ptr::null_mut(); ON_THE_WAY],
            used: [std::ptr::null_mut(); ON_THE_WAY],
            freed: [std::ptr::null_mut(); ON_THE_WAY],
        };
        for stream in [&mut pipeline.into, &mut pipeline.out] {
            let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
            // SAFETY: the pointer is valid, a context is current.
            check(unsafe { sys::cuStreamCreate(stream, flags) }, "cuStreamCreate")?;
        }
        for event in pipeline.events_mut() {
            let flags = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
            // SAFETY: as above.
            check(unsafe { sys::cuEventCreate(event, flags) }, "cuEventCreate")?;
        }
        Ok(pipeline)
    }

    fn events_mut(&mut self) -> impl Iterator<Item = &mut CUevent> {
        let slots = self.filled.iter_mut().chain(&mut self.used).chain(&mut self.freed);
        [&mut self.begun, &mut self.last, &mut self.settled].into_iter().chain(slots)
    }

    pub fn cuda(&self) -> &Arc<Cuda> {
        &self.cuda
    }

    /// The stream's work so far is this pager's last.
    pub fn mark(&self, stream: CUstream) -> Result<()> {
        record(self.last, stream)
    }

    /// Waits, on the host, for the last call's work.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the event is there.
        check(unsafe { sys::cuEventSynchronize(self.last) }, "cuEventSynchronize")
    }

    /// Has the caller's stream wait for the last call's work. Refuses one that is captured.
    pub fn ready(&self, queue: &Queue<'_>) -> Result<()> {
        let stream = queue.stream.handle();
        let mut capturing = sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the pointer is valid.
        check(unsafe { sys::cuStreamIsCapturing(stream, &mut capturing) }, "cuStreamIsCapturing")?;
        if capturing != sys::CUstreamCaptureStatus_enum::CU_STREAM_CAPTURE_STATUS_NONE {
            let message = "stream is being captured; where paged states are is not a graph's to know";
            return Err(Error::new(Status::Unsupported, message));
        }
        wait(stream, self.last)
    }

    /// Begins a step of as many passes over `passing` windows and the one that stays, on a stream that is [`Self::ready`].
    pub fn begin<'a, M: Mover>(
        &'a self,
        queue: &Queue<'_>,
        mover: &'a mut M,
        passing: usize,
        passes: usize,
    ) -> Result<Run<'a, M>> {
        let stream = queue.stream.handle();
        record(self.begun, stream)?;
        wait(self.into, self.begun)?;
        let total = passing * passes;
        Ok(Run {
            pipeline: self,
            mover,
            stream,
            passing,
            total,
            brought: 0,
            done: 0,
            settled: false,
            free_by: [None; ON_THE_WAY],
        })
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let cuda = self.cuda.clone();
        let Ok(_queue) = cuda.queue(Stream::LEGACY_DEFAULT) else { return };
        // SAFETY: made in `new` and used by nobody else; the driver ends their work first.
        unsafe {
            for event in self.events_mut().filter(|event| !event.is_null()) {
                let _ = sys::cuEventDestroy_v2(*event);
            }
            for stream in [self.into, self.out].into_iter().filter(|stream| !stream.is_null()) {
                let _ = sys::cuStreamDestroy_v2(stream);
            }
        }
    }
}

/// A step under way. Windows used are numbered through all passes.
pub struct Run<'a, M> {
    pipeline: &'a Pipeline,
    mover: &'a mut M,
    /// The caller's.
    stream: CUstream,
    passing: usize,
    total: usize,
    /// Windows that have been brought, and used.
    brought: usize,
    done: usize,
    settled: bool,
    /// What says that the last window in a slot is done with.
    free_by: [Option<CUevent>; ON_THE_WAY],
}

impl<M: Mover> Run<'_, M> {
    /// Brings windows, as many as there are slots for.
    fn bring(&mut self) -> Result<()> {
        let Pipeline { into, filled, .. } = self.pipeline;
        while self.brought < self.total.min(self.done + ON_THE_WAY) {
            let slot = self.brought % ON_THE_WAY;
            if let Some(event) = self.free_by[slot] {
                wait(*into, event)?;
            }
            self.mover.bring(*into, 1 + self.brought % self.passing, slot)?;
            record(filled[slot], *into)?;
            self.brought += 1;
        }
        Ok(())
    }

    /// Has the caller's stream wait for all that is under way.
    pub fn finish(self) -> Result<()> {
        let pipeline = self.pipeline;
        record(pipeline.settled, pipeline.into)?;
        wait(self.stream, pipeline.settled)?;
        for event in self.free_by.into_iter().flatten() {
            wait(self.stream, event)?;
        }
        pipeline.mark(self.stream)
    }
}

impl<M: Mover> Pages for Run<'_, M> {
    fn address(&self, window: usize, address: u64) -> u64 {
        self.mover.address(window, self.done % ON_THE_WAY, address)
    }

    fn enter(&mut self, _queue: &Queue<'_>, window: usize) -> Result<()> {
        let pipeline = self.pipeline;
        if !self.settled {
            self.mover.settle(pipeline.into)?;
            record(pipeline.settled, pipeline.into)?;
            wait(self.stream, pipeline.settled)?;
            self.settled = true;
        }
        self.bring()?;
        if window > 0 { wait(self.stream, pipeline.filled[self.done % ON_THE_WAY]) } else { Ok(()) }
    }

    fn leave(&mut self, _queue: &Queue<'_>, window: usize, written: bool) -> Result<()> {
        if window == 0 {
            return Ok(());
        }
        let Pipeline { out, used, freed, .. } = self.pipeline;
        let slot = self.done % ON_THE_WAY;
        record(used[slot], self.stream)?;
        wait(*out, used[slot])?;
        self.mover.take(*out, window, slot, written)?;
        record(freed[slot], *out)?;
        self.free_by[slot] = Some(freed[slot]);
        self.done += 1;
        Ok(())
    }
}

fn wait(stream: CUstream, event: CUevent) -> Result<()> {
    // SAFETY: both are the driver's and of this context.
    check(unsafe { sys::cuStreamWaitEvent(stream, event, 0) }, "cuStreamWaitEvent")
}

fn record(event: CUevent, stream: CUstream) -> Result<()> {
    // SAFETY: as in `wait`.
    check(unsafe { sys::cuEventRecord(event, stream) }, "cuEventRecord")
}
