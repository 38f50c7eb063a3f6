use ptx_asm::*;

pub fn kernel(k: &Kernel, p: Ptr<Shared>) {
    k.ld_shared::<[B32; 8]>(p); //~ E0277
}
