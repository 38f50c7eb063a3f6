use ptx_asm::*;

pub fn kernel(k: &Kernel, x: Reg<B32>) {
    k.add_u32(x, 1.0); //~ E0277
}
