use ptx_asm::*;

pub fn kernel(k: &Kernel, x: Reg<F32>) {
    k.add_u32(x, 1); //~ E0277
}
