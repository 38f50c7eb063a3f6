//! Everything that the driver keeps.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::event::Event;
use super::function::Function;
use super::graph::{Capture, Graph};
use super::module::Module;
use super::status::Status;
use super::stream::{LEGACY, PER_THREAD, Stream};
use super::{Handle, Outcome};
use crate::config::Config;
use crate::counters::Counters;
use crate::fault::Fault;

/// A context.
pub struct Context {
    pub device: i32,
    /// Retains of a primary context, 1 of others.
    pub references: u32,
    pub primary: bool,
    /// What a kernel fault left: every later call returns it.
    pub poisoned: Option<Status>,
    pub flags: u32,
    /// `cuCtxSetLimit` values.
    pub limits: HashMap<u32, usize>,
}

/// The state of the driver.
#[derive(Default)]
pub struct Driver {
    pub config: Config,
    pub initialized: bool,
    next_handle: usize,
    /// Numbers work in the order of its submission.
    pub next_sequence: u64,
    /// Operations of streams that were begun.
    pub executed: u64,
    /// Device memory in use, but for managed pages that can leave it.
    pub allocated: u64,
    /// Page-locked memory in use, and managed memory that can be there.
    pub host_allocated: u64,
    /// Managed pages in device memory, in the order in which they came.
    pub on_device: VecDeque<u64>,
    /// The context of each allocation; they end together.
    pub owners: HashMap<u64, usize>,
    pub contexts: HashMap<usize, Context>,
    pub streams: HashMap<usize, Stream>,
    /// The implicit streams of each context: legacy (0) and of each thread.
    implicit: HashMap<(usize, u64), usize>,
    pub events: HashMap<usize, Event>,
    pub modules: HashMap<usize, Module>,
    pub functions: HashMap<usize, Arc<Function>>,
    pub graphs: HashMap<usize, Graph>,
    pub executables: HashMap<usize, Graph>,
    pub captures: HashMap<usize, Capture>,
    counters: HashMap<u64, Counters>,
    pub faults: HashMap<u64, Fault>,
    /// For [`StreamOrder::Random`](crate::config::StreamOrder::Random).
    pub random: u64,
}

thread_local! {
    static CURRENT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    static THREAD: u64 = {
        static THREADS: AtomicU64 = AtomicU64::new(1);
        THREADS.fetch_add(1, Ordering::Relaxed)
    };
}

/// The calling thread.
pub fn this_thread() -> u64 {
    THREAD.with(|id| *id)
}

/// The stack of current contexts of the calling thread.
pub fn current_stack<T>(f: impl FnOnce(&mut Vec<usize>) -> T) -> T {
    CURRENT.with(|stack| f(&mut stack.borrow_mut()))
}

/// Writes a result.
pub unsafe fn put<T>(into: *mut T, value: T) -> Outcome {
    if into.is_null() {
        return Err(Status::INVALID_VALUE);
    }
    // SAFETY: not null; that it may be written is the promise of the API's caller.
    unsafe { into.write(value) };
    Ok(())
}

impl Driver {
    /// A fresh handle.
    pub fn new_handle(&mut self) -> usize {
        // Recognizable in a debugger, and far from NULL and the special streams.
        self.next_handle += 1;
        0xCDA0_0000 + 16 * self.next_handle
    }

    /// The counters of the calling thread.
    pub fn counters(&mut self) -> &mut Counters {
        self.counters_of(this_thread())
    }

    pub fn counters_of(&mut self, thread: u64) -> &mut Counters {
        self.counters.entry(thread).or_default()
    }

    pub fn count_call(&mut self, name: &'static str) {
        *self.counters().calls.entry(name).or_default() += 1;
    }

    /// Fails before `cuInit`.
    pub fn require_init(&self) -> Outcome {
        if self.initialized { Ok(()) } else { Err(Status::NOT_INITIALIZED) }
    }

    /// The current context's handle, unless a fault has ended it.
    pub fn current(&self) -> Outcome<usize> {
        self.require_init()?;
        let handle = current_stack(|stack| stack.last().copied())
            .filter(|&h| h != 0)
            .ok_or(Status::INVALID_CONTEXT)?;
        self.check_context(handle)?;
        Ok(handle)
    }

    /// Fails if the context is destroyed or a fault has ended it.
    pub fn check_context(&self, handle: usize) -> Outcome {
        let context = self.contexts.get(&handle).ok_or(Status::CONTEXT_IS_DESTROYED)?;
        match context.poisoned {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }

    pub fn current_device(&self) -> Outcome<i32> {
        let current = self.current()?;
        Ok(self.contexts[&current].device)
    }

    /// The stream that a handle means for this thread and context: 0 and 1 are the legacy stream, 2 the thread's own.
    pub fn stream(&mut self, handle: Handle) -> Outcome<usize> {
        let context = self.current()?;
        let handle = handle as usize;
        if handle > 2 {
            let stream = self.streams.get(&handle).ok_or(Status::INVALID_HANDLE)?;
            let owner = stream.context;
            self.check_context(owner)?;
            return Ok(handle);
        }
        let kind = if handle == 2 { PER_THREAD } else { LEGACY };
        Ok(self.implicit_stream(context, kind))
    }

    /// The legacy stream of a context, or the calling thread's own.
    pub fn implicit_stream(&mut self, context: usize, kind: u32) -> usize {
        let thread = if kind == LEGACY { 0 } else { this_thread() };
        if let Some(&stream) = self.implicit.get(&(context, thread)) {
            return stream;
        }
        let stream = self.new_handle();
        self.streams.insert(stream, Stream::new(context, kind, 0));
        self.implicit.insert((context, thread), stream);
        stream
    }

    /// The legacy stream of a context, if anybody has used it.
    pub fn legacy_stream(&self, context: usize) -> Option<usize> {
        self.implicit.get(&(context, 0)).copied()
    }

    /// Forgets what belongs to a context.
    pub fn drop_context(&mut self, handle: usize) {
        self.contexts.remove(&handle);
        self.streams.retain(|_, s| s.context != handle);
        self.implicit.retain(|(context, _), _| *context != handle);
        self.events.retain(|_, e| e.context != handle);
        let modules: Vec<usize> =
            self.modules.iter().filter(|(_, m)| m.context == handle).map(|(h, _)| *h).collect();
        for module in modules {
            self.unload(module);
        }
        let left: Vec<u64> =
            self.owners.iter().filter(|(_, owner)| **owner == handle).map(|(a, _)| *a).collect();
        for address in left {
            self.release(address);
        }
    }
}
