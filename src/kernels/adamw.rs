//! The AdamW step: [`crate::format::adamw`], the same bits. Neighbouring threads do neighbouring elements, so that every
//! stream is read and written in whole lines; square root and division are correctly rounded.

use super::dense::Dense;
use super::tensor::Layout;
use super::tile::THREADS;
use super::{Spec, Written, module};
use crate::view::DType;
use ptx_asm::{B64, Error, F32, Kernel, Reg, Target};

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdamWSpec {
    /// The types of parameter and gradient.
    pub dtypes: [DType; 2],
    /// Whether both are contiguous, or may have any row stride.
    pub layout: Layout,
}

impl Spec for AdamWSpec {
    /// Parameters: columns (u64); parameter and gradient, base and row stride (u64) each; m, v (f32); elements (u64); the
    /// nine scalars of [`crate::format::adamw::AdamWScalars`] (f32). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "adamw", THREADS, |k| self.body(k))
    }
}

impl AdamWSpec {
    fn body(&self, k: &Kernel) {
        let cols = k.param_u64("cols");
        let [param, grad] = [("param", self.dtypes[0]), ("grad", self.dtypes[1])].map(|(name, dtype)| {
            Dense { dtype, base: k.param_ptr(name), stride: k.param_u64(&format!("{name}_stride")) }
        });
        let [first, second] =
            ["m", "v"].map(|name| Dense { dtype: DType::F32, base: k.param_ptr(name), stride: k.mov(0) });
        let n = k.param_u64("n");
        let [grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, decay, step_size, correction, eps] =
            [
                "grad_scale",
                "beta1",
                "one_minus_beta1",
                "beta2",
                "one_minus_beta2",
                "decay",
                "step_size",
                "correction",
                "eps",
            ]
            .map(|name| k.param_f32(name));

        k.section("this thread's elements");
        let index = k.cvt_u64_u32(k.mad_lo_u32(k.ctaid_x(), THREADS, k.tid_x()));
        let stride = k.mul_wide_u32(k.nctaid_x(), THREADS);
        k.while_(
            || k.setp_lt_u64(index, n),
            || {
                let zero = k.mov::<B64>(0);
                let (row, col) = match self.layout {
                    Layout::Vectors | Layout::Elements => (zero, index),
                    Layout::Strided => {
                        let row = k.div_u64(index, cols);
                        (row, k.sub_u64(index, k.mul_lo_u64(row, cols)))
                    }
                };
                let [p, g] = [&param, &grad].map(|matrix| matrix.load(k, row, col, None));
                let [m, v] = [&first, &second].map(|moment| moment.load(k, zero, index, None));

                k.section("moments and parameter");
                let weighted = |a: Reg<F32>, x: Reg<F32>, b: Reg<F32>, y: Reg<F32>| {
                    k.add_rn_f32(k.mul_rn_f32(a, x), k.mul_rn_f32(b, y))
                };
                let g = k.mul_rn_f32(g, grad_scale);
                let m = weighted(beta1, m, one_minus_beta1, g);
                let v = weighted(beta2, v, one_minus_beta2, k.mul_rn_f32(g, g));
                let denominator = k.add_rn_f32(k.mul_rn_f32(k.sqrt_rn_f32(v), correction), eps);
                let update = k.mul_rn_f32(step_size, k.div_rn_f32(m, denominator));
                let p = k.sub_rn_f32(k.mul_rn_f32(p, decay), update);

                param.store(k, row, col, p);
                first.store(k, zero, index, m);
                second.store(k, zero, index, v);
                k.to(index).add_u64(index, stride);
            },
        );
    }
}
