use ptx_asm::*;

pub fn kernel(k: &Kernel, x: Reg<B32>) {
    k.if_then(x, || ()); //~ E0277
}
