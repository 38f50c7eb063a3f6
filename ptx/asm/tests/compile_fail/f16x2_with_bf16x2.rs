use ptx_asm::*;

pub fn kernel(k: &Kernel, a: Reg<F16x2>, b: Reg<Bf16x2>) {
    k.fma_rn_f16x2(a, b, a); //~ E0277
}
