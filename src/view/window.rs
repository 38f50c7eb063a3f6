//! The parts that a step takes one after another when its states do not all fit where it runs.
//!
//! A parameter is cut at whole chunks of the norms, which are whole blocks of 8-bit states: a step that is taken part by part
//! computes what the whole step does, in the same order of additions.

use super::{Parameter, State};
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::norms::CHUNK;
use std::ops::Range;

/// Elements of one parameter: from a chunk's start to a chunk's end, or the parameter's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The parameter's number in the call.
    pub parameter: usize,
    /// Not empty.
    pub elements: Range<usize>,
}

/// The memory of a state of a parameter: its values or codes, or its scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Where it starts.
    pub address: usize,
    /// Bytes of an item.
    size: usize,
    /// Elements that share an item.
    share: usize,
    /// Items.
    len: usize,
}

impl Area {
    /// Where the items of these elements lie.
    pub fn bytes(&self, elements: &Range<usize>) -> Range<usize> {
        let at = |items: usize| self.address + self.size * items;
        at(elements.start / self.share)..at(elements.end.div_ceil(self.share))
    }

    /// Where all of it lies.
    pub fn extent(&self) -> Range<usize> {
        self.address..self.address + self.size * self.len
    }
}

impl Parameter<'_> {
    /// Elements.
    pub(crate) fn elements(&self) -> usize {
        self.param.rows() * self.param.cols()
    }

    /// The memory of its states, in order: of each its values or codes, then its scales.
    pub(crate) fn areas(&self) -> impl Iterator<Item = Area> {
        self.states
            .iter()
            .flat_map(|state| match state {
                State::F32(values) => [
                    Some(Area { address: values.extent().start(), size: 4, share: 1, len: values.len() }),
                    None,
                ],
                State::Blocks { codes, absmax } => [
                    Some(Area { address: codes.extent().start(), size: 1, share: 1, len: codes.len() }),
                    Some(Area { address: absmax.extent().start(), size: 4, share: BLOCK, len: absmax.len() }),
                ],
            })
            .flatten()
    }
}

/// Where the states of a parameter want to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Where there is room.
    #[default]
    None,
    /// In the budget, before others.
    Stay,
    /// Never in the budget for longer than they are used.
    Pass,
}

/// A parameter as the plan sees it.
#[derive(Debug)]
pub struct Paged {
    /// Its elements.
    pub elements: usize,
    /// Bytes of a chunk's states in paged memory; 0 if they are elsewhere.
    pub chunk_bytes: usize,
    /// Bytes that a piece may take beyond those of its elements.
    pub piece_bytes: usize,
    /// Where they want to be.
    pub wish: Wish,
}

/// How a step is taken part by part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What stays within the budget from step to step; all that is not paged is here.
    pub staying: Vec<Piece>,
    /// What comes and goes, window by window: each is not empty.
    pub passing: Vec<Vec<Piece>>,
}

impl Paged {
    /// Bytes of a piece of so many elements, at most.
    fn bytes(&self, elements: usize) -> usize {
        match elements {
            0 => 0,
            _ => (elements * self.chunk_bytes).div_ceil(CHUNK) + self.piece_bytes,
        }
    }

    /// The most elements, in whole chunks or all, of a piece that takes no more than `room` bytes.
    fn fits(&self, elements: usize, room: usize) -> usize {
        if self.bytes(elements) <= room {
            return elements;
        }
        room.saturating_sub(self.piece_bytes) / self.chunk_bytes * CHUNK
    }
}

/// Windows on the way at a time: one comes, one is used, one goes.
pub const ON_THE_WAY: usize = 3;

/// What windows are aligned to, and addresses within them are equal to those elsewhere modulo.
pub const ALIGN: usize = 256;
/// The least budget: its windows hold a chunk of any states.
pub const LEAST_BUDGET: usize = 256 << 10;

/// The most bytes of a window.
pub fn window_bytes(budget: usize) -> usize {
    // Larger ones do not move faster; that many leave most of the budget to what stays.
    (budget / 8).min(32 << 20) / ALIGN * ALIGN
}

impl Plan {
    /// A step that is taken as a whole.
    pub fn whole(parameters: &[Parameter<'_>]) -> Self {
        let all =
            parameters.iter().map(Parameter::elements).enumerate().filter(|&(_, elements)| elements > 0);
        let staying = all.map(|(parameter, elements)| Piece { parameter, elements: 0..elements }).collect();
        Self { staying, passing: Vec::new() }
    }

    /// What fits the budget stays, first come, first served; if that is not all, the rest passes through windows, for which
    /// room is kept.
    pub fn new(parameters: &[Paged], budget: usize) -> Self {
        let all: usize = parameters.iter().filter(|p| p.chunk_bytes > 0).map(|p| p.bytes(p.elements)).sum();
        let passes = |p: &Paged| p.wish == Wish::Pass && p.chunk_bytes > 0;
        let window = window_bytes(budget);
        let keeps_room = all > budget || parameters.iter().any(passes);
        let mut room = if keeps_room { budget - ON_THE_WAY * window } else { budget };
        let mut stays: Vec<usize> =
            parameters.iter().map(|p| if p.chunk_bytes == 0 { p.elements } else { 0 }).collect();
        for wish in [Wish::Stay, Wish::None] {
            for (p, stays) in
                parameters.iter().zip(&mut stays).filter(|(p, _)| p.wish == wish && p.chunk_bytes > 0)
            {
                *stays = p.fits(p.elements, room);
                room -= p.bytes(*stays);
            }
        }
        let mut plan = Self::default();
        let (mut pieces, mut left) = (Vec::new(), window);
        for (parameter, (p, stays)) in parameters.iter().zip(stays).enumerate() {
            if stays > 0 {
                plan.staying.push(Piece { parameter, elements: 0..stays });
            }
            let mut start = stays;
            while start < p.elements {
                if p.fits(p.elements - start, left) == 0 {
                    plan.passing.push(std::mem::take(&mut pieces));
                    left = window;
                }
                let end = start + p.fits(p.elements - start, left);
                left -= p.bytes(end - start);
                pieces.push(Piece { parameter, elements: start..end });
                start = end;
            }
        }
        if !pieces.is_empty() {
            plan.passing.push(pieces);
        }
        plan
    }

    /// All windows, what stays first.
    pub fn windows(&self) -> impl Iterator<Item = &[Piece]> {
        std::iter::once(&self.staying[..]).chain(self.passing.iter().map(|pieces| &pieces[..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_paged() -> impl Strategy<Value = Paged> {
        let wish = prop::sample::select(vec![Wish::None, Wish::Stay, Wish::Pass]);
        (0usize..40_000, prop::sample::select(vec![0, 2 * CHUNK + 64, 8 * CHUNK, 12 * CHUNK]), wish)
            .prop_map(|(elements, chunk_bytes, wish)| Paged { elements, chunk_bytes, piece_bytes: 768, wish })
    }

    proptest! {
        #[test]
        fn a_plan_covers_everything_within_the_budget(
            parameters in prop::collection::vec(any_paged(), 0..12),
            budget in 300_000usize..2_000_000,
        ) {
            let plan = Plan::new(&parameters, budget);
            let bytes = |pieces: &[Piece]| -> usize {
                let paged = |piece: &Piece| (&parameters[piece.parameter], piece.elements.len());
                pieces.iter().map(paged).filter(|(p, _)| p.chunk_bytes > 0).map(|(p, len)| p.bytes(len)).sum()
            };
            let window = window_bytes(budget);
            prop_assert!(plan.passing.iter().all(|pieces| !pieces.is_empty() && bytes(pieces) <= window));
            let on_the_way = if plan.passing.is_empty() { 0 } else { ON_THE_WAY * window };
            prop_assert!(bytes(&plan.staying) + on_the_way <= budget);
            let mut covered = vec![0; parameters.len()];
            for piece in plan.windows().flatten() {
                let Range { start, end } = piece.elements;
                prop_assert!(start == covered[piece.parameter] && start % CHUNK == 0 && start < end);
                prop_assert!(end % CHUNK == 0 || end == parameters[piece.parameter].elements);
                covered[piece.parameter] = end;
            }
            prop_assert!(covered.iter().zip(&parameters).all(|(&covered, p)| covered == p.elements));
            for (number, p) in parameters.iter().enumerate().filter(|(_, p)| p.chunk_bytes > 0) {
                let stays = plan.staying.iter().any(|piece| piece.parameter == number);
                prop_assert!(!(p.wish == Wish::Pass && stays));
            }
        }
    }

    #[test]
    fn what_wants_to_stay_is_served_first() {
        let paged = |wish| Paged { elements: 40 * CHUNK, chunk_bytes: 8 * CHUNK, piece_bytes: 0, wish };
        let plan = Plan::new(&[paged(Wish::None), paged(Wish::Stay), paged(Wish::Pass)], 64 * 16 * CHUNK);
        let at = |i: usize| plan.staying.iter().find(|piece| piece.parameter == i).map(|p| p.elements.end);
        // 128 chunks fit, of which 48 are kept for what passes.
        assert_eq!([at(0), at(1), at(2)], [Some(40 * CHUNK), Some(40 * CHUNK), None]);
        let small = Plan::new(&[paged(Wish::None), paged(Wish::Stay), paged(Wish::Pass)], 32 * 16 * CHUNK);
        let at = |i: usize| small.staying.iter().find(|piece| piece.parameter == i).map(|p| p.elements.end);
        assert_eq!([at(0), at(1), at(2)], [None, Some(40 * CHUNK), None]);
    }
}
