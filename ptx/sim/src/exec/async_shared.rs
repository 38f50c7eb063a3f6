//! Shared memory under asynchronous operations: bytes that nobody may touch until these are waited for, and the fences between
//! the generic and the async proxy (PTX ISA §8.9.5, §9.7.13.4).

use super::cta::Block;
use super::grid::Launch;
use super::lanes::WARP;
use super::shared::{race, unwritten};
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::memory::State;
use crate::race::{Conflict, Thread};

#[cold]
fn missing_fence(launch: &Launch<'_>, lane: usize, at: usize, bytes: usize, conflict: Conflict) -> Step {
    let who = Warp::name_thread(launch, conflict.earlier);
    let text = format!(
        "the async proxy uses {bytes} bytes at shared offset {at:#x}, written by {who} through the generic proxy: a \
         fence.proxy.async between is missing"
    );
    raise(FaultKind::MissingProxyFence, lane, text)
}

impl Warp {
    /// Asynchronous writes of one element a lane: checked now, and until they land nobody may touch the bytes.
    pub(super) fn begin_shared_writes(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
    ) -> Step {
        for lane in lanes(mask) {
            self.shared_at(c, lane, addresses[lane], bytes)?;
        }
        if !c.launch.checks.races {
            return Ok(());
        }
        let Block { shared, clocks, index, .. } = &mut *c.block;
        let mut thread = Thread::new(*index, self.index, &clocks[self.index], false);
        thread.now = thread.now.pending();
        for lane in lanes(mask) {
            thread.at_lane(lane);
            let at = addresses[lane] as usize;
            if let Err(conflict) = shared.shadow.write(at, bytes, &mut thread, || false) {
                return race(c.launch, lane, at, bytes, false, conflict);
            }
        }
        Ok(())
    }

    /// Checks that a proxy fence lies between the last writes of some bytes and the async proxy.
    pub(super) fn check_proxy(&self, c: &mut Context<'_>, lane: usize, at: usize, bytes: usize) -> Step {
        if !c.launch.checks.races {
            return Ok(());
        }
        let Block { shared, clocks, index, .. } = &mut *c.block;
        let mut thread = Thread::new(*index, self.index, &clocks[self.index], false);
        thread.at_lane(lane);
        shared
            .shadow
            .check_proxy(at, bytes, &thread)
            .or_else(|conflict| missing_fence(c.launch, lane, at, bytes, conflict))
    }

    /// Begins a write by the async proxy: until it lands nobody may touch the bytes.
    pub(super) fn begin_async_write(
        &self,
        c: &mut Context<'_>,
        lane: usize,
        at: usize,
        bytes: usize,
    ) -> Step {
        if !c.launch.checks.races {
            return Ok(());
        }
        let Block { shared, clocks, index, .. } = &mut *c.block;
        let mut thread = Thread::new(*index, self.index, &clocks[self.index], false);
        thread.at_lane(lane);
        thread.now = thread.now.pending();
        // The write replaces the record that the proxy check looks at; but a race says more.
        let proxy = shared.shadow.check_proxy(at, bytes, &thread);
        if let Err(conflict) = shared.shadow.write(at, bytes, &mut thread, || false) {
            return race(c.launch, lane, at, bytes, false, conflict);
        }
        proxy.or_else(|conflict| missing_fence(c.launch, lane, at, bytes, conflict))
    }

    /// Begins a read by the async proxy: until it is waited for nobody may write the bytes.
    pub(super) fn begin_async_read(&self, c: &mut Context<'_>, lane: usize, at: usize, bytes: usize) -> Step {
        let (races, uninitialized) = (c.launch.checks.races, c.launch.checks.uninitialized);
        if races {
            let Block { shared, clocks, index, .. } = &mut *c.block;
            let mut thread = Thread::new(*index, self.index, &clocks[self.index], false);
            thread.at_lane(lane);
            thread.now = thread.now.pending();
            if let Err(conflict) = shared.shadow.read(at, bytes, &mut thread) {
                return race(c.launch, lane, at, bytes, true, conflict);
            }
            self.check_proxy(c, lane, at, bytes)?;
        }
        let shared = &mut c.block.shared;
        if uninitialized && shared.state[at..at + bytes].iter().any(|&s| s != State::Written as u8) {
            shared.unwritten.get_or_insert_with(|| unwritten(&shared.state, lane, at, bytes));
        }
        Ok(())
    }

    /// Ends asynchronous reads of some ranges, but for bytes that other operations of the warp (`left`) still read.
    pub(super) fn end_async_reads<'r>(
        &self,
        block: &mut Block,
        lane: usize,
        done: &[(usize, usize)],
        left: impl Iterator<Item = &'r (usize, usize)>,
    ) {
        /// All such ranges are of whole units at multiples of a unit.
        const UNIT: usize = 16;
        let units = |&(at, len): &(usize, usize)| at / UNIT..(at + len).div_ceil(UNIT);
        let mut busy = vec![false; block.shared.data.len().div_ceil(UNIT)];
        for range in left {
            busy[units(range)].fill(true);
        }
        let mut thread = Thread::new(block.index, self.index, &block.clocks[self.index], false);
        thread.at_lane(lane);
        for unit in done.iter().flat_map(units).filter(|&unit| !busy[unit]) {
            block.shared.shadow.land_read(unit * UNIT, UNIT, thread.now);
        }
    }
}
