//! `out = scale · Σ_s partial[s] + bias (+ out)`: the end of a product whose inner dimension was split over blocks.
//!
//! The partial sums are added in the order of the splits, so that results repeat bit for bit; the sum is rounded once. A
//! thread makes four elements of a row where it can, from 16 bytes of each partial matrix: what it takes to find the row, a
//! division of 70 instructions, is more than all else for one.
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
    /// Whether rows are of whole fours of elements, and all of the output and of the bias start at a multiple of a four's size.
    pub fours: bool,
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
    /// Tiles of a matrix: what a block makes at a time.
    pub fn tiles(&self, rows: u64, cols: u64) -> u64 {
        rows.saturating_mul(cols).div_ceil((THREADS * self.count()).into())
    }

    /// Elements that a thread makes at a time.
    fn count(&self) -> u32 {
        if self.fours { 4 } else { 1 }
    }

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

        k.section("an element or four a thread");
        let count = self.count();
        let total = k.mul_lo_u64(rows, cols);
        let matrix = k.shl_b64(total, 2);
        let at = k.mul_wide_u32(k.mad_lo_u32(k.ctaid_x(), THREADS, k.tid_x()), count);
        let step = k.mul_wide_u32(k.nctaid_x(), THREADS * count);
        let load = |from| match self.fours {
            true => k.ld_global::<[F32; 4]>(from).to_vec(),
            false => vec![k.ld_global::<F32>(from)],
        };
        k.while_(
            || k.setp_lt_u64(at, total),
            || {
                let row = k.div_u64(at, cols);
                let col = k.sub_u64(at, k.mul_lo_u64(row, cols));
                let from = k.offset(partial, k.shl_b64(at, 2));
                let sums = load(from);
                k.for_range(1, splits, 1, |_| {
                    k.advance(from, matrix);
                    for (&sum, part) in sums.iter().zip(load(from)) {
                        k.to(sum).add_rn_f32(sum, part);
                    }
                });
                let old = self.accumulate.then(|| out.load_run(k, row, col, count));
                let bias = bias.as_ref().map(|bias| bias.load_run(k, k.mov::<B64>(0), col, count));
                let add = |sums: Vec<_>, terms: Vec<_>| -> Vec<Reg<F32>> {
                    sums.into_iter().zip(terms).map(|(sum, term)| k.add_rn_f32(sum, term)).collect()
                };
                let scaled = sums.iter().map(|&sum| k.mul_rn_f32(sum, scale)).collect();
                out.store_run(k, row, col, &bias.into_iter().chain(old).fold(scaled, add));
                k.to(at).add_u64(at, step);
            },
        );
    }
}
