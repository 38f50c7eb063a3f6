//! The absmax of a quantization block, which may lie in a few lanes or be spread over warps.

use super::tile::{Place, THREADS, VECTORS};
use crate::format::blockwise4::NAN_ABSMAX;
use ptx_asm::{Array, B32, F32, Global, Kernel, Ptr, Reg};

const WARPS: u32 = THREADS / 32;

/// How a quantization block lies in a tile: `vectors` of each of `lanes` lanes of `warps` warps. All powers of two.
#[derive(Clone, Copy)]
pub struct Span {
    lanes: u32,
    vectors: u32,
    warps: u32,
    /// With several warps.
    slots: Option<Slots>,
}

/// A slot a warp, twice, used in turn, so that one barrier a tile is enough.
#[derive(Clone, Copy)]
struct Slots {
    slots: Array<B32>,
    turn: Reg<B32>,
}

/// The scale of the block that a vector belongs to.
#[derive(Clone, Copy)]
pub struct Scale {
    /// What is stored.
    pub absmax: Reg<B32>,
    /// Its reciprocal; 0 where it would overflow, NaN where the block holds a NaN.
    pub inverse: Reg<F32>,
}

impl Span {
    /// For blocks of `block_size` elements in vectors of `vector`.
    pub fn new(k: &Kernel, block_size: u32, vector: u32) -> Self {
        let all = block_size / vector;
        let lanes = all.min(32);
        let vectors = (all / lanes).min(VECTORS);
        let warps = all / lanes / vectors;
        let slots = (warps > 1)
            .then(|| Slots { slots: k.shared::<B32>("warp_maxima", 2 * WARPS as usize), turn: k.mov(0) });
        Self { lanes, vectors, warps, slots }
    }

    /// The scale of the block of each of the thread's vectors, from the largest magnitude of each.
    ///
    /// Magnitudes order like their bits, infinity above every number and NaN above infinity, so one integer maximum
    /// decides everything ([`crate::format::blockwise4::block_scale`]).
    pub fn scales(&self, k: &Kernel, place: &Place, largest: [Reg<B32>; VECTORS as usize]) -> Vec<Scale> {
        let groups = largest.chunks(self.vectors as usize).map(|group| {
            let mut max = group.iter().copied().reduce(|a, b| k.max_u32(a, b)).expect("a group has vectors");
            let mut apart = self.lanes / 2;
            while apart > 0 {
                max = k.max_u32(max, k.shfl_bfly_b32(max, apart, 31, u32::MAX));
                apart /= 2;
            }
            let max = self.across_warps(k, place, max);
            scale_of(k, max)
        });
        groups.flat_map(|scale| vec![scale; self.vectors as usize]).collect()
    }

    fn across_warps(&self, k: &Kernel, place: &Place, max: Reg<B32>) -> Reg<B32> {
        let Some(Slots { slots, turn }) = self.slots else { return max };
        k.comment("the block's warps meet; the other half of the slots is the next tile's");
        let half = slots.element(k, k.shl_b32(turn, WARPS.trailing_zeros()));
        let leads = k.setp_eq_u32(place.lane, 0);
        k.when(leads).st_shared::<B32>(k.element(half, place.warp, 4), max);
        k.bar_sync(0);
        k.to(turn).xor_b32(turn, 1);
        let first = k.element(half, k.and_b32(place.warp, !(self.warps - 1)), 4);
        let others = (0..self.warps as i32).map(|warp| k.ld_shared::<B32>(first.at(4 * warp)));
        others.reduce(|a, b| k.max_u32(a, b)).expect("several warps")
    }
}

/// The scale of a block from the bits of its largest magnitude.
pub fn scale_of(k: &Kernel, max: Reg<B32>) -> Scale {
    let inverse = k.rcp_rn_f32(k.f32_from_bits(max));
    let vanishes = k.setp_eq_f32(inverse, f32::INFINITY);
    let nan = k.setp_gt_u32(max, f32::INFINITY.to_bits());
    let absmax = k.selp_b32(0, k.selp_b32(NAN_ABSMAX.to_bits(), max, nan), vanishes);
    Scale { absmax, inverse: k.selp_f32(0.0, inverse, vanishes) }
}

/// The largest magnitude of some values, as bits.
pub fn largest(k: &Kernel, values: &[Reg<F32>]) -> Reg<B32> {
    let magnitudes = values.iter().map(|&x| k.and_b32(k.f32_to_bits(x), 0x7fff_ffff));
    magnitudes.reduce(|a, b| k.max_u32(a, b)).expect("there are values")
}

/// Writes the absmax of each block that begins at one of the thread's vectors.
pub fn store(k: &Kernel, place: &Place, scales: &[Scale], absmax: Ptr<Global>, block_size: u32) {
    for (u, scale) in (0..).zip(scales) {
        let within = k.add_u32(place.within, place.apart(u));
        let begins = k.setp_eq_u32(k.and_b32(within, block_size - 1), 0);
        let leads = k.and_pred(begins, place.exists(k, u, 0));
        k.if_then(leads, || {
            let block = k.shr_u64(place.index(k, u, 0), block_size.trailing_zeros());
            k.st_global::<B32>(k.offset(absmax, k.shl_b64(block, 2)), scale.absmax);
        });
    }
}
