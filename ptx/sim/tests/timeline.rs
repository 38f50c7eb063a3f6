//! The model of time, on logs made by hand. No driver is needed.

#![cfg(target_os = "linux")] // as the crate is

use ptx_sim::log::{Entry, Location, StreamKind, Way, Work};
use ptx_sim::timeline::{Engine, Rates, Span, lay_out, makespan};

/// A second for each byte over the link, a tenth in memory.
const PLAIN: Rates = Rates { link_in: 1.0, link_out: 1.0, memory: 10.0, launch: 0.0, copy: 0.0 };

/// Streams of the pipeline.
const CALLER: usize = 1;
const COPY_IN: usize = 2;
const COPY_OUT: usize = 3;

#[derive(Default)]
struct Log(Vec<Entry>);

impl Log {
    fn put_as(&mut self, kind: StreamKind, stream: usize, work: Work) -> u64 {
        let sequence = self.0.len() as u64 + 1;
        self.0.push(Entry { sequence, stream, kind, context: 7, work, executed: None });
        sequence
    }

    fn put(&mut self, stream: usize, work: Work) -> u64 {
        self.put_as(StreamKind::NonBlocking, stream, work)
    }

    fn record(&mut self, stream: usize) -> (usize, u64) {
        (stream, self.put(stream, Work::Record { event: 0 }))
    }

    fn wait(&mut self, stream: usize, (from, sequence): (usize, u64)) {
        self.put(stream, Work::Wait { stream: from, sequence });
    }
}

fn copy(way: Way, bytes: u64) -> Work {
    Work::Copy { way, bytes }
}

fn kernel(bytes: u64) -> Work {
    Work::Kernel { name: "k".into(), read: bytes / 2, written: bytes - bytes / 2, faults: 0 }
}

/// `chunks` chunks through `slots` slots: each is copied in, worked on for `kernel` bytes of memory traffic, and copied out.
fn pipeline(chunks: usize, slots: usize, bytes: u64, traffic: u64) -> Vec<Entry> {
    let mut log = Log::default();
    let mut copied_out = vec![None; slots];
    for chunk in 0..chunks {
        let slot = &mut copied_out[chunk % slots];
        if let Some(event) = slot.take() {
            log.wait(COPY_IN, event);
        }
        log.put(COPY_IN, copy(Way::ToDevice, bytes));
        let event = log.record(COPY_IN);
        log.wait(CALLER, event);
        log.put(CALLER, kernel(traffic));
        let event = log.record(CALLER);
        log.wait(COPY_OUT, event);
        log.put(COPY_OUT, copy(Way::ToHost, bytes));
        *slot = Some(log.record(COPY_OUT));
    }
    log.0
}

/// The times of an engine's operations.
fn of(spans: &[Span], engine: Engine) -> Vec<(f64, f64)> {
    spans.iter().filter(|s| s.engine == Some(engine)).map(|s| (s.start, s.end)).collect()
}

#[test]
fn three_slots_keep_both_directions_and_the_kernels_busy() {
    // 4 s in, 1 s of kernel, 4 s out: with three slots the link is the limit, each way on its own. Ramp: the first chunk's copy in
    // and kernel, before the first copy out.
    let spans = lay_out(&pipeline(10, 3, 4, 10), &PLAIN);
    assert_eq!(makespan(&spans), (4 + 1 + 10 * 4) as f64);
    let ins: Vec<(f64, f64)> = (0..10).map(|k| (4.0 * k as f64, 4.0 * (k + 1) as f64)).collect();
    assert_eq!(of(&spans, Engine::In), ins);
    // Each copy out runs beside the next copy in.
    assert_eq!(of(&spans, Engine::Out), ins.iter().map(|(a, b)| (a + 5.0, b + 5.0)).collect::<Vec<_>>());
    assert_eq!(of(&spans, Engine::Kernels)[3], (16.0, 17.0));
}

#[test]
fn the_slowest_engine_sets_the_pace() {
    // Kernels of 6 s, copies of 2 s.
    assert_eq!(makespan(&lay_out(&pipeline(10, 3, 2, 60), &PLAIN)), (2 + 10 * 6 + 2) as f64);
    // A slower way out.
    let slow_out = Rates { link_out: 0.5, ..PLAIN };
    assert_eq!(makespan(&lay_out(&pipeline(10, 3, 4, 10), &slow_out)), (4 + 1 + 10 * 8) as f64);
    // Fixed costs are part of each operation.
    let fixed = Rates { launch: 0.5, copy: 1.0, ..PLAIN };
    let spans = lay_out(&pipeline(10, 3, 4, 10), &fixed);
    assert_eq!(makespan(&spans), 5.0 + 1.5 + 10.0 * 5.0);
}

#[test]
fn fewer_slots_wait_for_each_other() {
    // One slot: nothing overlaps.
    assert_eq!(makespan(&lay_out(&pipeline(10, 1, 4, 10), &PLAIN)), (10 * (4 + 1 + 4)) as f64);
    // Two slots: two chunks in (4 + 4 + 1) before each is out; the round of a slot is 9 s for two chunks.
    let spans = lay_out(&pipeline(10, 2, 4, 10), &PLAIN);
    assert_eq!(makespan(&spans), (5 * 9 + 4) as f64);
    // Without the wait for the slot, copies in do not wait: the model shows what the program said.
    let mut unsafe_log = pipeline(10, 1, 4, 10);
    unsafe_log.retain(|entry| !(entry.stream == COPY_IN && matches!(entry.work, Work::Wait { .. })));
    assert_eq!(makespan(&lay_out(&unsafe_log, &PLAIN)), (4 + 1 + 10 * 4) as f64);
}

#[test]
fn an_engine_takes_whoever_is_ready_first() {
    let mut log = Log::default();
    log.put(1, kernel(50));
    let event = log.record(1);
    log.wait(2, event);
    log.put(2, copy(Way::ToDevice, 1)); // submitted first, ready at 5
    log.put(3, copy(Way::ToDevice, 2)); // ready at 0
    log.put(4, copy(Way::ToDevice, 2)); // as well: by submission
    let spans = lay_out(&log.0, &PLAIN);
    assert_eq!(of(&spans, Engine::In), [(5.0, 6.0), (0.0, 2.0), (2.0, 4.0)]);
}

#[test]
fn the_legacy_stream_orders_with_blocking_streams() {
    for (kind, starts) in
        [(StreamKind::Blocking, [0.0, 1.0, 2.0]), (StreamKind::NonBlocking, [0.0, 0.0, 1.0])]
    {
        let mut log = Log::default();
        log.put_as(kind, 2, copy(Way::ToDevice, 1));
        log.put_as(StreamKind::Legacy, 9, copy(Way::ToHost, 1));
        log.put_as(kind, 3, copy(Way::ToDevice, 1));
        let spans = lay_out(&log.0, &PLAIN);
        assert_eq!(spans.iter().map(|s| s.start).collect::<Vec<_>>(), starts, "{kind:?}");
        // Of another context, nothing is ordered.
        for entry in &mut log.0 {
            entry.context = entry.stream;
        }
        let spans = lay_out(&log.0, &PLAIN);
        assert_eq!(spans.iter().map(|s| s.start).collect::<Vec<_>>(), [0.0, 0.0, 1.0], "{kind:?}");
    }
}

#[test]
fn every_kind_of_work_has_its_cost() {
    let rates = Rates { link_in: 4.0, link_out: 2.0, memory: 10.0, launch: 0.25, copy: 0.5 };
    let faulting = Work::Kernel { name: "k".into(), read: 30, written: 20, faults: 8 };
    let prefetch = |to, moved| Work::Prefetch { to, bytes: 100, moved };
    let cases = [
        (kernel(50), Some(Engine::Kernels), 5.25),
        (faulting, Some(Engine::Kernels), 7.25),
        (Work::Set { bytes: 10 }, Some(Engine::Kernels), 1.25),
        (copy(Way::ToDevice, 8), Some(Engine::In), 2.5),
        (copy(Way::ToHost, 8), Some(Engine::Out), 4.5),
        (copy(Way::OnDevice, 10), Some(Engine::Kernels), 2.5),
        (prefetch(Location::Device(0), 8), Some(Engine::In), 2.5),
        (prefetch(Location::Host, 0), Some(Engine::Out), 0.5),
        (Work::HostFunction, None, 0.0),
        (Work::Free, None, 0.0),
    ];
    let mut graph = Vec::new();
    let mut total = 0.0;
    for (work, engine, seconds) in cases {
        let mut log = Log::default();
        log.put(1, work.clone());
        let spans = lay_out(&log.0, &rates);
        let span = Span { sequence: 1, stream: 1, work: work.clone(), engine, start: 0.0, end: seconds };
        assert_eq!(spans, [span]);
        total += seconds;
        graph.push(work);
    }
    // A graph is its operations, one after the other, on their engines.
    let mut log = Log::default();
    log.put(1, Work::Graph(Vec::new()));
    log.put(1, Work::Graph(graph));
    log.put(1, Work::Set { bytes: 10 });
    let spans = lay_out(&log.0, &rates);
    assert_eq!((spans.len(), spans[0].sequence, spans[3].engine), (11, 2, Some(Engine::In)));
    assert_eq!(makespan(&spans), total + 1.25);
    // What is not in the log is done.
    let late = lay_out(&pipeline(4, 3, 4, 10)[9..], &PLAIN);
    assert_eq!(late[0].start, 0.0);
}
