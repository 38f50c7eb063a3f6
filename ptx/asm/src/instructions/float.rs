//! Single-precision arithmetic (PTX ISA §9.7.3).
//!
//! Rounding is always spelled out: an `add` or `mul` without it may be fused by the assembler.

use crate::class::{F32, Pred};
use crate::forms::family;
use crate::target::{ptx, sm};

family! {
    add_rn_f32 "add.rn.f32" (a: F32, b: F32) -> F32;
    add_rz_f32 "add.rz.f32" (a: F32, b: F32) -> F32;
    add_rm_f32 "add.rm.f32" (a: F32, b: F32) -> F32;
    add_rp_f32 "add.rp.f32" (a: F32, b: F32) -> F32;
    add_rn_ftz_f32 "add.rn.ftz.f32" (a: F32, b: F32) -> F32;
    add_rn_sat_f32 "add.rn.sat.f32" (a: F32, b: F32) -> F32;

    sub_rn_f32 "sub.rn.f32" (a: F32, b: F32) -> F32;
    sub_rz_f32 "sub.rz.f32" (a: F32, b: F32) -> F32;
    sub_rm_f32 "sub.rm.f32" (a: F32, b: F32) -> F32;
    sub_rp_f32 "sub.rp.f32" (a: F32, b: F32) -> F32;
    sub_rn_ftz_f32 "sub.rn.ftz.f32" (a: F32, b: F32) -> F32;

    mul_rn_f32 "mul.rn.f32" (a: F32, b: F32) -> F32;
    mul_rz_f32 "mul.rz.f32" (a: F32, b: F32) -> F32;
    mul_rm_f32 "mul.rm.f32" (a: F32, b: F32) -> F32;
    mul_rp_f32 "mul.rp.f32" (a: F32, b: F32) -> F32;
    mul_rn_ftz_f32 "mul.rn.ftz.f32" (a: F32, b: F32) -> F32;

    fma_rn_f32 "fma.rn.f32" (a: F32, b: F32, c: F32) -> F32;
    fma_rz_f32 "fma.rz.f32" (a: F32, b: F32, c: F32) -> F32;
    fma_rm_f32 "fma.rm.f32" (a: F32, b: F32, c: F32) -> F32;
    fma_rp_f32 "fma.rp.f32" (a: F32, b: F32, c: F32) -> F32;
    fma_rn_ftz_f32 "fma.rn.ftz.f32" (a: F32, b: F32, c: F32) -> F32;

    div_rn_f32 "div.rn.f32" (a: F32, b: F32) -> F32;
    /// Error at most 2 ulp.
    div_full_f32 "div.full.f32" (a: F32, b: F32) -> F32;
    /// Error at most 2 ulp for |b| in [2^-126, 2^126].
    div_approx_f32 "div.approx.f32" (a: F32, b: F32) -> F32;
    rcp_rn_f32 "rcp.rn.f32" (a: F32) -> F32;
    /// Error at most 1 ulp.
    rcp_approx_f32 "rcp.approx.f32" (a: F32) -> F32;
    rcp_approx_ftz_f32 "rcp.approx.ftz.f32" (a: F32) -> F32;
    sqrt_rn_f32 "sqrt.rn.f32" (a: F32) -> F32;
    /// Relative error at most 2^-23.
    sqrt_approx_f32 "sqrt.approx.f32" (a: F32) -> F32;
    sqrt_approx_ftz_f32 "sqrt.approx.ftz.f32" (a: F32) -> F32;
    /// Relative error at most 2^-22.9.
    rsqrt_approx_f32 "rsqrt.approx.f32" (a: F32) -> F32;
    rsqrt_approx_ftz_f32 "rsqrt.approx.ftz.f32" (a: F32) -> F32;

    abs_f32 "abs.f32" (a: F32) -> F32;
    neg_f32 "neg.f32" (a: F32) -> F32;
    copysign_f32 "copysign.f32" (sign: F32, magnitude: F32) -> F32;
    /// The other one if one is NaN.
    min_f32 "min.f32" (a: F32, b: F32) -> F32;
    /// The other one if one is NaN.
    max_f32 "max.f32" (a: F32, b: F32) -> F32;
    /// NaN if one is NaN.
    min_nan_f32 "min.NaN.f32" (a: F32, b: F32) -> F32, sm(80);
    /// NaN if one is NaN.
    max_nan_f32 "max.NaN.f32" (a: F32, b: F32) -> F32, sm(80);
    min_xorsign_abs_f32 "min.xorsign.abs.f32" (a: F32, b: F32) -> F32, sm(86).ptx(7, 2);
    max_xorsign_abs_f32 "max.xorsign.abs.f32" (a: F32, b: F32) -> F32, sm(86).ptx(7, 2);
    min3_f32 "min.f32" (a: F32, b: F32, c: F32) -> F32, sm(100).ptx(8, 8);
    max3_f32 "max.f32" (a: F32, b: F32, c: F32) -> F32, sm(100).ptx(8, 8);

    /// 2 to the power of `a`; error at most 2 ulp.
    ex2_approx_f32 "ex2.approx.f32" (a: F32) -> F32;
    ex2_approx_ftz_f32 "ex2.approx.ftz.f32" (a: F32) -> F32;
    lg2_approx_f32 "lg2.approx.f32" (a: F32) -> F32;
    lg2_approx_ftz_f32 "lg2.approx.ftz.f32" (a: F32) -> F32;
    sin_approx_f32 "sin.approx.f32" (a: F32) -> F32;
    cos_approx_f32 "cos.approx.f32" (a: F32) -> F32;
    /// Relative error at most 2^-11.
    tanh_approx_f32 "tanh.approx.f32" (a: F32) -> F32, ptx(7, 0);

    testp_finite_f32 "testp.finite.f32" (a: F32) -> Pred;
    testp_infinite_f32 "testp.infinite.f32" (a: F32) -> Pred;
    testp_number_f32 "testp.number.f32" (a: F32) -> Pred;
    testp_notanumber_f32 "testp.notanumber.f32" (a: F32) -> Pred;
    testp_normal_f32 "testp.normal.f32" (a: F32) -> Pred;
    testp_subnormal_f32 "testp.subnormal.f32" (a: F32) -> Pred;
}
