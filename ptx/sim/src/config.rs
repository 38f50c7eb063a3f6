//! The simulated machine.

/// What the simulated devices are, and what is checked. Set with [`configure`](crate::configure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub sm_count: u32,
    /// Bytes of device memory.
    pub memory: u64,
    /// Bytes of the host's memory for page-locked and managed allocations together; may change at any time.
    pub host_memory: u64,
    /// Devices.
    pub device_count: u32,
    /// What `cuDriverGetVersion` says, e.g. 12080; decides the highest `.version` that is accepted.
    pub driver_version: u32,
    /// The attribute CONCURRENT_MANAGED_ACCESS: false on Windows, WSL and most Jetsons. Where it is false, managed memory takes
    /// the place of device memory and cannot be prefetched; where it is true, its pages come and go, and may be more than fit.
    pub concurrent_managed_access: bool,
    /// The order in which streams do their work.
    pub stream_order: StreamOrder,
    /// Host threads that run blocks; 0: as many as the host has cores.
    pub threads: u32,
    /// Look for races.
    pub check_races: bool,
    /// Look for reads of unwritten device memory.
    pub check_uninitialized: bool,
    /// Print faults to the standard error.
    pub print_faults: bool,
    /// A kernel that executes more warp instructions than this is stopped.
    pub instruction_limit: u64,
    /// Blocks of a grid below this number (x fastest) are not run: for a look at the far end of grids that are too large
    /// to run whole.
    pub first_block: u32,
}

/// When work that was put into a stream is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOrder {
    /// At once: a missing dependency between streams does not show.
    Immediate,
    /// As late as allowed: only what a synchronization or a dependency asks for.
    Lazy,
    /// At each synchronization other streams run first, as far as their dependencies let them; then what was asked for.
    OthersFirst,
    /// At each synchronization the stream of this number, in the order of their creation in the context, does all its work
    /// before others do more than it depends on; then what was asked for. Two operations that nothing orders are done both ways
    /// round under the numbers of their two streams, so trying the numbers of all streams shows each missing wait.
    First(u32),
    /// At each synchronization a random selection of what may run, by this seed.
    Random(u64),
}

impl Default for Config {
    /// An H100-like device that runs its streams lazily, with all checks on.
    fn default() -> Self {
        Self {
            compute_capability: (9, 0),
            sm_count: 132,
            memory: 16 << 30,
            host_memory: 64 << 30,
            device_count: 1,
            driver_version: 12080,
            concurrent_managed_access: true,
            stream_order: StreamOrder::Lazy,
            threads: 0,
            check_races: true,
            check_uninitialized: true,
            print_faults: true,
            instruction_limit: 1_000_000_000,
            first_block: 0,
        }
    }
}

impl Config {
    /// The highest PTX `.version` that the driver accepts (release notes of the PTX ISA).
    pub(crate) fn ptx_version(&self) -> (u32, u32) {
        const ACCEPTED: [(u32, (u32, u32)); 18] = [
            (11050, (7, 5)),
            (11060, (7, 6)),
            (11070, (7, 7)),
            (11080, (7, 8)),
            (12000, (8, 0)),
            (12010, (8, 1)),
            (12020, (8, 2)),
            (12030, (8, 3)),
            (12040, (8, 4)),
            (12050, (8, 5)),
            (12070, (8, 6)),
            (12080, (8, 7)),
            (12090, (8, 8)),
            (13000, (9, 0)),
            (13010, (9, 1)),
            (13020, (9, 2)),
            (13030, (9, 3)),
            (13040, (9, 4)),
        ];
        let known = ACCEPTED.iter().rev().find(|(driver, _)| *driver <= self.driver_version);
        known.map_or((7, 4), |(_, version)| *version)
    }

    /// Shared memory of a block after opting in, in bytes (programming guide, technical specifications).
    pub(crate) const fn max_shared_optin(&self) -> u32 {
        (match self.compute_capability {
            (7, 5) => 64,
            (8, 0) | (8, 7) => 163,
            (8, _) | (12, _) => 99,
            _ => 227,
        }) << 10
    }

    pub(crate) fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n as usize,
        }
    }
}
