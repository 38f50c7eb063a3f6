use ptx_asm::*;

pub fn kernel(k: &Kernel, wide: Reg<B64>, x: Reg<B32>) {
    k.to(wide).add_u32(x, 1); //~ E0599
}
