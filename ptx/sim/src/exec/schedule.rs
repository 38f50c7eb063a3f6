//! Which lanes of a warp run, and the loop that runs them.
//!
//! Each lane has its own program counter. The lanes at the smallest one run, until they come to where others are: so lanes
//! that parted meet again where their paths join. A collective instruction that waits for lanes elsewhere parks those that
//! have come, and the others go on; if none can, the collective never completes, and that is a fault.

use super::step::Next;
use super::warp::{Context, Wait, Warp, lanes};
use crate::fault::{Fault, FaultKind, Raise};
use crate::isa::{Instr, Op};

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Ended,
    /// It waits.
    Waiting,
    /// Its time slice is over.
    Slice,
}

impl Warp {
    /// Runs until the warp ends, waits, or has executed about `slice` instructions. Says how many it has: a warp that waits
    /// in an endless loop must come to the limit, too.
    pub fn run(&mut self, c: &mut Context<'_>, slice: u64) -> Result<(Stop, u64), Box<Fault>> {
        let code: &[Instr] = &c.launch.kernel.code;
        let mut done = 0;
        while self.live != 0 {
            let Some((mut pc, active, horizon)) = self.group() else {
                if self.sleeping != 0 {
                    self.waiting = Some(Wait::Phase(self.asleep_since));
                    return Ok((Stop::Waiting, done));
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
                done += 1;
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
                    if done >= slice {
                        self.set_pc(active, pc);
                        return Ok((Stop::Slice, done));
                    }
                } else {
                    match self.step(c, &instr.op, pc, active, mask) {
                        Ok(Next::Advance) => pc += 1,
                        Ok(Next::Regroup) if done >= slice && self.live != 0 => {
                            return Ok((Stop::Slice, done));
                        }
                        Ok(Next::Regroup) => break,
                        Ok(Next::Wait) => {
                            self.set_pc(active, pc + 1);
                            return Ok((Stop::Waiting, done));
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
        Ok((Stop::Ended, done))
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

    /// Parks the lanes that have come to a collective, if some of `needed` are missing.
    pub(super) fn gather(&mut self, pc: u32, active: u32, needed: u32) -> bool {
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
}
