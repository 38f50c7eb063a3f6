use ptx_asm::*;

pub fn kernel(k: &Kernel, p: Reg<Pred>) {
    k.and_b32(p, 1); //~ E0277
}
