//! The clocks of a block's warps.

use std::sync::Arc;

use super::epoch::{Epoch, Known, MAX_CLOCK};
use super::sync::{Foreign, SyncVariable};

/// What a warp knows about the past.
#[derive(Clone, Default)]
pub struct WarpClock {
    /// This warp's time; it goes on with each operation that publishes the past.
    pub clock: u32,
    /// Accesses of all lanes before this time are ordered before all lanes.
    lane_sync: u32,
    /// The same for the lanes of a partial `bar.warp.sync`.
    part: Known,
    /// What this warp knows of the block's warps; of itself: what it has made known.
    known: Vec<Known>,
    /// `known` when the last fence of gpu scope came: what a relaxed store or atomic publishes.
    fenced: Vec<Known>,
    foreign: Foreign,
    fenced_foreign: Foreign,
    /// Read from by relaxed loads and atomics; the next fence acquires it.
    seen: Foreign,
}

/// A thread at an access.
pub struct Thread<'a> {
    pub now: Epoch,
    clock: &'a WarpClock,
    /// The last write of another warp that was found to be before this: accesses of a warp often meet the same one.
    known: Epoch,
}

impl WarpClock {
    pub fn new(warps: usize) -> Self {
        Self {
            clock: 1,
            known: vec![Known::default(); warps],
            fenced: vec![Known::default(); warps],
            ..Self::default()
        }
    }

    fn tick(&mut self) {
        // At the end of the clock everything looks simultaneous: conflicts would be reported, not missed.
        self.clock = (self.clock + 1).min(MAX_CLOCK);
    }

    /// Publishes the past of `lanes` (of the lanes of `live` that still run).
    fn publish(&mut self, warp: usize, lanes: u32, live: u32) {
        let past = self.clock + 1;
        let mut own = Known { all: self.lane_sync, part: past, lanes };
        if lanes & live == live {
            own.all = past;
        }
        self.known[warp].join(own);
        self.tick();
    }

    /// `bar.warp.sync`.
    pub fn warp_sync(&mut self, lanes: u32, live: u32) {
        self.tick();
        if lanes & live == live {
            self.lane_sync = self.clock;
        } else {
            self.part = Known { all: 0, part: self.clock, lanes };
        }
    }

    /// Arrives at something: its past, for others to join.
    pub fn release(&mut self, warp: usize, lanes: u32, live: u32) -> Past {
        self.publish(warp, lanes, live);
        Past {
            known: self.known.clone(),
            fenced: self.fenced.clone(),
            foreign: self.foreign.clone(),
            fenced_foreign: self.fenced_foreign.clone(),
            seen: self.seen.clone(),
        }
    }

    /// Takes over a past, after waiting for it. If the whole warp waited and was part of it, its lanes are ordered too.
    pub fn acquire(&mut self, past: &Past, warp: usize) {
        join(&mut self.known, &past.known);
        join(&mut self.fenced, &past.fenced);
        self.foreign.join(&past.foreign);
        self.fenced_foreign.join(&past.fenced_foreign);
        self.seen.join(&past.seen);
        self.lane_sync = self.lane_sync.max(self.known[warp].all.min(self.clock));
    }

    /// A fence by `lanes`. One of gpu scope completes acquire patterns and begins release patterns.
    pub fn fence(&mut self, warp: usize, lanes: u32, live: u32) {
        let seen = std::mem::take(&mut self.seen);
        self.foreign.join(&seen);
        self.publish(warp, lanes, live);
        self.fenced.clone_from(&self.known);
        self.fenced_foreign = self.foreign.clone();
    }

    /// A strong write to `variable`. `now`: of release semantics, rather than relaxed after a fence.
    pub fn write_sync(
        &mut self,
        variable: &SyncVariable,
        block: u32,
        warp: usize,
        lanes: u32,
        live: u32,
        now: bool,
    ) {
        if now {
            self.publish(warp, lanes, live);
            variable.release(block, &self.known, &self.foreign);
        } else if self.fenced.iter().any(|k| *k != Known::default()) || !self.fenced_foreign.is_empty() {
            variable.release(block, &self.fenced, &self.fenced_foreign);
        }
    }

    /// Whether a relaxed write has anything to publish.
    pub fn has_fenced(&self) -> bool {
        self.fenced.iter().any(|k| *k != Known::default()) || !self.fenced_foreign.is_empty()
    }

    /// A strong read of `variable`.
    pub fn read_sync(&mut self, variable: &Arc<SyncVariable>, now: bool) {
        let into = if now { &mut self.foreign } else { &mut self.seen };
        into.add(variable);
    }

    /// Whether the access `e` happened before `thread`.
    fn ordered(&self, e: Epoch, now: Epoch) -> bool {
        if e.block() != now.block() {
            return self.foreign.covers(e);
        }
        if e.warp() != now.warp() {
            return self.known[e.warp() as usize].covers(e)
                || !self.foreign.is_empty() && self.foreign.covers(e);
        }
        e.same_thread(now)
            || e.clock() < self.lane_sync
            || self.part.covers(e) && self.part.lanes >> now.lane() & 1 != 0
    }
}

impl<'a> Thread<'a> {
    /// A lane of a warp, before its first access.
    pub fn new(block: u32, warp: usize, clock: &'a WarpClock, strong: bool) -> Self {
        let now = Epoch::new(block, warp as u32, 0, clock.clock).strong(strong);
        Self { now, clock, known: Epoch::NOBODY }
    }

    /// The same instruction in another lane.
    #[inline(always)]
    pub fn at_lane(&mut self, lane: usize) {
        self.now = self.now.with_lane(lane as u32);
    }

    #[inline(always)]
    pub(super) fn knows(&self, e: Epoch) -> bool {
        e == self.known
    }

    /// Remembers an ordered write of another warp; those of this warp depend on the lane.
    #[inline(always)]
    pub(super) fn learn(&mut self, e: Epoch) {
        if !e.same_warp(self.now) {
            self.known = e;
        }
    }

    #[inline]
    pub fn is_after(&self, e: Epoch) -> bool {
        e.same_thread(self.now) || self.clock.ordered(e, self.now)
    }
}

fn join(into: &mut [Known], other: &[Known]) {
    for (into, other) in into.iter_mut().zip(other) {
        into.join(*other);
    }
}

/// What arrivals at a barrier make known.
#[derive(Clone, Default)]
pub struct Past {
    known: Vec<Known>,
    fenced: Vec<Known>,
    foreign: Foreign,
    fenced_foreign: Foreign,
    seen: Foreign,
}

impl Past {
    /// Adds another arrival's.
    pub fn join(&mut self, other: &Self) {
        if self.known.is_empty() {
            *self = other.clone();
            return;
        }
        join(&mut self.known, &other.known);
        join(&mut self.fenced, &other.fenced);
        self.foreign.join(&other.foreign);
        self.fenced_foreign.join(&other.fenced_foreign);
        self.seen.join(&other.seen);
    }
}
