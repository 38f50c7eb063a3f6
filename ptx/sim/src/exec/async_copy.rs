//! `cp.async`: copies that land when they are waited for, and not before.

use std::collections::VecDeque;

use super::cta::Block;
use super::lanes::WARP;
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::{CpAsync, Order};
use crate::memory::State;
use crate::race::Thread;

/// A copy into shared memory under way; its bytes were read when it was issued.
pub struct Landing {
    pub lane: usize,
    pub at: usize,
    pub size: usize,
    pub data: [u8; 16],
}

/// Something that a lane has under way.
pub trait OfLane {
    fn lane(&self) -> usize;
}

impl OfLane for Landing {
    fn lane(&self) -> usize {
        self.lane
    }
}

/// The asynchronous operations of a warp. Groups are each thread's own.
pub struct Groups<T> {
    pub uncommitted: Vec<T>,
    /// Oldest first: the lanes that committed, and their operations.
    groups: VecDeque<(u32, Vec<T>)>,
}

/// `cp.async`.
pub type Copies = Groups<Landing>;

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self { uncommitted: Vec::new(), groups: VecDeque::new() }
    }
}

/// Takes the elements for which `f` holds.
fn take_if<T>(from: &mut Vec<T>, f: impl Fn(&T) -> bool) -> Vec<T> {
    let (taken, rest) = std::mem::take(from).into_iter().partition(f);
    *from = rest;
    taken
}

impl<T: OfLane> Groups<T> {
    pub fn commit(&mut self, mask: u32) {
        let group = take_if(&mut self.uncommitted, |op| mask >> op.lane() & 1 != 0);
        self.groups.push_back((mask, group));
    }

    /// Takes the operations of the lanes in `mask` out of all groups but the latest `keep` of each lane, and with
    /// `uncommitted` those of no group, too.
    pub fn take(&mut self, keep: u32, uncommitted: bool, mask: u32) -> Vec<T> {
        let mut done = Vec::new();
        let mut later = [0u32; WARP];
        for (committers, group) in self.groups.iter_mut().rev() {
            for lane in lanes(*committers) {
                later[lane] += 1;
            }
            done.extend(take_if(group, |op| mask >> op.lane() & 1 != 0 && later[op.lane()] > keep));
        }
        // Groups that are done and old count for nobody.
        while self.groups.len() > keep.max(16) as usize
            && self.groups.front().is_some_and(|(_, g)| g.is_empty())
        {
            self.groups.pop_front();
        }
        if uncommitted {
            done.extend(take_if(&mut self.uncommitted, |op| mask >> op.lane() & 1 != 0));
        }
        done
    }

    /// What is under way.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.groups.iter().flat_map(|(_, group)| group).chain(&self.uncommitted)
    }

    /// Whether anything is under way.
    pub fn is_empty(&self) -> bool {
        self.uncommitted.is_empty() && self.groups.iter().all(|(_, group)| group.is_empty())
    }
}

/// Puts a copy's bytes in their place, as written by its thread at the warp's time `clock`.
pub fn land(block: &mut Block, warp: usize, clock: u32, copy: &Landing) {
    let shared = &mut block.shared;
    let range = copy.at..copy.at + copy.size;
    shared.data[range.clone()].copy_from_slice(&copy.data[..copy.size]);
    shared.state[range].fill(State::Written as u8);
    let mut thread = Thread::new(block.index, warp, &block.clocks[warp], false);
    thread.at_lane(copy.lane);
    shared.shadow.land(copy.at, copy.size, thread.now.at_clock(clock));
}

impl Warp {
    pub(super) fn cp_async(&mut self, c: &mut Context<'_>, op: &CpAsync, mask: u32) -> Step {
        let (mut dst, src) = (self.addresses(&op.dst), self.addresses(&op.src));
        self.to_cluster(c, &mut dst, mask)?;
        let ignored = op.ignore.map_or(0, |p| self.predicate(p)) & mask;
        let mut data = [[0; 32]; WARP];
        // Lanes with a short source read less: one read for each length.
        let mut lengths = [op.size; WARP];
        for lane in lanes(mask) {
            if let Some(register) = op.src_size {
                let length = self.registers.b32[usize::from(register)][lane] as usize;
                if length > op.size {
                    let text = format!("a source of {length} bytes for a copy of {}", op.size);
                    return raise(FaultKind::IllegalOperand, lane, text);
                }
                lengths[lane] = length;
            }
            if ignored >> lane & 1 != 0 {
                lengths[lane] = 0;
            }
            if src[lane] % op.size as u64 != 0 {
                return super::access::misaligned("global", lane, src[lane], op.size);
            }
        }
        let full = lanes(mask).filter(|&lane| lengths[lane] == op.size).fold(0, |set, lane| set | 1 << lane);
        self.read_global(c, &src, full, op.size, Order::Weak, &mut data)?;
        for lane in lanes(mask & !full) {
            #[allow(clippy::needless_range_loop)] // of the address, too
            for byte in 0..lengths[lane] {
                let mut address = src;
                address[lane] += byte as u64;
                let mut one = [[0; 32]; WARP];
                self.read_global(c, &address, 1 << lane, 1, Order::Weak, &mut one)?;
                data[lane][byte] = one[lane][0];
            }
        }
        c.tally.bank_conflicts += super::banks::bank_conflicts(&dst, mask, op.size);
        self.begin_shared_writes(c, &dst, mask, op.size)?;
        for lane in lanes(mask) {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&data[lane][..16]);
            let copy = Landing { lane, at: dst[lane] as usize, size: op.size, data: bytes };
            self.copies.uncommitted.push(copy);
        }
        Ok(())
    }

    pub(super) fn cp_async_wait(&mut self, c: &mut Context<'_>, keep: u32, uncommitted: bool, mask: u32) {
        for copy in self.copies.take(keep, uncommitted, mask) {
            land(c.block, self.index, c.block.clocks[self.index].clock, &copy);
        }
    }
}
