use ptx_asm::*;

pub fn kernel(k: &Kernel, acc: [Reg<F32>; 3], a: [Reg<Bf16x2>; 4], b: Descriptor, p: Reg<Pred>) {
    k.wgmma_f32_bf16_rs(acc, a, (b, Reading::K_MAJOR), p); //~ E0080
}
