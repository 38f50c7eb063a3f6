//! A matrix in 16 bits, as tensor cores take it: rounded once, zeros beyond its rows and columns.
//!
//! A thread makes two neighbours, a word of the result. What is cast is little, an adapter's matrix: it is read as it lies.

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
}

impl Spec for CastSpec {
    /// Parameters: the source, its row stride, its rows and columns (u64); the result, aligned to 4 bytes and without gaps
    /// between its rows, its rows and columns (u64), an even number. Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "cast", THREADS, |k| self.body(k))
    }
}

impl CastSpec {
    fn body(&self, k: &Kernel) {
        let source = Dense { dtype: self.from, base: k.param_ptr("source"), stride: k.param_u64("stride") };
        let [rows, cols] = ["rows", "cols"].map(|name| k.param_u64(name));
        let out = k.param_ptr("out");
        let [out_rows, out_cols] = ["out_rows", "out_cols"].map(|name| k.param_u64(name));
        let pairs = k.shr_u64(out_cols, 1);
        let total = k.mul_lo_u64(out_rows, pairs);
        let at = k.add_u64(k.mul_wide_u32(k.ctaid_x(), THREADS), k.cvt_u64_u32(k.tid_x()));
        let step = k.mul_wide_u32(k.nctaid_x(), THREADS);
        k.while_(
            || k.setp_lt_u64(at, total),
            || {
                let row = k.div_u64(at, pairs);
                let col = k.shl_b64(k.sub_u64(at, k.mul_lo_u64(row, pairs)), 1);
                let row_exists = k.setp_lt_u64(row, rows);
                let [low, high] = [0u64, 1].map(|odd| {
                    let col = k.add_u64(col, odd);
                    source.load(k, row, col, Some(k.and_pred(row_exists, k.setp_lt_u64(col, cols))))
                });
                k.st_global::<B32>(k.offset(out, k.shl_b64(at, 2)), self.to.pack(k, low, high));
                k.to(at).add_u64(at, step);
            },
        );
    }
}

/// Tiles of a result of these sizes: what a block makes at a time.
pub fn tiles(rows: u64, cols: u64) -> u64 {
    rows.saturating_mul(cols / 2).div_ceil(THREADS.into())
}
