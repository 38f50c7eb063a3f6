//! What was done, counted.

use std::collections::BTreeMap;

use crate::log::Entry;

/// Everything counted for one host thread's calls (the work it submitted included, whoever waits for it).
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Kernels in the order in which they ran.
    pub launches: Vec<Launch>,
    /// What was put into streams, in the order of submission.
    pub log: Vec<Entry>,
    /// Calls that allocate memory of any kind.
    pub allocations: u64,
    /// Calls that free memory.
    pub frees: u64,
    /// Calls that make the host wait: synchronizations and copies that are not asynchronous.
    pub synchronizations: u64,
    /// Bytes copied from host to device.
    pub bytes_to_device: u64,
    /// Bytes copied from device to host.
    pub bytes_to_host: u64,
    /// Bytes copied from device to device.
    pub bytes_on_device: u64,
    /// Bytes set by memset calls.
    pub bytes_set: u64,
    /// Bytes of managed memory that prefetches to a device were asked for; what moved of them is in the log.
    pub prefetched_to_device: u64,
    /// Bytes of managed memory that prefetches to the host were asked for.
    pub prefetched_to_host: u64,
    /// Bytes of managed pages that had to leave a device to make room for others, or for memory of the device's own.
    pub managed_evictions: u64,
    /// Driver calls by name.
    pub calls: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// The log's entry of a number.
    pub(crate) fn entry(&mut self, sequence: u64) -> Option<&mut Entry> {
        let at = self.log.binary_search_by_key(&sequence, |entry| entry.sequence).ok()?;
        Some(&mut self.log[at])
    }

    /// The sum over all launches.
    pub fn total(&self) -> Stats {
        let mut total = Stats::default();
        for launch in &self.launches {
            total.add(&launch.stats);
        }
        total
    }
}

/// One launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Static and dynamic shared memory of a block, in bytes.
    pub shared: u32,
    /// Whether it may start before the kernel ahead of it has ended.
    pub overlaps: bool,
    /// What its threads did.
    pub stats: Stats,
}

/// What the threads of a launch did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions issued to warps.
    pub warp_instructions: u64,
    /// The same, times the lanes that executed them.
    pub thread_instructions: u64,
    /// Issued to warps, by opcode with its modifiers (`ld.global.nc.v4.u32`).
    pub by_opcode: BTreeMap<String, u64>,
    /// Global loads.
    pub global_loads: Traffic,
    /// Global stores.
    pub global_stores: Traffic,
    /// Global atomics and reductions.
    pub global_atomics: Traffic,
    /// Shared-memory wavefronts beyond those that the accesses need without bank conflicts.
    pub bank_conflicts: u64,
    /// Bytes of managed pages (of 4 KiB) that were elsewhere when the kernel first touched them, and came by page fault.
    pub managed_faults: u64,
    /// Bytes that threads asked for of managed pages that stayed elsewhere, because advice lets the device reach them there.
    pub managed_remote: u64,
}

/// Accesses to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Distinct 32-byte sectors of each warp instruction, summed.
    pub sectors: u64,
    /// Bytes that threads asked for.
    pub bytes: u64,
    /// Thread accesses by width: 1, 2, 4, 8, 16, 32 bytes.
    pub widths: [u64; 6],
}

impl Traffic {
    pub(crate) fn record(&mut self, lanes: u32, width: usize, sectors: u32) {
        self.sectors += u64::from(sectors);
        self.bytes += u64::from(lanes) * width as u64;
        self.widths[width.trailing_zeros() as usize] += u64::from(lanes);
    }

    /// A bulk copy: its own sectors, no width.
    pub(crate) fn record_range(&mut self, bytes: usize) {
        self.sectors += bytes.div_ceil(32) as u64;
        self.bytes += bytes as u64;
    }

    /// Thread accesses of this many bytes.
    pub fn of_width(&self, bytes: usize) -> u64 {
        self.widths[bytes.trailing_zeros() as usize]
    }

    fn add(&mut self, other: &Self) {
        self.sectors += other.sectors;
        self.bytes += other.bytes;
        for (mine, other) in self.widths.iter_mut().zip(other.widths) {
            *mine += other;
        }
    }
}

impl Stats {
    /// Warp instructions whose opcode starts with `prefix` (a whole word of it): `count("ld.global")`.
    pub fn count(&self, prefix: &str) -> u64 {
        let matches = |name: &str| {
            name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.by_opcode.iter().filter(|(name, _)| matches(name)).map(|(_, count)| count).sum()
    }

    /// Adds another launch's.
    pub fn add(&mut self, other: &Self) {
        self.warp_instructions += other.warp_instructions;
        self.thread_instructions += other.thread_instructions;
        for (name, count) in &other.by_opcode {
            *self.by_opcode.entry(name.clone()).or_default() += count;
        }
        self.global_loads.add(&other.global_loads);
        self.global_stores.add(&other.global_stores);
        self.global_atomics.add(&other.global_atomics);
        self.bank_conflicts += other.bank_conflicts;
        self.managed_faults += other.managed_faults;
        self.managed_remote += other.managed_remote;
    }
}
