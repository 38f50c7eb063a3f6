use ptx_asm::*;

pub fn kernel(k: &Kernel, p: Ptr<Shared>) {
    k.ld_global::<F32>(p); //~ E0277
}
