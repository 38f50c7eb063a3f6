//! Bitwise logic, shifts and byte permutation (PTX ISA §9.7.8, §9.7.9.7).

use crate::class::{B16, B32, B64, Pred};
use crate::forms::family;
use crate::operand::Imm;

family! {
    and_b32 "and.b32" (a: B32, b: B32) -> B32;
    and_b64 "and.b64" (a: B64, b: B64) -> B64;
    and_b16 "and.b16" (a: B16, b: B16) -> B16;
    and_pred "and.pred" (a: Pred, b: Pred) -> Pred;
    or_b32 "or.b32" (a: B32, b: B32) -> B32;
    or_b64 "or.b64" (a: B64, b: B64) -> B64;
    or_b16 "or.b16" (a: B16, b: B16) -> B16;
    or_pred "or.pred" (a: Pred, b: Pred) -> Pred;
    xor_b32 "xor.b32" (a: B32, b: B32) -> B32;
    xor_b64 "xor.b64" (a: B64, b: B64) -> B64;
    xor_b16 "xor.b16" (a: B16, b: B16) -> B16;
    xor_pred "xor.pred" (a: Pred, b: Pred) -> Pred;

    not_b32 "not.b32" (a: B32) -> B32;
    not_b64 "not.b64" (a: B64) -> B64;
    not_b16 "not.b16" (a: B16) -> B16;
    not_pred "not.pred" (a: Pred) -> Pred;
    cnot_b32 "cnot.b32" (a: B32) -> B32;

    shl_b32 "shl.b32" (a: B32, by: B32) -> B32;
    shl_b64 "shl.b64" (a: B64, by: B32) -> B64;
    shl_b16 "shl.b16" (a: B16, by: B32) -> B16;
    shr_u32 "shr.u32" (a: B32, by: B32) -> B32;
    shr_s32 "shr.s32" (a: B32, by: B32) -> B32;
    shr_u64 "shr.u64" (a: B64, by: B32) -> B64;
    shr_s64 "shr.s64" (a: B64, by: B32) -> B64;
    shr_u16 "shr.u16" (a: B16, by: B32) -> B16;
    /// The high word of `high:low << (by & 31)`.
    shf_l_wrap_b32 "shf.l.wrap.b32" (low: B32, high: B32, by: B32) -> B32;
    /// The high word of `high:low << min(by, 32)`.
    shf_l_clamp_b32 "shf.l.clamp.b32" (low: B32, high: B32, by: B32) -> B32;
    /// The low word of `high:low >> (by & 31)`.
    shf_r_wrap_b32 "shf.r.wrap.b32" (low: B32, high: B32, by: B32) -> B32;
    /// The low word of `high:low >> min(by, 32)`.
    shf_r_clamp_b32 "shf.r.clamp.b32" (low: B32, high: B32, by: B32) -> B32;

    /// Any bitwise function of three words: see [`lut`].
    lop3_b32 "lop3.b32" (a: B32, b: B32, c: B32, table: Imm<0xCA>) -> B32;
    /// Byte i of the result is byte `selector >> 4i & 7` of `high:low`; selector bit 4i + 3 replicates its sign instead.
    prmt_b32 "prmt.b32" (low: B32, high: B32, selector: B32) -> B32;
    prmt_b32_f4e "prmt.b32.f4e" (low: B32, high: B32, selector: B32) -> B32;
    prmt_b32_b4e "prmt.b32.b4e" (low: B32, high: B32, selector: B32) -> B32;
    prmt_b32_rc8 "prmt.b32.rc8" (low: B32, high: B32, selector: B32) -> B32;
    prmt_b32_ecl "prmt.b32.ecl" (low: B32, high: B32, selector: B32) -> B32;
    prmt_b32_ecr "prmt.b32.ecr" (low: B32, high: B32, selector: B32) -> B32;
    prmt_b32_rc16 "prmt.b32.rc16" (low: B32, high: B32, selector: B32) -> B32;
}

/// The immediate of [`lop3_b32`](crate::Kernel::lop3_b32) for a function given as a closure: `lut(|a, b, c| (a & b) | c)`.
pub fn lut(f: impl Fn(u8, u8, u8) -> u8) -> u32 {
    f(0xF0, 0xCC, 0xAA).into()
}
