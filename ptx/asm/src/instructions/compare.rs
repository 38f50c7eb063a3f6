//! Comparison and selection (PTX ISA §9.7.6, §9.7.7).

use crate::class::{B16, B32, B64, Bf16, F16, F32, Pred};
use crate::forms::family;
use crate::target::sm;

family! {
    setp_eq_u32 "setp.eq.u32" (a: B32, b: B32) -> Pred;
    setp_ne_u32 "setp.ne.u32" (a: B32, b: B32) -> Pred;
    setp_lt_u32 "setp.lt.u32" (a: B32, b: B32) -> Pred;
    setp_le_u32 "setp.le.u32" (a: B32, b: B32) -> Pred;
    setp_gt_u32 "setp.gt.u32" (a: B32, b: B32) -> Pred;
    setp_ge_u32 "setp.ge.u32" (a: B32, b: B32) -> Pred;

    setp_eq_s32 "setp.eq.s32" (a: B32, b: B32) -> Pred;
    setp_ne_s32 "setp.ne.s32" (a: B32, b: B32) -> Pred;
    setp_lt_s32 "setp.lt.s32" (a: B32, b: B32) -> Pred;
    setp_le_s32 "setp.le.s32" (a: B32, b: B32) -> Pred;
    setp_gt_s32 "setp.gt.s32" (a: B32, b: B32) -> Pred;
    setp_ge_s32 "setp.ge.s32" (a: B32, b: B32) -> Pred;

    setp_eq_u64 "setp.eq.u64" (a: B64, b: B64) -> Pred;
    setp_ne_u64 "setp.ne.u64" (a: B64, b: B64) -> Pred;
    setp_lt_u64 "setp.lt.u64" (a: B64, b: B64) -> Pred;
    setp_le_u64 "setp.le.u64" (a: B64, b: B64) -> Pred;
    setp_gt_u64 "setp.gt.u64" (a: B64, b: B64) -> Pred;
    setp_ge_u64 "setp.ge.u64" (a: B64, b: B64) -> Pred;

    setp_eq_s64 "setp.eq.s64" (a: B64, b: B64) -> Pred;
    setp_ne_s64 "setp.ne.s64" (a: B64, b: B64) -> Pred;
    setp_lt_s64 "setp.lt.s64" (a: B64, b: B64) -> Pred;
    setp_le_s64 "setp.le.s64" (a: B64, b: B64) -> Pred;
    setp_gt_s64 "setp.gt.s64" (a: B64, b: B64) -> Pred;
    setp_ge_s64 "setp.ge.s64" (a: B64, b: B64) -> Pred;

    setp_eq_u16 "setp.eq.u16" (a: B16, b: B16) -> Pred;
    setp_ne_u16 "setp.ne.u16" (a: B16, b: B16) -> Pred;
    setp_lt_u16 "setp.lt.u16" (a: B16, b: B16) -> Pred;
    setp_le_u16 "setp.le.u16" (a: B16, b: B16) -> Pred;
    setp_gt_u16 "setp.gt.u16" (a: B16, b: B16) -> Pred;
    setp_ge_u16 "setp.ge.u16" (a: B16, b: B16) -> Pred;

    setp_eq_s16 "setp.eq.s16" (a: B16, b: B16) -> Pred;
    setp_ne_s16 "setp.ne.s16" (a: B16, b: B16) -> Pred;
    setp_lt_s16 "setp.lt.s16" (a: B16, b: B16) -> Pred;
    setp_le_s16 "setp.le.s16" (a: B16, b: B16) -> Pred;
    setp_gt_s16 "setp.gt.s16" (a: B16, b: B16) -> Pred;
    setp_ge_s16 "setp.ge.s16" (a: B16, b: B16) -> Pred;

    setp_eq_f32 "setp.eq.f32" (a: F32, b: F32) -> Pred;
    setp_ne_f32 "setp.ne.f32" (a: F32, b: F32) -> Pred;
    setp_lt_f32 "setp.lt.f32" (a: F32, b: F32) -> Pred;
    setp_le_f32 "setp.le.f32" (a: F32, b: F32) -> Pred;
    setp_gt_f32 "setp.gt.f32" (a: F32, b: F32) -> Pred;
    setp_ge_f32 "setp.ge.f32" (a: F32, b: F32) -> Pred;

    /// Or one is NaN.
    setp_equ_f32 "setp.equ.f32" (a: F32, b: F32) -> Pred;
    /// Or one is NaN.
    setp_neu_f32 "setp.neu.f32" (a: F32, b: F32) -> Pred;
    /// Or one is NaN.
    setp_ltu_f32 "setp.ltu.f32" (a: F32, b: F32) -> Pred;
    /// Or one is NaN.
    setp_leu_f32 "setp.leu.f32" (a: F32, b: F32) -> Pred;
    /// Or one is NaN.
    setp_gtu_f32 "setp.gtu.f32" (a: F32, b: F32) -> Pred;
    /// Or one is NaN.
    setp_geu_f32 "setp.geu.f32" (a: F32, b: F32) -> Pred;
    /// None is NaN.
    setp_num_f32 "setp.num.f32" (a: F32, b: F32) -> Pred;
    /// One is NaN.
    setp_nan_f32 "setp.nan.f32" (a: F32, b: F32) -> Pred;

    setp_eq_f16 "setp.eq.f16" (a: F16, b: F16) -> Pred;
    setp_ne_f16 "setp.ne.f16" (a: F16, b: F16) -> Pred;
    setp_lt_f16 "setp.lt.f16" (a: F16, b: F16) -> Pred;
    setp_le_f16 "setp.le.f16" (a: F16, b: F16) -> Pred;
    setp_gt_f16 "setp.gt.f16" (a: F16, b: F16) -> Pred;
    setp_ge_f16 "setp.ge.f16" (a: F16, b: F16) -> Pred;
    setp_eq_bf16 "setp.eq.bf16" (a: Bf16, b: Bf16) -> Pred, sm(90);
    setp_ne_bf16 "setp.ne.bf16" (a: Bf16, b: Bf16) -> Pred, sm(90);
    setp_lt_bf16 "setp.lt.bf16" (a: Bf16, b: Bf16) -> Pred, sm(90);
    setp_le_bf16 "setp.le.bf16" (a: Bf16, b: Bf16) -> Pred, sm(90);
    setp_gt_bf16 "setp.gt.bf16" (a: Bf16, b: Bf16) -> Pred, sm(90);
    setp_ge_bf16 "setp.ge.bf16" (a: Bf16, b: Bf16) -> Pred, sm(90);

    /// `a` where `p` holds, `b` elsewhere.
    selp_b32 "selp.b32" (a: B32, b: B32, p: Pred) -> B32;
    /// `a` where `p` holds, `b` elsewhere.
    selp_b64 "selp.b64" (a: B64, b: B64, p: Pred) -> B64;
    /// `a` where `p` holds, `b` elsewhere.
    selp_b16 "selp.b16" (a: B16, b: B16, p: Pred) -> B16;
    /// `a` where `p` holds, `b` elsewhere.
    selp_f32 "selp.f32" (a: F32, b: F32, p: Pred) -> F32;

    /// `a` if `c >= 0`, else `b`.
    slct_f32_s32 "slct.f32.s32" (a: F32, b: F32, c: B32) -> F32;
    /// `a` if `c >= 0`, else `b`.
    slct_b32_s32 "slct.b32.s32" (a: B32, b: B32, c: B32) -> B32;
    /// All ones or zero.
    set_eq_u32_u32 "set.eq.u32.u32" (a: B32, b: B32) -> B32;
    /// All ones or zero.
    set_lt_u32_u32 "set.lt.u32.u32" (a: B32, b: B32) -> B32;
    /// 1 or 0.
    set_lt_f32_f32 "set.lt.f32.f32" (a: F32, b: F32) -> F32;
    /// 1 or 0.
    set_gt_f32_f32 "set.gt.f32.f32" (a: F32, b: F32) -> F32;
}
