//! States in 8 bits: a warp's run is a block. Values are looked up in shared memory, codes are found by
//! [`crate::format::dynamic_rank`] with one look-up: lanes conflict by chance, as 256 entries in 32 banks let them.

use super::super::blockwise8::join;
use super::super::scale::{self, scale_of};
use super::super::table;
use super::super::tile::THREADS;
use super::table::{EACH, Run, VECTOR};
use crate::format::Map256;
use crate::format::dynamic_rank::Lines;
use crate::format::optimizer::blocks;
use ptx_asm::{Array, B32, F32, Global, Kernel, Ptr, Reg, Target, U8};

/// The tables of a map, in shared memory.
pub struct Map {
    values: Array<F32>,
    midpoints: Array<F32>,
    lines: Lines,
    /// The code of zero.
    zero: u8,
}

impl Map {
    /// Brings the tables to shared memory; a barrier must follow.
    pub fn new(k: &Kernel, signed: bool) -> Self {
        let map: Map256 = blocks::map(signed);
        let kind = if signed { "signed" } else { "unsigned" };
        let share = |what, words: [f32; 256]| {
            table::share(k, &format!("{kind}_{what}"), &table::bits(words), THREADS)
        };
        Self {
            values: share("values", map.values),
            midpoints: share("midpoints", map.midpoints),
            lines: Lines::new(signed),
            zero: map.encode(0.0),
        }
    }

    /// The values of the lane's elements; 0 beyond the end.
    pub fn load(&self, k: &Kernel, run: &Run, [codes, scale]: [Ptr<Global>; 2]) -> [Reg<F32>; EACH] {
        // Read by the lane that writes it: nothing else orders the two.
        let (absmax, leads) = (k.mov::<F32>(0.0), k.setp_eq_u32(run.lane, 0));
        k.to(absmax).when(leads).ld_global::<F32>(scale);
        let words = k.splat::<B32, { EACH / VECTOR }>(0x0101_0101 * u32::from(self.zero));
        let whole = || {
            for (u, &word) in words.iter().enumerate() {
                k.to(word).ld_global::<B32>(codes.at(Run::apart(u * VECTOR) as i32));
            }
        };
        let single = || {
            for i in 0..EACH {
                let code = k.mov::<B32>(u32::from(self.zero));
                k.to(code).when(run.has(k, i)).ld_global::<U8>(codes.at(Run::apart(i) as i32));
                let word = words[i / VECTOR];
                k.to(word).bfi_b32(code, word, 8 * (i % VECTOR) as u32, 8);
            }
        };
        run.whole_or_single(k, whole, single);
        let absmax = k.shfl_idx_f32(absmax, 0, 31, u32::MAX);
        std::array::from_fn(|i| {
            let code = k.bfe_u32(words[i / VECTOR], 8 * (i % VECTOR) as u32, 8);
            k.mul_rn_f32(k.ld_shared::<F32>(self.values.element(k, code)), absmax)
        })
    }

    /// Quantizes the block and writes it; values beyond the end are 0.
    pub fn store(&self, k: &Kernel, run: &Run, [to, absmax]: [Ptr<Global>; 2], values: &[Reg<F32>]) {
        let scale = scale_of(k, across_lanes(k, scale::largest(k, values)));
        let codes: Vec<_> = values.iter().map(|&x| self.encode(k, k.mul_rn_f32(x, scale.inverse))).collect();
        let whole = || {
            for (u, codes) in codes.chunks(VECTOR).enumerate() {
                k.st_global::<B32>(to.at(Run::apart(u * VECTOR) as i32), join(k, codes));
            }
        };
        let single = || {
            for (i, &code) in codes.iter().enumerate() {
                k.when(run.has(k, i)).st_global::<U8>(to.at(Run::apart(i) as i32), code);
            }
        };
        run.whole_or_single(k, whole, single);
        let leads = k.setp_eq_u32(run.lane, 0);
        k.when(leads).st_global::<B32>(absmax, scale.absmax);
    }

    /// [`Lines::encode`].
    fn encode(&self, k: &Kernel, t: Reg<F32>) -> Reg<B32> {
        let Lines { slopes, offsets, signed } = &self.lines;
        let magnitude = if *signed { k.abs_f32(t) } else { k.max_f32(t, 0.0) };
        let lines =
            slopes.iter().zip(offsets).map(|(&slope, &offset)| k.fma_rn_f32(magnitude, slope, offset));
        let least = lines.reduce(|a, b| k.min_f32(a, b)).expect("there are lines");
        let distance = k.cvt_rzi_s32_f32(least);
        let before = if *signed {
            let up = k.add_s32(distance, i32::from(Lines::ZERO));
            let down = k.max_s32(k.sub_s32(i32::from(Lines::ZERO) - 1, distance), 0);
            k.selp_b32(down, up, k.setp_lt_f32(t, 0.0))
        } else {
            distance
        };
        let exceeds = k.setp_gt_f32(t, k.ld_shared::<F32>(self.midpoints.element(k, before)));
        k.to(before).when(exceeds).add_u32(before, 1);
        k.selp_b32(0, before, k.testp_notanumber_f32(t))
    }
}

/// The largest word of a warp.
fn across_lanes(k: &Kernel, max: Reg<B32>) -> Reg<B32> {
    if k.target() >= Target::Sm80 {
        return k.redux_max_u32(max, u32::MAX);
    }
    let fold = |max, apart| k.max_u32(max, k.shfl_bfly_b32(max, apart, 31, u32::MAX));
    [16, 8, 4, 2, 1].into_iter().fold(max, fold)
}
