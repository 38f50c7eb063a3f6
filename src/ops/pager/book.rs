//! What a pager knows of its memory: allocations, and where ranges want to be.

use crate::cpu::file_memory::FileMemory;
use crate::cuda::paging::managed::Managed;
use crate::cuda::paging::streamed::Streamed;
use crate::error::{Error, Result};
use crate::view::Parameter;
use crate::view::window::{Area, Piece, Plan, Wish};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a pager knows.
pub(crate) struct Book {
    pub(crate) memory: Memory,
    /// Bytes of each allocation, by address.
    pub(super) allocations: BTreeMap<usize, usize>,
    /// Where ranges want to be: their ends, by their starts. They do not overlap.
    wishes: BTreeMap<usize, (usize, Wish)>,
    pub(crate) windows: u64,
    pub(crate) steps: u64,
}

pub(crate) enum Memory {
    Managed(Managed),
    Streamed(Streamed),
    File(FileMemory),
}

impl Book {
    pub(super) fn new(memory: Memory) -> Self {
        Self { memory, allocations: BTreeMap::new(), wishes: BTreeMap::new(), windows: 0, steps: 0 }
    }

    /// A range within an allocation.
    pub(super) fn range(&self, address: usize, bytes: u64) -> Result<Range<usize>> {
        let end = usize::try_from(bytes).ok().and_then(|bytes| address.checked_add(bytes));
        let found = end.map(|end| address..end).filter(|range| !range.is_empty() && self.holds(range));
        found.ok_or_else(|| {
            Error::invalid(format!(
                "ptr is {address:#x} and bytes {bytes}; they must lie in one allocation of this pager"
            ))
        })
    }

    /// Whether a range lies in one allocation.
    pub(crate) fn holds(&self, range: &Range<usize>) -> bool {
        let before = self.allocations.range(..=range.start).next_back();
        before.is_some_and(|(&start, &len)| range.end <= start + len)
    }

    pub(super) fn has(&self, area: &Area) -> bool {
        let extent = area.extent();
        !extent.is_empty() && self.holds(&extent)
    }

    pub(super) fn wish(&self, address: usize) -> Wish {
        let before = self.wishes.range(..=address).next_back();
        before.filter(|(_, (end, _))| address < *end).map_or(Wish::None, |(_, (_, wish))| *wish)
    }

    /// Sets the wish of a range; what stands out of it on either side keeps its own.
    pub(super) fn set_wish(&mut self, range: Range<usize>, wish: Wish) {
        let touched: Vec<_> =
            self.wishes.range(..range.end).rev().map(|(&start, &(end, wish))| (start, end, wish)).collect();
        for (start, end, old) in touched.into_iter().take_while(|(_, end, _)| *end > range.start) {
            self.wishes.remove(&start);
            if start < range.start {
                self.wishes.insert(start, (range.start, old));
            }
            if range.end < end {
                self.wishes.insert(range.end, (end, old));
            }
        }
        if wish != Wish::None {
            self.wishes.insert(range.start, (range.end, wish));
        }
    }

    /// The parts of paged memory that each window of a plan uses.
    pub(crate) fn parts(&self, plan: &Plan, parameters: &[Parameter<'_>]) -> Vec<Vec<Range<usize>>> {
        let parts = |piece: &Piece| {
            let areas = parameters[piece.parameter].areas().filter(|area| self.has(area));
            areas.map(|area| area.bytes(&piece.elements)).collect::<Vec<_>>()
        };
        plan.windows().map(|pieces| pieces.iter().flat_map(parts).collect()).collect()
    }
}
