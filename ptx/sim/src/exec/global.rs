//! Accesses to global memory: traffic, races, and the bytes themselves.

use super::access::Data;
use super::lanes::WARP;
use super::place::{Place, place};
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::Order;
use crate::memory::{Arena, PAGE, PageGuard, State, copy_small, memory};
use crate::race::{Conflict, Reach, Thread, Writer};

/// The 32-byte sectors that a warp's access touches.
pub fn sectors(addresses: &[u64; WARP], mask: u32, bytes: usize) -> u32 {
    const SECTOR: u64 = 32;
    let mut touched = [0u64; WARP];
    let mut count = 0;
    let mut sorted = true;
    for lane in lanes(mask) {
        // No access is wider than a sector, and all are aligned.
        let sector = addresses[lane] / SECTOR;
        if count > 0 && touched[count - 1] == sector {
            continue;
        }
        sorted &= count == 0 || touched[count - 1] < sector;
        touched[count] = sector;
        count += 1;
    }
    debug_assert!(bytes <= SECTOR as usize);
    if sorted {
        return count as u32;
    }
    let touched = &mut touched[..count];
    touched.sort_unstable();
    1 + touched.windows(2).filter(|pair| pair[0] != pair[1]).count() as u32
}

/// How much of a range at an address can be accessed at once: an aligned power of two, at most 16.
fn piece(address: u64, left: usize) -> usize {
    let aligned = 1 << address.trailing_zeros().min(4);
    aligned.min(1 << left.ilog2().min(4))
}

/// Keeps the lock of the page that the last lane accessed.
#[derive(Default)]
struct Lock<'a>(Option<PageGuard<'a>>);

impl<'a> Lock<'a> {
    #[inline]
    fn take(&mut self, arena: &'a Arena, offset: usize) -> &mut PageGuard<'a> {
        let page = arena.page(offset);
        if !self.0.as_ref().is_some_and(|guard| std::ptr::eq(guard.page, page)) {
            self.0 = None; // never two at once
            self.0 = Some(page.lock());
        }
        self.0.as_mut().expect("just locked")
    }
}

#[cold]
fn race<T>(
    c: &Context<'_>,
    lane: usize,
    address: u64,
    bytes: usize,
    read: bool,
    conflict: Conflict,
) -> Step<T> {
    let verb = if read { "reads" } else { "writes" };
    let earlier = if conflict.was_write { "written" } else { "read" };
    let text = format!(
        "{verb} {bytes} bytes at {address:#x} ({}), {earlier} by {} with nothing to order the two",
        memory().describe(address),
        Warp::name_thread(c.launch, conflict.earlier)
    );
    raise(FaultKind::Race, lane, text)
}

/// Checks a write and marks its bytes as written. The lock is held afterwards.
#[inline(always)]
fn writable(
    c: &Context<'_>,
    lock: &mut Lock<'static>,
    thread: &mut Thread<'_>,
    lane: usize,
    address: u64,
    bytes: usize,
    value: Option<&[u8; 32]>,
) -> Step<*mut u8> {
    let (arena, offset) = match place(lane, address, bytes, false, c)? {
        Place::Registered(to) => return Ok(to),
        Place::Arena(arena, offset) => (arena, offset),
    };
    let guard = lock.take(arena, offset);
    let to = arena.data(offset);
    if c.launch.checks.races {
        // SAFETY: allocated; the page's lock is held.
        let present = unsafe { std::slice::from_raw_parts(to, bytes) };
        let same_value = || value.is_some_and(|value| present == &value[..bytes]);
        let shadow = guard.shadow(c.launch.id);
        if let Err(conflict) = shadow.write(offset % PAGE, bytes, thread, same_value) {
            return race(c, lane, address, bytes, false, conflict);
        }
        if shadow.was_read_only(offset % PAGE, bytes) {
            let text = format!(
                "writes {bytes} bytes at {address:#x}, which this kernel has read by a read-only load (.nc)"
            );
            return raise(FaultKind::Race, lane, text);
        }
    }
    // SAFETY: as above.
    unsafe { arena.state(offset).write_bytes(State::Written as u8, bytes) };
    Ok(to)
}

impl Warp {
    pub(super) fn read_global(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        order: Order,
        data: &mut Data,
    ) -> Step {
        c.tally.loads.record(mask.count_ones(), bytes, sectors(addresses, mask, bytes));
        let strong = !matches!(order, Order::Weak | Order::ReadOnly);
        let mut lock = Lock::default();
        let clock = &c.block.clocks[self.index];
        let mut thread = Thread::new(c.block.index, self.index, clock, strong);
        thread.now = thread.now.scoped(order.is_of_block());
        for lane in lanes(mask) {
            let from = match place(lane, addresses[lane], bytes, true, c)? {
                Place::Registered(from) => from,
                Place::Arena(arena, offset) => {
                    let guard = lock.take(arena, offset);
                    if c.launch.checks.races {
                        let shadow = guard.shadow(c.launch.id);
                        thread.at_lane(lane);
                        let at = offset % PAGE;
                        if let Err(conflict) = shadow.read(at, bytes, &mut thread) {
                            return race(c, lane, addresses[lane], bytes, true, conflict);
                        }
                        if order == Order::ReadOnly {
                            if let Some(write) = shadow.last_write(at, bytes) {
                                let text = format!(
                                    "a read-only (.nc) load of {:#x}, which this kernel has written: {}",
                                    addresses[lane],
                                    Self::name_thread(c.launch, write)
                                );
                                return raise(FaultKind::Race, lane, text);
                            }
                            shadow.read_only(at, bytes);
                        }
                    }
                    arena.data(offset)
                }
            };
            // SAFETY: allocated; the page's lock is held against other warps.
            unsafe { copy_small(from, data[lane].as_mut_ptr(), bytes) };
        }
        drop(lock);
        if strong {
            self.read_sync_global(c, addresses, mask, order);
        }
        Ok(())
    }

    pub(super) fn write_global(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        order: Order,
        data: &Data,
    ) -> Step {
        c.tally.stores.record(mask.count_ones(), bytes, sectors(addresses, mask, bytes));
        let strong = order != Order::Weak;
        if strong {
            self.write_sync_global(c, addresses, mask, mask, order);
        }
        let mut lock = Lock::default();
        let mut thread = Thread::new(c.block.index, self.index, &c.block.clocks[self.index], strong);
        thread.now = thread.now.scoped(order.is_of_block());
        for lane in lanes(mask) {
            thread.at_lane(lane);
            let to = writable(c, &mut lock, &mut thread, lane, addresses[lane], bytes, Some(&data[lane]))?;
            // SAFETY: allocated; the page's lock is held.
            unsafe { copy_small(data[lane].as_ptr(), to, bytes) };
        }
        Ok(())
    }

    /// Reads a range for an asynchronous copy of one lane.
    pub(super) fn read_global_range(
        &self,
        c: &mut Context<'_>,
        lane: usize,
        address: u64,
        into: &mut [u8],
    ) -> Step {
        c.tally.loads.record_range(into.len());
        let mut thread = Thread::new(c.block.index, self.index, &c.block.clocks[self.index], false);
        thread.at_lane(lane);
        let mut lock = Lock::default();
        let (mut address, mut left) = (address, into);
        while !left.is_empty() {
            let (unit, rest) = left.split_at_mut(piece(address, left.len()));
            let from = match place(lane, address, unit.len(), true, c)? {
                Place::Registered(from) => from,
                Place::Arena(arena, offset) => {
                    let guard = lock.take(arena, offset);
                    if c.launch.checks.races
                        && let Err(conflict) =
                            guard.shadow(c.launch.id).read(offset % PAGE, unit.len(), &mut thread)
                    {
                        return race(c, lane, address, unit.len(), true, conflict);
                    }
                    arena.data(offset)
                }
            };
            // SAFETY: allocated; the page's lock is held.
            unsafe { copy_small(from, unit.as_mut_ptr(), unit.len()) };
            address += unit.len() as u64;
            left = rest;
        }
        Ok(())
    }

    /// Writes a range for an asynchronous copy of one lane.
    pub(super) fn write_global_range(
        &self,
        c: &mut Context<'_>,
        lane: usize,
        address: u64,
        data: &[u8],
    ) -> Step {
        c.tally.stores.record_range(data.len());
        let mut thread = Thread::new(c.block.index, self.index, &c.block.clocks[self.index], false);
        thread.at_lane(lane);
        let mut lock = Lock::default();
        let (mut address, mut left) = (address, data);
        while !left.is_empty() {
            let (unit, rest) = left.split_at(piece(address, left.len()));
            let to = writable(c, &mut lock, &mut thread, lane, address, unit.len(), None)?;
            // SAFETY: allocated; the page's lock is held.
            unsafe { copy_small(unit.as_ptr(), to, unit.len()) };
            address += unit.len() as u64;
            left = rest;
        }
        Ok(())
    }

    /// Read-modify-writes of one element a lane, lane after lane. `f` gets the old bytes and gives the new.
    pub(super) fn update_global(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        bytes: usize,
        order: Order,
        mut f: impl FnMut(usize, &[u8; 32]) -> [u8; 32],
    ) -> Step {
        c.tally.atomics.record(mask.count_ones(), bytes, sectors(addresses, mask, bytes));
        let mut lock = Lock::default();
        for lane in lanes(mask) {
            let address = addresses[lane];
            // The old value must have been written. What is released and acquired is decided under the lock, with the value: an
            // atomic does not see releases of atomics that come after it.
            if let Place::Arena(arena, offset) = place(lane, address, bytes, true, c)? {
                lock.take(arena, offset);
            }
            self.write_sync_global(c, addresses, 1 << lane, mask, order);
            let mut thread = Thread::new(c.block.index, self.index, &c.block.clocks[self.index], true);
            thread.now = thread.now.scoped(order.is_of_block());
            thread.at_lane(lane);
            let at = writable(c, &mut lock, &mut thread, lane, address, bytes, None)?;
            let mut old = [0; 32];
            // SAFETY: allocated; the page's lock is held.
            unsafe { std::ptr::copy_nonoverlapping(at, old.as_mut_ptr(), bytes) };
            let new = f(lane, &old);
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(new.as_ptr(), at, bytes) };
            self.read_sync_global(c, addresses, 1 << lane, order);
        }
        Ok(())
    }

    /// The release side of a strong write. It comes before the write itself: who sees the value finds the release. One of wider
    /// scope is one for the block, too.
    /// `all`: the lanes that execute the instruction.
    fn write_sync_global(
        &self,
        c: &mut Context<'_>,
        addresses: &[u64; WARP],
        mask: u32,
        all: u32,
        order: Order,
    ) {
        if !c.launch.checks.races {
            return;
        }
        let (block, warp, now) = (c.block.index, self.index, order.releases());
        let by = Writer { block, warp, lanes: all, live: self.live };
        for reach in [Reach::Device, Reach::Block] {
            let skips = reach == Reach::Device && order.is_of_block();
            if skips || !now && !c.block.clocks[warp].has_fenced(reach) {
                continue;
            }
            for lane in lanes(mask) {
                // Addresses in global memory are no offsets in shared memory: one table does for both.
                let table = if reach == Reach::Device { &c.launch.sync } else { &c.block.shared.sync };
                let variable = table.make(addresses[lane]);
                c.block.clocks[warp].write_sync(&variable, by, reach, now);
            }
        }
    }

    /// The acquire side of a strong read, after the read. At block scope it finds what the block has released.
    fn read_sync_global(&self, c: &mut Context<'_>, addresses: &[u64; WARP], mask: u32, order: Order) {
        c.block.polls += 1;
        let now = order.acquires();
        for lane in lanes(mask) {
            if let Some(variable) = c.block.shared.sync.get(addresses[lane]) {
                c.block.clocks[self.index].read_sync(&variable, Reach::Block, now);
            }
            if !order.is_of_block()
                && let Some(variable) = c.launch.sync.get(addresses[lane])
            {
                c.block.clocks[self.index].read_sync(&variable, Reach::Device, now);
            }
        }
    }
}
