//! One launch: blocks over host threads.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::cta::{Cta, Progress, Tally};
use crate::counters::Stats;
use crate::fault::Fault;
use crate::isa::Kernel;
use crate::race::SyncTable;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    pub races: bool,
    pub uninitialized: bool,
    pub instruction_limit: u64,
    pub first_block: u32,
    /// Where the kernel runs: the memory of other devices is not there for it.
    pub device: i32,
    /// Whether it may start before the kernel ahead of it has ended, for which a thread must wait.
    pub overlaps: bool,
}

/// A launch of a kernel.
pub struct Launch<'a> {
    /// Distinguishes launches.
    pub id: u64,
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster, along x.
    pub cluster: u32,
    pub dynamic_shared: u32,
    /// Static and dynamic, of a block.
    pub shared_size: u32,
    pub params: &'a [u8],
    pub sm_count: u32,
    pub checks: Checks,
    /// Locations in global memory that order accesses.
    pub sync: SyncTable,
    /// Bytes of managed pages that came by page fault, and bytes accessed where they were.
    pub managed_faults: AtomicU64,
    pub managed_remote: AtomicU64,
    executed: AtomicU64,
}

impl<'a> Launch<'a> {
    pub fn new(
        kernel: &'a Kernel,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &'a [u8],
        sm_count: u32,
        checks: Checks,
    ) -> Self {
        static LAUNCHES: AtomicU64 = AtomicU64::new(1);
        Self {
            id: LAUNCHES.fetch_add(1, Ordering::Relaxed),
            kernel,
            grid,
            block,
            cluster: kernel.limits.reqnctapercluster.map_or(1, |[x, ..]| x),
            dynamic_shared,
            shared_size: if dynamic_shared == 0 {
                kernel.static_shared
            } else {
                kernel.dynamic_shared_at + dynamic_shared
            },
            params,
            sm_count,
            checks,
            sync: SyncTable::default(),
            managed_faults: AtomicU64::new(0),
            managed_remote: AtomicU64::new(0),
            executed: AtomicU64::new(0),
        }
    }

    /// Bytes from the shared memory of one block of a cluster to the next one's: patterns of swizzles begin anew.
    pub const fn shared_stride(&self) -> usize {
        (self.shared_size as usize).next_multiple_of(1024)
    }

    /// The number of a warp's block, and its number there, by those of its cluster.
    pub fn warp_of(&self, cluster: u32, warp: u32) -> (u32, u32) {
        (cluster * self.cluster + warp / self.warps(), warp % self.warps())
    }

    /// `%ctaid` of a block.
    pub const fn block_id(&self, index: u32) -> [u32; 3] {
        let [x, y, _] = self.grid;
        [index % x, index / x % y, index / x / y]
    }

    /// `%tid` of a thread.
    pub const fn thread_id(&self, index: usize) -> [u32; 3] {
        let [x, y, _] = self.block;
        let index = index as u32;
        [index % x, index / x % y, index / x / y]
    }

    /// Warps of a block.
    pub fn warps(&self) -> u32 {
        self.block.iter().product::<u32>().div_ceil(32)
    }

    /// Counts executed instructions; whether the launch has run for too long.
    pub fn is_over(&self, instructions: u64) -> bool {
        self.executed.fetch_add(instructions, Ordering::Relaxed) > self.checks.instruction_limit
    }
}

/// Blocks that a worker keeps under way when the first do not end: blocks may wait for each other only if the launch is
/// cooperative, or in practice if they are resident together.
const MOST_RESIDENT: usize = 1024;

/// Runs the launch on `threads` host threads. On a fault, what was counted until then is lost. What workers take is a cluster,
/// most often of one block.
pub fn run(launch: &Launch<'_>, threads: usize) -> Result<Stats, Box<Fault>> {
    let count = launch.grid.iter().product::<u32>() / launch.cluster;
    let next = AtomicU32::new((launch.checks.first_block / launch.cluster).min(count));
    let stop = AtomicBool::new(false);
    let fault = Mutex::new(None);
    let worker = || {
        let mut tally = Tally::new(launch);
        if let Err(error) = work(launch, &next, count, &stop, &mut tally) {
            stop.store(true, Ordering::Relaxed);
            fault.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
        }
        tally.stats(launch)
    };
    let threads = threads.min(count as usize);
    let mut stats = if threads <= 1 {
        worker()
    } else {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
            let mut stats = Stats::default();
            for worker in workers {
                match worker.join() {
                    Ok(part) => stats.add(&part),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            stats
        })
    };
    stats.managed_faults = launch.managed_faults.load(Ordering::Relaxed);
    stats.managed_remote = launch.managed_remote.load(Ordering::Relaxed);
    match fault.into_inner().unwrap_or_else(|e| e.into_inner()) {
        None => Ok(stats),
        Some(fault) => Err(fault),
    }
}

fn work(
    launch: &Launch<'_>,
    next: &AtomicU32,
    count: u32,
    stop: &AtomicBool,
    tally: &mut Tally,
) -> Result<(), Box<Fault>> {
    let mut resident: VecDeque<Cta> = VecDeque::new();
    let mut spare: Option<Cta> = None;
    while !stop.load(Ordering::Relaxed) {
        // A new block as long as there are any, else the one that has waited longest for its turn.
        let fresh = if resident.len() < MOST_RESIDENT { next.fetch_add(1, Ordering::Relaxed) } else { count };
        let mut cta = if fresh < count {
            match spare.take() {
                Some(mut cta) => {
                    cta.restart(launch, fresh);
                    cta
                }
                None => Cta::new(launch, fresh),
            }
        } else {
            next.store(count, Ordering::Relaxed); // it must not wrap around
            match resident.pop_front() {
                Some(cta) => cta,
                None => return Ok(()),
            }
        };
        match cta.run(launch, tally)? {
            Progress::Ended => spare = Some(cta),
            Progress::Slice => resident.push_back(cta),
        }
    }
    Ok(())
}
