//! Who accessed memory, and when by their own clock.

/// Lane number of "more than one lane".
pub const SEVERAL: u32 = 32;

/// A record of an access: block 29 bits, warp 6, lane 6, scoped 1, strong 1, pending 1, clock 20. Zero is "nobody".
///
/// The warp after a block's last stands for the engine that copies asynchronously (the async proxy).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Epoch(pub u64);

const PENDING: u64 = 1 << 20;
const STRONG: u64 = 1 << 21;
const SCOPED: u64 = 1 << 22;
const LANE: u32 = 23;
const WARP: u32 = 29;
const BLOCK: u32 = 35;

/// Clocks count synchronizing operations of a warp; there may not be more of them.
pub const MAX_CLOCK: u32 = (1 << 20) - 1;

/// A block number that marks a list of readers instead of one.
const LIST: u64 = (1 << 29) - 1;

impl Epoch {
    pub const NOBODY: Self = Self(0);

    /// The record of an access. Clocks start at 1.
    #[inline(always)]
    pub const fn new(block: u32, warp: u32, lane: u32, clock: u32) -> Self {
        Self((block as u64) << BLOCK | (warp as u64) << WARP | (lane as u64) << LANE | clock as u64)
    }

    /// The number of a list of readers.
    pub const fn list(index: usize) -> Self {
        Self(LIST << BLOCK | index as u64)
    }

    /// The list's number, if this is one.
    #[inline(always)]
    pub const fn as_list(self) -> Option<usize> {
        if self.0 >> BLOCK == LIST { Some((self.0 & ((1 << BLOCK) - 1)) as usize) } else { None }
    }

    pub const fn is_nobody(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub const fn block(self) -> u32 {
        (self.0 >> BLOCK) as u32
    }

    #[inline(always)]
    pub const fn warp(self) -> u32 {
        (self.0 >> WARP) as u32 & 63
    }

    /// 0…31, or [`SEVERAL`].
    #[inline(always)]
    pub const fn lane(self) -> u32 {
        (self.0 >> LANE) as u32 & 63
    }

    #[inline(always)]
    pub const fn clock(self) -> u32 {
        self.0 as u32 & MAX_CLOCK
    }

    /// Atomic, volatile or relaxed.
    #[inline(always)]
    pub const fn is_strong(self) -> bool {
        self.0 & STRONG != 0
    }

    /// A write that is still under way.
    #[inline(always)]
    pub const fn is_pending(self) -> bool {
        self.0 & PENDING != 0
    }

    pub const fn strong(self, strong: bool) -> Self {
        if strong { Self(self.0 | STRONG) } else { self }
    }

    /// Marks a strong access as one of block scope.
    pub const fn scoped(self, scoped: bool) -> Self {
        if scoped { Self(self.0 | SCOPED) } else { self }
    }

    /// Whether both accesses are strong and the scope of each includes the other's thread: such a pair is no race (§8.7.1).
    #[inline(always)]
    pub const fn is_morally_strong_with(self, other: Self) -> bool {
        self.is_strong()
            && other.is_strong()
            && ((self.0 | other.0) & SCOPED == 0 || self.0 >> BLOCK == other.0 >> BLOCK)
    }

    /// With the other's scope, if that is narrower.
    pub const fn narrowed_to(self, other: Self) -> Self {
        Self(self.0 | other.0 & SCOPED)
    }

    pub const fn weak(self) -> Self {
        Self(self.0 & !STRONG)
    }

    pub const fn pending(self) -> Self {
        Self(self.0 | PENDING)
    }

    pub const fn at_clock(self, clock: u32) -> Self {
        Self(self.0 & !(MAX_CLOCK as u64) | clock as u64)
    }

    pub const fn landed(self) -> Self {
        Self(self.0 & !PENDING)
    }

    #[inline(always)]
    pub const fn same_warp(self, other: Self) -> bool {
        self.0 >> WARP == other.0 >> WARP
    }

    /// Whether one thread did both. Several lanes together are no thread: even by the same lanes, each element may have been
    /// another's.
    #[inline(always)]
    pub const fn same_thread(self, other: Self) -> bool {
        self.0 >> LANE == other.0 >> LANE && self.lane() != SEVERAL
    }

    #[inline(always)]
    pub const fn with_lane(self, lane: u32) -> Self {
        Self(self.0 & !(63 << LANE) | (lane as u64) << LANE)
    }

    #[inline(always)]
    pub const fn of_several(self) -> Self {
        self.with_lane(SEVERAL)
    }
}

/// How much of a warp's past is known to have happened before: everything with a clock below `all`, and of the lanes in
/// `lanes` everything below `part`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Known {
    pub all: u32,
    pub part: u32,
    pub lanes: u32,
}

impl Known {
    #[inline(always)]
    pub const fn covers(self, e: Epoch) -> bool {
        e.clock() < self.all
            || e.clock() < self.part && e.lane() != SEVERAL && self.lanes >> e.lane() & 1 != 0
    }

    /// Adds what `other` knows. Of two different partial pasts the later is kept.
    pub fn join(&mut self, other: Self) {
        self.all = self.all.max(other.all);
        if self.part == other.part {
            self.lanes |= other.lanes;
        } else if self.part < other.part {
            (self.part, self.lanes) = (other.part, other.lanes);
        }
        if self.lanes == u32::MAX {
            self.all = self.all.max(self.part);
        }
    }
}
