use ptx_asm::*;

pub fn kernel(k: &Kernel, p: Ptr<Global>) {
    k.cp_async_cg_16(p, p); //~ E0277
}
