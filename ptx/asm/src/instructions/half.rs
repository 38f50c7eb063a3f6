//! Half-precision and bfloat16 arithmetic, single and packed (PTX ISA §9.7.4, §9.7.5).
//!
//! Below sm_90 bfloat16 has no add, sub or mul: `fma(a, 1, b)` and `fma(a, b, -0)` give the same results.

use crate::class::{B64, Bf16, Bf16x2, F16, F16x2, F32, Pred};
use crate::forms::family;
use crate::operand::Register;
use crate::target::{ptx, sm};

family! {
    add_rn_f16 "add.rn.f16" (a: F16, b: F16) -> F16;
    sub_rn_f16 "sub.rn.f16" (a: F16, b: F16) -> F16;
    mul_rn_f16 "mul.rn.f16" (a: F16, b: F16) -> F16;
    fma_rn_f16 "fma.rn.f16" (a: F16, b: F16, c: F16) -> F16;
    fma_rn_relu_f16 "fma.rn.relu.f16" (a: F16, b: F16, c: F16) -> F16, sm(80);
    fma_rn_sat_f16 "fma.rn.sat.f16" (a: F16, b: F16, c: F16) -> F16;
    neg_f16 "neg.f16" (a: F16) -> F16;
    abs_f16 "abs.f16" (a: F16) -> F16, ptx(6, 5);
    min_f16 "min.f16" (a: F16, b: F16) -> F16, sm(80);
    max_f16 "max.f16" (a: F16, b: F16) -> F16, sm(80);
    min_nan_f16 "min.NaN.f16" (a: F16, b: F16) -> F16, sm(80);
    max_nan_f16 "max.NaN.f16" (a: F16, b: F16) -> F16, sm(80);
    ex2_approx_f16 "ex2.approx.f16" (a: F16) -> F16, ptx(7, 0);
    tanh_approx_f16 "tanh.approx.f16" (a: F16) -> F16, ptx(7, 0);

    add_rn_f16x2 "add.rn.f16x2" (a: F16x2, b: F16x2) -> F16x2;
    sub_rn_f16x2 "sub.rn.f16x2" (a: F16x2, b: F16x2) -> F16x2;
    mul_rn_f16x2 "mul.rn.f16x2" (a: F16x2, b: F16x2) -> F16x2;
    fma_rn_f16x2 "fma.rn.f16x2" (a: F16x2, b: F16x2, c: F16x2) -> F16x2;
    fma_rn_relu_f16x2 "fma.rn.relu.f16x2" (a: F16x2, b: F16x2, c: F16x2) -> F16x2, sm(80);
    fma_rn_sat_f16x2 "fma.rn.sat.f16x2" (a: F16x2, b: F16x2, c: F16x2) -> F16x2;
    neg_f16x2 "neg.f16x2" (a: F16x2) -> F16x2;
    abs_f16x2 "abs.f16x2" (a: F16x2) -> F16x2, ptx(6, 5);
    min_f16x2 "min.f16x2" (a: F16x2, b: F16x2) -> F16x2, sm(80);
    max_f16x2 "max.f16x2" (a: F16x2, b: F16x2) -> F16x2, sm(80);
    min_nan_f16x2 "min.NaN.f16x2" (a: F16x2, b: F16x2) -> F16x2, sm(80);
    max_nan_f16x2 "max.NaN.f16x2" (a: F16x2, b: F16x2) -> F16x2, sm(80);
    ex2_approx_f16x2 "ex2.approx.f16x2" (a: F16x2) -> F16x2, ptx(7, 0);
    tanh_approx_f16x2 "tanh.approx.f16x2" (a: F16x2) -> F16x2, ptx(7, 0);

    add_rn_bf16 "add.rn.bf16" (a: Bf16, b: Bf16) -> Bf16, sm(90);
    sub_rn_bf16 "sub.rn.bf16" (a: Bf16, b: Bf16) -> Bf16, sm(90);
    mul_rn_bf16 "mul.rn.bf16" (a: Bf16, b: Bf16) -> Bf16, sm(90);
    fma_rn_bf16 "fma.rn.bf16" (a: Bf16, b: Bf16, c: Bf16) -> Bf16, sm(80);
    fma_rn_relu_bf16 "fma.rn.relu.bf16" (a: Bf16, b: Bf16, c: Bf16) -> Bf16, sm(80);
    neg_bf16 "neg.bf16" (a: Bf16) -> Bf16, sm(80);
    abs_bf16 "abs.bf16" (a: Bf16) -> Bf16, sm(80);
    min_bf16 "min.bf16" (a: Bf16, b: Bf16) -> Bf16, sm(80);
    max_bf16 "max.bf16" (a: Bf16, b: Bf16) -> Bf16, sm(80);
    min_nan_bf16 "min.NaN.bf16" (a: Bf16, b: Bf16) -> Bf16, sm(80);
    max_nan_bf16 "max.NaN.bf16" (a: Bf16, b: Bf16) -> Bf16, sm(80);
    ex2_approx_ftz_bf16 "ex2.approx.ftz.bf16" (a: Bf16) -> Bf16, sm(90);
    tanh_approx_bf16 "tanh.approx.bf16" (a: Bf16) -> Bf16, sm(90);

    add_rn_bf16x2 "add.rn.bf16x2" (a: Bf16x2, b: Bf16x2) -> Bf16x2, sm(90);
    sub_rn_bf16x2 "sub.rn.bf16x2" (a: Bf16x2, b: Bf16x2) -> Bf16x2, sm(90);
    mul_rn_bf16x2 "mul.rn.bf16x2" (a: Bf16x2, b: Bf16x2) -> Bf16x2, sm(90);
    fma_rn_bf16x2 "fma.rn.bf16x2" (a: Bf16x2, b: Bf16x2, c: Bf16x2) -> Bf16x2, sm(80);
    fma_rn_relu_bf16x2 "fma.rn.relu.bf16x2" (a: Bf16x2, b: Bf16x2, c: Bf16x2) -> Bf16x2, sm(80);
    neg_bf16x2 "neg.bf16x2" (a: Bf16x2) -> Bf16x2, sm(80);
    abs_bf16x2 "abs.bf16x2" (a: Bf16x2) -> Bf16x2, sm(80);
    min_bf16x2 "min.bf16x2" (a: Bf16x2, b: Bf16x2) -> Bf16x2, sm(80);
    max_bf16x2 "max.bf16x2" (a: Bf16x2, b: Bf16x2) -> Bf16x2, sm(80);
    min_nan_bf16x2 "min.NaN.bf16x2" (a: Bf16x2, b: Bf16x2) -> Bf16x2, sm(80);
    max_nan_bf16x2 "max.NaN.bf16x2" (a: Bf16x2, b: Bf16x2) -> Bf16x2, sm(80);
    ex2_approx_ftz_bf16x2 "ex2.approx.ftz.bf16x2" (a: Bf16x2) -> Bf16x2, sm(90);
    tanh_approx_bf16x2 "tanh.approx.bf16x2" (a: Bf16x2) -> Bf16x2, sm(90);

    /// The low halves, the high halves.
    setp_lt_f16x2 "setp.lt.f16x2" (a: F16x2, b: F16x2) -> (Pred, Pred);
    setp_le_f16x2 "setp.le.f16x2" (a: F16x2, b: F16x2) -> (Pred, Pred);
    setp_gt_f16x2 "setp.gt.f16x2" (a: F16x2, b: F16x2) -> (Pred, Pred);
    setp_ge_f16x2 "setp.ge.f16x2" (a: F16x2, b: F16x2) -> (Pred, Pred);
    setp_eq_f16x2 "setp.eq.f16x2" (a: F16x2, b: F16x2) -> (Pred, Pred);
    /// The low halves, the high halves.
    setp_lt_bf16x2 "setp.lt.bf16x2" (a: Bf16x2, b: Bf16x2) -> (Pred, Pred), sm(90);
    setp_le_bf16x2 "setp.le.bf16x2" (a: Bf16x2, b: Bf16x2) -> (Pred, Pred), sm(90);
    setp_gt_bf16x2 "setp.gt.bf16x2" (a: Bf16x2, b: Bf16x2) -> (Pred, Pred), sm(90);
    setp_ge_bf16x2 "setp.ge.bf16x2" (a: Bf16x2, b: Bf16x2) -> (Pred, Pred), sm(90);
    setp_eq_bf16x2 "setp.eq.bf16x2" (a: Bf16x2, b: Bf16x2) -> (Pred, Pred), sm(90);

    /// Two singles in one register.
    add_rn_f32x2 "add.rn.f32x2" (a: Register<B64>, b: Register<B64>) -> B64, sm(100);
    /// Two singles in one register.
    mul_rn_f32x2 "mul.rn.f32x2" (a: Register<B64>, b: Register<B64>) -> B64, sm(100);
    /// Two singles in one register.
    fma_rn_f32x2 "fma.rn.f32x2" (a: Register<B64>, b: Register<B64>, c: Register<B64>) -> B64, sm(100);

    /// `a + c`, rounded once.
    add_rn_f32_f16 "add.rn.f32.f16" (a: F16, c: F32) -> F32, sm(100);
    /// `a + c`, rounded once.
    add_rn_f32_bf16 "add.rn.f32.bf16" (a: Bf16, c: F32) -> F32, sm(100);
    fma_rn_f32_f16 "fma.rn.f32.f16" (a: F16, b: F16, c: F32) -> F32, sm(100);
    fma_rn_f32_bf16 "fma.rn.f32.bf16" (a: Bf16, b: Bf16, c: F32) -> F32, sm(100);
}
