//! When the operations of a log would be done, by a model of time.
//!
//! The device has three engines, each doing one operation at a time: one copies from the host, one to the host, one runs kernels
//! (memsets and copies within the device go there, too). An operation takes
//!
//! ```text
//! kernel     launch + (read + written) / memory + faults / link_in
//! memset     launch + bytes / memory
//! copy       copy + bytes / link_in, bytes / link_out or 2 bytes / memory
//! prefetch   copy + moved / link_in or moved / link_out
//! ```
//!
//! and everything else no time. It begins when what came before it in its stream has ended, what it waits for has, what the
//! legacy stream orders has, and its engine is free. Of those that could begin, the one that can first does, and of two the one
//! that was submitted first. A graph's operations follow each other in the order of their capture.
//!
//! Not in the model: the host, which is taken to have submitted everything at time 0 (so lay out what lies between two
//! synchronizations); what an operation waits for that is not in the log, which is taken to be done; that kernels may run side by
//! side; caches; and that kernels which reach pinned or mapped memory do so over the link.
//!
//! ```
//! use ptx_sim::log::{Entry, StreamKind, Way, Work};
//! use ptx_sim::timeline::{Rates, lay_out, makespan};
//!
//! let rates = Rates { link_in: 25e9, link_out: 25e9, memory: 2e12, launch: 5e-6, copy: 10e-6 };
//! let copy = |sequence, stream, way| {
//!     let (kind, work) = (StreamKind::NonBlocking, Work::Copy { way, bytes: 25_000_000 });
//!     Entry { sequence, stream, kind, context: 1, work, executed: None }
//! };
//! let both = [copy(1, 10, Way::ToDevice), copy(2, 20, Way::ToHost)];
//! let spans = lay_out(&both, &rates); // side by side
//! assert!((makespan(&spans) - (1e-3 + 10e-6)).abs() < 1e-12);
//! ```

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::log::{Entry, Location, StreamKind, Way, Work};

/// What the model's machine can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Bytes a second from the host to the device.
    pub link_in: f64,
    /// Bytes a second from the device to the host.
    pub link_out: f64,
    /// Bytes a second of the device's memory, read plus written.
    pub memory: f64,
    /// Seconds that each kernel and memset takes besides.
    pub launch: f64,
    /// Seconds that each copy and prefetch takes besides.
    pub copy: f64,
}

/// Who does an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Copies from the host to the device.
    In,
    /// Copies from the device to the host.
    Out,
    /// Runs kernels.
    Kernels,
}

/// When an operation is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The number of its entry in the log.
    pub sequence: u64,
    /// Its stream.
    pub stream: usize,
    /// What it is; for a graph, one of its operations.
    pub work: Work,
    /// Who does it; `None` for what takes no time.
    pub engine: Option<Engine>,
    /// Seconds from the beginning.
    pub start: f64,
    /// Seconds from the beginning.
    pub end: f64,
}

/// The end of the last.
pub fn makespan(spans: &[Span]) -> f64 {
    spans.iter().fold(0.0, |end, span| end.max(span.end))
}

impl Rates {
    /// Who does it, and how long it takes.
    fn cost(&self, work: &Work) -> (Option<Engine>, f64) {
        let per = |bytes: u64, rate: f64| bytes as f64 / rate;
        match *work {
            Work::Kernel { read, written, faults, .. } => {
                let seconds = self.launch + per(read + written, self.memory) + per(faults, self.link_in);
                (Some(Engine::Kernels), seconds)
            }
            Work::Set { bytes } => (Some(Engine::Kernels), self.launch + per(bytes, self.memory)),
            Work::Copy { way: Way::OnDevice, bytes } => {
                (Some(Engine::Kernels), self.copy + per(2 * bytes, self.memory))
            }
            Work::Copy { way: Way::ToDevice, bytes: moved }
            | Work::Prefetch { to: Location::Device(_), moved, .. } => {
                (Some(Engine::In), self.copy + per(moved, self.link_in))
            }
            Work::Copy { way: Way::ToHost, bytes: moved }
            | Work::Prefetch { to: Location::Host, moved, .. } => {
                (Some(Engine::Out), self.copy + per(moved, self.link_out))
            }
            _ => (None, 0.0),
        }
    }
}

/// The operations that an entry consists of: itself, or those of its graph.
fn parts(work: &Work) -> &[Work] {
    match work {
        Work::Graph(parts) => parts,
        one => std::slice::from_ref(one),
    }
}

/// For each entry, those before it that must have ended, by their places in the log.
fn dependencies(log: &[Entry]) -> Vec<Vec<usize>> {
    // The last entry so far of each stream. Earlier ones of a stream end before it.
    let mut last: HashMap<usize, usize> = HashMap::new();
    let mut all = Vec::with_capacity(log.len());
    for (at, entry) in log.iter().enumerate() {
        let orders = |other: &Entry| match (entry.kind, other.kind) {
            _ if entry.stream == other.stream => true,
            (StreamKind::Legacy, StreamKind::Blocking) | (StreamKind::Blocking, StreamKind::Legacy) => {
                entry.context == other.context
            }
            _ => false,
        };
        let mut before: Vec<usize> = last.values().copied().filter(|&other| orders(&log[other])).collect();
        if let Work::Wait { stream, sequence } = entry.work {
            let recorded = |other: &Entry| other.stream == stream && other.sequence <= sequence;
            before.extend(log[..at].iter().rposition(recorded));
        }
        last.insert(entry.stream, at);
        all.push(before);
    }
    all
}

/// Lays a log out, which is in the order of submission. The spans are in the order of the log.
pub fn lay_out(log: &[Entry], rates: &Rates) -> Vec<Span> {
    let dependencies = dependencies(log);
    let mut spans: Vec<Vec<Span>> = vec![Vec::new(); log.len()];
    // When the entries that are laid out have ended, and when engines are free.
    let mut ended: Vec<Option<f64>> = vec![None; log.len()];
    let mut free: HashMap<Engine, f64> = HashMap::new();
    let mut queues: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for (at, entry) in log.iter().enumerate() {
        queues.entry(entry.stream).or_default().push_back(at);
    }
    // What depends on entries that are not laid out yet begins no earlier than they do. So who begins first of those that depend on
    // none begins first of all.
    loop {
        let start_of = |at: usize| {
            let ready = match spans[at].last() {
                Some(span) => Some(span.end),
                None => dependencies[at].iter().try_fold(0.0, |ready: f64, &d| Some(ready.max(ended[d]?))),
            }?;
            let engine = parts(&log[at].work).get(spans[at].len()).and_then(|work| rates.cost(work).0);
            Some(engine.and_then(|engine| free.get(&engine)).map_or(ready, |free| ready.max(*free)))
        };
        let heads = queues.values().filter_map(|queue| queue.front());
        let starts = heads.filter_map(|&at| Some((start_of(at)?, at)));
        let Some((start, at)) = starts.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))) else { break };
        let (entry, work) = (&log[at], parts(&log[at].work));
        if let Some(work) = work.get(spans[at].len()) {
            let (engine, seconds) = rates.cost(work);
            let end = start + seconds;
            if let Some(engine) = engine {
                free.insert(engine, end);
            }
            let (sequence, stream, work) = (entry.sequence, entry.stream, work.clone());
            spans[at].push(Span { sequence, stream, work, engine, start, end });
        }
        if spans[at].len() >= work.len() {
            ended[at] = Some(spans[at].last().map_or(start, |span| span.end));
            queues.get_mut(&entry.stream).expect("its own").pop_front();
        }
    }
    spans.into_iter().flatten().collect()
}
