use ptx_asm::*;

pub fn kernel(k: &Kernel, a: [Reg<F16x2>; 4], b: [Reg<Bf16x2>; 2], c: [Reg<F32>; 4]) {
    k.mma_m16n8k16_f32_bf16(a, b, c); //~ E0277
}
