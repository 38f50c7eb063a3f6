//! Clusters: blocks that run together and reach each other's shared memory (PTX ISA §2.2.2, §5.1.7).
//!
//! A cluster is simulated as one block: its warps follow each other block by block, and so do the parts of its shared memory.
//! Only where an instruction speaks of its own block do they come apart: in special registers, in barriers of the block, and in
//! addresses.

use super::cta::Block;
use super::grid::Launch;
use super::lanes::WARP;
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::memory::CLUSTER_WINDOW;
use crate::race::Past;

/// `barrier.cluster`: a barrier of all threads of a cluster.
#[derive(Default)]
pub struct ClusterBarrier {
    /// Warps that have arrived since it last completed.
    arrived: u32,
    /// How often it has.
    phase: u64,
    past: Past,
    completed: Past,
}

impl Warp {
    /// The rank of the warp's block.
    pub fn rank(&self, launch: &Launch<'_>) -> u32 {
        self.index as u32 / launch.warps()
    }

    /// Turns addresses of shared memory, a block's own or as `mapa` has them, into offsets in that of the cluster.
    pub(super) fn to_cluster(&self, c: &Context<'_>, addresses: &mut [u64; WARP], mask: u32) -> Step {
        if c.launch.cluster == 1 {
            return Ok(());
        }
        for lane in lanes(mask) {
            addresses[lane] = self.in_cluster(c, lane, addresses[lane])?;
        }
        Ok(())
    }

    /// The same for one lane.
    pub(super) fn in_cluster(&self, c: &Context<'_>, lane: usize, address: u64) -> Step<u64> {
        if c.launch.cluster == 1 {
            return Ok(address);
        }
        let size = u64::from(c.launch.shared_size);
        let (window, offset) = (address / CLUSTER_WINDOW, address % CLUSTER_WINDOW);
        let rank = match window {
            0 => self.rank(c.launch),
            window => (window - 1).min(u32::MAX.into()) as u32,
        };
        if rank >= c.launch.cluster || offset >= size {
            let text = format!("shared address {address:#x}: rank {rank}, offset {offset:#x} of {size:#x}");
            return raise(FaultKind::OutOfBounds, lane, text);
        }
        self.reach(c, lane, rank)?;
        Ok(u64::from(rank) * c.launch.shared_stride() as u64 + offset)
    }

    /// Checks that the shared memory of a block of the cluster is still there.
    pub(super) fn reach(&self, c: &Context<'_>, lane: usize, rank: u32) -> Step {
        if rank != self.rank(c.launch) && c.block.ended[rank as usize] == c.launch.warps() {
            let text =
                format!("reaches into the shared memory of block {rank} of the cluster, which has ended");
            return raise(FaultKind::Barrier, lane, text);
        }
        Ok(())
    }

    /// Where `len` bytes of one block's shared memory are, from an address on.
    pub(super) fn shared_range(&self, c: &Context<'_>, lane: usize, address: u64, len: usize) -> Step<usize> {
        let (at, size) = (self.in_cluster(c, lane, address)?, c.launch.shared_size as usize);
        let offset = if c.launch.cluster == 1 { at } else { address % CLUSTER_WINDOW };
        if offset.saturating_add(len as u64) > size as u64 {
            let text =
                format!("a bulk copy of {len} bytes at shared offset {at:#x}; the block has {size:#x} bytes");
            return raise(FaultKind::OutOfBounds, lane, text);
        }
        Ok(at as usize)
    }

    /// Arrives at the cluster's barrier. All lanes of the warp are here.
    pub(super) fn cluster_arrive(&mut self, c: &mut Context<'_>, mask: u32) -> Step {
        if self.arrived_in.is_some() {
            let text = "arrives at the cluster's barrier twice without a wait".into();
            return raise(FaultKind::Barrier, mask.trailing_zeros() as usize, text);
        }
        let past = c.block.clocks[self.index].release(self.index, mask, self.live);
        let barrier = &mut c.block.cluster_barrier;
        barrier.past.join(&past);
        barrier.arrived |= 1 << self.index;
        self.arrived_in = Some(barrier.phase);
        Ok(())
    }

    /// Whether the cluster's barrier has completed since the warp arrived; then what the others did before is known.
    pub(super) fn cluster_wait(&mut self, c: &mut Context<'_>, mask: u32) -> Step<bool> {
        let Some(phase) = self.arrived_in else {
            let text = "waits at the cluster's barrier without having arrived".into();
            return raise(FaultKind::Barrier, mask.trailing_zeros() as usize, text);
        };
        let Block { clocks, cluster_barrier, .. } = &mut *c.block;
        let complete = cluster_barrier.phase != phase;
        if complete {
            self.arrived_in = None;
            clocks[self.index].acquire(&cluster_barrier.completed, self.index);
        }
        Ok(complete)
    }
}

/// Completes the cluster's barrier if everybody that has not ended has come, and lets the waiting look again.
pub fn complete(block: &mut Block, warps: &[Warp]) {
    let alive = warps.iter().filter(|w| w.live != 0).fold(0u32, |set, w| set | 1 << w.index);
    let barrier = &mut block.cluster_barrier;
    if barrier.arrived == 0 || alive & !barrier.arrived != 0 {
        return;
    }
    barrier.arrived = 0;
    barrier.phase += 1;
    barrier.completed = std::mem::take(&mut barrier.past);
    block.phase_changes += 1;
}
