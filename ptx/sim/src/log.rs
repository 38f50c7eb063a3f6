//! What was put into streams: the log that [`Counters`](crate::Counters) keep, and that [`timeline`](crate::timeline) lays out.

/// One operation put into a stream. Calls that put none there (allocations, synchronizations, a wait for an event that was never
/// recorded) are not in the log; those captured into a graph are part of its launches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number. They ascend in the order of submission, over the threads and streams of the process.
    pub sequence: u64,
    /// The stream's handle. A default stream has one too, which is not the 0, 1 or 2 that it is asked for by.
    pub stream: usize,
    /// What else the stream orders with.
    pub kind: StreamKind,
    /// The context's handle.
    pub context: usize,
    /// What is done.
    pub work: Work,
    /// Its place in the order in which operations were begun, over all threads; `None`: not yet, or never, after a fault.
    pub executed: Option<u64>,
}

/// Kinds of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Orders with the legacy default stream. A thread's own default stream is one, too.
    Blocking,
    /// Orders with nobody.
    NonBlocking,
    /// The legacy default stream: it waits for earlier work of all blocking streams of its context, and they for its.
    Legacy,
}

/// What an operation does. What is known only once it is executed is zero before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A kernel.
    Kernel {
        /// Its name.
        name: String,
        /// Bytes of global memory that its threads read, by atomics too.
        read: u64,
        /// Bytes of global memory that its threads wrote, by atomics too.
        written: u64,
        /// Bytes of managed memory that it fetched by page faults ([`Stats::managed_faults`](crate::Stats::managed_faults)).
        faults: u64,
    },
    /// A copy.
    Copy {
        /// Between which memories.
        way: Way,
        /// How much.
        bytes: u64,
    },
    /// A memset.
    Set {
        /// How much.
        bytes: u64,
    },
    /// A prefetch of managed memory.
    Prefetch {
        /// Where to.
        to: Location,
        /// How much was asked for.
        bytes: u64,
        /// How much of it was elsewhere and had to move, in whole pages.
        moved: u64,
    },
    /// Memory is freed.
    Free,
    /// An event is recorded.
    Record {
        /// The event's handle.
        event: usize,
    },
    /// The stream waits, for a recorded event.
    Wait {
        /// The stream that the event was recorded in.
        stream: usize,
        /// The number of the recording.
        sequence: u64,
    },
    /// The host runs a function.
    HostFunction,
    /// A graph: what was captured, in the order of its capture.
    Graph(Vec<Work>),
}

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the host's memory to a device's.
    ToDevice,
    /// From a device's memory to the host's.
    ToHost,
    /// Within devices' memories.
    OnDevice,
}

/// Where a page of managed memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// In the host's memory.
    Host,
    /// In the memory of the device of this number.
    Device(i32),
}
