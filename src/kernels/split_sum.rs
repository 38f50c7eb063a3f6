//! `out = scale · Σ_s partial[s] + bias (+ out)`: the end of a product whose inner dimension was split over blocks.
//!
//! The partial sums are added in the order of the splits, so that results repeat bit for bit; the sum is rounded once. A
//! warp reads 128 consecutive bytes of each partial matrix.
//!
//! On a Hopper it may be launched while the kernel that makes them still runs, and waits for its end in the first instruction
//! (PTX ISA §9.7.13.13): what a launch takes from the end of one kernel to the first block of the next is over by then.

use super::dense::Dense;
use super::tile::THREADS;
use super::{Spec, Written, module};
use crate::view::DType;
use ptx_asm::{B64, Error, F32, Kernel, Reg, Target};

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SplitSumSpec {
    /// The type of the output.
    pub out: DType,
    /// The type of the bias, a row as long as the output's, if there is one.
    pub bias: Option<DType>,
    /// Whether to add to what is there.
    pub accumulate: bool,
    /// Whether it may be launched before the kernel ahead of it has ended: on Hopper.
    pub overlaps: bool,
}

impl Spec for SplitSumSpec {
    /// Parameters: the partial sums, f32 `[splits, rows, cols]` without gaps; splits (u32); scale (f32); rows, cols (u64);
    /// the bias if there is one; the output and its row stride (u64). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "split_sum", THREADS, |k| self.body(k))
    }

    fn target(&self, device: Target) -> Target {
        if self.overlaps { Target::Sm90a } else { device }
    }
}

impl SplitSumSpec {
    fn body(&self, k: &Kernel) {
        if self.overlaps {
            k.griddepcontrol_wait();
        }
        let partial = k.param_ptr("partial");
        let splits = k.param_u32("splits");
        let scale = k.param_f32("scale");
        let [rows, cols] = ["rows", "cols"].map(|name| k.param_u64(name));
        let bias = self.bias.map(|dtype| Dense { dtype, base: k.param_ptr("bias"), stride: k.mov(0) });
        let out = Dense { dtype: self.out, base: k.param_ptr("out"), stride: k.param_u64("out_stride") };

        k.section("an element a thread");
        let total = k.mul_lo_u64(rows, cols);
        let matrix = k.shl_b64(total, 2);
        let at = k.add_u64(k.mul_wide_u32(k.ctaid_x(), THREADS), k.cvt_u64_u32(k.tid_x()));
        k.while_(
            || k.setp_lt_u64(at, total),
            || {
                let row = k.div_u64(at, cols);
                let col = k.sub_u64(at, k.mul_lo_u64(row, cols));
                let from = k.offset(partial, k.shl_b64(at, 2));
                let sum: Reg<F32> = k.ld_global::<F32>(from);
                k.for_range(1, splits, 1, |_| {
                    k.advance(from, matrix);
                    k.to(sum).add_rn_f32(sum, k.ld_global::<F32>(from));
                });
                let old = self.accumulate.then(|| out.load(k, row, col, None));
                let bias = bias.as_ref().map(|bias| bias.load(k, k.mov::<B64>(0), col, None));
                let value = bias
                    .into_iter()
                    .chain(old)
                    .fold(k.mul_rn_f32(sum, scale), |sum, term| k.add_rn_f32(sum, term));
                out.store(k, row, col, value);
                k.to(at).add_u64(at, k.mul_wide_u32(k.nctaid_x(), THREADS));
            },
        );
    }
}

/// Tiles of a matrix: what a block makes at a time.
pub fn tiles(rows: u64, cols: u64) -> u64 {
    rows.saturating_mul(cols).div_ceil(THREADS.into())
}
