//! Chunks of pinned memory through three slots on the device, over three streams: each wait is needed, and whoever leaves one out
//! sees it by the result, if each stream is first once.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Mutex;

use common::{Gpu, check, event, kernel, stream};
use cudarc::driver::sys;
use ptx_sim::log::{Entry, StreamKind, Way, Work};
use ptx_sim::timeline::{Engine, Rates, lay_out};
use ptx_sim::{Config, StreamOrder};

/// x = 2x + 1, a thread an element.
const AFFINE: &str = "
    ld.param.u64 %rd0, [p0];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd1, %r0, 4;
    add.s64 %rd0, %rd0, %rd1;
    ld.global.u32 %r1, [%rd0];
    mad.lo.u32 %r1, %r1, 2, 1;
    st.global.u32 [%rd0], %r1;";

const SLOTS: usize = 3;
const CHUNKS: usize = 5;
const ELEMENTS: usize = 4;
const BYTES: usize = 4 * ELEMENTS;
const STEPS: usize = 2;

/// Waits of a step: the copies in for the caller's earlier work, and for a slot once all are in use; each kernel for its copy in;
/// each copy out for its kernel; the caller's later work for the last copy out.
const WAITS: usize = 1 + (CHUNKS - SLOTS) + CHUNKS + CHUNKS + 1;

/// The orders that together must show every missing wait: each of the streams first.
const TELLING: [StreamOrder; 3] = [StreamOrder::First(0), StreamOrder::First(1), StreamOrder::First(2)];

struct Pipeline {
    function: sys::CUfunction,
    caller: sys::CUstream,
    copy_in: sys::CUstream,
    copy_out: sys::CUstream,
    slots: [u64; SLOTS],
    pinned: *mut u32,
    start: sys::CUevent,
    loaded: [sys::CUevent; SLOTS],
    updated: [sys::CUevent; SLOTS],
    saved: [sys::CUevent; SLOTS],
    /// Waits so far, and the one to leave out.
    waits: usize,
    skip: Option<usize>,
}

impl Pipeline {
    /// `creation`: the streams in the order in which they are created, 0 being the caller's, 1 and 2 those of the copies.
    fn new(gpu: &Gpu, creation: [usize; 3], skip: Option<usize>) -> Self {
        let mut streams = [null_mut(); 3];
        for which in creation {
            streams[which] = stream(1);
        }
        let mut pinned = null_mut();
        unsafe { check(sys::cuMemHostAlloc(&mut pinned, CHUNKS * BYTES, 0)) };
        // Written, so that a kernel that comes before its copy computes something wrong instead of being stopped.
        let slots = std::array::from_fn(|_| gpu.alloc(BYTES));
        slots.iter().for_each(|&slot| gpu.set_zero(slot, BYTES));
        unsafe { check(sys::cuCtxSynchronize()) };
        Self {
            function: gpu.function(&kernel("sm_80", "7.0", 1, AFFINE), "k"),
            caller: streams[0],
            copy_in: streams[1],
            copy_out: streams[2],
            slots,
            pinned: pinned.cast(),
            start: event(),
            loaded: std::array::from_fn(|_| event()),
            updated: std::array::from_fn(|_| event()),
            saved: std::array::from_fn(|_| event()),
            waits: 0,
            skip,
        }
    }

    fn chunk(&self, chunk: usize) -> *mut c_void {
        self.pinned.wrapping_add(chunk * ELEMENTS).cast()
    }

    fn update(&self, address: u64) {
        let mut param = [(&raw const address).cast_mut().cast::<c_void>()];
        let (threads, params) = (ELEMENTS as u32, param.as_mut_ptr());
        let launched = unsafe {
            sys::cuLaunchKernel(self.function, 1, 1, 1, threads, 1, 1, 0, self.caller, params, null_mut())
        };
        check(launched);
    }

    fn record(&self, event: sys::CUevent, stream: sys::CUstream) {
        unsafe { check(sys::cuEventRecord(event, stream)) };
    }

    fn wait(&mut self, stream: sys::CUstream, event: sys::CUevent) {
        if self.skip != Some(self.waits) {
            unsafe { check(sys::cuStreamWaitEvent(stream, event, 0)) };
        }
        self.waits += 1;
    }

    fn step(&mut self) {
        self.record(self.start, self.caller);
        self.wait(self.copy_in, self.start);
        for chunk in 0..CHUNKS {
            let (slot, at) = (chunk % SLOTS, self.chunk(chunk));
            if chunk >= SLOTS {
                self.wait(self.copy_in, self.saved[slot]);
            }
            unsafe { check(sys::cuMemcpyHtoDAsync_v2(self.slots[slot], at, BYTES, self.copy_in)) };
            self.record(self.loaded[slot], self.copy_in);
            self.wait(self.caller, self.loaded[slot]);
            self.update(self.slots[slot]);
            self.record(self.updated[slot], self.caller);
            self.wait(self.copy_out, self.updated[slot]);
            unsafe { check(sys::cuMemcpyDtoHAsync_v2(at, self.slots[slot], BYTES, self.copy_out)) };
            self.record(self.saved[slot], self.copy_out);
        }
        self.wait(self.caller, self.saved[(CHUNKS - 1) % SLOTS]);
    }

    /// The caller's work on the pinned memory, steps, and more of that work. Whether the result is right.
    fn run(&mut self) -> bool {
        let values = unsafe { std::slice::from_raw_parts_mut(self.pinned, CHUNKS * ELEMENTS) };
        let first = |k: usize| 100 + k as u32;
        (0..values.len()).for_each(|k| values[k] = first(k));
        (0..CHUNKS).for_each(|chunk| self.update(self.chunk(chunk) as u64));
        (0..STEPS).for_each(|_| self.step());
        (0..CHUNKS).for_each(|chunk| self.update(self.chunk(chunk) as u64));
        unsafe { check(sys::cuStreamSynchronize(self.caller)) };
        let result = values.to_vec();
        unsafe {
            check(sys::cuCtxSynchronize());
            check(sys::cuMemFreeHost(self.pinned.cast()));
        }
        let expected = |k: usize| (0..STEPS + 2).fold(first(k), |x, _| 2 * x + 1);
        (0..result.len()).all(|k| result[k] == expected(k))
    }
}

fn is_right(order: StreamOrder, creation: [usize; 3], skip: Option<usize>) -> bool {
    let gpu = Gpu::new();
    ptx_sim::configure(&Config { stream_order: order, ..ptx_sim::config() });
    let mut pipeline = Pipeline::new(&gpu, creation, skip);
    let right = pipeline.run();
    assert_eq!(pipeline.waits, STEPS * WAITS);
    right
}

/// The order of streams is the process's.
static ORDER: Mutex<()> = Mutex::new(());

#[test]
fn each_missing_wait_shows() {
    let _turn = ORDER.lock();
    for creation in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let others = [StreamOrder::Immediate, StreamOrder::Lazy, StreamOrder::OthersFirst];
        let random = (0..8).map(StreamOrder::Random);
        for order in TELLING.into_iter().chain(others).chain(random) {
            assert!(is_right(order, creation, None), "{order:?}, streams created in the order {creation:?}");
        }
        for skip in 0..STEPS * WAITS {
            let shown = TELLING.map(|order| !is_right(order, creation, Some(skip)));
            assert!(shown.contains(&true), "wait {skip} left out, streams created in the order {creation:?}");
        }
    }
}

#[test]
fn the_log_says_what_was_done_and_in_which_order() {
    let _turn = ORDER.lock();
    let gpu = Gpu::new();
    for order in TELLING.into_iter().chain([StreamOrder::Immediate, StreamOrder::Random(3)]) {
        ptx_sim::configure(&Config { stream_order: order, ..ptx_sim::config() });
        let mut pipeline = Pipeline::new(&gpu, [0, 1, 2], None);
        ptx_sim::reset_counters();
        pipeline.step();
        let submitted = ptx_sim::counters().log;
        let waiting = submitted.iter().all(|entry| entry.executed.is_none());
        assert_eq!(waiting, order != StreamOrder::Immediate);
        unsafe { check(sys::cuCtxSynchronize()) };
        let log = ptx_sim::counters().log;

        let is = |work: &Work, stream: sys::CUstream| {
            log.iter().filter(|entry| entry.work == *work && entry.stream == stream as usize).count()
        };
        let copy = |way| Work::Copy { way, bytes: BYTES as u64 };
        let (read, written) = (BYTES as u64, BYTES as u64);
        assert_eq!(is(&copy(Way::ToDevice), pipeline.copy_in), CHUNKS);
        assert_eq!(is(&Work::Kernel { name: "k".into(), read, written, faults: 0 }, pipeline.caller), CHUNKS);
        assert_eq!(is(&copy(Way::ToHost), pipeline.copy_out), CHUNKS);
        assert_eq!(is(&Work::Record { event: pipeline.start as usize }, pipeline.caller), 1);
        let waits: Vec<&Entry> = log.iter().filter(|e| matches!(e.work, Work::Wait { .. })).collect();
        assert_eq!((waits.len(), log.len()), (WAITS, 1 + 6 * CHUNKS + WAITS));
        assert!(log.iter().all(|entry| entry.kind == StreamKind::NonBlocking));

        // All was executed, once each, after what came before it in its stream and after what it waited for.
        let when = |entry: &Entry| entry.executed.expect("executed");
        for pair in log.windows(2) {
            assert!(pair[0].sequence < pair[1].sequence);
        }
        for (at, entry) in log.iter().enumerate() {
            let earlier = log[..at].iter().filter(|other| other.stream == entry.stream);
            assert!(earlier.into_iter().all(|other| when(other) < when(entry)), "{order:?}: {entry:?}");
            if let Work::Wait { stream, sequence } = entry.work {
                let other = log.iter().find(|other| other.sequence == sequence).expect("in the log");
                assert_eq!((other.stream, matches!(other.work, Work::Record { .. })), (stream, true));
                assert!(when(other) < when(entry));
            }
        }

        // Laid out, the directions of the link overlap, and kernels run beside both.
        let rates = Rates { link_in: 16.0, link_out: 16.0, memory: 1e3, launch: 0.1, copy: 0.0 };
        let spans = lay_out(&log, &rates);
        let of = |engine| spans.iter().filter(move |span| span.engine == Some(engine));
        let overlaps = |a, b| of(a).any(|a| of(b).any(|b| a.start < b.end && b.start < a.end));
        assert!(overlaps(Engine::In, Engine::Out) && overlaps(Engine::In, Engine::Kernels));
        assert!(overlaps(Engine::Out, Engine::Kernels));
        unsafe { check(sys::cuMemFreeHost(pipeline.pinned.cast())) };
    }
    // A wait for an event that was never recorded is none.
    ptx_sim::reset_counters();
    unsafe { check(sys::cuStreamWaitEvent(stream(1), event(), 0)) };
    assert_eq!(ptx_sim::counters().log, []);
}
