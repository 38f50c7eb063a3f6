//! A warp: its registers, its lanes, and what it has under way.

use super::async_copy::Copies;
use super::bulk::Stores;
use super::cta::{Block, Tally};
use super::grid::Launch;
use super::lanes::{Class, Registers, WARP};
use super::wgmma::Products;
use crate::fault::{Fault, FaultKind, Raise};
use crate::isa::{Address, Guard, Instr};

use crate::race::Epoch;

/// The state of a warp.
pub struct Warp {
    pub index: usize,
    pub registers: Registers,
    /// Lanes that have not ended.
    pub live: u32,
    /// Lanes that the block has in this warp; the last warp may have fewer than 32.
    pub lanes: u32,
    pub pc: [u32; WARP],
    /// Lanes at a collective that others must come to.
    pub(super) parked: u32,
    /// Lanes among them that wait for an mbarrier, since so many phase changes.
    pub(super) sleeping: u32,
    pub(super) asleep_since: u64,
    /// The mbarrier and phase that a lane has last tried in vain to wait for.
    pub tried: [Option<(usize, u64)>; WARP],
    /// The phase of the cluster's barrier that the warp has arrived in and not waited for.
    pub(super) arrived_in: Option<u64>,
    /// Lanes that have waited for the kernels ahead.
    pub(super) grid_waited: u32,
    /// What the warp waits for.
    pub waiting: Option<Wait>,
    /// `cp.async` under way.
    pub copies: Copies,
    /// Bulk copies to global memory under way.
    pub stores: Stores,
    /// `wgmma` under way.
    pub products: Products,
}

/// What a warp waits for.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// A barrier of the block.
    Barrier(crate::isa::Barrier, usize),
    /// Another phase of some mbarrier: those that had changed when the first lane fell asleep.
    Phase(u64),
}

/// Everything that an instruction may touch besides its own registers.
pub struct Context<'a> {
    pub launch: &'a Launch<'a>,
    pub block: &'a mut Block,
    pub tally: &'a mut Tally,
}

impl Warp {
    pub fn new(index: usize, registers: Registers, lanes: u32) -> Self {
        Self {
            index,
            registers,
            live: lanes,
            lanes,
            pc: [0; WARP],
            parked: 0,
            sleeping: 0,
            asleep_since: 0,
            tried: [None; WARP],
            arrived_in: None,
            grid_waited: 0,
            waiting: None,
            copies: Copies::default(),
            stores: Stores::default(),
            products: Products::default(),
        }
    }

    pub fn set_pc(&mut self, mask: u32, pc: u32) {
        for lane in lanes(mask) {
            self.pc[lane] = pc;
        }
    }

    pub fn predicate(&self, guard: Guard) -> u32 {
        let bits = self.registers.pred[usize::from(guard.pred)];
        if guard.negated { !bits } else { bits }
    }

    /// Sets a 32-bit register in the lanes of `mask`.
    pub fn write32(&mut self, index: u16, mask: u32, value: impl Fn(usize) -> u32) {
        let register = &mut self.registers.b32[usize::from(index)];
        for lane in lanes(mask) {
            register[lane] = value(lane);
        }
    }

    /// The addresses of a memory operand.
    pub fn addresses(&self, address: &Address) -> [u64; WARP] {
        let index = usize::from(address.base.index);
        if address.base.class == Class::B64 {
            let base = &self.registers.b64[index];
            std::array::from_fn(|lane| base[lane].wrapping_add_signed(address.offset))
        } else {
            let base = &self.registers.b32[index];
            std::array::from_fn(|lane| u64::from(base[lane].wrapping_add(address.offset as u32)))
        }
    }

    /// In words: a thread by its block, warp and lane.
    pub fn name_thread(launch: &Launch<'_>, e: Epoch) -> String {
        let is_engine = e.warp() >= launch.cluster * launch.warps();
        let (block, warp) = launch.warp_of(e.block(), if is_engine { 0 } else { e.warp() });
        let [x, y, z] = launch.block_id(block);
        let block = format!("block ({x},{y},{z})");
        if is_engine {
            return format!("a bulk copy of {block}");
        }
        if e.lane() < WARP as u32 {
            let [x, y, z] = launch.thread_id((warp * 32 + e.lane()) as usize);
            format!("thread ({x},{y},{z}) of {block}")
        } else {
            format!("several threads of warp {warp} of {block}")
        }
    }

    /// Says where a fault came.
    pub(super) fn place(&self, c: &Context<'_>, instr: &Instr, raise: Raise) -> Box<Fault> {
        let kernel = c.launch.kernel;
        let (block, warp) = c.launch.warp_of(c.block.index, self.index as u32);
        Box::new(Fault {
            kind: raise.kind,
            kernel: kernel.name.clone(),
            line: instr.line,
            instruction: kernel.names[usize::from(instr.name)].clone(),
            block: c.launch.block_id(block),
            thread: c.launch.thread_id(warp as usize * WARP + raise.lane),
            message: raise.message,
        })
    }

    /// A fault of the instruction that the warp's first live lane is at, or has just done.
    pub fn fault(&self, c: &Context<'_>, back: u32, kind: FaultKind, message: String) -> Box<Fault> {
        let lane = self.live.trailing_zeros() as usize % WARP;
        let pc = self.pc[lane].saturating_sub(back) as usize;
        self.place(c, &c.launch.kernel.code[pc], Raise { kind, lane, message })
    }
}

/// The lanes of a mask.
#[inline(always)]
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        Some(lane)
    })
}
