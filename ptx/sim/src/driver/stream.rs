//! Streams: queues of work, and the order in which it is done.
//!
//! Work waits until something asks for it. What it depends on is done first: earlier work of its stream, recorded events that
//! its stream waits for, and what the legacy default stream orders (it waits for earlier work of all blocking streams of the
//! context, and they for its).

use std::collections::VecDeque;
use std::ffi::{c_int, c_uint, c_void};

use super::execute::Operation;
use super::state::this_thread;
use super::{Driver, Handle, Outcome, Status, api, put};
use crate::config::StreamOrder;
use crate::log::{Entry, StreamKind};

/// Kinds of streams. Those of kind 0 are blocking: they order with the legacy stream.
pub const NON_BLOCKING: u32 = 1;
pub const LEGACY: u32 = 2;
/// The stream of one host thread; blocking.
pub const PER_THREAD: u32 = 3;

/// A stream.
pub struct Stream {
    pub context: usize,
    pub kind: u32,
    pub priority: i32,
    queue: VecDeque<Work>,
    /// The capture that the stream takes part in.
    pub capture: Option<usize>,
}

/// One piece of work.
struct Work {
    sequence: u64,
    /// The host thread that submitted it.
    thread: u64,
    operation: Operation,
}

const fn stream_kind(kind: u32) -> StreamKind {
    match kind {
        LEGACY => StreamKind::Legacy,
        NON_BLOCKING => StreamKind::NonBlocking,
        _ => StreamKind::Blocking,
    }
}

impl Stream {
    pub fn new(context: usize, kind: u32, priority: i32) -> Self {
        Self { context, kind, priority, queue: VecDeque::new(), capture: None }
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the work of this number is done.
    pub fn is_done(&self, sequence: u64) -> bool {
        self.queue.front().is_none_or(|work| work.sequence > sequence)
    }
}

impl Driver {
    /// Puts work into a stream, or into the graph that the stream captures. Returns its number.
    pub fn submit(&mut self, stream: usize, operation: Operation) -> Outcome<u64> {
        let (context, kind) = (self.streams[&stream].context, self.streams[&stream].kind);
        if let Some(capture) = self.streams[&stream].capture {
            self.capture_operation(capture, stream, operation)?;
            return Ok(0);
        }
        if kind == LEGACY {
            self.forbid_legacy_in_capture(context)?;
        }
        self.next_sequence += 1;
        let sequence = self.next_sequence;
        let (work, executed) = (operation.describe(), None);
        let kind = stream_kind(kind);
        self.counters().log.push(Entry { sequence, stream, kind, context, work, executed });
        let work = Work { sequence, thread: this_thread(), operation };
        self.streams.get_mut(&stream).expect("just seen").queue.push_back(work);
        if self.config.stream_order == StreamOrder::Immediate {
            // A failure is the next call's to report, as that of any asynchronous work.
            let _ = self.force(stream, sequence);
        }
        Ok(sequence)
    }

    /// Does the work of a stream up to a number, and all that it depends on.
    pub fn force(&mut self, stream: usize, upto: u64) -> Outcome {
        loop {
            let Some(entry) = self.streams.get(&stream) else { return Ok(()) };
            let (context, kind) = (entry.context, entry.kind);
            let Some(work) = entry.queue.front().filter(|work| work.sequence <= upto) else { return Ok(()) };
            let sequence = work.sequence;
            if let Operation::Wait { stream: other, sequence: recorded } = work.operation {
                self.force(other, recorded)?;
            }
            match kind {
                LEGACY => {
                    let mut blocking: Vec<usize> = self.streams_of(context);
                    blocking.retain(|s| self.streams[s].kind != NON_BLOCKING && *s != stream);
                    for other in blocking {
                        self.force(other, sequence - 1)?;
                    }
                }
                NON_BLOCKING => {}
                _ => {
                    if let Some(legacy) = self.legacy_stream(context) {
                        self.force(legacy, sequence - 1)?;
                    }
                }
            }
            // What this depends on may have asked for it.
            let queue = &mut self.streams.get_mut(&stream).expect("still there").queue;
            if queue.front().is_some_and(|work| work.sequence == sequence) {
                let work = queue.pop_front().expect("just seen");
                self.execute(context, work.thread, sequence, &work.operation)?;
            }
        }
    }

    fn streams_of(&self, context: usize) -> Vec<usize> {
        let mut streams: Vec<usize> =
            self.streams.iter().filter(|(_, s)| s.context == context).map(|(h, _)| *h).collect();
        streams.sort_unstable();
        streams
    }

    /// At a synchronization: what the order has other streams do before.
    fn run_others(&mut self, context: usize, stream: Option<usize>) -> Outcome {
        let others: Vec<usize> =
            self.streams_of(context).into_iter().filter(|s| Some(*s) != stream).collect();
        match self.config.stream_order {
            StreamOrder::Immediate | StreamOrder::Lazy => {}
            StreamOrder::OthersFirst => {
                for other in others.into_iter().rev() {
                    self.force(other, u64::MAX)?;
                }
            }
            StreamOrder::First(number) => {
                if let Some(&first) = self.streams_of(context).get(number as usize) {
                    self.force(first, u64::MAX)?;
                }
            }
            StreamOrder::Random(seed) => {
                for _ in 0..2 * others.len() {
                    let pick = self.next_random(seed) as usize % others.len();
                    let queue = &self.streams[&others[pick]].queue;
                    if !queue.is_empty() {
                        let work = self.random as usize / 64 % queue.len();
                        let sequence = queue[work].sequence;
                        self.force(others[pick], sequence)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn next_random(&mut self, seed: u64) -> u64 {
        // SplitMix64
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = self.random ^ seed;
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// Waits for a stream.
    pub fn finish_stream(&mut self, stream: usize) -> Outcome {
        let context = self.streams[&stream].context;
        self.run_others(context, Some(stream))?;
        self.force(stream, u64::MAX)?;
        self.check_context(context)
    }

    /// Waits for the work of this number.
    pub fn finish_work(&mut self, stream: usize, sequence: u64) -> Outcome {
        if let Some(entry) = self.streams.get(&stream) {
            let context = entry.context;
            self.run_others(context, Some(stream))?;
            self.force(stream, sequence)?;
            self.check_context(context)?;
        }
        Ok(())
    }

    /// Waits for all streams of a context.
    pub fn finish_context(&mut self, context: usize) -> Outcome {
        self.run_others(context, None)?;
        for stream in self.streams_of(context) {
            self.force(stream, u64::MAX)?;
        }
        self.check_context(context)
    }

    fn create_stream(&mut self, into: *mut Handle, flags: c_uint, priority: c_int) -> Outcome {
        let context = self.current()?;
        if flags > NON_BLOCKING {
            return Err(Status::INVALID_VALUE);
        }
        let handle = self.new_handle();
        self.streams.insert(handle, Stream::new(context, flags, priority.clamp(-5, 0)));
        unsafe { put(into, handle as Handle) }
    }
}

api! {
    fn cuStreamCreate(d, into: *mut Handle, flags: c_uint) {
        d.create_stream(into, flags, 0)
    }

    fn cuStreamCreateWithPriority(d, into: *mut Handle, flags: c_uint, priority: c_int) {
        d.create_stream(into, flags, priority)
    }

    fn cuStreamDestroy_v2(d, stream: Handle) {
        let stream = d.stream(stream)?;
        if matches!(d.streams[&stream].kind, LEGACY | PER_THREAD) {
            return Err(Status::INVALID_HANDLE);
        }
        // The work goes on without the handle.
        let outcome = d.force(stream, u64::MAX);
        d.streams.remove(&stream);
        outcome
    }

    fn cuStreamSynchronize(d, stream: Handle) {
        let stream = d.stream(stream)?;
        d.counters().synchronizations += 1;
        d.forbid_on_capturing(stream)?;
        d.finish_stream(stream)
    }

    fn cuStreamQuery(d, stream: Handle) {
        let stream = d.stream(stream)?;
        d.forbid_on_capturing(stream)?;
        if d.streams[&stream].is_idle() {
            return Ok(());
        }
        // Not ready now, but it will be: a program that polls gets on.
        d.finish_stream(stream)?;
        Err(Status::NOT_READY)
    }

    fn cuStreamWaitEvent(d, stream: Handle, event: Handle, _flags: c_uint) {
        let stream = d.stream(stream)?;
        d.wait_event(stream, event as usize)
    }

    fn cuStreamGetPriority(d, stream: Handle, priority: *mut c_int) {
        let stream = d.stream(stream)?;
        put(priority, d.streams[&stream].priority)
    }

    fn cuStreamGetFlags(d, stream: Handle, flags: *mut c_uint) {
        let stream = d.stream(stream)?;
        put(flags, c_uint::from(d.streams[&stream].kind == NON_BLOCKING))
    }

    fn cuStreamGetCtx(d, stream: Handle, context: *mut Handle) {
        let stream = d.stream(stream)?;
        put(context, d.streams[&stream].context as Handle)
    }

    fn cuLaunchHostFunc(d, stream: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, data: *mut c_void) {
        let stream = d.stream(stream)?;
        let function = function.ok_or(Status::INVALID_VALUE)?;
        d.submit(stream, Operation::HostFunction(function, data as usize)).map(drop)
    }
}
