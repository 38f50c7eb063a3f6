//! What a pager knows of its memory: allocations, and where ranges want to be.

use super::holds::Holds;
use crate::cpu::file_memory::FileMemory;
use crate::cuda::paging::managed::Managed;
use crate::cuda::paging::streamed::Streamed;
use crate::error::{Error, Result};
use crate::view::Parameter;
use crate::view::window::{Area, Paged, Piece, Plan, Wish};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a pager knows.
pub(crate) struct Book {
    pub(crate) memory: Memory,
    /// Bytes of each allocation, by address.
    pub(super) allocations: BTreeMap<usize, usize>,
    /// Where ranges want to be: their ends, by their starts. They do not overlap.
    wishes: BTreeMap<usize, (usize, Wish)>,
    /// Who stays.
    holds: Holds,
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
        Self {
            memory,
            allocations: BTreeMap::new(),
            wishes: BTreeMap::new(),
            holds: Holds::default(),
            windows: 0,
            steps: 0,
        }
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
    fn set_wish(&mut self, range: Range<usize>, wish: Wish) {
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

    /// Sets the wish of a range. Who stays is chosen anew.
    pub(super) fn advise(&mut self, range: Range<usize>, wish: Wish) {
        self.set_wish(range, wish);
        self.holds.release_all();
    }

    /// Forgets memory that is freed.
    pub(super) fn forget(&mut self, range: Range<usize>) {
        self.allocations.remove(&range.start);
        self.holds.forget(&range);
        self.set_wish(range, Wish::None);
    }

    /// How many elements of each parameter stay in the call that comes.
    pub(super) fn choose(
        &mut self,
        paged: &[Paged],
        parameters: &[Parameter<'_>],
        budget: usize,
    ) -> Vec<usize> {
        let advised = self.wishes.iter().filter(|(_, (_, wish))| *wish == Wish::Stay);
        let advised = advised.map(|(start, (end, _))| end - start).sum();
        let mut holds = std::mem::take(&mut self.holds);
        let parts = |parameter: usize, stays: usize| match stays {
            0 => Vec::new(),
            _ => self.of_piece(&Piece { parameter, elements: 0..stays }, parameters).collect(),
        };
        let stays = holds.choose(paged, budget, advised, parts);
        self.holds = holds;
        stays
    }

    /// What stays no more since this was asked last.
    pub(crate) fn take_gone(&mut self) -> Vec<Range<usize>> {
        self.holds.take_gone()
    }

    /// It has not been sent away.
    pub(crate) fn put_back(&mut self, gone: Vec<Range<usize>>) {
        self.holds.put_back(gone);
    }

    /// All that stays, of whatever call.
    pub(crate) fn held(&self) -> Vec<Range<usize>> {
        self.holds.held().cloned().collect()
    }

    /// The parts of paged memory that a piece uses.
    fn of_piece(&self, piece: &Piece, parameters: &[Parameter<'_>]) -> impl Iterator<Item = Range<usize>> {
        let areas = parameters[piece.parameter].areas().filter(|area| self.has(area));
        areas.map(|area| area.bytes(&piece.elements))
    }

    /// The parts of paged memory that each window of a plan uses.
    pub(crate) fn parts(&self, plan: &Plan, parameters: &[Parameter<'_>]) -> Vec<Vec<Range<usize>>> {
        let of_window =
            |pieces: &[Piece]| pieces.iter().flat_map(|piece| self.of_piece(piece, parameters)).collect();
        plan.windows().map(of_window).collect()
    }
}
