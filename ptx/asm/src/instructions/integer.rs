//! Integer arithmetic (PTX ISA §9.7.1).

use crate::class::{B16, B32, B64};
use crate::forms::family;
use crate::target::ptx;

family! {
    add_u32 "add.u32" (a: B32, b: B32) -> B32;
    add_s32 "add.s32" (a: B32, b: B32) -> B32;
    add_u64 "add.u64" (a: B64, b: B64) -> B64;
    add_s64 "add.s64" (a: B64, b: B64) -> B64;
    add_u16 "add.u16" (a: B16, b: B16) -> B16;
    add_sat_s32 "add.sat.s32" (a: B32, b: B32) -> B32;

    sub_u32 "sub.u32" (a: B32, b: B32) -> B32;
    sub_s32 "sub.s32" (a: B32, b: B32) -> B32;
    sub_u64 "sub.u64" (a: B64, b: B64) -> B64;
    sub_s64 "sub.s64" (a: B64, b: B64) -> B64;
    sub_u16 "sub.u16" (a: B16, b: B16) -> B16;
    sub_sat_s32 "sub.sat.s32" (a: B32, b: B32) -> B32;

    mul_lo_u32 "mul.lo.u32" (a: B32, b: B32) -> B32;
    mul_lo_s32 "mul.lo.s32" (a: B32, b: B32) -> B32;
    mul_lo_u64 "mul.lo.u64" (a: B64, b: B64) -> B64;
    mul_lo_s64 "mul.lo.s64" (a: B64, b: B64) -> B64;
    mul_lo_u16 "mul.lo.u16" (a: B16, b: B16) -> B16;
    mul_hi_u32 "mul.hi.u32" (a: B32, b: B32) -> B32;
    mul_hi_s32 "mul.hi.s32" (a: B32, b: B32) -> B32;
    mul_hi_u64 "mul.hi.u64" (a: B64, b: B64) -> B64;
    mul_wide_u32 "mul.wide.u32" (a: B32, b: B32) -> B64;
    mul_wide_s32 "mul.wide.s32" (a: B32, b: B32) -> B64;
    mul_wide_u16 "mul.wide.u16" (a: B16, b: B16) -> B32;

    mad_lo_u32 "mad.lo.u32" (a: B32, b: B32, c: B32) -> B32;
    mad_lo_s32 "mad.lo.s32" (a: B32, b: B32, c: B32) -> B32;
    mad_lo_u64 "mad.lo.u64" (a: B64, b: B64, c: B64) -> B64;
    mad_lo_s64 "mad.lo.s64" (a: B64, b: B64, c: B64) -> B64;
    mad_hi_u32 "mad.hi.u32" (a: B32, b: B32, c: B32) -> B32;
    mad_wide_u32 "mad.wide.u32" (a: B32, b: B32, c: B64) -> B64;
    mad_wide_s32 "mad.wide.s32" (a: B32, b: B32, c: B64) -> B64;
    mad_wide_u16 "mad.wide.u16" (a: B16, b: B16, c: B32) -> B32;

    div_u32 "div.u32" (a: B32, b: B32) -> B32;
    div_s32 "div.s32" (a: B32, b: B32) -> B32;
    div_u64 "div.u64" (a: B64, b: B64) -> B64;
    div_s64 "div.s64" (a: B64, b: B64) -> B64;
    rem_u32 "rem.u32" (a: B32, b: B32) -> B32;
    rem_s32 "rem.s32" (a: B32, b: B32) -> B32;
    rem_u64 "rem.u64" (a: B64, b: B64) -> B64;
    rem_s64 "rem.s64" (a: B64, b: B64) -> B64;

    min_u32 "min.u32" (a: B32, b: B32) -> B32;
    min_s32 "min.s32" (a: B32, b: B32) -> B32;
    min_u64 "min.u64" (a: B64, b: B64) -> B64;
    min_s64 "min.s64" (a: B64, b: B64) -> B64;
    min_u16 "min.u16" (a: B16, b: B16) -> B16;
    min_s16 "min.s16" (a: B16, b: B16) -> B16;
    max_u32 "max.u32" (a: B32, b: B32) -> B32;
    max_s32 "max.s32" (a: B32, b: B32) -> B32;
    max_u64 "max.u64" (a: B64, b: B64) -> B64;
    max_s64 "max.s64" (a: B64, b: B64) -> B64;
    max_u16 "max.u16" (a: B16, b: B16) -> B16;
    max_s16 "max.s16" (a: B16, b: B16) -> B16;

    abs_s32 "abs.s32" (a: B32) -> B32;
    neg_s32 "neg.s32" (a: B32) -> B32;
    neg_s64 "neg.s64" (a: B64) -> B64;
    /// `|a - b| + c`.
    sad_u32 "sad.u32" (a: B32, b: B32, c: B32) -> B32;
    /// `|a - b| + c`.
    sad_s32 "sad.s32" (a: B32, b: B32, c: B32) -> B32;

    popc_b32 "popc.b32" (a: B32) -> B32;
    popc_b64 "popc.b64" (a: B64) -> B32;
    clz_b32 "clz.b32" (a: B32) -> B32;
    clz_b64 "clz.b64" (a: B64) -> B32;
    bfind_u32 "bfind.u32" (a: B32) -> B32;
    bfind_shiftamt_u32 "bfind.shiftamt.u32" (a: B32) -> B32;
    brev_b32 "brev.b32" (a: B32) -> B32;
    brev_b64 "brev.b64" (a: B64) -> B64;
    /// The `len` bits of `a` from bit `start` on.
    bfe_u32 "bfe.u32" (a: B32, start: B32, len: B32) -> B32;
    /// The `len` bits of `a` from bit `start` on, sign-extended.
    bfe_s32 "bfe.s32" (a: B32, start: B32, len: B32) -> B32;
    /// The `len` bits of `a` from bit `start` on.
    bfe_u64 "bfe.u64" (a: B64, start: B32, len: B32) -> B64;
    /// `b` with its `len` bits from `start` on replaced by the low ones of `a`.
    bfi_b32 "bfi.b32" (a: B32, b: B32, start: B32, len: B32) -> B32;
    /// `b` with its `len` bits from `start` on replaced by the low ones of `a`.
    bfi_b64 "bfi.b64" (a: B64, b: B64, start: B32, len: B32) -> B64;
    bmsk_clamp_b32 "bmsk.clamp.b32" (start: B32, len: B32) -> B32, ptx(7, 6);
    szext_clamp_u32 "szext.clamp.u32" (a: B32, bits: B32) -> B32, ptx(7, 6);
    szext_clamp_s32 "szext.clamp.s32" (a: B32, bits: B32) -> B32, ptx(7, 6);

    dp4a_u32_u32 "dp4a.u32.u32" (a: B32, b: B32, c: B32) -> B32;
    dp4a_s32_s32 "dp4a.s32.s32" (a: B32, b: B32, c: B32) -> B32;
    dp4a_u32_s32 "dp4a.u32.s32" (a: B32, b: B32, c: B32) -> B32;
    dp4a_s32_u32 "dp4a.s32.u32" (a: B32, b: B32, c: B32) -> B32;
    dp2a_lo_s32_s32 "dp2a.lo.s32.s32" (a: B32, b: B32, c: B32) -> B32;
    dp2a_hi_s32_s32 "dp2a.hi.s32.s32" (a: B32, b: B32, c: B32) -> B32;
}
