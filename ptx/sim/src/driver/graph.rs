//! Stream capture and graphs.
//!
//! A capture records operations in the order of their submission, which is one of the orders that their dependencies allow;
//! a graph's launch repeats them in that order.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::{c_uint, c_ulonglong};
use std::sync::Arc;

use super::execute::Operation;
use super::state::this_thread;
use super::stream::NON_BLOCKING;
use super::{Driver, Handle, Outcome, Status, api, put};

/// A graph, or an executable one.
#[derive(Clone)]
pub struct Graph {
    operations: Arc<Vec<Operation>>,
}

/// A capture under way.
pub struct Capture {
    origin: usize,
    mode: u32,
    thread: u64,
    operations: Vec<Operation>,
    /// Streams that work was forked into and that the origin has not waited for since.
    unjoined: HashSet<usize>,
    invalid: bool,
}

/// Modes of capture: which threads may not make calls that could disturb it.
const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

thread_local! {
    /// What captures mean for this thread's own unsafe calls (driver API, `cuThreadExchangeStreamCaptureMode`).
    static THREAD_MODE: Cell<u32> = const { Cell::new(GLOBAL) };
}

impl Driver {
    /// Fails if the capture is broken.
    pub fn check_capture(&self, capture: usize) -> Outcome {
        match self.captures.get(&capture) {
            Some(capture) if !capture.invalid => Ok(()),
            _ => Err(Status::STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// Adds an operation.
    pub fn capture_operation(&mut self, capture: usize, stream: usize, operation: Operation) -> Outcome {
        self.check_capture(capture)?;
        let capture = self.captures.get_mut(&capture).expect("just checked");
        if stream != capture.origin {
            capture.unjoined.insert(stream);
        }
        capture.operations.push(operation);
        Ok(())
    }

    /// A stream waits for an event recorded in a capture: it takes part from now on.
    pub fn join_capture(&mut self, stream: usize, capture: usize, from: usize) -> Outcome {
        self.check_capture(capture)?;
        let entry = self.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        match entry.capture {
            Some(own) if own != capture => return Err(Status::STREAM_CAPTURE_ISOLATION),
            Some(_) => {
                self.captures.get_mut(&capture).expect("just checked").unjoined.remove(&from);
            }
            None if !entry.is_idle() => return self.fail_capture(capture, Status::STREAM_CAPTURE_ISOLATION),
            None => {
                entry.capture = Some(capture);
                self.captures.get_mut(&capture).expect("just checked").unjoined.insert(stream);
            }
        }
        Ok(())
    }

    /// Breaks a capture.
    pub fn fail_capture(&mut self, capture: usize, status: Status) -> Outcome {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalid = true;
        }
        Err(status)
    }

    /// Breaks the capture of a stream.
    pub fn fail_capture_of(&mut self, stream: usize, status: Status) -> Outcome {
        match self.streams[&stream].capture {
            Some(capture) => self.fail_capture(capture, status),
            None => Err(status),
        }
    }

    /// Fails, breaking the capture, if the stream is capturing.
    pub fn forbid_on_capturing(&mut self, stream: usize) -> Outcome {
        match self.streams[&stream].capture {
            Some(capture) => self.fail_capture(capture, Status::STREAM_CAPTURE_UNSUPPORTED),
            None => Ok(()),
        }
    }

    /// Fails, breaking captures, if some stream of the context is capturing.
    pub fn forbid_waiting_for_capture(&mut self, context: usize) -> Outcome {
        let of_context = |s: &super::stream::Stream| s.context == context;
        let captures: Vec<usize> =
            self.streams.values().filter(|s| of_context(s)).filter_map(|s| s.capture).collect();
        let mut outcome = Ok(());
        for capture in captures {
            outcome = self.fail_capture(capture, Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        outcome
    }

    /// Calls that allocate, free or wait are not captured: they fail and break what is being captured, by this thread or, in
    /// global mode, by any. A thread can ask to be told of its own captures only, or of none.
    pub fn forbid_unsafe_in_capture(&mut self) -> Outcome {
        let (thread, asked) = (this_thread(), THREAD_MODE.get());
        let mut outcome = Ok(());
        for capture in self.captures.values_mut() {
            let own = capture.thread == thread;
            let disturbs = match capture.mode {
                GLOBAL => own || asked == GLOBAL,
                THREAD_LOCAL => own,
                _ => false,
            };
            if disturbs && asked != RELAXED {
                capture.invalid = true;
                outcome = Err(Status::STREAM_CAPTURE_UNSUPPORTED);
            }
        }
        outcome
    }

    /// The legacy stream would have to wait for the capturing blocking streams of its context.
    pub fn forbid_legacy_in_capture(&mut self, context: usize) -> Outcome {
        let blocking = |s: &&super::stream::Stream| s.context == context && s.kind != NON_BLOCKING;
        match self.streams.values().filter(blocking).find_map(|s| s.capture) {
            Some(capture) => self.fail_capture(capture, Status::STREAM_CAPTURE_IMPLICIT),
            None => Ok(()),
        }
    }

    fn begin_capture(&mut self, stream: usize, mode: u32) -> Outcome {
        let entry = &self.streams[&stream];
        if mode > RELAXED {
            return Err(Status::INVALID_VALUE);
        }
        // The legacy stream cannot be captured.
        if entry.capture.is_some() || entry.kind == super::stream::LEGACY {
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let handle = self.new_handle();
        let capture = Capture {
            origin: stream,
            mode,
            thread: this_thread(),
            operations: Vec::new(),
            unjoined: HashSet::new(),
            invalid: false,
        };
        self.captures.insert(handle, capture);
        self.streams.get_mut(&stream).expect("just seen").capture = Some(handle);
        Ok(())
    }

    fn end_capture(&mut self, stream: usize) -> Outcome<usize> {
        let capture = self.streams[&stream].capture.ok_or(Status::INVALID_VALUE)?;
        if self.captures[&capture].origin != stream {
            return Err(Status::STREAM_CAPTURE_UNMATCHED);
        }
        let ended = self.captures.remove(&capture).expect("just seen");
        for stream in self.streams.values_mut().filter(|s| s.capture == Some(capture)) {
            stream.capture = None;
        }
        for event in self.events.values_mut().filter(|e| e.captured.is_some_and(|(c, _)| c == capture)) {
            event.captured = None;
        }
        if ended.invalid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        if !ended.unjoined.is_empty() {
            return Err(Status::STREAM_CAPTURE_UNJOINED);
        }
        let graph = self.new_handle();
        self.graphs.insert(graph, Graph { operations: Arc::new(ended.operations) });
        Ok(graph)
    }

    fn instantiate(&mut self, into: *mut Handle, graph: Handle) -> Outcome {
        self.current()?;
        let graph = self.graphs.get(&(graph as usize)).ok_or(Status::INVALID_VALUE)?.clone();
        let handle = self.new_handle();
        self.executables.insert(handle, graph);
        unsafe { put(into, handle as Handle) }
    }
}

api! {
    fn cuStreamBeginCapture_v2(d, stream: Handle, mode: c_uint) {
        let stream = d.stream(stream)?;
        d.begin_capture(stream, mode)
    }

    fn cuStreamEndCapture(d, stream: Handle, into: *mut Handle) {
        let stream = d.stream(stream)?;
        match d.end_capture(stream) {
            Ok(graph) => put(into, graph as Handle),
            Err(status) => {
                put(into, std::ptr::null_mut())?;
                Err(status)
            }
        }
    }

    fn cuStreamIsCapturing(d, stream: Handle, into: *mut c_uint) {
        let stream = d.stream(stream)?;
        let state = match d.streams[&stream].capture {
            None => 0,
            Some(capture) if d.captures[&capture].invalid => 2,
            Some(_) => 1,
        };
        put(into, state)
    }

    fn cuThreadExchangeStreamCaptureMode(d, mode: *mut c_uint) {
        d.require_init()?;
        if mode.is_null() || mode.read() > RELAXED {
            return Err(Status::INVALID_VALUE);
        }
        let before = THREAD_MODE.replace(mode.read());
        put(mode, before)
    }

    fn cuGraphInstantiateWithFlags(d, into: *mut Handle, graph: Handle, _flags: c_ulonglong) {
        d.instantiate(into, graph)
    }

    fn cuGraphLaunch(d, executable: Handle, stream: Handle) {
        let stream = d.stream(stream)?;
        let graph = d.executables.get(&(executable as usize)).ok_or(Status::INVALID_VALUE)?;
        let operations = Arc::clone(&graph.operations);
        d.submit(stream, Operation::Graph(operations)).map(drop)
    }

    fn cuGraphUpload(d, executable: Handle, stream: Handle) {
        d.stream(stream)?;
        d.executables.get(&(executable as usize)).map(drop).ok_or(Status::INVALID_VALUE)
    }

    fn cuGraphGetNodes(d, graph: Handle, nodes: *mut Handle, count: *mut usize) {
        d.require_init()?;
        let graph = d.graphs.get(&(graph as usize)).ok_or(Status::INVALID_VALUE)?;
        if nodes.is_null() { put(count, graph.operations.len()) } else { Err(Status::NOT_SUPPORTED) }
    }

    fn cuGraphExecDestroy(d, executable: Handle) {
        d.require_init()?;
        d.executables.remove(&(executable as usize)).map(drop).ok_or(Status::INVALID_VALUE)
    }

    fn cuGraphDestroy(d, graph: Handle) {
        d.require_init()?;
        d.graphs.remove(&(graph as usize)).map(drop).ok_or(Status::INVALID_VALUE)
    }

    fn cuStreamGetCaptureInfo_v2(
        d, stream: Handle, status: *mut c_uint, id: *mut c_ulonglong, graph: *mut Handle, dependencies: *mut Handle,
        count: *mut usize,
    ) {
        let stream = d.stream(stream)?;
        let capture = d.streams[&stream].capture;
        put(status, c_uint::from(capture.is_some()))?;
        if !id.is_null() {
            put(id, capture.unwrap_or(0) as c_ulonglong)?;
        }
        for out in [graph, dependencies] {
            if !out.is_null() {
                put(out, std::ptr::null_mut())?;
            }
        }
        if count.is_null() { Ok(()) } else { put(count, 0) }
    }
}
