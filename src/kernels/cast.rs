//! A matrix in 16 bits, as tensor cores take it: the sum of slices in f32, scaled; in one part, rounded once, or in two whose
//! sum is closer; zeros beyond its rows and columns.
//!
//! A thread makes two neighbours, a word of each part. What is cast is little, an adapter's matrix or a low-rank one: it is
//! read as it lies, slice after slice in order, so that sums repeat bit for bit.

use super::decode::Half;
use super::dense::Dense;
use super::tile::THREADS;
use super::{Spec, Written, module};
use crate::view::DType;
use ptx_asm::{B32, Error, Kernel, Target};

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CastSpec {
    /// The type of the source.
    pub from: DType,
    /// The type of the result.
    pub to: Half,
    /// 16-bit matrices whose sum the result is: 1 or 2.
    pub parts: u32,
}

impl Spec for CastSpec {
    /// Parameters: the source, its row stride, its rows and columns, its slices (u32) and their distance (elements), the
    /// scale (f32); the result, aligned to 4 bytes and without gaps between rows and parts, its rows and columns (u64), of which
    /// there is an even number. Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "cast", THREADS, |k| self.body(k))
    }
}

impl CastSpec {
    fn body(&self, k: &Kernel) {
        let (base, stride) = (k.param_ptr("source"), k.param_u64("stride"));
        let [rows, cols] = ["rows", "cols"].map(|name| k.param_u64(name));
        let (slices, distance) = (k.param_u32("slices"), k.param_u64("distance"));
        let scale = k.param_f32("scale");
        let out = k.param_ptr("out");
        let [out_rows, out_cols] = ["out_rows", "out_cols"].map(|name| k.param_u64(name));
        let pairs = k.shr_u64(out_cols, 1);
        let words = k.mul_lo_u64(out_rows, pairs);
        let distance = k.shl_b64(distance, self.from.size().trailing_zeros());
        let at = k.add_u64(k.mul_wide_u32(k.ctaid_x(), THREADS), k.cvt_u64_u32(k.tid_x()));
        let step = k.mul_wide_u32(k.nctaid_x(), THREADS);
        k.while_(
            || k.setp_lt_u64(at, words),
            || {
                let row = k.div_u64(at, pairs);
                let col = k.shl_b64(k.sub_u64(at, k.mul_lo_u64(row, pairs)), 1);
                // Beyond the source its first element is loaded: loads without a guard go ahead of the additions.
                let columns = [0u64, 1].map(|odd| {
                    let col = k.add_u64(col, odd);
                    let exists = k.and_pred(k.setp_lt_u64(row, rows), k.setp_lt_u64(col, cols));
                    let [row, col] = [row, col].map(|at| k.selp_b64(at, 0, exists));
                    (row, col, exists)
                });
                let slice = Dense { dtype: self.from, base: k.offset(base, 0), stride };
                let load = |i: usize| slice.load(k, columns[i].0, columns[i].1, None);
                let sums = [0, 1].map(load);
                k.for_range(1, slices, 1, |_| {
                    k.advance(slice.base, distance);
                    let values = [0, 1].map(load);
                    sums.into_iter().zip(values).for_each(|(sum, value)| k.to(sum).add_rn_f32(sum, value));
                });
                let sums = [0, 1].map(|i| k.selp_f32(sums[i], 0.0, columns[i].2));
                let values = sums.map(|sum| k.mul_rn_f32(sum, scale));
                let mut to = k.offset(out, k.shl_b64(at, 2));
                let parts = match self.parts {
                    1 => vec![self.to.pack(k, values[0], values[1])],
                    _ => self.to.split(k, values).to_vec(),
                };
                for part in parts {
                    k.st_global::<B32>(to, part);
                    to = k.offset(to, k.shl_b64(words, 2));
                }
                k.to(at).add_u64(at, step);
            },
        );
    }
}

/// Tiles of a result of these sizes: what a block makes at a time.
pub fn tiles(rows: u64, cols: u64) -> u64 {
    rows.saturating_mul(cols / 2).div_ceil(THREADS.into())
}
