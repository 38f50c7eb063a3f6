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
/// Where states of a parameter differ, the last of these counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The address of its first state in paged memory, if it has one: what it is known by.
    pub key: usize,
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
    pub fn bytes(&self, elements: usize) -> usize {
        match elements {
            0 => 0,
            _ => (elements * self.chunk_bytes).div_ceil(CHUNK) + self.piece_bytes,
        }
    }

    /// The most elements, in whole chunks or all, of a piece that takes no more than `room` bytes.
    pub fn fits(&self, elements: usize, room: usize) -> usize {
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

    /// So many elements of each parameter stay, from the first on; the rest passes through windows of no more than `window` bytes.
    pub fn new(parameters: &[Paged], stays: &[usize], window: usize) -> Self {
        let mut plan = Self::default();
        let (mut pieces, mut left) = (Vec::new(), window);
        for (parameter, (p, &stays)) in parameters.iter().zip(stays).enumerate() {
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

    fn any_paged() -> impl Strategy<Value = (Paged, f64)> {
        let chunk_bytes = prop::sample::select(vec![0, 2 * CHUNK + 64, 8 * CHUNK, 12 * CHUNK]);
        (0usize..40_000, chunk_bytes, 0.0..1.0).prop_map(|(elements, chunk_bytes, share)| {
            (Paged { key: 0, elements, chunk_bytes, piece_bytes: 768, wish: Wish::None }, share)
        })
    }

    proptest! {
        #[test]
        fn a_plan_covers_everything_in_windows(
            parameters in prop::collection::vec(any_paged(), 0..12),
            window in LEAST_BUDGET / 8..LEAST_BUDGET,
        ) {
            let (parameters, shares): (Vec<_>, Vec<_>) = parameters.into_iter().unzip();
            let stays = |(p, share): (&Paged, &f64)| match (p.elements as f64 * share) as usize {
                _ if p.chunk_bytes == 0 => p.elements,
                some => some / CHUNK * CHUNK,
            };
            let stays: Vec<usize> = parameters.iter().zip(&shares).map(stays).collect();
            let plan = Plan::new(&parameters, &stays, window);
            let bytes = |pieces: &[Piece]| -> usize {
                pieces.iter().map(|piece| parameters[piece.parameter].bytes(piece.elements.len())).sum()
            };
            prop_assert!(plan.passing.iter().all(|pieces| !pieces.is_empty() && bytes(pieces) <= window));
            let mut covered = vec![0; parameters.len()];
            for piece in plan.windows().flatten() {
                let Range { start, end } = piece.elements;
                prop_assert!(start == covered[piece.parameter] && start % CHUNK == 0 && start < end);
                prop_assert!(end % CHUNK == 0 || end == parameters[piece.parameter].elements);
                covered[piece.parameter] = end;
            }
            prop_assert!(covered.iter().zip(&parameters).all(|(&covered, p)| covered == p.elements));
            let staying = plan.staying.iter().map(|piece| (piece.parameter, piece.elements.end));
            prop_assert!(staying.eq(stays.into_iter().enumerate().filter(|(_, stays)| *stays > 0)));
        }
    }
}
