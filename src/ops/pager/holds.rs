//! Who stays within the budget.
//!
//! A parameter keeps what it has from call to call, whichever parameters are stepped in between: an optimizer may take its
//! parameters in several calls, by groups or by layers, and leave some out. The first to come is served first; for memory that is
//! advised to stay room is kept. Who has not been seen while another was stepped twice gives way to it.

use crate::view::window::{ON_THE_WAY, Paged, Wish, window_bytes};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// Parameters that have been stepped, by the address of their first paged state.
#[derive(Default)]
pub struct Holds {
    known: BTreeMap<usize, Known>,
    /// Whether room is kept for what passes.
    windows: bool,
    calls: u64,
    /// What stays no more, and has not been sent away yet.
    gone: Vec<Range<usize>>,
}

/// A parameter.
struct Known {
    elements: usize,
    chunk_bytes: usize,
    wish: Wish,
    /// How many of its elements stay, from the first one on; the bytes that they take, and where their states are.
    stays: usize,
    bytes: usize,
    parts: Vec<Range<usize>>,
    /// The last two calls that it was in.
    seen: [u64; 2],
}

impl Holds {
    /// How many elements of each parameter stay in the call that comes. `parts` says where the states of so many are; `advised`
    /// bytes are advised to stay.
    pub fn choose(
        &mut self,
        paged: &[Paged],
        budget: usize,
        advised: usize,
        parts: impl Fn(usize, usize) -> Vec<Range<usize>>,
    ) -> Vec<usize> {
        self.calls += 1;
        for p in paged.iter().filter(|p| p.chunk_bytes > 0) {
            let same = |known: &Known| {
                (known.elements, known.chunk_bytes, known.wish) == (p.elements, p.chunk_bytes, p.wish)
            };
            if let Some(known) = self.known.get_mut(&p.key)
                && !same(known)
            {
                known.release(&mut self.gone);
                (known.elements, known.chunk_bytes, known.wish) = (p.elements, p.chunk_bytes, p.wish);
            }
        }
        let mut stays = self.stays(paged, budget, advised);
        let all = |stays: &[usize]| paged.iter().zip(stays).all(|(p, &stays)| stays == p.elements);
        if !all(&stays) && !self.windows {
            self.release_all();
            self.windows = true;
            stays = self.stays(paged, budget, advised);
        }
        if !all(&stays) && self.release_unseen(paged, &stays) {
            stays = self.stays(paged, budget, advised);
        }
        for (i, (p, &stays)) in paged.iter().zip(&stays).enumerate().filter(|(_, (p, _))| p.chunk_bytes > 0) {
            let known = self.known.entry(p.key).or_insert_with(|| Known {
                elements: p.elements,
                chunk_bytes: p.chunk_bytes,
                wish: p.wish,
                stays: 0,
                bytes: 0,
                parts: Vec::new(),
                seen: [0; 2],
            });
            known.seen = [known.seen[1], self.calls];
            if known.stays != stays {
                known.release(&mut self.gone);
                (known.stays, known.bytes, known.parts) = (stays, p.bytes(stays), parts(i, stays));
            }
        }
        stays
    }

    /// The elements of each parameter that stay: those that do, and more as far as there is room.
    fn stays(&self, paged: &[Paged], budget: usize, advised: usize) -> Vec<usize> {
        let held = |wish: Option<Wish>| -> usize {
            self.known
                .values()
                .filter(|known| wish.is_none_or(|wish| known.wish == wish))
                .map(|k| k.bytes)
                .sum()
        };
        let capacity = if self.windows { budget - ON_THE_WAY * window_bytes(budget) } else { budget };
        let mut room = capacity.saturating_sub(held(None));
        let mut kept = advised.saturating_sub(held(Some(Wish::Stay)));
        let mut stays: Vec<usize> = paged
            .iter()
            .map(|p| match self.known.get(&p.key) {
                _ if p.chunk_bytes == 0 => p.elements,
                Some(known) => known.stays,
                None => 0,
            })
            .collect();
        for wish in [Wish::Stay, Wish::None] {
            let wants = |(p, stays): &(&Paged, &mut usize)| {
                p.chunk_bytes > 0 && p.wish == wish && **stays < p.elements
            };
            for (p, stays) in paged.iter().zip(&mut stays).filter(wants) {
                let own = p.bytes(*stays);
                let free = if wish == Wish::None { room.saturating_sub(kept) } else { room };
                *stays = p.fits(p.elements, own + free).max(*stays);
                let more = p.bytes(*stays) - own;
                room -= more;
                if wish == Wish::Stay {
                    kept = kept.saturating_sub(more);
                }
            }
        }
        stays
    }

    /// Takes from those that were not seen while one that has no room was stepped twice.
    fn release_unseen(&mut self, paged: &[Paged], stays: &[usize]) -> bool {
        let wanting =
            paged.iter().zip(stays).filter(|(p, stays)| p.wish != Wish::Pass && **stays < p.elements);
        let since =
            wanting.filter_map(|(p, _)| self.known.get(&p.key)).map(|known| known.seen[0]).max().unwrap_or(0);
        let present: HashSet<usize> = paged.iter().map(|p| p.key).collect();
        let mut some = false;
        for (key, known) in &mut self.known {
            if known.stays > 0 && known.seen[1] < since && !present.contains(key) {
                known.release(&mut self.gone);
                some = true;
            }
        }
        some
    }

    /// Begins anew: what stays is chosen by the calls that come.
    pub fn release_all(&mut self) {
        self.known.values_mut().for_each(|known| known.release(&mut self.gone));
        self.windows = false;
    }

    /// Forgets memory that is freed.
    pub fn forget(&mut self, range: &Range<usize>) {
        let touches = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        self.known.retain(|key, known| !range.contains(key) && !known.parts.iter().any(touches));
        self.gone.retain(|other| !touches(other));
    }

    /// What stays no more since this was asked last.
    pub fn take_gone(&mut self) -> Vec<Range<usize>> {
        let mut gone = std::mem::take(&mut self.gone);
        if !gone.is_empty() {
            // What was released may have been chosen again.
            let held: HashSet<&Range<usize>> = self.held().collect();
            gone.retain(|range| !held.contains(range));
        }
        gone
    }

    /// It has not been sent away.
    pub fn put_back(&mut self, gone: Vec<Range<usize>>) {
        self.gone.extend(gone);
    }

    /// All that stays, of whatever call.
    pub fn held(&self) -> impl Iterator<Item = &Range<usize>> {
        self.known.values().flat_map(|known| &known.parts)
    }
}

impl Known {
    fn release(&mut self, gone: &mut Vec<Range<usize>>) {
        gone.append(&mut self.parts);
        (self.stays, self.bytes) = (0, 0);
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // a list of ranges
mod tests {
    use super::*;
    use crate::format::optimizer::norms::CHUNK;

    const CHUNK_BYTES: usize = 8 * CHUNK;
    /// 64 chunks; windows take 24 of them.
    const BUDGET: usize = 64 * CHUNK_BYTES;

    fn paged(key: usize, chunks: usize, wish: Wish) -> Paged {
        Paged { key, elements: chunks * CHUNK, chunk_bytes: CHUNK_BYTES, piece_bytes: 0, wish }
    }

    /// Steps parameters, by address and chunks; the chunks of each that stay.
    fn step(holds: &mut Holds, parameters: &[Paged], advised: usize) -> Vec<usize> {
        let at = |i: usize, stays: usize| {
            let key = parameters[i].key;
            if stays > 0 { vec![key..key + stays * CHUNK_BYTES / CHUNK] } else { Vec::new() }
        };
        let stays = holds.choose(parameters, BUDGET, advised, at);
        stays.into_iter().map(|elements| elements / CHUNK).collect()
    }

    #[test]
    fn calls_in_turn_disturb_each_other_once() {
        let mut holds = Holds::default();
        let groups = [
            [paged(1 << 20, 30, Wish::None)],
            [paged(2 << 20, 30, Wish::None)],
            [paged(3 << 20, 30, Wish::None)],
        ];
        // 90 chunks do not fit: that shows when the third group comes.
        assert_eq!(groups.each_ref().map(|group| step(&mut holds, group, 0)[0]), [30, 30, 30]);
        assert_eq!(holds.take_gone().len(), 2);
        for _ in 0..3 {
            assert_eq!(groups.each_ref().map(|group| step(&mut holds, group, 0)[0]), [10, 0, 30]);
        }
        assert!(holds.take_gone().is_empty());
    }

    #[test]
    fn who_is_not_seen_gives_way() {
        let mut holds = Holds::default();
        let (old, new) = ([paged(1 << 20, 60, Wish::None)], [paged(2 << 20, 50, Wish::None)]);
        assert_eq!(step(&mut holds, &old, 0), [60]);
        assert_eq!(step(&mut holds, &new, 0), [40]);
        assert_eq!(step(&mut holds, &old, 0), [0]);
        // In turn, nobody gives way.
        assert_eq!(step(&mut holds, &new, 0), [40]);
        assert_eq!(step(&mut holds, &old, 0), [0]);
        holds.take_gone();
        // Alone, the other one does.
        assert_eq!(step(&mut holds, &old, 0), [0]);
        assert_eq!(step(&mut holds, &old, 0), [40]);
        assert_eq!(holds.take_gone(), [2 << 20..(2 << 20) + 40 * CHUNK_BYTES]);
    }

    #[test]
    fn room_is_kept_for_what_is_advised_to_stay() {
        let mut holds = Holds::default();
        let (normal, stays) = ([paged(1 << 20, 60, Wish::None)], [paged(2 << 20, 30, Wish::Stay)]);
        for _ in 0..3 {
            assert_eq!(step(&mut holds, &normal, 30 * CHUNK_BYTES), [10]);
            assert_eq!(step(&mut holds, &stays, 30 * CHUNK_BYTES), [30]);
        }
        let pass = [paged(3 << 20, 1, Wish::Pass)];
        assert_eq!(step(&mut holds, &pass, 30 * CHUNK_BYTES), [0]);
    }

    #[test]
    fn what_changes_is_sent_away_and_what_is_freed_is_not() {
        let mut holds = Holds::default();
        assert_eq!(step(&mut holds, &[paged(1 << 20, 10, Wish::None)], 0), [10]);
        assert_eq!(step(&mut holds, &[paged(1 << 20, 20, Wish::None)], 0), [20]);
        assert_eq!(holds.take_gone(), [1 << 20..(1 << 20) + 10 * CHUNK_BYTES]);
        holds.release_all();
        holds.forget(&(0..usize::MAX));
        assert!(holds.take_gone().is_empty() && holds.held().next().is_none());
    }
}
