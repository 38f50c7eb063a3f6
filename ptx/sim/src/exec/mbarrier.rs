//! `mbarrier`: barriers in shared memory that count arrivals and bytes (PTX ISA §9.7.13.15).

use super::async_copy::{Landing, land};
use super::cta::Block;
use super::lanes::{Class, WARP};
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::{self, MbarrierOp};
use crate::parse::Space;
use crate::race::Past;

/// A barrier object.
#[derive(Default)]
pub struct Mbarrier {
    /// Phases completed.
    phase: u64,
    /// Arrivals that each phase expects.
    expected: u32,
    /// Arrivals that the current phase still expects.
    pending: u32,
    /// Bytes that the current phase still expects; negative if more have come than were announced so far.
    transactions: i64,
    /// What the arrivals of the current phase make known, and what those of the last one did.
    past: Past,
    completed: Past,
    /// `cp.async` copies that the phase waits for: warp, its time before it arrived for them, and copy. The arrival makes known
    /// what came before it, so the copies must count as done then, not when the phase ends (§9.7.13.15.14).
    landings: Vec<(usize, u32, Landing)>,
    /// Warp and lane that initialized it, and whether `fence.mbarrier_init` came after.
    initializer: (usize, usize),
    fenced: bool,
}

/// `fence.mbarrier_init`: the async proxy may use the barriers that these lanes have initialized (§9.7.13.4).
pub fn fence_init(block: &mut Block, warp: usize, mask: u32) {
    for mbarrier in block.mbarriers.values_mut() {
        let (by, lane) = mbarrier.initializer;
        mbarrier.fenced |= by == warp && mask >> lane & 1 != 0;
    }
}

impl std::fmt::Display for Mbarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { phase, pending, transactions, .. } = self;
        write!(f, "phase {phase} waits for {pending} arrivals and {transactions} bytes")
    }
}

/// Counts bytes that a bulk copy has brought, and what the engine has done until now.
pub fn complete_bytes(block: &mut Block, warps: usize, at: usize, bytes: usize) {
    let clock = block.engine_clock;
    if let Some(mbarrier) = block.mbarriers.get_mut(&at) {
        mbarrier.transactions -= bytes as i64;
        mbarrier.past.add_engine(warps, clock);
    }
    finish_phase(block, at);
}

/// Ends the phase if everything has come.
fn finish_phase(block: &mut Block, at: usize) {
    let Some(mbarrier) = block.mbarriers.get_mut(&at) else { return };
    if mbarrier.pending != 0 || mbarrier.transactions != 0 {
        return;
    }
    mbarrier.phase += 1;
    mbarrier.pending = mbarrier.expected;
    mbarrier.completed = std::mem::take(&mut mbarrier.past);
    block.phase_changes += 1;
    for (warp, clock, copy) in std::mem::take(&mut mbarrier.landings) {
        land(block, warp, clock, &copy);
    }
}

impl Warp {
    /// The offset of each lane's barrier.
    fn mbarrier_at(&self, c: &mut Context<'_>, op: &isa::Mbarrier, mask: u32) -> Step<[u64; WARP]> {
        let mut addresses = self.addresses(&op.address);
        for (space, mask) in self.split(op.space, &mut addresses, mask) {
            if space != Space::Shared {
                let text = "an mbarrier must be in shared memory".into();
                return raise(FaultKind::OutOfBounds, mask.trailing_zeros() as usize, text);
            }
        }
        self.to_cluster(c, &mut addresses, mask)?;
        for lane in lanes(mask) {
            self.shared_at(c, lane, addresses[lane], 8)?;
        }
        if op.op != MbarrierOp::Init {
            for lane in lanes(mask) {
                if !c.block.mbarriers.contains_key(&(addresses[lane] as usize)) {
                    let text =
                        format!("no mbarrier has been initialized at shared offset {:#x}", addresses[lane]);
                    return raise(FaultKind::Barrier, lane, text);
                }
            }
            // Initialization must be ordered before.
            self.each_shared_read(c, &addresses, mask, 8, true, |_, _, _| Ok(()))?;
        }
        Ok(addresses)
    }

    /// Checks that the async proxy may use the barrier of a lane's copy: it is initialized, and a fence made that known.
    pub(super) fn mbarrier_for_copy(&self, c: &mut Context<'_>, lane: usize, address: u64) -> Step {
        self.shared_at(c, lane, address, 8)?;
        let at = address as usize;
        match c.block.mbarriers.get(&at) {
            None => {
                let text = format!("no mbarrier has been initialized at shared offset {at:#x}");
                raise(FaultKind::Barrier, lane, text)
            }
            // The fence counts for who is ordered after it.
            Some(mbarrier) if mbarrier.fenced => {
                self.each_shared_read(c, &[address; WARP], 1 << lane, 8, true, |_, _, _| Ok(()))
            }
            Some(_) => self.check_proxy(c, lane, at, 8),
        }
    }

    fn operand(&self, op: &isa::Mbarrier, lane: usize, default: u64) -> u64 {
        match op.operand {
            None => default,
            Some(reg) if reg.class == Class::B64 => self.registers.b64[usize::from(reg.index)][lane],
            Some(reg) => self.registers.b32[usize::from(reg.index)][lane].into(),
        }
    }

    pub(super) fn mbarrier(&mut self, c: &mut Context<'_>, op: &isa::Mbarrier, mask: u32) -> Step {
        let addresses = self.mbarrier_at(c, op, mask)?;
        if op.op == MbarrierOp::Init {
            let zero = [0; 32];
            self.each_shared_write(c, &addresses, mask, 8, false, |_| &zero)?;
        }
        let arrives = matches!(op.op, MbarrierOp::Arrive { .. } | MbarrierOp::CpAsyncArrive { .. });
        let before = c.block.clocks[self.index].clock;
        // The instruction's lanes publish their past once, together.
        let past = arrives.then(|| c.block.clocks[self.index].release(self.index, mask, self.live));
        for lane in lanes(mask) {
            let at = addresses[lane] as usize;
            let value = self.operand(op, lane, 1);
            match op.op {
                MbarrierOp::Init => {
                    if !(1..1 << 20).contains(&value) {
                        return raise(
                            FaultKind::Barrier,
                            lane,
                            format!("an mbarrier cannot count {value} arrivals"),
                        );
                    }
                    let count = value as u32;
                    let initializer = (self.index, lane);
                    let fresh =
                        Mbarrier { expected: count, pending: count, initializer, ..Mbarrier::default() };
                    c.block.mbarriers.insert(at, fresh);
                    continue;
                }
                MbarrierOp::Inval => {
                    c.block.mbarriers.remove(&at);
                    continue;
                }
                _ => {}
            }
            let mbarrier = c.block.mbarriers.get_mut(&at).expect("checked above");
            let state = mbarrier.phase;
            let mut count = 0;
            match op.op {
                MbarrierOp::ExpectTx => mbarrier.transactions += value as i64,
                MbarrierOp::CompleteTx => mbarrier.transactions -= value as i64,
                MbarrierOp::Arrive { expect_tx, drop } => {
                    if expect_tx {
                        mbarrier.transactions += value as i64;
                    }
                    count = if expect_tx { 1 } else { value as u32 };
                    if drop {
                        mbarrier.expected = mbarrier.expected.saturating_sub(count);
                    }
                }
                MbarrierOp::CpAsyncArrive { noinc } => {
                    count = u32::from(noinc);
                    let copies = self.copies.take(0, true, 1 << lane);
                    mbarrier.landings.extend(copies.into_iter().map(|copy| (self.index, before, copy)));
                }
                _ => {}
            }
            if count > mbarrier.pending {
                let text = format!("more arrivals at the mbarrier at {at:#x} than it expects: {mbarrier}");
                return raise(FaultKind::Barrier, lane, text);
            }
            mbarrier.pending -= count;
            if let Some(past) = &past {
                mbarrier.past.join(past);
            }
            finish_phase(c.block, at);
            if let Some(reg) = op.dst {
                self.registers.b64[usize::from(reg.index)][lane] = state;
            }
        }
        Ok(())
    }

    /// Looks whether phases have completed. Returns the lanes that must wait.
    pub(super) fn mbarrier_wait(&mut self, c: &mut Context<'_>, op: &isa::Mbarrier, mask: u32) -> Step<u32> {
        let MbarrierOp::Wait { parity, suspends } = op.op else { return Ok(0) };
        let addresses = self.mbarrier_at(c, op, mask)?;
        let (mut done, mut asleep, mut acquired) = (0u32, 0u32, None);
        for lane in lanes(mask) {
            let at = addresses[lane] as usize;
            let phase = c.block.mbarriers[&at].phase;
            // The current phase is incomplete, the one before complete; parity tells them apart.
            let wanted = self.operand(op, lane, 0);
            let complete = if parity { phase & 1 != wanted & 1 } else { phase != wanted };
            if complete {
                done |= 1 << lane;
                self.tried[lane] = None;
                if acquired != Some(at) {
                    acquired = Some(at);
                    let Block { clocks, mbarriers, .. } = &mut *c.block;
                    clocks[self.index].acquire(&mbarriers[&at].completed, self.index);
                }
            } else if !suspends {
                c.block.tests += 1;
            } else if self.tried[lane].replace((at, phase)) == Some((at, phase)) {
                // try_wait may give up at any time: the first time it does, so that a missing loop shows.
                asleep |= 1 << lane;
            }
        }
        if let Some(reg) = op.dst {
            let p = &mut self.registers.pred[usize::from(reg.index)];
            *p = *p & !(mask & !asleep) | done;
        }
        Ok(asleep)
    }
}
