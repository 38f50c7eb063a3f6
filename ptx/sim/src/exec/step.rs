//! One instruction that is more than arithmetic.

use super::lanes::{Class, Reg};
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::{AddressSpace, MbarrierOp, Op};
use crate::parse::Space;

/// What the loop does after an instruction.
pub enum Next {
    /// The next instruction.
    Advance,
    /// Choose anew which lanes run: program counters have changed.
    Regroup,
    /// Stop, having advanced.
    Wait,
}

impl Warp {
    /// Executes in the lanes of `mask`; `active` are those at this instruction, whether their guard holds or not.
    pub(super) fn step(
        &mut self,
        c: &mut Context<'_>,
        op: &Op,
        pc: u32,
        active: u32,
        mask: u32,
    ) -> Step<Next> {
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
                    .barrier(c, barrier, mask)
                    .map(|waits| if waits { Next::Wait } else { Next::Advance });
            }
            Op::ClusterArrive | Op::ClusterWait if mask != 0 && !self.gather(pc, mask, self.live) => {
                self.set_pc(active & !mask, pc + 1);
                return Ok(Next::Regroup);
            }
            Op::ClusterWait if mask != 0 => {
                if self.cluster_wait(c, mask)? {
                    return Ok(Next::Advance);
                }
                self.sleep(pc, mask, c.block.phase_changes);
                return Ok(Next::Regroup);
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
        if c.launch.checks.overlaps && mask & !self.grid_waited != 0 && is_global(op) {
            let text = "touches global memory before griddepcontrol.wait, in a launch that may overlap the kernel ahead";
            return raise(
                FaultKind::MissingWait,
                (mask & !self.grid_waited).trailing_zeros() as usize,
                text.into(),
            );
        }
        match op {
            Op::Trap => {
                return raise(FaultKind::Trap, mask.trailing_zeros() as usize, "the kernel trapped".into());
            }
            Op::Nop => {}
            Op::GridWait => self.grid_waited |= mask,
            Op::Clock(reg) => self.clock(c, *reg, mask),
            Op::Load(access) => self.load(c, access, mask)?,
            Op::Store(access) => self.store(c, access, mask)?,
            Op::Atomic(atomic) => self.atomic(c, atomic, mask)?,
            Op::Fence(fence) => self.fence(c, *fence, mask),
            Op::ClusterArrive => self.cluster_arrive(c, mask)?,
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
            Op::Alu(..) | Op::Branch(_) | Op::Exit | Op::Barrier(_) | Op::ClusterWait => {
                unreachable!("done above")
            }
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
        // Those that have ended are not waited for.
        Ok(masks[first])
    }

    fn clock(&mut self, c: &Context<'_>, reg: Reg, mask: u32) {
        let time = c.tally.instructions.iter().map(|(warps, _)| warps).sum::<u64>();
        match reg.class {
            Class::B64 => {
                for lane in lanes(mask) {
                    self.registers.b64[usize::from(reg.index)][lane] = time;
                }
            }
            _ => self.write32(reg.index, mask, |_| time as u32),
        }
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

/// Instructions that touch global memory, or may.
fn is_global(op: &Op) -> bool {
    match op {
        Op::Load(access) | Op::Store(access) => {
            matches!(access.space, AddressSpace::Generic | AddressSpace::In(Space::Global))
        }
        Op::Atomic(atomic) => {
            matches!(atomic.space, AddressSpace::Generic | AddressSpace::In(Space::Global))
        }
        _ => matches!(
            op,
            Op::CpAsync(_) | Op::BulkLoad(_) | Op::BulkStore(_) | Op::TensorLoad(_) | Op::TensorStore(_)
        ),
    }
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
