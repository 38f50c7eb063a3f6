use ptx_asm::*;

pub fn kernel(k: &Kernel, a: [Reg<Bf16x2>; 4], c: [Reg<F32>; 4]) {
    k.mma_m16n8k16_f32_bf16(a, a, c); //~ E0277
}
