//! What loops are made of, and which of a kernel's loops matter.

use super::listing::{Instruction, Listing, Unit};
use super::loops;
use std::collections::{BTreeMap, BTreeSet};

/// The code of a loop.
pub struct Mix {
    pub counts: BTreeMap<Unit, usize>,
    /// Of all, those that only copy.
    pub moves: usize,
    pub accesses: BTreeMap<String, usize>,
}

/// The columns.
pub const UNITS: [(Unit, &str); 8] = [
    (Unit::Tensor, "tensor"),
    (Unit::Float, "float"),
    (Unit::Multiply, "multiply"),
    (Unit::Logic, "logic"),
    (Unit::Shared, "shared"),
    (Unit::Global, "global"),
    (Unit::Uniform, "uniform"),
    (Unit::Control, "control"),
];

impl Mix {
    pub fn of<'a>(code: impl Iterator<Item = &'a Instruction>) -> Self {
        let mut mix = Self { counts: BTreeMap::new(), moves: 0, accesses: BTreeMap::new() };
        for instruction in code.filter(|i| !i.is_idle()) {
            *mix.counts.entry(instruction.unit()).or_default() += 1;
            mix.moves += usize::from(instruction.is_move());
            instruction.access().into_iter().for_each(|form| *mix.accesses.entry(form).or_default() += 1);
        }
        mix
    }

    pub fn count(&self, unit: Unit) -> usize {
        self.counts.get(&unit).copied().unwrap_or(0)
    }

    pub fn all(&self) -> usize {
        self.counts.values().sum()
    }
}

/// Instructions of a loop that only waits for a barrier, at most: it counts as none.
const WAIT: usize = 10;

/// The code of the main loop, the one with no loop of the kind in it that has the most products of tensor cores, or in a
/// kernel without, the most instructions; and of the producers', the largest without products.
pub fn main_loops(listing: &Listing) -> [Option<Mix>; 2] {
    let loops = loops::loops(listing);
    let loops: Vec<_> = loops.iter().filter(|body| body.len() > WAIT).collect();
    let tensor =
        |body: &BTreeSet<usize>| body.iter().filter(|&&i| listing.instructions[i].is_tensor()).count();
    let largest_innermost = |of_kind: &dyn Fn(&BTreeSet<usize>) -> bool| {
        let of_kind: Vec<_> = loops.iter().copied().filter(|body| of_kind(body)).collect();
        let has_inner =
            |body: &BTreeSet<usize>| of_kind.iter().any(|l| l.len() < body.len() && l.is_subset(body));
        let innermost = of_kind.iter().copied().filter(|body| !has_inner(body));
        let main = innermost.max_by_key(|body| (tensor(body), body.len()))?;
        Some(Mix::of(main.iter().map(|&i| &listing.instructions[i])))
    };
    let has_tensor = loops.iter().any(|body| tensor(body) > 0);
    [largest_innermost(&|body| !has_tensor || tensor(body) > 0), largest_innermost(&|body| tensor(body) == 0)]
}
