//! One warp: which lanes are where, and the loop that runs them.
//!
//! Each lane has its own program counter. The lanes at the smallest one run, until they come to where others are: so lanes
//! that parted meet again where their paths join. A collective instruction that waits for lanes elsewhere parks those that
//! have come, and the others go on; if none can, the collective never completes, and that is a fault.

use super::async_copy::Copies;
use super::bulk::Stores;
use super::cta::{Block, Tally};
use super::grid::Launch;
use super::lanes::{Reg, Registers, WARP};
use super::wgmma::Products;
use crate::fault::{Fault, FaultKind, Raise, Step, raise};
use crate::isa::{Address, Guard, Instr, MbarrierOp, Op};

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
    parked: u32,
    /// Lanes among them that wait for an mbarrier, since so many phase changes.
    sleeping: u32,
    asleep_since: u64,
    /// The mbarrier and phase that a lane has last tried in vain to wait for.
    pub tried: [Option<(usize, u64)>; WARP],
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

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Ended,
    /// It waits.
    Waiting,
    /// Its time slice is over.
    Slice,
}

/// Everything that an instruction may touch besides its own registers.
pub struct Context<'a> {
    pub launch: &'a Launch<'a>,
    pub block: &'a mut Block,
    pub tally: &'a mut Tally,
}

/// What the loop does after an instruction.
enum Next {
    /// The next instruction.
    Advance,
    /// Choose anew which lanes run: program counters have changed.
    Regroup,
    /// Stop, having advanced.
    Wait,
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
            waiting: None,
            copies: Copies::default(),
            stores: Stores::default(),
            products: Products::default(),
        }
    }

    /// Runs until the warp ends, waits, or has executed about `slice` instructions.
    pub fn run(&mut self, c: &mut Context<'_>, slice: u64) -> Result<Stop, Box<Fault>> {
        let code: &[Instr] = &c.launch.kernel.code;
        let mut left = slice;
        while self.live != 0 {
            let Some((mut pc, active, horizon)) = self.group() else {
                if self.sleeping != 0 {
                    self.waiting = Some(Wait::Phase(self.asleep_since));
                    return Ok(Stop::Waiting);
                }
                let lane = self.parked.trailing_zeros() as usize;
                let message = self.explain_divergence(code);
                let raise = Raise { kind: FaultKind::Divergence, lane, message };
                return Err(self.place(c, &code[self.pc[lane] as usize], raise));
            };
            loop {
                let instr = &code[pc as usize];
                let mask = match instr.guard {
                    None => active,
                    Some(guard) => active & self.predicate(guard),
                };
                let count = &mut c.tally.instructions[pc as usize];
                count.0 += 1;
                count.1 += u64::from(mask.count_ones());
                left = left.saturating_sub(1);
                if let Some(uses) = c.launch.kernel.uses.get(pc as usize)
                    && mask != 0
                    && let Err(raise) = self.products.touch(&instr.op, uses, mask)
                {
                    return Err(self.place(c, instr, *raise));
                }
                if let Op::Alu(function, args) = &instr.op {
                    if mask != 0 {
                        function(&mut self.registers, args, mask);
                    }
                    pc += 1;
                } else if let (Op::Branch(target), true) = (&instr.op, mask == active) {
                    pc = *target;
                    if left == 0 {
                        self.set_pc(active, pc);
                        return Ok(Stop::Slice);
                    }
                } else {
                    match self.step(c, &instr.op, pc, active, mask) {
                        Ok(Next::Advance) => pc += 1,
                        Ok(Next::Regroup) if left == 0 && self.live != 0 => return Ok(Stop::Slice),
                        Ok(Next::Regroup) => break,
                        Ok(Next::Wait) => {
                            self.set_pc(active, pc + 1);
                            return Ok(Stop::Waiting);
                        }
                        Err(raise) => return Err(self.place(c, instr, *raise)),
                    }
                    if let Some(raise) = c.block.shared.unwritten.take() {
                        let fault = self.place(c, instr, raise);
                        c.block.unwritten.get_or_insert(fault);
                    }
                }
                if pc >= horizon {
                    self.set_pc(active, pc);
                    break;
                }
            }
        }
        Ok(Stop::Ended)
    }

    /// The lanes to run: where, which, and from where on others are.
    fn group(&mut self) -> Option<(u32, u32, u32)> {
        let mut free = self.live & !self.parked;
        if free == 0 {
            if self.sleeping != 0 {
                return None;
            }
            // The lanes that were missing may have ended.
            let first = self.pc[self.live.trailing_zeros() as usize];
            if lanes(self.live).any(|lane| self.pc[lane] != first) {
                return None;
            }
            free = self.live;
        }
        let mut least = u32::MAX;
        for lane in lanes(free) {
            least = least.min(self.pc[lane]);
        }
        let (mut active, mut horizon) = (0, u32::MAX);
        for lane in lanes(self.live) {
            match self.pc[lane] {
                pc if pc == least => active |= 1 << lane,
                pc if pc > least => horizon = horizon.min(pc),
                _ => {} // parked behind
            }
        }
        self.parked &= !active;
        Some((least, active, horizon))
    }

    /// Puts lanes to sleep at an instruction until an mbarrier changes its phase.
    pub fn sleep(&mut self, pc: u32, mask: u32, phase_changes: u64) {
        if self.sleeping == 0 {
            self.asleep_since = phase_changes;
        }
        self.set_pc(mask, pc);
        self.sleeping |= mask;
        self.parked |= mask;
    }

    /// Some phase has changed: sleeping lanes look again.
    pub fn wake(&mut self) {
        self.parked &= !self.sleeping;
        self.sleeping = 0;
        self.waiting = None;
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

    /// Parks the lanes that have come to a collective, if some of `needed` are missing.
    fn gather(&mut self, pc: u32, active: u32, needed: u32) -> bool {
        if needed & self.live & !active == 0 {
            return true;
        }
        self.set_pc(active, pc);
        self.parked |= active;
        false
    }

    fn explain_divergence(&self, code: &[Instr]) -> String {
        let mut places: Vec<(u32, u32)> = Vec::new();
        for lane in lanes(self.live) {
            match places.iter_mut().find(|(pc, _)| *pc == self.pc[lane]) {
                Some((_, mask)) => *mask |= 1 << lane,
                None => places.push((self.pc[lane], 1 << lane)),
            }
        }
        let place =
            |&(pc, mask): &(u32, u32)| format!("lanes {mask:#010x} at line {}", code[pc as usize].line);
        let places: Vec<String> = places.iter().map(place).collect();
        let gone = self.lanes & !self.live;
        let ended = if gone != 0 { format!(", lanes {gone:#010x} have ended") } else { String::new() };
        format!("the threads that this instruction waits for never come: {}{ended}", places.join(", "))
    }

    /// One instruction that is more than arithmetic.
    fn step(&mut self, c: &mut Context<'_>, op: &Op, pc: u32, active: u32, mask: u32) -> Step<Next> {
        match op {
            Op::Branch(target) => {
                if mask != active {
                    self.set_pc(active & !mask, pc + 1);
                }
                if mask == 0 {
                    return Ok(Next::Advance);
                }
                self.set_pc(mask, *target);
                return Ok(Next::Regroup);
            }
            Op::Exit => {
                self.live &= !mask;
                if mask == 0 {
                    return Ok(Next::Advance);
                }
                self.set_pc(active & !mask, pc + 1);
                return Ok(Next::Regroup);
            }
            // A wait is for the whole warp, guard or not: a guard that splits the warp shows as divergence.
            Op::Barrier(barrier) if mask != 0 => {
                if !self.gather(pc, mask, self.live) {
                    self.set_pc(active & !mask, pc + 1);
                    return Ok(Next::Regroup);
                }
                return self
                    .barrier(c, barrier, mask, pc)
                    .map(|waits| if waits { Next::Wait } else { Next::Advance });
            }
            _ if mask == 0 => return Ok(Next::Advance),
            Op::Mbarrier(op) if matches!(op.op, MbarrierOp::Wait { .. }) => {
                let asleep = self.mbarrier_wait(c, op, mask)?;
                if asleep == 0 {
                    return Ok(Next::Advance);
                }
                self.set_pc(active & !asleep, pc + 1);
                self.sleep(pc, asleep, c.block.phase_changes);
                return Ok(Next::Regroup);
            }
            _ => {}
        }
        if let Some(register) = collective_mask(op) {
            let members = self.members(register, mask)?;
            if !self.gather(pc, mask, members) {
                self.set_pc(active & !mask, pc + 1);
                return Ok(Next::Regroup);
            }
        }
        if needs_whole_warp(op) {
            if self.live != u32::MAX {
                let text = format!("needs all 32 lanes, only {:#010x} are left", self.live);
                return raise(FaultKind::Divergence, mask.trailing_zeros() as usize, text);
            }
            if !self.gather(pc, mask, u32::MAX) {
                self.set_pc(active & !mask, pc + 1);
                return Ok(Next::Regroup);
            }
        }
        match op {
            Op::Trap => {
                return raise(FaultKind::Trap, mask.trailing_zeros() as usize, "the kernel trapped".into());
            }
            Op::Nop => {}
            Op::Clock(reg) => self.clock(c, *reg, mask),
            Op::Load(access) => self.load(c, access, mask)?,
            Op::Store(access) => self.store(c, access, mask)?,
            Op::Atomic(atomic) => self.atomic(c, atomic, mask)?,
            Op::Fence(fence) => self.fence(c, *fence, mask),
            Op::WarpSync(_) => c.block.clocks[self.index].warp_sync(mask, self.live),
            Op::Shuffle(shuffle) => self.shuffle(shuffle, mask)?,
            Op::Vote(vote) => self.vote(vote, mask),
            Op::Match(op) => self.match_sync(op, mask),
            Op::Redux(redux) => self.redux(redux, mask),
            Op::ActiveMask(d) => self.write32(*d, mask, |_| mask),
            Op::Elect { d, p, .. } => self.elect(*d, *p, mask),
            Op::CpAsync(copy) => self.cp_async(c, copy, mask)?,
            Op::CpAsyncCommit => self.copies.commit(mask),
            Op::CpAsyncWaitGroup(keep) => self.cp_async_wait(c, *keep, false, mask),
            Op::CpAsyncWaitAll => self.cp_async_wait(c, 0, true, mask),
            Op::Ldmatrix(op) => self.ldmatrix(c, op)?,
            Op::Stmatrix(op) => self.stmatrix(c, op)?,
            Op::Movmatrix { d, a } => self.movmatrix(*d, *a),
            Op::Mma(mma) => self.mma(mma),
            Op::Mbarrier(op) => self.mbarrier(c, op, mask)?,
            Op::BulkLoad(copy) => self.bulk_load(c, copy, mask)?,
            Op::BulkStore(copy) => self.bulk_store(c, copy, mask)?,
            Op::TensorLoad(copy) => self.tensor_load(c, copy, mask)?,
            Op::TensorStore(copy) => self.tensor_store(c, copy, mask)?,
            Op::WgmmaFence => self.products.fence(),
            Op::Wgmma(op) => self.wgmma(c, op)?,
            Op::WgmmaCommit => self.products.commit(),
            Op::WgmmaWait(keep) => self.wgmma_wait(c, *keep),
            Op::BulkCommit => self.stores.commit(mask),
            Op::BulkWait(keep) => self.bulk_wait(c, *keep, mask)?,
            Op::Alu(..) | Op::Branch(_) | Op::Exit | Op::Barrier(_) => unreachable!("done above"),
        }
        Ok(Next::Advance)
    }

    /// The member mask of a collective; each executing lane must be in it and name the same one.
    fn members(&self, register: u16, mask: u32) -> Step<u32> {
        let masks = &self.registers.b32[usize::from(register)];
        let first = mask.trailing_zeros() as usize;
        for lane in lanes(mask) {
            if masks[lane] != masks[first] {
                let text = format!(
                    "lane {lane} names the members {:#010x}, lane {first} {:#010x}",
                    masks[lane], masks[first]
                );
                return raise(FaultKind::Divergence, lane, text);
            }
            if masks[lane] >> lane & 1 == 0 {
                let text =
                    format!("lane {lane} is not among the members {:#010x} that it names", masks[lane]);
                return raise(FaultKind::Divergence, lane, text);
            }
        }
        let missing = masks[first] & !self.live;
        if missing & self.lanes != 0 {
            let text =
                format!("members {:#010x} include lanes {missing:#010x} that have ended", masks[first]);
            return raise(FaultKind::Divergence, first, text);
        }
        Ok(masks[first])
    }

    fn clock(&mut self, c: &Context<'_>, reg: Reg, mask: u32) {
        let time = c.tally.instructions.iter().map(|(warps, _)| warps).sum::<u64>();
        match reg.class {
            super::lanes::Class::B64 => {
                for lane in lanes(mask) {
                    self.registers.b64[usize::from(reg.index)][lane] = time;
                }
            }
            _ => self.write32(reg.index, mask, |_| time as u32),
        }
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
        if address.base.class == super::lanes::Class::B64 {
            let base = &self.registers.b64[index];
            std::array::from_fn(|lane| base[lane].wrapping_add_signed(address.offset))
        } else {
            let base = &self.registers.b32[index];
            std::array::from_fn(|lane| u64::from(base[lane].wrapping_add(address.offset as u32)))
        }
    }

    /// In words: a thread by its block, warp and lane.
    pub fn name_thread(launch: &Launch<'_>, e: Epoch) -> String {
        let [x, y, z] = launch.block_id(e.block());
        let block = format!("block ({x},{y},{z})");
        if e.lane() < WARP as u32 {
            let [x, y, z] = launch.thread_id((e.warp() * 32 + e.lane()) as usize);
            format!("thread ({x},{y},{z}) of {block}")
        } else {
            format!("several threads of warp {} of {block}", e.warp())
        }
    }

    fn place(&self, c: &Context<'_>, instr: &Instr, raise: Raise) -> Box<Fault> {
        let kernel = c.launch.kernel;
        Box::new(Fault {
            kind: raise.kind,
            kernel: kernel.name.clone(),
            line: instr.line,
            instruction: kernel.names[usize::from(instr.name)].clone(),
            block: c.block.id,
            thread: c.launch.thread_id(self.index * WARP + raise.lane),
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

/// Instructions that all 32 lanes must execute together.
fn needs_whole_warp(op: &Op) -> bool {
    matches!(
        op,
        Op::Ldmatrix(_)
            | Op::Stmatrix(_)
            | Op::Movmatrix { .. }
            | Op::Mma(_)
            | Op::WgmmaFence
            | Op::Wgmma(_)
            | Op::WgmmaCommit
            | Op::WgmmaWait(_)
    )
}

/// The register with the member mask of a collective.
fn collective_mask(op: &Op) -> Option<u16> {
    match op {
        Op::WarpSync(mask) | Op::Elect { mask, .. } => Some(*mask),
        Op::Shuffle(s) => Some(s.mask),
        Op::Vote(v) => Some(v.mask),
        Op::Match(m) => Some(m.mask),
        Op::Redux(r) => Some(r.mask),
        _ => None,
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
