//! Barriers of a block and fences (PTX ISA §9.7.13.1–4).

use super::cta::Block;
use super::grid::Launch;
use super::lanes::{Class, WARP};
use super::warp::{Context, Wait, Warp};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::{Barrier, Fence, VoteOp};
use crate::race::Past;

/// Hardware barriers of a block.
pub const BARRIERS: usize = 16;

/// One barrier between two completions.
#[derive(Default)]
pub struct BarrierState {
    /// Warps that have arrived, waiting or not.
    arrived: u32,
    /// Warps among them that wait.
    waiting: u32,
    /// Threads that complete it, as the first arrival said; `None`: all that have not ended.
    expected: Option<u32>,
    past: Past,
    /// `bar.red`: votes for, and votes.
    votes: (u32, u32),
}

impl Warp {
    /// Arrives; says whether the warp must wait. All lanes of the warp are here.
    pub(super) fn barrier(&mut self, c: &mut Context<'_>, barrier: &Barrier, mask: u32) -> Step<bool> {
        let lane = mask.trailing_zeros() as usize;
        let id = self.registers.b32[usize::from(barrier.id)][lane] as usize;
        if id >= BARRIERS {
            return raise(FaultKind::Barrier, lane, format!("barrier {id}: there are {BARRIERS}"));
        }
        let expected = barrier.count.map(|count| self.registers.b32[usize::from(count)][lane]);
        if let Some(count) = expected
            && (!count.is_multiple_of(32) || count == 0)
        {
            return raise(
                FaultKind::Barrier,
                lane,
                format!("a thread count of {count} is not a multiple of 32"),
            );
        }
        let past = c.block.clocks[self.index].release(self.index, mask, self.live);
        let votes = barrier.reduce.map(|r| self.predicate(r.p) & mask);
        let (rank, own) = (self.rank(c.launch) as usize, self.index as u32 % c.launch.warps());
        let state = &mut c.block.barriers[rank][id];
        if state.arrived == 0 {
            state.expected = expected;
        } else if state.expected != expected {
            let text = format!("arrives at barrier {id} with a thread count other than the first arrival's");
            return raise(FaultKind::Barrier, lane, text);
        }
        if state.arrived >> own & 1 != 0 {
            let text = format!("arrives at barrier {id} twice before it completes");
            return raise(FaultKind::Barrier, lane, text);
        }
        if let Some(count) = state.expected
            && (state.arrived.count_ones() + 1) * 32 > count
        {
            return raise(
                FaultKind::Barrier,
                lane,
                format!("more than {count} threads arrive at barrier {id}"),
            );
        }
        state.arrived |= 1 << own;
        state.past.join(&past);
        if let Some(votes) = votes {
            state.votes.0 += votes.count_ones();
            state.votes.1 += mask.count_ones();
        }
        if !barrier.arrive {
            state.waiting |= 1 << own;
            self.waiting = Some(Wait::Barrier(*barrier, id));
        }
        Ok(!barrier.arrive)
    }

    /// A memory fence, or one between proxies.
    pub(super) fn fence(&self, c: &mut Context<'_>, fence: Fence, mask: u32) {
        match fence {
            Fence::Memory { gpu } => c.block.clocks[self.index].fence(self.index, mask, self.live, gpu),
            Fence::ProxyAsync => c.block.clocks[self.index].proxy_fence(self.index, mask, self.live),
            Fence::MbarrierInit => super::mbarrier::fence_init(c.block, self.index, mask),
        }
    }

    /// Goes on behind a completed barrier.
    fn pass(&mut self, barrier: &Barrier, votes: (u32, u32)) {
        self.waiting = None;
        let Some(reduce) = barrier.reduce else { return };
        let outcome = match reduce.op {
            VoteOp::All => votes.0 == votes.1,
            _ => votes.0 != 0,
        };
        let index = usize::from(reduce.d.index);
        match reduce.d.class {
            Class::Pred => {
                let d = &mut self.registers.pred[index];
                *d = if outcome { *d | self.live } else { *d & !self.live };
            }
            _ => self.registers.b32[index] = [votes.0; WARP],
        }
    }
}

/// Completes the barriers that everybody has come to, and wakes their warps. Says whether there were any.
pub fn complete(launch: &Launch<'_>, block: &mut Block, warps: &mut [Warp]) -> bool {
    let each = launch.warps() as usize;
    let blocks = warps.chunks_mut(each).enumerate();
    blocks.fold(false, |any, (rank, warps)| complete_of_block(block, rank, warps, each) || any)
}

/// The same for one block of a cluster.
fn complete_of_block(block: &mut Block, rank: usize, warps: &mut [Warp], each: usize) -> bool {
    let alive = warps.iter().filter(|w| w.live != 0).fold(0u32, |set, w| set | 1 << (w.index % each));
    let mut any = false;
    for id in 0..BARRIERS {
        let state = &block.barriers[rank][id];
        let complete = match state.expected {
            _ if state.arrived == 0 => false,
            Some(count) => state.arrived.count_ones() * 32 >= count,
            // Threads that have ended count as arrived (programming guide on cc 7.x).
            None => alive & !state.arrived == 0,
        };
        if !complete {
            continue;
        }
        any = true;
        let state = std::mem::take(&mut block.barriers[rank][id]);
        let mut past = state.past;
        if state.expected.is_none() {
            // What ended threads did is ordered too.
            for warp in warps.iter().filter(|w| w.live == 0) {
                past.join(&block.clocks[warp.index].release(warp.index, u32::MAX, 0));
            }
        }
        for warp in warps.iter_mut() {
            if state.waiting >> (warp.index % each) & 1 != 0
                && let Some(Wait::Barrier(barrier, _)) = warp.waiting
            {
                block.clocks[warp.index].acquire(&past, warp.index);
                warp.pass(&barrier, state.votes);
            }
        }
    }
    any
}
