//! `cp.async.bulk` (PTX ISA §9.7.9.25.4): copies by the async proxy, between global and shared memory.
//!
//! A load is checked and read when it is issued; its bytes land when every thread of the block waits for something. A store is
//! read when it is issued; it is done when it is waited for.

use super::async_copy::{Groups, OfLane};
use super::cta::Block;
use super::mbarrier::complete_bytes;
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::{Address, BulkCopy};
use crate::memory::State;
use crate::race::Epoch;

/// A copy into shared memory under way.
pub struct Load {
    /// Offsets in shared memory, and what goes there.
    pub pieces: Vec<(usize, Vec<u8>)>,
    /// The offset of the barrier that counts the bytes.
    pub mbarrier: usize,
}

/// A copy out of shared memory under way: what goes where, and the range that it reads.
pub struct Store {
    pub lane: usize,
    pub pieces: Vec<(u64, Vec<u8>)>,
    pub from: Vec<(usize, usize)>,
}

impl OfLane for Store {
    fn lane(&self) -> usize {
        self.lane
    }
}

/// The stores of a warp.
pub type Stores = Groups<Store>;

/// Bulk copies move whole units of 16 bytes between addresses that are multiples of 16.
const UNIT: usize = 16;

/// Does the copy that was issued last. `false` if there is none.
pub fn land_last(block: &mut Block, warps: usize) -> bool {
    let Some(load) = block.loads.pop() else { return false };
    let mut bytes = 0;
    for (at, data) in &load.pieces {
        let range = *at..at + data.len();
        block.shared.data[range.clone()].copy_from_slice(data);
        block.shared.state[range].fill(State::Written as u8);
        let now = Epoch::new(block.index, warps as u32, 0, block.engine_clock);
        block.shared.shadow.land(*at, data.len(), now);
        bytes += data.len();
    }
    block.engine_clock += 1;
    complete_bytes(block, warps, load.mbarrier, bytes);
    true
}

impl Warp {
    /// A lane's offset in shared memory, a multiple of 16, with room for `len` bytes.
    fn bulk_shared(&self, c: &Context<'_>, address: &Address, lane: usize, len: usize) -> Step<usize> {
        let at = self.addresses(address)[lane];
        if !at.is_multiple_of(UNIT as u64) {
            return super::access::misaligned("shared", lane, at, UNIT);
        }
        self.shared_range(c, lane, at, len)
    }

    fn bulk_size(&self, copy: &BulkCopy, lane: usize) -> Step<usize> {
        let size = self.registers.b32[usize::from(copy.size)][lane] as usize;
        if !size.is_multiple_of(UNIT) || size == 0 {
            let text = format!("a bulk copy of {size} bytes, which is not a multiple of {UNIT}");
            return raise(FaultKind::IllegalOperand, lane, text);
        }
        Ok(size)
    }

    pub(super) fn bulk_load(&mut self, c: &mut Context<'_>, copy: &BulkCopy, mask: u32) -> Step {
        let source = self.addresses(&copy.global);
        for lane in lanes(mask) {
            let size = self.bulk_size(copy, lane)?;
            let at = self.bulk_shared(c, &copy.shared, lane, size)?;
            if !source[lane].is_multiple_of(UNIT as u64) {
                return super::access::misaligned("global", lane, source[lane], UNIT);
            }
            let mut data = vec![0; size];
            self.read_global_range(c, lane, source[lane], &mut data)?;
            self.issue_load(c, copy.mbarrier.as_ref(), copy.blocks, lane, vec![(at, data)])?;
        }
        Ok(())
    }

    /// Begins a load whose bytes are known: to where the pieces say, or to the same place in every block of a mask. The mbarrier
    /// lies in the same block.
    pub(super) fn issue_load(
        &self,
        c: &mut Context<'_>,
        mbarrier: Option<&Address>,
        blocks: Option<u16>,
        lane: usize,
        pieces: Vec<(usize, Vec<u8>)>,
    ) -> Step {
        let Some(mbarrier) = mbarrier else { return Ok(()) };
        let mbarrier = self.in_cluster(c, lane, self.addresses(mbarrier)[lane])? as usize;
        let stride = c.launch.shared_stride();
        let rank = |at: usize| at / stride.max(1);
        let given = pieces.first().map_or(0, |(at, _)| rank(*at));
        if rank(mbarrier) != given {
            let text = "a bulk copy into one block of the cluster that counts on a barrier of another".into();
            return raise(FaultKind::Barrier, lane, text);
        }
        let mask = match blocks {
            Some(register) => self.registers.b32[usize::from(register)][lane] & 0xFFFF,
            None => 1 << given,
        };
        if mask == 0 || mask >> c.launch.cluster != 0 {
            let text = format!("a copy to the blocks {mask:#x} of a cluster of {}", c.launch.cluster);
            return raise(FaultKind::IllegalOperand, lane, text);
        }
        for to in lanes(mask) {
            self.reach(c, lane, to as u32)?;
            let moved = |at: usize| at % stride.max(1) + to * stride;
            self.mbarrier_for_copy(c, lane, moved(mbarrier) as u64)?;
            let pieces: Vec<_> = pieces.iter().map(|(at, data)| (moved(*at), data.clone())).collect();
            for (at, data) in &pieces {
                self.begin_async_write(c, lane, *at, data.len())?;
            }
            c.block.loads.push(Load { pieces, mbarrier: moved(mbarrier) });
        }
        Ok(())
    }

    pub(super) fn bulk_store(&mut self, c: &mut Context<'_>, copy: &BulkCopy, mask: u32) -> Step {
        let destination = self.addresses(&copy.global);
        for lane in lanes(mask) {
            let size = self.bulk_size(copy, lane)?;
            let at = self.bulk_shared(c, &copy.shared, lane, size)?;
            if !destination[lane].is_multiple_of(UNIT as u64) {
                return super::access::misaligned("global", lane, destination[lane], UNIT);
            }
            self.begin_async_read(c, lane, at, size)?;
            let data = c.block.shared.data[at..at + size].to_vec();
            let pieces = vec![(destination[lane], data)];
            self.stores.uncommitted.push(Store { lane, pieces, from: vec![(at, size)] });
        }
        Ok(())
    }

    /// Waits for stores: they are done now.
    pub(super) fn bulk_wait(&mut self, c: &mut Context<'_>, keep: u32, mask: u32) -> Step {
        for store in self.stores.take(keep, false, mask) {
            for (address, data) in &store.pieces {
                self.write_global_range(c, store.lane, *address, data)?;
            }
            let left = self.stores.iter().flat_map(|store| &store.from);
            self.end_async_reads(c.block, store.lane, &store.from, left);
        }
        Ok(())
    }
}
