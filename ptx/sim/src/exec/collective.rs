//! Shuffles, votes and other exchanges within a warp (PTX ISA §9.7.9.5–6, §9.7.13.8–12).

use super::lanes::{Class, WARP};
use super::warp::{Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::{AtomOp, Match, Redux, Shuffle, ShuffleMode, Vote, VoteOp};

impl Warp {
    pub(super) fn shuffle(&mut self, s: &Shuffle, mask: u32) -> Step {
        let file = &self.registers.b32;
        let (a, b, c) = (file[usize::from(s.a)], file[usize::from(s.b)], file[usize::from(s.c)]);
        let mut out = a;
        let mut inside = 0u32;
        for lane in lanes(mask) {
            // c: clamp in bits 0–4, segment mask in bits 8–12 (§9.7.9.6).
            let (shift, clamp, segment) = (b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31);
            let index = lane as u32;
            let max = index & segment | clamp & !segment;
            let min = index & segment;
            let (from, valid) = match s.mode {
                ShuffleMode::Up => (index.wrapping_sub(shift), index as i32 - shift as i32 >= max as i32),
                ShuffleMode::Down => (index + shift, index + shift <= max),
                ShuffleMode::Bfly => (index ^ shift, index ^ shift <= max),
                ShuffleMode::Idx => (min | shift & !segment, min | shift & !segment <= max),
            };
            let from = if valid { from as usize } else { lane };
            if mask >> from & 1 == 0 {
                let text =
                    format!("lane {lane} reads lane {from}, which does not take part (members {mask:#010x})");
                return raise(FaultKind::Divergence, lane, text);
            }
            out[lane] = a[from];
            inside |= u32::from(valid) << lane;
        }
        self.write32(s.d, mask, |lane| out[lane]);
        let p = &mut self.registers.pred[usize::from(s.p)];
        *p = *p & !mask | inside & mask;
        Ok(())
    }

    pub(super) fn vote(&mut self, v: &Vote, mask: u32) {
        let votes = self.predicate(v.p) & mask;
        let outcome = match v.op {
            VoteOp::Ballot => return self.write32(v.d.index, mask, |_| votes),
            VoteOp::Popc => return self.write32(v.d.index, mask, |_| votes.count_ones()),
            VoteOp::All => votes == mask,
            VoteOp::Any => votes != 0,
            VoteOp::Uni => votes == mask || votes == 0,
        };
        let d = &mut self.registers.pred[usize::from(v.d.index)];
        *d = if outcome { *d | mask } else { *d & !mask };
    }

    pub(super) fn match_sync(&mut self, m: &Match, mask: u32) {
        let values: [u64; WARP] = match m.a.class {
            Class::B64 => self.registers.b64[usize::from(m.a.index)],
            _ => self.registers.b32[usize::from(m.a.index)].map(u64::from),
        };
        let same =
            |lane: usize| lanes(mask).fold(0, |set, k| set | u32::from(values[k] == values[lane]) << k);
        if m.all {
            let all = same(mask.trailing_zeros() as usize) == mask;
            self.write32(m.d, mask, |_| if all { mask } else { 0 });
            let p = &mut self.registers.pred[usize::from(m.p)];
            *p = if all { *p | mask } else { *p & !mask };
        } else {
            self.write32(m.d, mask, same);
        }
    }

    pub(super) fn redux(&mut self, x: &Redux, mask: u32) {
        let a = self.registers.b32[usize::from(x.a)];
        let combine = |p: u32, q: u32| match (x.op, x.signed) {
            (AtomOp::Add, _) => p.wrapping_add(q),
            (AtomOp::Min, true) => (p as i32).min(q as i32) as u32,
            (AtomOp::Max, true) => (p as i32).max(q as i32) as u32,
            (AtomOp::Min, false) => p.min(q),
            (AtomOp::Max, false) => p.max(q),
            (AtomOp::And, _) => p & q,
            (AtomOp::Or, _) => p | q,
            _ => p ^ q,
        };
        if let Some(result) = lanes(mask).map(|lane| a[lane]).reduce(combine) {
            self.write32(x.d, mask, |_| result);
        }
    }

    /// The leader is the lowest lane.
    pub(super) fn elect(&mut self, d: u16, p: u16, mask: u32) {
        let leader = mask.trailing_zeros();
        self.write32(d, mask, |_| leader);
        let p = &mut self.registers.pred[usize::from(p)];
        *p = *p & !mask | 1 << leader;
    }
}
