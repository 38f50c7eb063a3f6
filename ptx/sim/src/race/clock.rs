//! The clocks of a block's warps.

use std::sync::Arc;

use super::epoch::{Epoch, Known, MAX_CLOCK, SEVERAL};
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
    /// What it knows of its own lanes by waiting: the past of a few lanes that arrived, for all lanes.
    waited: Known,
    foreign: Foreign,
    /// `known` at proxy fences on the way here: what the async proxy may rely on (§8.9.5).
    proxied: Vec<Known>,
    /// For locations in shared memory, where a fence of any scope serves, and in global memory, where it must be of gpu scope.
    patterns: [Patterns; 2],
}

/// Where a location that orders accesses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In shared memory, or in global memory as far as threads of one block use it: a fence of any scope serves.
    Block,
    /// In global memory: it orders threads of all blocks; fences must be of gpu scope.
    Device,
}

/// Halves of release and acquire patterns (§8.8) that wait for their other half.
#[derive(Clone, Default)]
struct Patterns {
    /// What the warp knew when the last fence came: what a relaxed store or atomic publishes.
    fenced: Vec<Known>,
    fenced_foreign: Foreign,
    /// Read from by relaxed loads and atomics; the next fence acquires it.
    seen: Foreign,
}

impl Patterns {
    fn join(&mut self, other: &Self) {
        join(&mut self.fenced, &other.fenced);
        self.fenced_foreign.join(&other.fenced_foreign);
        self.seen.join(&other.seen);
    }

    fn is_empty(&self) -> bool {
        self.fenced.iter().all(|k| *k == Known::default()) && self.fenced_foreign.is_empty()
    }
}

/// A thread at an access.
pub struct Thread<'a> {
    pub now: Epoch,
    clock: &'a WarpClock,
    /// The last write of another warp that was found to be before this: accesses of a warp often meet the same one.
    known: Epoch,
}

impl WarpClock {
    /// The clock of one of a block's warps.
    pub fn new(warps: usize) -> Self {
        let known = vec![Known::default(); warps + 1]; // and the async engine
        let patterns = Patterns { fenced: known.clone(), ..Patterns::default() };
        let proxied = known.clone();
        Self { clock: 1, known, proxied, patterns: [patterns.clone(), patterns], ..Self::default() }
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
            foreign: self.foreign.clone(),
            proxied: self.proxied.clone(),
            patterns: self.patterns.clone(),
        }
    }

    /// Takes over a past, after waiting for it. What it knows of this warp's own lanes is ordered before all of them.
    pub fn acquire(&mut self, past: &Past, warp: usize) {
        if past.known.is_empty() {
            return; // nobody has arrived yet
        }
        join(&mut self.known, &past.known);
        join(&mut self.proxied, &past.proxied);
        self.foreign.join(&past.foreign);
        for (into, other) in self.patterns.iter_mut().zip(&past.patterns) {
            into.join(other);
        }
        self.waited.join(past.known[warp]);
        self.lane_sync = self.lane_sync.max(past.known[warp].all.min(self.clock));
    }

    /// A fence by `lanes`: completes acquire patterns and begins release patterns.
    pub fn fence(&mut self, warp: usize, lanes: u32, live: u32, gpu: bool) {
        let reached = if gpu { 2 } else { 1 };
        for patterns in &mut self.patterns[..reached] {
            let seen = std::mem::take(&mut patterns.seen);
            self.foreign.join(&seen);
        }
        self.publish(warp, lanes, live);
        for patterns in &mut self.patterns[..reached] {
            patterns.fenced.clone_from(&self.known);
            patterns.fenced_foreign = self.foreign.clone();
        }
    }

    /// A fence between the generic and the async proxy.
    pub fn proxy_fence(&mut self, warp: usize, lanes: u32, live: u32) {
        self.publish(warp, lanes, live);
        join(&mut self.proxied, &self.known);
    }

    /// Whether a proxy fence lies between the access `e` of this block and now.
    fn is_proxied(&self, e: Epoch) -> bool {
        e.warp() as usize + 1 == self.proxied.len() || self.proxied[e.warp() as usize].covers(e)
    }

    /// A strong write to `variable`. `now`: of release semantics, rather than relaxed after a fence.
    pub fn write_sync(&mut self, variable: &SyncVariable, by: Writer, reach: Reach, now: bool) {
        let Writer { block, warp, lanes, live } = by;
        if now {
            self.publish(warp, lanes, live);
            variable.release(block, &self.known, &self.foreign);
        } else {
            let patterns = &self.patterns[reach as usize];
            if !patterns.is_empty() {
                variable.release(block, &patterns.fenced, &patterns.fenced_foreign);
            }
        }
    }

    /// Whether a relaxed write has anything to publish.
    pub fn has_fenced(&self, reach: Reach) -> bool {
        !self.patterns[reach as usize].is_empty()
    }

    /// A strong read of `variable`.
    pub fn read_sync(&mut self, variable: &Arc<SyncVariable>, reach: Reach, now: bool) {
        let into = if now { &mut self.foreign } else { &mut self.patterns[reach as usize].seen };
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
            || self.waited.covers(e)
            || self.part.covers(e) && now.lane() != SEVERAL && self.part.lanes >> now.lane() & 1 != 0
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

    /// Whether an access of the async proxy here may follow the access `e` of this block.
    pub fn may_follow_in_async_proxy(&self, e: Epoch) -> bool {
        e.block() != self.now.block() || self.clock.is_proxied(e)
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

/// Who writes to a synchronization variable.
#[derive(Clone, Copy)]
pub struct Writer {
    pub block: u32,
    pub warp: usize,
    pub lanes: u32,
    pub live: u32,
}

/// What arrivals at a barrier make known.
#[derive(Clone, Default)]
pub struct Past {
    known: Vec<Known>,
    foreign: Foreign,
    proxied: Vec<Known>,
    patterns: [Patterns; 2],
}

impl Past {
    /// Adds another arrival's.
    pub fn join(&mut self, other: &Self) {
        if self.known.is_empty() {
            *self = other.clone();
            return;
        }
        join(&mut self.known, &other.known);
        join(&mut self.proxied, &other.proxied);
        self.foreign.join(&other.foreign);
        for (into, other) in self.patterns.iter_mut().zip(&other.patterns) {
            into.join(other);
        }
    }

    /// Adds what the async engine of a block of `warps` warps has done before its time `clock`.
    pub fn add_engine(&mut self, warps: usize, clock: u32) {
        if self.known.is_empty() {
            let clean = WarpClock::new(warps);
            (self.known, self.proxied, self.patterns) = (clean.known, clean.proxied, clean.patterns);
        }
        self.known[warps].join(Known { all: clock, ..Known::default() });
    }
}
