use ptx_asm::*;

pub fn kernel(k: &Kernel, p: Reg<Pred>, x: Reg<F32>) {
    k.when(p).add_rn_f32(x, 1.0); //~ E0599
}
