//! Shared memory: bounds, alignment, written or not, races, bank conflicts.

use super::access::{Data, misaligned};
use super::lanes::WARP;
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::Order;
use crate::memory::State;
use crate::race::{Conflict, Shadow, SyncTable, Thread};

/// The shared memory of a block.
pub struct Shared {
    pub data: Vec<u8>,
    /// A [`State`] for each byte.
    pub state: Vec<u8>,
    pub shadow: Shadow,
    pub sync: SyncTable,
}

impl Shared {
    pub fn new(size: usize) -> Self {
        Self {
            data: vec![0xCD; size],
            state: vec![State::Unwritten as u8; size],
            shadow: Shadow::new(size, 0),
            sync: SyncTable::default(),
        }
    }

    /// As a new block finds it.
    pub fn reset(&mut self) {
        self.data.fill(0xCD);
        self.state.fill(State::Unwritten as u8);
        self.shadow.reset(0);
        self.sync = SyncTable::default();
    }
}

/// Wavefronts beyond those that the access needs: 32 banks of 4 bytes; accesses of 8 bytes go in two halves of a warp, of 16
/// bytes in four quarters. Lanes that read the same word share it.
pub fn bank_conflicts(addresses: &[u64; WARP], mask: u32, bytes: usize) -> u64 {
    let lanes_at_once = match bytes {
        ..=4 => 32,
        8 => 16,
        _ => 8,
    };
    let words_each = bytes.div_ceil(4);
    let mut extra = 0;
    for group in 0..WARP / lanes_at_once {
        let group_mask = mask & ((1u64 << lanes_at_once) - 1 << (group * lanes_at_once)) as u32;
        if group_mask == 0 {
            continue;
        }
        // Common case: every word in another bank, or all lanes at one word.
        let (mut used, mut clash) = (0u32, false);
        let mut words = [0u64; WARP];
        let mut count = 0;
        for lane in lanes(group_mask) {
            for k in 0..words_each {
                let word = addresses[lane] / 4 + k as u64;
                clash |= used >> (word % 32) & 1 != 0;
                used |= 1 << (word % 32);
                words[count] = word;
                count += 1;
            }
        }
        if clash {
            let words = &mut words[..count];
            words.sort_unstable();
            let mut banks = [0u64; 32];
            for (k, &word) in words.iter().enumerate() {
                if k == 0 || words[k - 1] != word {
                    banks[(word % 32) as usize] += 1;
                }
            }
            extra += banks.iter().max().copied().unwrap_or(1) - 1;
        }
    }
    extra
}

#[cold]
fn race<T>(c: &Context<'_>, lane: usize, at: usize, bytes: usize, read: bool, conflict: Conflict) -> Step<T> {
    let verb = if read { "reads" } else { "writes" };
    let who = Warp::name_thread(c.launch, conflict.earlier);
    if conflict.earlier.is_pending() {
        let text = format!(
            "{verb} {bytes} bytes at shared offset {at:#x}, which an asynchronous copy of {who} is still writing: \
             the wait for it is missing"
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
    pub(super) fn shared_at(&self, c: &Context<'_>, lane: usize, address: u64, bytes: usize) -> Step<usize> {
        if address & (bytes as u64 - 1) != 0 {
            return misaligned("shared", lane, address, bytes);
        }
        let size = c.block.shared.data.len();
        if address.saturating_add(bytes as u64) > size as u64 {
            let text = format!("{bytes} bytes at shared offset {address:#x}; the block has {size:#x} bytes");
            return raise(FaultKind::OutOfBounds, lane, text);
        }
        Ok(address as usize)
    }

    /// Checks one lane's read.
    pub(super) fn readable_shared(
        &self,
        c: &mut Context<'_>,
        lane: usize,
        at: usize,
        bytes: usize,
        strong: bool,
    ) -> Step {
        if c.launch.checks.races {
            let thread = Thread { now: self.now(c, lane).strong(strong), clock: &c.block.clocks[self.index] };
            if let Err(conflict) = c.block.shared.shadow.read(at, bytes, &thread) {
                return race(c, lane, at, bytes, true, conflict);
            }
        }
        // After the race: a value that another thread has not written yet is a missing barrier, if that thread has been here.
        if c.launch.checks.uninitialized
            && let Some(k) =
                c.block.shared.state[at..at + bytes].iter().position(|&s| s != State::Written as u8)
        {
            let text =
                format!("reads {bytes} bytes at shared offset {at:#x}; byte {:#x} was never written", at + k);
            return raise(FaultKind::Uninitialized, lane, text);
        }
        Ok(())
    }

    /// Checks one lane's write and marks its bytes as written.
    pub(super) fn writable_shared(
        &self,
        c: &mut Context<'_>,
        lane: usize,
        at: usize,
        bytes: usize,
        strong: bool,
        value: &[u8; 32],
    ) -> Step {
        if c.launch.checks.races {
            let thread = Thread { now: self.now(c, lane).strong(strong), clock: &c.block.clocks[self.index] };
            let shared = &mut c.block.shared;
            let present = &shared.data[at..at + bytes];
            if let Err(conflict) = shared.shadow.write(at, bytes, &thread, || present == &value[..bytes]) {
                return race(c, lane, at, bytes, false, conflict);
            }
        }
        c.block.shared.state[at..at + bytes].fill(State::Written as u8);
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
        for lane in lanes(mask) {
            let at = self.shared_at(c, lane, addresses[lane], bytes)?;
            self.readable_shared(c, lane, at, bytes, strong)?;
            data[lane][..bytes].copy_from_slice(&c.block.shared.data[at..at + bytes]);
        }
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
        for lane in lanes(mask) {
            let at = self.shared_at(c, lane, addresses[lane], bytes)?;
            self.writable_shared(c, lane, at, bytes, strong, &data[lane])?;
            c.block.shared.data[at..at + bytes].copy_from_slice(&data[lane][..bytes]);
        }
        Ok(())
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
            let at = self.shared_at(c, lane, addresses[lane], bytes)?;
            self.readable_shared(c, lane, at, bytes, true)?;
            let mut old = [0; 32];
            old[..bytes].copy_from_slice(&c.block.shared.data[at..at + bytes]);
            let new = f(lane, &old);
            self.writable_shared(c, lane, at, bytes, true, &new)?;
            c.block.shared.data[at..at + bytes].copy_from_slice(&new[..bytes]);
        }
        self.read_sync_shared(c, addresses, mask, order);
        Ok(())
    }

    fn write_sync_shared(&self, c: &mut Context<'_>, addresses: &[u64; WARP], mask: u32, order: Order) {
        let now = matches!(order, Order::Release | Order::AcqRel);
        let (block, warp) = (c.block.index, self.index);
        if c.launch.checks.races && (now || c.block.clocks[warp].has_fenced()) {
            for lane in lanes(mask) {
                let variable = c.block.shared.sync.make(addresses[lane]);
                c.block.clocks[warp].write_sync(&variable, block, warp, mask, self.live, now);
            }
        }
    }

    fn read_sync_shared(&self, c: &mut Context<'_>, addresses: &[u64; WARP], mask: u32, order: Order) {
        let now = matches!(order, Order::Acquire | Order::AcqRel);
        for lane in lanes(mask) {
            if let Some(variable) = c.block.shared.sync.get(addresses[lane]) {
                c.block.clocks[self.index].read_sync(&variable, now);
            }
        }
    }
}
