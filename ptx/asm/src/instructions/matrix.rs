//! Warp-level matrix products and the movement of their fragments (PTX ISA §9.7.14.5).
//!
//! With `g = lane >> 2` and `t = lane & 3`, register q of a 16-bit fragment holds two neighbours of K or N:
//! A (m16k16) row `g + 8(q & 1)`, columns `2t + 8(q >> 1)`; B (k16n8) rows `2t + 8q`, column `g`;
//! C and D (m16n8, f32) register q is row `g + 8(q >> 1)`, column `2t + (q & 1)`.

use crate::address::{Addr, Shared};
use crate::class::{B32, Bf16x2, F16x2, F32};
use crate::forms::family;
use crate::operand::Register;
use crate::target::{ptx, sm};

family! {
    ldmatrix_x1 "ldmatrix.sync.aligned.m8n8.x1.shared.b16" (from: Addr<Shared>) -> [B32; 1], ptx(6, 5);
    ldmatrix_x2 "ldmatrix.sync.aligned.m8n8.x2.shared.b16" (from: Addr<Shared>) -> [B32; 2], ptx(6, 5);
    ldmatrix_x4 "ldmatrix.sync.aligned.m8n8.x4.shared.b16" (from: Addr<Shared>) -> [B32; 4], ptx(6, 5);
    ldmatrix_x1_trans "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16" (from: Addr<Shared>) -> [B32; 1], ptx(6, 5);
    ldmatrix_x2_trans "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16" (from: Addr<Shared>) -> [B32; 2], ptx(6, 5);
    ldmatrix_x4_trans "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16" (from: Addr<Shared>) -> [B32; 4], ptx(6, 5);

    stmatrix_x1 "stmatrix.sync.aligned.m8n8.x1.shared.b16" (to: Addr<Shared>, from: [B32; 1]), sm(90);
    stmatrix_x2 "stmatrix.sync.aligned.m8n8.x2.shared.b16" (to: Addr<Shared>, from: [B32; 2]), sm(90);
    stmatrix_x4 "stmatrix.sync.aligned.m8n8.x4.shared.b16" (to: Addr<Shared>, from: [B32; 4]), sm(90);
    stmatrix_x1_trans "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16" (to: Addr<Shared>, from: [B32; 1]), sm(90);
    stmatrix_x2_trans "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16" (to: Addr<Shared>, from: [B32; 2]), sm(90);
    stmatrix_x4_trans "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16" (to: Addr<Shared>, from: [B32; 4]), sm(90);

    /// Transposes an 8x8 fragment in registers.
    movmatrix_trans_b16 "movmatrix.sync.aligned.m8n8.trans.b16" (a: Register<B32>) -> B32, ptx(7, 8);

    mma_m16n8k8_f32_f16 "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32" (a: [F16x2; 2], b: [F16x2; 1], c: [F32; 4]) -> [F32; 4], ptx(6, 5);
    mma_m16n8k16_f32_f16 "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" (a: [F16x2; 4], b: [F16x2; 2], c: [F32; 4]) -> [F32; 4], sm(80);
    mma_m16n8k8_f16_f16 "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16" (a: [F16x2; 2], b: [F16x2; 1], c: [F16x2; 2]) -> [F16x2; 2], ptx(6, 5);
    mma_m16n8k16_f16_f16 "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16" (a: [F16x2; 4], b: [F16x2; 2], c: [F16x2; 2]) -> [F16x2; 2], sm(80);
    mma_m16n8k8_f32_bf16 "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32" (a: [Bf16x2; 2], b: [Bf16x2; 1], c: [F32; 4]) -> [F32; 4], sm(80);
    mma_m16n8k16_f32_bf16 "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" (a: [Bf16x2; 4], b: [Bf16x2; 2], c: [F32; 4]) -> [F32; 4], sm(80);
    mma_m16n8k4_f32_tf32 "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32" (a: [B32; 2], b: [B32; 1], c: [F32; 4]) -> [F32; 4], sm(80);
    mma_m16n8k8_f32_tf32 "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" (a: [B32; 4], b: [B32; 2], c: [F32; 4]) -> [F32; 4], sm(80);

    mma_m16n8k32_f32_e4m3_e4m3 "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32" (a: [B32; 4], b: [B32; 2], c: [F32; 4]) -> [F32; 4], sm(89).ptx(8, 4);
    mma_m16n8k32_f32_e4m3_e5m2 "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32" (a: [B32; 4], b: [B32; 2], c: [F32; 4]) -> [F32; 4], sm(89).ptx(8, 4);
    mma_m16n8k32_f32_e5m2_e4m3 "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32" (a: [B32; 4], b: [B32; 2], c: [F32; 4]) -> [F32; 4], sm(89).ptx(8, 4);
    mma_m16n8k32_f32_e5m2_e5m2 "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32" (a: [B32; 4], b: [B32; 2], c: [F32; 4]) -> [F32; 4], sm(89).ptx(8, 4);
    mma_m16n8k16_f32_e4m3_e4m3 "mma.sync.aligned.m16n8k16.row.col.f32.e4m3.e4m3.f32" (a: [B32; 2], b: [B32; 1], c: [F32; 4]) -> [F32; 4], sm(89).ptx(8, 7);
    mma_m16n8k16_f32_e5m2_e5m2 "mma.sync.aligned.m16n8k16.row.col.f32.e5m2.e5m2.f32" (a: [B32; 2], b: [B32; 1], c: [F32; 4]) -> [F32; 4], sm(89).ptx(8, 7);
    mma_m16n8k32_f16_e4m3_e4m3 "mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16" (a: [B32; 4], b: [B32; 2], c: [F16x2; 2]) -> [F16x2; 2], sm(89).ptx(8, 7);
    mma_m16n8k32_f16_e5m2_e5m2 "mma.sync.aligned.m16n8k32.row.col.f16.e5m2.e5m2.f16" (a: [B32; 4], b: [B32; 2], c: [F16x2; 2]) -> [F16x2; 2], sm(89).ptx(8, 7);

    mma_m8n8k16_s32_s8_s8 "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32" (a: [B32; 1], b: [B32; 1], c: [B32; 2]) -> [B32; 2], ptx(6, 5);
    mma_m8n8k16_s32_u8_s8 "mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32" (a: [B32; 1], b: [B32; 1], c: [B32; 2]) -> [B32; 2], ptx(6, 5);
    mma_m8n8k16_s32_u8_u8 "mma.sync.aligned.m8n8k16.row.col.s32.u8.u8.s32" (a: [B32; 1], b: [B32; 1], c: [B32; 2]) -> [B32; 2], ptx(6, 5);
    mma_m16n8k16_s32_s8_s8 "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32" (a: [B32; 2], b: [B32; 1], c: [B32; 4]) -> [B32; 4], sm(80);
    mma_m16n8k16_s32_u8_s8 "mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32" (a: [B32; 2], b: [B32; 1], c: [B32; 4]) -> [B32; 4], sm(80);
    mma_m16n8k16_s32_u8_u8 "mma.sync.aligned.m16n8k16.row.col.s32.u8.u8.s32" (a: [B32; 2], b: [B32; 1], c: [B32; 4]) -> [B32; 4], sm(80);
    mma_m16n8k32_s32_s8_s8 "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" (a: [B32; 4], b: [B32; 2], c: [B32; 4]) -> [B32; 4], sm(80);
    mma_m16n8k32_s32_u8_s8 "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32" (a: [B32; 4], b: [B32; 2], c: [B32; 4]) -> [B32; 4], sm(80);
    mma_m16n8k32_s32_u8_u8 "mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32" (a: [B32; 4], b: [B32; 2], c: [B32; 4]) -> [B32; 4], sm(80);
    mma_m16n8k64_s32_s4_s4 "mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32" (a: [B32; 4], b: [B32; 2], c: [B32; 4]) -> [B32; 4], sm(80);
    mma_m16n8k64_s32_u4_u4 "mma.sync.aligned.m16n8k64.row.col.s32.u4.u4.s32" (a: [B32; 4], b: [B32; 2], c: [B32; 4]) -> [B32; 4], sm(80);
}
