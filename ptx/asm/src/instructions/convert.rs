//! Conversion (PTX ISA §9.7.9.21), packing and bit casts.
//!
//! Of two numbers packed by one instruction the first operand goes to the high half, as in PTX.

use crate::class::{B16, B32, B64, Bf16, Bf16x2, F16, F16x2, F32};
use crate::forms::family;
use crate::operand::Register;
use crate::target::{ptx, sm};

family! {
    cvt_u64_u32 "cvt.u64.u32" (a: B32) -> B64;
    cvt_s64_s32 "cvt.s64.s32" (a: B32) -> B64;
    cvt_u32_u64 "cvt.u32.u64" (a: B64) -> B32;
    cvt_u32_u16 "cvt.u32.u16" (a: B16) -> B32;
    cvt_s32_s16 "cvt.s32.s16" (a: B16) -> B32;
    cvt_u16_u32 "cvt.u16.u32" (a: B32) -> B16;
    cvt_u32_u8 "cvt.u32.u8" (a: B32) -> B32;
    cvt_s32_s8 "cvt.s32.s8" (a: B32) -> B32;

    cvt_sat_u8_u32 "cvt.sat.u8.u32" (a: B32) -> B32;
    cvt_sat_u8_s32 "cvt.sat.u8.s32" (a: B32) -> B32;
    cvt_sat_s8_s32 "cvt.sat.s8.s32" (a: B32) -> B32;
    cvt_sat_u32_s32 "cvt.sat.u32.s32" (a: B32) -> B32;

    cvt_rni_s32_f32 "cvt.rni.s32.f32" (a: F32) -> B32;
    cvt_rni_u32_f32 "cvt.rni.u32.f32" (a: F32) -> B32;
    cvt_rzi_s32_f32 "cvt.rzi.s32.f32" (a: F32) -> B32;
    cvt_rzi_u32_f32 "cvt.rzi.u32.f32" (a: F32) -> B32;
    cvt_rmi_s32_f32 "cvt.rmi.s32.f32" (a: F32) -> B32;
    cvt_rmi_u32_f32 "cvt.rmi.u32.f32" (a: F32) -> B32;
    cvt_rpi_s32_f32 "cvt.rpi.s32.f32" (a: F32) -> B32;
    cvt_rpi_u32_f32 "cvt.rpi.u32.f32" (a: F32) -> B32;
    cvt_rni_sat_s8_f32 "cvt.rni.sat.s8.f32" (a: F32) -> B32;
    cvt_rni_sat_u8_f32 "cvt.rni.sat.u8.f32" (a: F32) -> B32;
    /// To an integer, ties to even.
    cvt_rni_f32_f32 "cvt.rni.f32.f32" (a: F32) -> F32;
    cvt_rzi_f32_f32 "cvt.rzi.f32.f32" (a: F32) -> F32;
    cvt_rmi_f32_f32 "cvt.rmi.f32.f32" (a: F32) -> F32;
    cvt_rpi_f32_f32 "cvt.rpi.f32.f32" (a: F32) -> F32;

    cvt_rn_f32_u32 "cvt.rn.f32.u32" (a: B32) -> F32;
    cvt_rn_f32_s32 "cvt.rn.f32.s32" (a: B32) -> F32;
    cvt_rn_f32_u64 "cvt.rn.f32.u64" (a: B64) -> F32;
    cvt_rn_f32_s64 "cvt.rn.f32.s64" (a: B64) -> F32;
    cvt_rz_f32_u32 "cvt.rz.f32.u32" (a: B32) -> F32;
    cvt_rz_f32_s32 "cvt.rz.f32.s32" (a: B32) -> F32;
    cvt_rz_f32_u64 "cvt.rz.f32.u64" (a: B64) -> F32;
    cvt_rz_f32_s64 "cvt.rz.f32.s64" (a: B64) -> F32;
    /// The low byte of `a`.
    cvt_rn_f32_u8 "cvt.rn.f32.u8" (a: B32) -> F32;
    /// The low byte of `a`.
    cvt_rn_f32_s8 "cvt.rn.f32.s8" (a: B32) -> F32;
    cvt_rn_f32_u16 "cvt.rn.f32.u16" (a: B16) -> F32;

    cvt_rn_f16_f32 "cvt.rn.f16.f32" (a: F32) -> F16;
    cvt_rz_f16_f32 "cvt.rz.f16.f32" (a: F32) -> F16;
    cvt_f32_f16 "cvt.f32.f16" (a: F16) -> F32;
    cvt_rn_f16_s32 "cvt.rn.f16.s32" (a: B32) -> F16;
    cvt_rn_f16_u32 "cvt.rn.f16.u32" (a: B32) -> F16;
    /// The low byte of `a`.
    cvt_rn_f16_s8 "cvt.rn.f16.s8" (a: B32) -> F16;
    cvt_rni_s32_f16 "cvt.rni.s32.f16" (a: F16) -> B32;
    cvt_rn_f16x2_f32 "cvt.rn.f16x2.f32" (high: F32, low: F32) -> F16x2, sm(80);
    cvt_rz_f16x2_f32 "cvt.rz.f16x2.f32" (high: F32, low: F32) -> F16x2, sm(80);
    cvt_rn_relu_f16x2_f32 "cvt.rn.relu.f16x2.f32" (high: F32, low: F32) -> F16x2, sm(80);

    cvt_rn_bf16_f32 "cvt.rn.bf16.f32" (a: F32) -> Bf16, sm(80);
    cvt_rz_bf16_f32 "cvt.rz.bf16.f32" (a: F32) -> Bf16, sm(80);
    cvt_f32_bf16 "cvt.f32.bf16" (a: Bf16) -> F32, sm(80).ptx(7, 1);
    cvt_rn_bf16_s32 "cvt.rn.bf16.s32" (a: B32) -> Bf16, sm(90);
    cvt_rn_bf16_u32 "cvt.rn.bf16.u32" (a: B32) -> Bf16, sm(90);
    cvt_rn_bf16x2_f32 "cvt.rn.bf16x2.f32" (high: F32, low: F32) -> Bf16x2, sm(80);
    cvt_rz_bf16x2_f32 "cvt.rz.bf16x2.f32" (high: F32, low: F32) -> Bf16x2, sm(80);
    cvt_rn_relu_bf16x2_f32 "cvt.rn.relu.bf16x2.f32" (high: F32, low: F32) -> Bf16x2, sm(80);

    cvt_rna_tf32_f32 "cvt.rna.tf32.f32" (a: F32) -> B32, sm(80);
    cvt_rn_tf32_f32 "cvt.rn.tf32.f32" (a: F32) -> B32, sm(90);
    cvt_rz_tf32_f32 "cvt.rz.tf32.f32" (a: F32) -> B32, sm(90);

    cvt_rn_satfinite_e4m3x2_f32 "cvt.rn.satfinite.e4m3x2.f32" (high: F32, low: F32) -> B16, sm(89).ptx(8, 1).below(90);
    cvt_rn_satfinite_e5m2x2_f32 "cvt.rn.satfinite.e5m2x2.f32" (high: F32, low: F32) -> B16, sm(89).ptx(8, 1).below(90);
    cvt_rn_satfinite_e4m3x2_f16x2 "cvt.rn.satfinite.e4m3x2.f16x2" (a: F16x2) -> B16, sm(89).ptx(8, 1).below(90);
    cvt_rn_satfinite_e5m2x2_f16x2 "cvt.rn.satfinite.e5m2x2.f16x2" (a: F16x2) -> B16, sm(89).ptx(8, 1).below(90);
    cvt_rn_f16x2_e4m3x2 "cvt.rn.f16x2.e4m3x2" (a: Register<B16>) -> F16x2, sm(89).ptx(8, 1).below(90);
    cvt_rn_f16x2_e5m2x2 "cvt.rn.f16x2.e5m2x2" (a: Register<B16>) -> F16x2, sm(89).ptx(8, 1).below(90);

    /// `c << 16 | saturated a << 8 | saturated b`.
    cvt_pack_sat_s8_s32_b32 "cvt.pack.sat.s8.s32.b32" (a: B32, b: B32, c: B32) -> B32, ptx(6, 5);
    /// `c << 16 | saturated a << 8 | saturated b`.
    cvt_pack_sat_u8_s32_b32 "cvt.pack.sat.u8.s32.b32" (a: B32, b: B32, c: B32) -> B32, ptx(6, 5);
    /// `saturated a << 16 | saturated b`.
    cvt_pack_sat_s16_s32 "cvt.pack.sat.s16.s32" (a: B32, b: B32) -> B32, ptx(6, 5);

    f32_to_bits "mov.b32" (a: F32) -> B32;
    f32_from_bits "mov.b32" (a: B32) -> F32;
    /// The first register becomes the low half.
    pack_b32 "mov.b32" (low_high: [B16; 2]) -> B32;
    /// The low half first.
    unpack_b32 "mov.b32" (a: B32) -> [B16; 2];
    /// The first register becomes the low half.
    pack_f16x2 "mov.b32" (low_high: [F16; 2]) -> F16x2;
    /// The low half first.
    unpack_f16x2 "mov.b32" (a: F16x2) -> [F16; 2];
    /// The first register becomes the low half.
    pack_bf16x2 "mov.b32" (low_high: [Bf16; 2]) -> Bf16x2;
    /// The low half first.
    unpack_bf16x2 "mov.b32" (a: Bf16x2) -> [Bf16; 2];
    /// The first register becomes the low half.
    pack_b64 "mov.b64" (low_high: [B32; 2]) -> B64;
    /// The low half first.
    unpack_b64 "mov.b64" (a: B64) -> [B32; 2];
}
