//! One block: its memory, its warps, and the order in which they run.

use std::collections::BTreeMap;

use super::barrier::{BARRIERS, BarrierState, complete};
use super::bulk::{Load, land_last};
use super::cluster::{self, ClusterBarrier};
use super::grid::Launch;
use super::lanes::{Class, WARP};
use super::mbarrier::Mbarrier;
use super::schedule::Stop;
use super::shared::Shared;
use super::warp::{Context, Wait, Warp};
use crate::counters::{Stats, Traffic};
use crate::fault::{Fault, FaultKind};
use crate::isa::Special;
use crate::memory::State;
use crate::race::WarpClock;

/// Instructions that a warp runs before the next has its turn.
const SLICE: u64 = 4096;

/// What warps of a block share; of a cluster's blocks, see [`cluster`].
pub struct Block {
    /// The number of the block in the grid, or of the cluster.
    pub index: u32,
    pub shared: Shared,
    pub local: Vec<u8>,
    pub local_state: Vec<u8>,
    pub clocks: Vec<WarpClock>,
    /// For each block of the cluster.
    pub barriers: Vec<[BarrierState; BARRIERS]>,
    pub cluster_barrier: ClusterBarrier,
    /// Warps of each block of the cluster that have ended.
    pub ended: Vec<u32>,
    /// A read of unwritten shared memory. It is reported when the block ends or fails otherwise, unless that is by a race: then
    /// the write came too late.
    pub unwritten: Option<Box<Fault>>,
    /// By their offset in shared memory.
    pub mbarriers: BTreeMap<usize, Mbarrier>,
    /// How often any of them has changed its phase.
    pub phase_changes: u64,
    /// Bulk copies into shared memory under way.
    pub loads: Vec<Load>,
    /// The time of the engine that does them.
    pub engine_clock: u32,
    /// Strong reads of global memory.
    pub polls: u64,
    /// `mbarrier.test_wait` in vain.
    pub tests: u64,
}

/// Counts of a worker.
#[derive(Default)]
pub struct Tally {
    /// Of each instruction: warps and lanes that executed it.
    pub instructions: Vec<(u64, u64)>,
    pub loads: Traffic,
    pub stores: Traffic,
    pub atomics: Traffic,
    pub bank_conflicts: u64,
}

impl Tally {
    pub fn new(launch: &Launch<'_>) -> Self {
        Self { instructions: vec![(0, 0); launch.kernel.code.len()], ..Self::default() }
    }

    /// The counts by name.
    pub fn stats(&self, launch: &Launch<'_>) -> Stats {
        let mut stats = Stats {
            global_loads: self.loads,
            global_stores: self.stores,
            global_atomics: self.atomics,
            bank_conflicts: self.bank_conflicts,
            ..Stats::default()
        };
        for (instr, &(warps, threads)) in launch.kernel.code.iter().zip(&self.instructions) {
            if warps > 0 {
                stats.warp_instructions += warps;
                stats.thread_instructions += threads;
                let name = &launch.kernel.names[usize::from(instr.name)];
                *stats.by_opcode.entry(name.clone()).or_default() += warps;
            }
        }
        stats
    }
}

/// A block under way.
pub struct Cta {
    block: Block,
    warps: Vec<Warp>,
}

/// How far a block came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Ended,
    /// Its time slice is over; it may be waiting for another block.
    Slice,
}

impl Cta {
    pub fn new(launch: &Launch<'_>, index: u32) -> Self {
        let threads = launch.block.iter().product::<u32>() as usize;
        let (each, blocks) = (threads.div_ceil(WARP), launch.cluster as usize);
        let count = blocks * each;
        let local = count * WARP * launch.kernel.local_size as usize;
        let block = Block {
            index,
            shared: Shared::new(match blocks {
                1 => launch.shared_size as usize,
                blocks => blocks * launch.shared_stride(),
            }),
            local: vec![0xCD; local],
            local_state: vec![State::Unwritten as u8; local],
            clocks: vec![WarpClock::new(count); count],
            barriers: (0..blocks).map(|_| Default::default()).collect(),
            cluster_barrier: ClusterBarrier::default(),
            ended: vec![0; blocks],
            unwritten: None,
            mbarriers: BTreeMap::new(),
            phase_changes: 0,
            loads: Vec::new(),
            engine_clock: 1,
            polls: 0,
            tests: 0,
        };
        let warps = (0..count)
            .map(|warp| {
                let lanes = (threads - warp % each * WARP).min(WARP);
                Warp::new(
                    warp,
                    launch.kernel.registers.clone(),
                    if lanes == WARP { u32::MAX } else { (1 << lanes) - 1 },
                )
            })
            .collect();
        let mut cta = Self { block, warps };
        cta.fill_special_registers(launch);
        cta
    }

    /// Makes an ended block the next one of the same launch.
    pub fn restart(&mut self, launch: &Launch<'_>, index: u32) {
        let count = self.warps.len();
        self.block.index = index;
        self.block.shared.reset();
        self.block.unwritten = None;
        self.block.mbarriers.clear();
        self.block.loads.clear();
        self.block.engine_clock = 1;
        self.block.local_state.fill(State::Unwritten as u8);
        self.block.clocks.fill(WarpClock::new(count));
        self.block.barriers.iter_mut().for_each(|barriers| *barriers = Default::default());
        self.block.cluster_barrier = ClusterBarrier::default();
        self.block.ended.fill(0);
        for warp in &mut self.warps {
            let mut registers = std::mem::take(&mut warp.registers);
            let fresh = &launch.kernel.registers;
            registers.b32.copy_from_slice(&fresh.b32);
            registers.b64.copy_from_slice(&fresh.b64);
            registers.b128.copy_from_slice(&fresh.b128);
            registers.pred.copy_from_slice(&fresh.pred);
            *warp = Warp::new(warp.index, registers, warp.lanes);
        }
        self.fill_special_registers(launch);
    }

    fn fill_special_registers(&mut self, launch: &Launch<'_>) {
        for (special, reg) in &launch.kernel.specials {
            debug_assert_eq!(reg.class, Class::B32);
            let (warps, cluster) = (launch.warps(), self.block.index);
            for warp in &mut self.warps {
                let rank = warp.rank(launch);
                let (block, index) = launch.warp_of(cluster, warp.index as u32);
                let ([cx, cy, cz], index) = (launch.block_id(block), index as usize);
                let in_clusters = |[x, y, z]: [u32; 3]| [x / launch.cluster, y, z];
                let value = |lane: usize| -> u32 {
                    match *special {
                        Special::Tid(axis) => launch.thread_id(index * WARP + lane)[usize::from(axis)],
                        Special::Ntid(axis) => launch.block[usize::from(axis)],
                        Special::Ctaid(axis) => [cx, cy, cz][usize::from(axis)],
                        Special::Nctaid(axis) => launch.grid[usize::from(axis)],
                        Special::ClusterId(axis) => in_clusters([cx, cy, cz])[usize::from(axis)],
                        Special::NClusterId(axis) => in_clusters(launch.grid)[usize::from(axis)],
                        Special::LaneId => lane as u32,
                        Special::WarpId => index as u32,
                        Special::NWarpId => warps,
                        Special::SmId => block % launch.sm_count,
                        Special::NSmId => launch.sm_count,
                        Special::GridId => launch.id as u32,
                        Special::LaneMaskEq => 1 << lane,
                        Special::LaneMaskLt => (1 << lane) - 1,
                        Special::LaneMaskLe => u32::MAX >> (31 - lane),
                        Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
                        Special::LaneMaskGe => u32::MAX << lane,
                        Special::DynamicSmemSize => launch.dynamic_shared,
                        Special::TotalSmemSize => launch.shared_size,
                        Special::ClusterCtaRank | Special::ClusterCtaid(0) => rank,
                        Special::ClusterNctaRank | Special::ClusterNctaid(0) => launch.cluster,
                        Special::ClusterCtaid(_) => 0,
                        Special::ClusterNctaid(_) => 1,
                    }
                };
                warp.registers.b32[usize::from(reg.index)] = std::array::from_fn(value);
            }
        }
    }

    /// Runs each warp for a slice, in turn, until the block has ended, or after a round in which it has looked at memory as one
    /// does that waits for another block.
    pub fn run(&mut self, launch: &Launch<'_>, tally: &mut Tally) -> Result<Progress, Box<Fault>> {
        let outcome = self.take_turns(launch, tally);
        match (&outcome, self.block.unwritten.take()) {
            (Ok(Progress::Ended), Some(unwritten)) => Err(unwritten),
            (Err(fault), Some(unwritten)) if fault.kind != FaultKind::Race => Err(unwritten),
            (_, unwritten) => {
                self.block.unwritten = unwritten;
                outcome
            }
        }
    }

    fn take_turns(&mut self, launch: &Launch<'_>, tally: &mut Tally) -> Result<Progress, Box<Fault>> {
        let Self { block, warps } = self;
        loop {
            let (mut ran, mut executed) = (false, 0);
            let (mut sliced, mut got_on) = (false, false);
            let (polls, tests) = (block.polls, block.tests);
            for warp in warps.iter_mut() {
                match warp.waiting {
                    _ if warp.live == 0 => continue,
                    Some(Wait::Phase(since)) if since != block.phase_changes => warp.wake(),
                    Some(_) => continue,
                    None => {}
                }
                ran = true;
                let mut context = Context { launch, block, tally };
                let (stop, instructions) = warp.run(&mut context, SLICE)?;
                executed += instructions;
                sliced |= stop == Stop::Slice;
                got_on |= stop == Stop::Ended;
                if stop == Stop::Ended {
                    block.ended[warp.rank(launch) as usize] += 1;
                }
            }
            cluster::complete(block, warps);
            let over = launch.is_over(executed);
            if warps.iter().all(|warp| warp.live == 0) {
                return end(&Context { launch, block, tally }, warps);
            }
            if over && let Some(warp) = warps.iter().find(|warp| warp.live != 0) {
                let text = format!("more than {} warp instructions", launch.checks.instruction_limit);
                return Err(warp.fault(&Context { launch, block, tally }, 0, FaultKind::Timeout, text));
            }
            // Bulk copies are done as late as can be, the last first: when all warps wait, or use up their time asking for one by
            // test_wait, which never sleeps.
            let asking = sliced && !got_on && block.tests != tests;
            let stuck = !complete(launch, block, warps) && (!ran || asking);
            if stuck && !land_last(block, warps.len()) && !ran {
                let context = Context { launch, block, tally };
                return Err(deadlock(&context, warps));
            }
            if block.polls != polls {
                return Ok(Progress::Slice);
            }
        }
    }
}

/// All threads have ended: nothing may be under way in shared memory, which goes to another block now.
fn end(c: &Context<'_>, warps: &[Warp]) -> Result<Progress, Box<Fault>> {
    let storing = warps.iter().find(|warp| !warp.stores.is_empty());
    match storing.or(if c.block.loads.is_empty() { None } else { warps.first() }) {
        None => Ok(Progress::Ended),
        Some(warp) => {
            let text = "the block ends while a bulk copy uses its shared memory: the wait for it is missing";
            Err(warp.fault(c, 0, FaultKind::MissingWait, text.into()))
        }
    }
}

/// Everybody waits: says who for what.
fn deadlock(c: &Context<'_>, warps: &[Warp]) -> Box<Fault> {
    let describe = |warp: &Warp| match warp.waiting {
        Some(Wait::Barrier(_, id)) => format!("warp {} at barrier {id}", warp.index),
        Some(Wait::Phase(_)) => format!("warp {} at an mbarrier", warp.index),
        None => format!("warp {} has ended", warp.index),
    };
    let all: Vec<String> = warps.iter().map(describe).collect();
    let first = warps.iter().find(|w| w.waiting.is_some()).expect("somebody waits");
    // A warp at a barrier has counted it as done; one at an mbarrier will try again.
    let back = u32::from(matches!(first.waiting, Some(Wait::Barrier(..))));
    let mbarriers: Vec<String> = c.block.mbarriers.iter().map(|(at, m)| format!("{at:#x}: {m}")).collect();
    let state =
        if mbarriers.is_empty() { String::new() } else { format!("; mbarriers {}", mbarriers.join(", ")) };
    first.fault(c, back, FaultKind::Deadlock, format!("no thread can go on: {}{state}", all.join(", ")))
}
