//! Shared memory: bounds, alignment, written or not, races, bank conflicts.

use super::access::{Data, misaligned};
use super::banks::bank_conflicts;
use super::cta::Block;
use super::grid::Launch;
use super::lanes::WARP;
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Raise, Step, raise};
use crate::isa::Order;
use crate::memory::{State, all_at_least, copy_small};
use crate::race::{Conflict, Reach, SEVERAL, Shadow, SyncTable, Thread, Writer};

/// The shared memory of a block.
pub struct Shared {
    pub data: Vec<u8>,
    /// A [`State`] for each byte.
    pub state: Vec<u8>,
    pub shadow: Shadow,
    pub sync: SyncTable,
    /// The first read of bytes that nobody had written.
    pub unwritten: Option<Raise>,
}

impl Shared {
    pub fn new(size: usize) -> Self {
        Self {
            data: vec![0xCD; size],
            state: vec![State::Unwritten as u8; size],
            shadow: Shadow::new(size, 0),
            sync: SyncTable::default(),
            unwritten: None,
        }
    }

    /// As a new block finds it.
    pub fn reset(&mut self) {
        self.data.fill(0xCD);
        self.state.fill(State::Unwritten as u8);
        self.shadow.reset(0);
        self.sync = SyncTable::default();
        self.unwritten = None;
    }
}

#[cold]
fn outside<T>(lane: usize, address: u64, bytes: usize, size: usize) -> Step<T> {
    let text = format!("{bytes} bytes at shared offset {address:#x}; the block has {size:#x} bytes");
    raise(FaultKind::OutOfBounds, lane, text)
}

#[cold]
pub(super) fn unwritten(state: &[u8], lane: usize, at: usize, bytes: usize) -> Raise {
    let k = state[at..at + bytes].iter().position(|&s| s != State::Written as u8).unwrap_or(0);
    let message =
        format!("reads {bytes} bytes at shared offset {at:#x}; byte {:#x} was never written", at + k);
    Raise { kind: FaultKind::Uninitialized, lane, message }
}

#[cold]
pub(super) fn race<T>(
    launch: &Launch<'_>,
    lane: usize,
    at: usize,
    bytes: usize,
    read: bool,
    conflict: Conflict,
) -> Step<T> {
    let verb = if read { "reads" } else { "writes" };
    let who = Warp::name_thread(launch, conflict.earlier);
    if conflict.is_unfinished {
        let text = format!(
            "{verb} {bytes} bytes at shared offset {at:#x}, which an asynchronous operation of {who} is still {}: \
             its wait, or the barrier after that wait, is missing",
            if conflict.was_write { "writing" } else { "reading" }
        );
        return raise(FaultKind::MissingWait, lane, text);
    }
    let earlier = if conflict.was_write { "written" } else { "read" };
    let text =
        format!("{verb} {bytes} bytes at shared offset {at:#x}, {earlier} by {who} with no barrier between");
    raise(FaultKind::Race, lane, text)
}

impl Warp {
    /// Checks bounds and alignment of one lane's access.
    #[inline(always)]
    pub(super) fn shared_at(&self, c: &Context<'_>, lane: usize, address: u64, bytes: usize) -> Step<usize> {
        if address & (bytes as u64 - 1) != 0 {
            return misaligned("shared", lane, address, bytes);
        }
        let size = c.block.shared.data.len();
        if address.saturating_add(bytes as u64) > size as u64 {
            return outside(lane, address, bytes, size);
        }
        Ok(address as usize)
    }

    /// Reads of one element a lane: each is checked, then `f` gets the lane and its offset.
    #[inline]
    pub(super) fn each_shared_read(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        strong: bool,
        f: impl FnMut(&mut Shared, usize, usize) -> Step,
    ) -> Step {
        self.each_shared_read_by::<false>(c, addresses, mask, bytes, strong, f)
    }

    /// The same; with `TOGETHER` each element is read by several lanes, whoever gives its address.
    #[inline]
    pub(super) fn each_shared_read_by<const TOGETHER: bool>(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        strong: bool,
        mut f: impl FnMut(&mut Shared, usize, usize) -> Step,
    ) -> Step {
        let (races, uninitialized) = (c.launch.checks.races, c.launch.checks.uninitialized);
        for lane in lanes(mask) {
            self.shared_at(c, lane, addresses[lane], bytes)?;
        }
        let Block { shared, clocks, index, .. } = &mut *c.block;
        let mut thread = Thread::new(*index, self.index, &clocks[self.index], strong);
        for lane in lanes(mask) {
            let at = addresses[lane] as usize;
            if races {
                thread.at_lane(if TOGETHER { SEVERAL as usize } else { lane });
                if let Err(conflict) = shared.shadow.read(at, bytes, &mut thread) {
                    return race(c.launch, lane, at, bytes, true, conflict);
                }
            }
            // SAFETY: inside, as checked above.
            if uninitialized && !unsafe { all_at_least(shared.state.as_ptr().add(at), bytes, State::Written) }
            {
                // If the write still comes, this was a race, which says more: wait and see.
                shared.unwritten.get_or_insert_with(|| unwritten(&shared.state, lane, at, bytes));
            }
            f(shared, lane, at)?;
        }
        Ok(())
    }

    /// Writes of one element a lane: each is checked; `f` gives the bytes.
    #[inline]
    pub(super) fn each_shared_write<'v>(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        strong: bool,
        value: impl Fn(usize) -> &'v [u8; 32],
    ) -> Step {
        self.each_shared_write_by::<false>(c, addresses, mask, bytes, strong, value)
    }

    /// The same; with `TOGETHER` each element is written by several lanes, whoever gives its address.
    #[inline]
    pub(super) fn each_shared_write_by<'v, const TOGETHER: bool>(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        strong: bool,
        value: impl Fn(usize) -> &'v [u8; 32],
    ) -> Step {
        let races = c.launch.checks.races;
        for lane in lanes(mask) {
            self.shared_at(c, lane, addresses[lane], bytes)?;
        }
        let Block { shared, clocks, index, .. } = &mut *c.block;
        let mut thread = Thread::new(*index, self.index, &clocks[self.index], strong);
        for lane in lanes(mask) {
            let (at, value) = (addresses[lane] as usize, value(lane));
            if races {
                thread.at_lane(if TOGETHER { SEVERAL as usize } else { lane });
                let present = &shared.data[at..at + bytes];
                if let Err(conflict) =
                    shared.shadow.write(at, bytes, &mut thread, || present == &value[..bytes])
                {
                    return race(c.launch, lane, at, bytes, false, conflict);
                }
            }
            shared.state[at..at + bytes].fill(State::Written as u8);
            // SAFETY: inside, as checked above.
            unsafe { copy_small(value.as_ptr(), shared.data.as_mut_ptr().add(at), bytes) };
        }
        Ok(())
    }

    pub(super) fn read_shared(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        order: Order,
        data: &mut Data,
    ) -> Step {
        c.tally.bank_conflicts += bank_conflicts(addresses, mask, bytes);
        let strong = order != Order::Weak;
        self.each_shared_read(c, addresses, mask, bytes, strong, |shared, lane, at| {
            // SAFETY: inside, as `each_shared_read` has checked.
            unsafe { copy_small(shared.data.as_ptr().add(at), data[lane].as_mut_ptr(), bytes) };
            Ok(())
        })?;
        if strong {
            self.read_sync_shared(c, addresses, mask, order);
        }
        Ok(())
    }

    pub(super) fn write_shared(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        order: Order,
        data: &Data,
    ) -> Step {
        c.tally.bank_conflicts += bank_conflicts(addresses, mask, bytes);
        let strong = order != Order::Weak;
        if strong {
            self.write_sync_shared(c, addresses, mask, order);
        }
        self.each_shared_write(c, addresses, mask, bytes, strong, |lane| &data[lane])
    }

    /// Read-modify-writes of one element a lane, lane after lane.
    pub(super) fn update_shared(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        order: Order,
        mut f: impl FnMut(usize, &[u8; 32]) -> [u8; 32],
    ) -> Step {
        self.write_sync_shared(c, addresses, mask, order);
        for lane in lanes(mask) {
            let mut old = [0; 32];
            self.each_shared_read(c, addresses, 1 << lane, bytes, true, |shared, _, at| {
                old[..bytes].copy_from_slice(&shared.data[at..at + bytes]);
                Ok(())
            })?;
            let new = f(lane, &old);
            self.each_shared_write(c, addresses, 1 << lane, bytes, true, |_| &new)?;
        }
        self.read_sync_shared(c, addresses, mask, order);
        Ok(())
    }

    fn write_sync_shared(&self, c: &mut Context<'_>, addresses: &[u64; WARP], mask: u32, order: Order) {
        let now = order.releases();
        let (block, warp) = (c.block.index, self.index);
        if c.launch.checks.races && (now || c.block.clocks[warp].has_fenced(Reach::Block)) {
            for lane in lanes(mask) {
                let variable = c.block.shared.sync.make(addresses[lane]);
                let by = Writer { block, warp, lanes: mask, live: self.live };
                c.block.clocks[warp].write_sync(&variable, by, Reach::Block, now);
            }
        }
    }

    fn read_sync_shared(&self, c: &mut Context<'_>, addresses: &[u64; WARP], mask: u32, order: Order) {
        let now = order.acquires();
        for lane in lanes(mask) {
            if let Some(variable) = c.block.shared.sync.get(addresses[lane]) {
                c.block.clocks[self.index].read_sync(&variable, Reach::Block, now);
            }
        }
    }
}
